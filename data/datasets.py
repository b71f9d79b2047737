"""All data sets by name, and the comparison of counts with published ones."""

from collections.abc import Mapping, Sequence
import dataclasses

import ml_collections

from apnet_jax.errors import FieldError, UserError
from data import raw
from data.cuhk03_np import layout as cuhk03_np
from data.dukemtmc_reid import layout as dukemtmc_reid
from data.folder import layout as folder
from data.market1501 import layout as market1501
from data.msmt17 import layout as msmt17
from data.occluded_duke import layout as occluded_duke
from data.synthetic import layout as synthetic

# The name of a data set alone means the first of its variants.
LAYOUTS = (
  market1501.LAYOUT,
  dukemtmc_reid.LAYOUT,
  *cuhk03_np.LAYOUTS,
  *msmt17.LAYOUTS,
  occluded_duke.LAYOUT,
  synthetic.LAYOUT,
  folder.LAYOUT,
)
# Data sets that show the people of others.
SAME_PEOPLE = {'occluded_duke': 'dukemtmc_reid'}
# The names of the configurations in configs/.
SHORT_NAMES = {
  'market': 'market1501',
  'duke': 'dukemtmc_reid',
  'cuhk03': 'cuhk03_np',
}


def find(name: str) -> raw.Layout:
  """Returns the layout of a data set, the object that finds and reads it.

  Args:
    name: name of the data set, as `market1501`, `duke`, `cuhk03_np/labeled` or
      `msmt17/train`.

  Raises:
    FieldError: there is no such data set; the message lists all names.
  """
  dataset, _, variant = name.partition('/')
  dataset = SHORT_NAMES.get(dataset, dataset)
  full = f'{dataset}/{variant}' if variant else dataset
  for layout in LAYOUTS:
    if full in (layout.name, layout.dataset):
      return layout
  names = ', '.join(layout.name for layout in LAYOUTS)
  raise FieldError('data.name', f'={name!r} is not one of {names}.')


def full_names(names: Sequence[str]) -> list[str]:
  """Returns the full names of data sets.

  Args:
    names: names of data sets, as `market` and `msmt17/train`.

  Raises:
    FieldError: there is no such data set, or a name occurs twice.
  """
  full = [find(name.strip()).name for name in names]
  if len(set(full)) < len(full):
    raise FieldError('data.name', f'={",".join(names)} names a data set twice.')
  return full


def _check_distinct(names: Sequence[str]) -> None:
  """Raises FieldError if two data sets show the same people.

  Training would take each of these people for two.
  """
  seen = {}
  for name in names:
    people = name.split('/')[0]
    other = seen.setdefault(SAME_PEOPLE.get(people, people), name)
    if other != name:
      raise FieldError(
        'data.name',
        f'={",".join(names)}: {other} and {name} show the same people, whom'
        ' training would take for different ones. Use one of them.',
      )


def directory_of_each(
  names: Sequence[str], directories: Sequence[str]
) -> list[str]:
  """Returns the folder of each data set.

  Args:
    names: names of data sets.
    directories: a folder that has all data sets, or a folder for each.

  Raises:
    FieldError: there are several folders, but not one for each data set.
  """
  if len(directories) == 1:
    return [*directories] * len(names)
  if len(directories) != len(names):
    raise FieldError(
      'data.dir',
      f' is given {len(directories)} times for {len(names)} data sets'
      f' ({", ".join(names)}): give one folder that has them all, or one for'
      ' each.',
    )
  return list(directories)


def directories(data_config: ml_collections.ConfigDict) -> list[str]:
  """Returns the folders in `config.data.dir`, which commas separate.

  For a single data set, a comma is a part of the folder's name.
  """
  if ',' not in data_config.name:
    return [data_config.dir]
  return [directory.strip() for directory in data_config.dir.split(',')]


def single_sets(
  data_config: ml_collections.ConfigDict,
) -> dict[str, ml_collections.ConfigDict]:
  """Returns the `data` part of a configuration for each of its data sets.

  Args:
    data_config: the `data` part of a configuration. `name` is a data set, or
      several, separated by commas; `dir` is a folder that has them all, or a
      folder for each.

  Returns:
    Parts whose `name` and `dir` are those of one data set, by its full name.

  Raises:
    FieldError: see `full_names` and `directory_of_each`; or two data sets show
      the same people.
  """
  names = full_names(data_config.name.split(','))
  _check_distinct(names)
  parts = {}
  for name, directory in zip(
    names, directory_of_each(names, directories(data_config))
  ):
    parts[name] = data_config.copy_and_resolve_references()
    parts[name].update(name=name, dir=directory)
    if name != 'folder' and 'folder' in names:
      parts[name].pattern = ''  # it is for own images
  return parts


def check_counts(
  layout: raw.Layout, dataset: raw.RawDataset, allow_other_counts: bool
) -> str:
  """Compares a data set's counts of images and identities with published ones.

  Returns:
    The differences as text for people; '' if there are none.

  Raises:
    UserError: the counts differ, and this is not allowed.
  """
  counts = dataset.counts()
  published = layout.published
  if not dataset.has_cameras:
    published = {
      split: dataclasses.replace(count, cameras=0)
      for split, count in published.items()
    }
  if not published or counts == published:
    return ''
  lines = [
    f'{dataset.root} is not {layout.title} as published:',
    counts_table(counts, published),
  ]
  unknown = [
    f'{image.name}: camera {image.camid + dataset.first_camera}'
    for image in unknown_cameras(layout, dataset.splits)
  ]
  if unknown and dataset.has_cameras:
    lines += [
      f'{len(unknown)} images have cameras other than 1 to'
      f' {published_cameras(layout)}:',
      raw.format_lines(unknown),
    ]
  for other in LAYOUTS:
    if other.published == counts:
      lines.append(f'These are the counts of {other.title} ({other.name}).')
  if allow_other_counts:
    return '\n'.join(lines)
  lines.append(
    'Figures on it would not be comparable with published ones. If you accept'
    ' that, set --config.data.allow_other_counts (eval.py:'
    ' --allow_other_counts). For your own images, use configs/folder.py.'
  )
  raise UserError('\n'.join(lines))


def published_cameras(layout: raw.Layout) -> int:
  """Returns the number of cameras that a data set was published with.

  Args:
    layout: a layout with published counts.
  """
  return max(counts.cameras for counts in layout.published.values())


def unknown_cameras(
  layout: raw.Layout, splits: raw.Splits
) -> list[raw.RawImage]:
  """Returns the images whose cameras a published data set does not have."""
  cameras = published_cameras(layout)
  return [
    image
    for split in raw.SPLITS
    for image in splits[split]
    if image.camid >= cameras
  ]


def counts_table(
  counts: Mapping[str, raw.Counts], published: Mapping[str, raw.Counts]
) -> str:
  """Formats a table of counts beside published ones, and marks differences."""
  lines = [f'  {"":21}{"here":>9}{"published":>11}']
  for split in raw.SPLITS:
    for field in dataclasses.fields(raw.Counts):
      here = getattr(counts[split], field.name)
      there = getattr(published[split], field.name)
      if here or there:
        mark = '' if here == there else '  differs'
        lines.append(f'  {split:8}{field.name:13}{here:9,}{there:11,}{mark}')
  return '\n'.join(lines)
