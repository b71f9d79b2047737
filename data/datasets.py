"""The data sets there are, by name, and what their counts should be."""

from collections.abc import Mapping
import dataclasses

from apnet_jax.errors import FieldError, UserError
from data import raw
from data.cuhk03_np import layout as cuhk03_np
from data.dukemtmc_reid import layout as dukemtmc_reid
from data.folder import layout as folder
from data.market1501 import layout as market1501
from data.msmt17 import layout as msmt17
from data.occluded_duke import layout as occluded_duke
from data.synthetic import layout as synthetic

# Of several variants of a data set, the first is meant by its bare name.
LAYOUTS = (
  market1501.LAYOUT,
  dukemtmc_reid.LAYOUT,
  *cuhk03_np.LAYOUTS,
  *msmt17.LAYOUTS,
  occluded_duke.LAYOUT,
  synthetic.LAYOUT,
  folder.LAYOUT,
)
# As the configurations are called.
SHORT_NAMES = {
  'market': 'market1501',
  'duke': 'dukemtmc_reid',
  'cuhk03': 'cuhk03_np',
}


def find(name: str) -> raw.Layout:
  """The layout of a data set.

  Args:
    name: as `market1501`, `duke`, `cuhk03_np/labeled`, `msmt17/train`.

  Raises:
    UserError: there is no such data set; names those that there are.
  """
  dataset, _, variant = name.partition('/')
  dataset = SHORT_NAMES.get(dataset, dataset)
  full = f'{dataset}/{variant}' if variant else dataset
  for layout in LAYOUTS:
    if full in (layout.name, layout.dataset):
      return layout
  names = ', '.join(layout.name for layout in LAYOUTS)
  raise FieldError('data.name', f'={name!r} is not one of {names}.')


def check_counts(
  layout: raw.Layout, dataset: raw.RawDataset, allow_other_counts: bool
) -> str:
  """Compares what was read with the published counts.

  Returns:
    What to tell a person: '' if nothing differs.

  Raises:
    UserError: something differs, unless allowed.
  """
  counts = dataset.counts()
  if not layout.published or counts == layout.published:
    return ''
  lines = [
    f'{dataset.root} is not {layout.title} as published:',
    counts_table(counts, layout.published),
    *_unknown_cameras(layout, dataset),
  ]
  for other in LAYOUTS:
    if other.published == counts:
      lines.append(f'These are the counts of {other.title} ({other.name}).')
  if allow_other_counts:
    return '\n'.join(lines)
  lines.append(
    'Figures on it would not compare with published ones. If that is what you'
    ' want: --config.data.allow_other_counts (of eval.py:'
    ' --allow_other_counts), or configs/folder.py for your own images.'
  )
  raise UserError('\n'.join(lines))


def _unknown_cameras(layout: raw.Layout, dataset: raw.RawDataset) -> list[str]:
  cameras = max(counts.cameras for counts in layout.published.values())
  unknown = [
    f'{image.name}: camera {image.camid + 1}'
    for split in raw.SPLITS
    for image in dataset.splits[split]
    if image.camid >= cameras
  ]
  if not unknown:
    return []
  return [
    f'{len(unknown)} images are of cameras that are not 1 to {cameras}:',
    raw.shorten(unknown),
  ]


def counts_table(
  counts: Mapping[str, raw.Counts], published: Mapping[str, raw.Counts]
) -> str:
  """Counts by split, the published ones beside them, and where they differ."""
  lines = [f'  {"":21}{"here":>9}{"published":>11}']
  for split in raw.SPLITS:
    for field in dataclasses.fields(raw.Counts):
      here = getattr(counts[split], field.name)
      there = getattr(published[split], field.name)
      if here or there:
        mark = '' if here == there else '  differs'
        lines.append(f'  {split:8}{field.name:13}{here:9,}{there:11,}{mark}')
  return '\n'.join(lines)
