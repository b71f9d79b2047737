"""Which data set a folder holds, in which layout."""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import pathlib
import re
import shlex

from data import datasets, raw
from data.cuhk03_np import layout as cuhk03_np
from data.msmt17 import layout as msmt17

# Counts of images this close to the published ones are a copy with a fault.
NEARLY = 0.05
BATCH_IDENTITIES = 20  # config.train.P of configs/common.py
MARKET_MARKS = ('bounding_box_train', 'bounding_box_test')
# What stands in a folder that was meant to have a layout, if not all does.
MARKS = {
  'market1501': MARKET_MARKS,
  'msmt17/trainval': (
    'mask_train_v2', 'mask_test_v2',
    'list_train.txt', 'list_query.txt', 'list_gallery.txt',
    'train/0000/0000_[0-9][0-9][0-9]_[0-9][0-9]_*',
  ),
} | {
  layout.name: (
    layout.config_file, f'images_{layout.variant}', *cuhk03_np.RELEASE,
    *(f'{layout.variant}/{name}' for name in MARKET_MARKS),
  )
  for layout in cuhk03_np.LAYOUTS
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Reading:
  """A folder, read as a layout has it.

  Attributes:
    layout: that it has.
    root: the folder, or CSV file.
    dataset: its images, as far as they can be told; None if not at all.
    error: why not all of it can be read, or ''.
    misnamed: images that are not named as the layout wants.
    counts: of each split.
    exact: the data set that has just these counts, if any.
    expected: the published data set that it should be, if any.
    because: what says so.
  """

  layout: raw.Layout
  root: pathlib.Path
  dataset: raw.RawDataset | None
  error: str = ''
  misnamed: tuple[pathlib.Path, ...] = ()
  counts: Mapping[str, raw.Counts] | None = None
  exact: raw.Layout | None = None
  expected: raw.Layout | None = None
  because: str = ''

  @property
  def is_as_published(self) -> bool:
    """Whether it is what it should be, by the counts."""
    return self.exact is not None and self.expected in (None, self.exact)

  @property
  def shares_layout(self) -> bool:
    """Whether only the counts tell what a folder in this layout is."""
    return isinstance(self.layout, raw.MarketLayout)

  @property
  def folder(self) -> pathlib.Path:
    """All that is read lies below it."""
    return self.root if self.root.is_dir() else self.root.parent

  @property
  def published(self) -> Mapping[str, raw.Counts]:
    """The counts to compare with; empty if there are none."""
    layout = self.expected or self.exact
    return layout.published if layout else {}

  @property
  def first_camera(self) -> int:
    """What people call the camera of camid 0."""
    own = self.layout.dataset == 'folder' and raw.missing_folders(self.root)
    return 0 if own else 1

  def what(self) -> str:
    """What it is, for people."""
    title = self.layout.title
    if self.layout.dataset == 'msmt17':
      for number, version in enumerate(msmt17.VERSIONS, 1):
        if not raw.missing_folders(self.root, version):
          title = f'{title} V{number}'
          break
    if self.dataset is None:
      return f'{title}, but it cannot be read'
    if self.exact:
      if self.exact is not self.layout:
        title = self.exact.title
      title = f'{title}, as published'
      return title if self.is_as_published else (
        f'{title}, not {self.expected.title}'
      )  # fmt: skip
    if self.shares_layout and (self.expected or self.layout.published):
      return f'Market-1501 layout, not {(self.expected or self.layout).title}'
    if self.layout.published:
      return f'{title}, but not as published'
    return title[0].upper() + title[1:]

  def commands(self) -> list[str]:
    """How to train on it."""
    people = self.counts['train'].identities if self.counts else 0
    few = f' --config.train.P={people}' if 0 < people < BATCH_IDENTITIES else ''
    return [f'{line}{few}' for line in self._commands()]

  def _commands(self) -> list[str]:
    if self.is_as_published:
      if self.exact.variant and self.shares_layout:
        # A folder `labeled` or `detected`, which is given by its parent.
        return [command(self.exact, self.root.resolve().parent)]
      return [command(self.exact, self.root)]
    layout = self.layout
    if not layout.published:
      return [command(layout, self.root)]
    if self.shares_layout and self.expected and not self.expected.variant:
      layout = self.expected
    allowed = '--config.data.allow_other_counts=True'
    commands = [f'{command(layout, self.root)} {allowed}']
    if self.shares_layout:
      commands.insert(0, command(datasets.find('folder'), self.root))
    return commands


def command(layout: raw.Layout, directory: pathlib.Path) -> str:
  """How to train on a data set."""
  names = {full: short for short, full in datasets.SHORT_NAMES.items()}
  parts = [
    'python train.py',
    f'--config=configs/{names.get(layout.dataset, layout.dataset)}.py',
    f'--config.data.dir={shlex.quote(str(directory))}',
  ]
  if layout.variant:
    parts.append(f'--config.data.name={layout.name}')
  return ' '.join(parts)


def find(
  base: pathlib.Path, asked: str
) -> tuple[list[Reading], list[pathlib.Path]]:
  """Reads what is in or below `base`.

  Args:
    base: a folder, or a CSV file.
    asked: the name of the data set that it should be, or ''.

  Returns:
    A reading of each variant of one data set, perhaps none; and the folders of
    others.
  """
  wanted = _layouts(asked) if asked else []
  # Others have Market-1501's layout too, and are told apart later.
  known = [x for x in datasets.LAYOUTS if x.name in (*MARKS, 'msmt17/train')]
  found = _fitting(base, wanted, wanted)
  found = found or _fitting(base, known, datasets.LAYOUTS)
  found = found or _incomplete(base, wanted) or _own(base)
  readings = [_read(x, root) for root, layouts in found[:1] for x in layouts]
  return (
    [_with_expectation(reading, base, asked) for reading in readings],
    [root for root, _ in found[1:]],
  )


# A folder, and the variants of one data set that it has the layout of.
Found = list[tuple[pathlib.Path, list[raw.Layout]]]


def _layouts(asked: str) -> list[raw.Layout]:
  one = datasets.find(asked)
  if '/' in asked:
    return [one]
  return [x for x in datasets.LAYOUTS if x.dataset == one.dataset]


def _fitting(
  base: pathlib.Path, layouts: list[raw.Layout], named: Iterable[raw.Layout]
) -> Found:
  """Looks in `base`, and where layouts in `named` have their copies below."""
  found = []
  for root in _roots(base, named):
    fit = [layout for layout in layouts if not layout.missing(root)]
    if fit:
      found.append((root, [x for x in fit if x.dataset == fit[0].dataset]))
  return found


def _roots(
  base: pathlib.Path, layouts: Iterable[raw.Layout]
) -> Iterator[pathlib.Path]:
  """`base` and the known folders below it, each once."""
  seen = set()
  names = dict.fromkeys(name for layout in layouts for name in layout.nested)
  for root in (base, *(base / name for name in names)):
    if root == base or root.is_dir():
      status = root.stat()  # names may differ in case alone
      if (status.st_dev, status.st_ino) not in seen:
        seen.add((status.st_dev, status.st_ino))
        yield root


def _incomplete(base: pathlib.Path, wanted: list[raw.Layout]) -> Found:
  """A folder that was meant to have a layout."""
  for name, marks in MARKS.items():
    layout = datasets.find(name)
    for root in _roots(base, [layout]):
      if any(next(root.glob(mark), None) for mark in marks):
        alike = [x for x in wanted if type(x) is type(layout)]
        return [(root, alike[:1] or [layout])]
  return []


def _own(base: pathlib.Path) -> Found:
  own = datasets.find('folder')
  return [] if own.missing(base) else [(base, [own])]


def _read(layout: raw.Layout, root: pathlib.Path) -> Reading:
  """Reads all that can be read."""
  missing = layout.missing(root)
  if missing:
    error = f'{root} has no {", ".join(missing)}'
  else:
    try:
      return Reading(layout, root, layout.read(root))
    except (ValueError, OSError) as failure:
      error = str(failure)
    try:  # perhaps only a promise about the splits is broken
      return Reading(layout, root, layout.read_root(root), error)
    except (ValueError, OSError):
      pass
  for place in (root / layout.variant, root):
    if any((place / name).is_dir() for name in MARKET_MARKS):
      splits, misnamed = _well_named(place, root)
      dataset = raw.RawDataset(root, splits)
      return Reading(layout, root, dataset, error, tuple(misnamed))
  return Reading(layout, root, None, error)


def _well_named(
  place: pathlib.Path, root: pathlib.Path
) -> tuple[raw.Splits, list[pathlib.Path]]:
  """What is named as Market-1501 names images, and the images that are not."""
  splits, misnamed = {}, []
  for split, name in raw.MARKET_FOLDERS.items():
    splits[split] = []
    below = place / name
    for path in raw.list_images(below) if below.is_dir() else ():
      match = raw.MARKET_NAME.match(path.name)
      if match and int(match[2]) >= 1:
        image = path.relative_to(root).as_posix()
        labels = int(match[1]), int(match[2]) - 1
        splits[split].append(raw.RawImage(image, path, *labels))
      else:
        misnamed.append(path)
  return splits, misnamed


def _with_expectation(
  reading: Reading, base: pathlib.Path, asked: str
) -> Reading:
  """Counts, and says which published data set it should be, and why."""
  if reading.dataset is None:
    return reading
  counts = reading.dataset.counts()
  exact = None
  if reading.layout.published and not reading.error:
    same = [x for x in datasets.LAYOUTS if x.published == counts]
    exact = reading.layout if reading.layout in same else (same or [None])[0]
  expected, because = _expected(reading, counts, base, asked)
  if expected and not expected.published:
    expected, because = None, ''
  if reading.shares_layout and expected and exact:
    # Its variant cannot be told from the layout either.
    expected = exact if exact.dataset == expected.dataset else expected
  return dataclasses.replace(
    reading, counts=counts, exact=exact, expected=expected, because=because
  )


def _expected(
  reading: Reading,
  counts: Mapping[str, raw.Counts],
  base: pathlib.Path,
  asked: str,
) -> tuple[raw.Layout | None, str]:
  layout = reading.layout
  if asked:
    one = datasets.find(asked)
    same = layout.dataset == one.dataset and not reading.shares_layout
    return layout if same else one, f'--dataset={asked} says'
  if not reading.shares_layout:
    return layout, 'the layout says'
  for name in (reading.root.resolve().name, base.resolve().name):
    if named := _named(name):
      return named, f'the name of the folder {name} says'
  return _nearest(counts), 'the counts nearly say'


def _named(name: str) -> raw.Layout | None:
  """The data set of which copies are called so."""
  for layout in datasets.LAYOUTS:
    called = {_plain(pathlib.PurePath(below).name) for below in layout.nested}
    if _plain(name) in called:
      return layout
  return datasets.find('occluded_duke') if 'occluded' in name.lower() else None


def _plain(name: str) -> str:
  return re.sub('[^a-z0-9]', '', name.lower())


def _nearest(counts: Mapping[str, raw.Counts]) -> raw.Layout | None:
  for layout in datasets.LAYOUTS:
    if layout.published and all(
      abs(counts[split].images - there.images) <= NEARLY * there.images
      for split, there in layout.published.items()
    ):
      return layout
  return None
