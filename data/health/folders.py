"""Identifies the data set in a folder, and the layout in which it is stored."""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import pathlib
import re
import shlex
from typing import Any

from apnet_jax.config import AT_LEAST, get_config
from apnet_jax.errors import UserError
from data import datasets, raw
from data.cuhk03_np import layout as cuhk03_np
from data.folder import csv_file, schemes
from data.folder.layout import FolderLayout
from data.msmt17 import layout as msmt17

# A data set whose numbers of images differ by at most this share from published
# ones is regarded as a faulty copy of the published data set.
COUNT_TOLERANCE = 0.05
BATCH_IDENTITIES = get_config().train.P
LEAST_IDENTITIES = AT_LEAST['train.P']
MARKET_HINTS = ('bounding_box_train', 'bounding_box_test')
# Files and folders that show which layout an incomplete folder should have.
HINTS = {
  'market1501': MARKET_HINTS,
  'msmt17/trainval': (
    'mask_train_v2', 'mask_test_v2',
    'list_train.txt', 'list_query.txt', 'list_gallery.txt',
    'train/0000/0000_[0-9][0-9][0-9]_[0-9][0-9]_*',
  ),
} | {
  layout.name: (
    layout.config_file, f'images_{layout.variant}', *cuhk03_np.RELEASE,
    *(f'{layout.variant}/{name}' for name in MARKET_HINTS),
  )
  for layout in cuhk03_np.LAYOUTS
}  # fmt: skip


# Fields of config.data that the doctor has flags for, with their defaults.
SETTINGS = {
  'pattern': '',
  'folders_are_people': False,
  'ignore_cameras': False,
}


@dataclasses.dataclass(frozen=True)
class FoundDataset:
  """A data set, or one variant of it, that was found in a folder.

  Attributes:
    layout: layout by which the folder was read.
    root: the raw folder or CSV file.
    images: images that could be read; None if there are none.
    error: why the data set cannot be read, or ''.
    misnamed: images whose names do not follow Market-1501's naming.
    missing_files: for each list, the listed files that do not exist.
    doubt: reason why the identities are probably wrong, or None.
    counts: counts of each split; None without `images`.
    exact: layout of the published data set with exactly these counts, if any.
    expected: layout of the published data set that this should be, if any.
    because: evidence for `expected`, for messages, as 'the layout says'.
    ignore_cameras: whether the user wants each query to be compared with all
      other images. `counts` has the cameras nevertheless, since published
      counts have them.
  """

  layout: raw.Layout
  root: pathlib.Path
  images: raw.RawDataset | None
  error: str = ''
  misnamed: tuple[pathlib.Path, ...] = ()
  missing_files: Mapping[pathlib.Path, list[pathlib.Path]] = dataclasses.field(
    default_factory=dict
  )
  doubt: raw.Doubt | None = None
  counts: Mapping[str, raw.Counts] | None = None
  exact: raw.Layout | None = None
  expected: raw.Layout | None = None
  because: str = ''
  ignore_cameras: bool = False

  @property
  def splits(self) -> raw.Splits:
    """Images of each split; empty without `images`."""
    return self.images.splits if self.images else {s: [] for s in raw.SPLITS}

  @property
  def is_as_published(self) -> bool:
    """Returns whether the counts are those of the expected data set."""
    return self.exact is not None and self.expected in (None, self.exact)

  @property
  def shares_layout(self) -> bool:
    """Returns whether several data sets use this layout.

    If so, the data sets are told apart by their numbers of images.
    """
    return isinstance(self.layout, raw.MarketLayout)

  @property
  def folder(self) -> pathlib.Path:
    """The folder that all files of the data set are in."""
    return self.root if self.root.is_dir() else self.root.parent

  @property
  def published(self) -> Mapping[str, raw.Counts]:
    """The published counts to compare with; empty if there are none."""
    layout = self.expected or self.exact
    return layout.published if layout else {}

  @property
  def lists(self) -> list[pathlib.Path]:
    """CSV files beside own images that are named as in Market-1501.

    configs/folder.py reads such a file, and the names of the images do not
    count.
    """
    own = self.shares_layout and self.layout.published
    if not own or self.is_as_published:
      return []
    return csv_file.files_in(self.root)

  def more_queries(self) -> list[pathlib.Path]:
    """Returns the images that the data set has for multi-query alone.

    A folder that cannot be read has none here; the doctor names it.
    """
    # Of own images, which have neither, multi-query takes the queries only.
    layout = self.expected or self.exact
    name = getattr(layout, 'more_queries_folder', '')
    folder = self.root / name
    try:
      return raw.list_images(folder) if name and folder.is_dir() else []
    except UserError:
      return []

  def describe(self) -> str:
    """Returns a phrase that names the data set, as 'MSMT17, as published'."""
    title = self.layout.title
    if isinstance(self.layout, msmt17.Msmt17Layout):
      if version := self.layout.version(self.root):
        title = f'{title} V{version}'
    if self.images is None:
      they = 'they' if title.startswith('images') else 'it'
      return f'{title[0].upper()}{title[1:]}, but {they} cannot be read'
    if self.exact:
      if self.exact is not self.layout:
        title = self.exact.title
      title = f'{title}, as published'
      return title if self.is_as_published else (
        f'{title}, not {self.expected.title}'
      )  # fmt: skip
    if self.shares_layout and (self.expected or self.layout.published):
      published = (self.expected or self.layout).title
      return f'Images named as in Market-1501, not the published {published}'
    if self.layout.published:
      return f'{title}, but not as published'
    return title[0].upper() + title[1:]

  @property
  def only_tests(self) -> bool:
    """Returns whether there are images, but none to train on."""
    return bool(self.counts) and not self.counts['train'].images

  @property
  def is_listed(self) -> bool:
    """Returns whether a CSV file says which images the data set has."""
    if not isinstance(self.layout, FolderLayout) or self.layout.pattern:
      return False
    return self.root.is_file() or bool(csv_file.files_in(self.root))

  def eval_command(self) -> str:
    """Returns the shell command that evaluates a network on own images."""
    settings = {name: getattr(self.layout, name) for name in SETTINGS}
    words = [
      'python eval.py --ckpt=WORKDIR --dataset=folder',
      f'--data_dir={shlex.quote(str(self.root))}',
      *setting_flags(settings),
    ]
    return ' '.join(words)

  def train_commands(self) -> list[str]:
    """Returns shell commands that train on the data set."""
    people = self.counts['train'].identities if self.counts else 0
    if not 0 < people < BATCH_IDENTITIES:
      return self._train_commands()
    few = max(people, LEAST_IDENTITIES)
    return [f'{line} --config.train.P={few}' for line in self._train_commands()]

  def _train_commands(self) -> list[str]:
    if self.is_as_published:
      if self.exact.variant and self.shares_layout:
        # This is the folder `labeled` or `detected`; users give its parent.
        return [self._train_command(self.exact, self.root.resolve().parent)]
      return [self._train_command(self.exact, self.root)]
    layout = self.layout
    if not layout.published:
      return [self._train_command(layout, self.root)]
    if self.shares_layout and self.expected and not self.expected.variant:
      layout = self.expected
    allowed = '--config.data.allow_other_counts=True'
    commands = [f'{self._train_command(layout, self.root)} {allowed}']
    if self.shares_layout and not self.lists:
      own = datasets.find('folder')
      commands.insert(0, self._train_command(own, self.root))
    return commands

  def _train_command(self, layout: raw.Layout, directory: pathlib.Path) -> str:
    if self.ignore_cameras:
      layout = dataclasses.replace(layout, ignore_cameras=True)
    return train_command(layout, directory)


def setting_flags(settings: Mapping[str, Any], prefix: str = '--') -> list[str]:
  """Returns the flags that change settings from their defaults, for a shell.

  Args:
    settings: values of fields of `SETTINGS`.
    prefix: text before the name of a field.
  """
  return [
    f'{prefix}{name}' + ('' if value is True else f'={shlex.quote(value)}')
    for name, value in settings.items()
    if value != SETTINGS[name]
  ]


def train_command(layout: raw.Layout, directory: pathlib.Path) -> str:
  """Returns the shell command that trains on a data set in a folder.

  Args:
    layout: layout of the data set, whose settings become flags.
    directory: the folder.
  """
  names = {full: short for short, full in datasets.SHORT_NAMES.items()}
  words = [
    'python train.py',
    f'--config=configs/{names.get(layout.dataset, layout.dataset)}.py',
    f'--config.data.dir={shlex.quote(str(directory))}',
  ]
  if layout.variant:
    words.append(f'--config.data.name={layout.name}')
  settings = {name: getattr(layout, name, SETTINGS[name]) for name in SETTINGS}
  return ' '.join([*words, *setting_flags(settings, '--config.data.')])


def find_datasets(
  base: pathlib.Path, name: str, **settings: Any
) -> tuple[list[FoundDataset], list[pathlib.Path]]:
  """Finds and reads a data set in or below a folder.

  Args:
    base: a folder, or a CSV file.
    name: name of the data set that the folder should hold, or ''.
    **settings: values of fields of `SETTINGS`; others have their defaults.

  Returns:
    The variants of the first data set, empty if there is none; and the folders
    of other data sets, which are not read.

  Raises:
    UserError: there is no data set of this name.
  """
  settings = SETTINGS | settings
  own = dataclasses.replace(datasets.find('folder'), **settings)
  if settings['pattern']:
    return [_with_expectation(_read(own, base), base, '')], []
  if not name and base.is_dir() and (known := schemes.recognise(base)):
    scheme, root = known
    found = _read(_scheme_layout(scheme, settings['ignore_cameras']), root)
    return [_with_expectation(found, base, '')], []
  named = _layouts_named(name) if name else []
  # These layouts are distinct; data sets with the same layout as Market-1501
  # are distinguished later.
  distinct = [x for x in datasets.LAYOUTS if x.name in (*HINTS, 'msmt17/train')]
  matches = _complete(base, named, named)
  matches = matches or _complete(base, distinct, datasets.LAYOUTS)
  matches = matches or _incomplete(base, named) or _own_images(base)
  found = []
  for layout in matches[0][1] if matches else ():
    # Other layouts are told apart by counts, which include those of cameras.
    layout = own if isinstance(layout, FolderLayout) else layout
    dataset = _with_expectation(_read(layout, matches[0][0]), base, name)
    if settings['ignore_cameras']:
      dataset = _without_cameras(dataset)
    found.append(dataset)
  return found, [root for root, _ in matches[1:]]


def _without_cameras(found: FoundDataset) -> FoundDataset:
  images = found.images
  if images and images.has_cameras:
    images = raw.without_cameras(images)
  return dataclasses.replace(found, images=images, ignore_cameras=True)


def _scheme_layout(scheme: schemes.Scheme, ignore_cameras: bool) -> raw.Layout:
  """Returns the layout that reads a known data set by its pattern.

  Args:
    scheme: names of the images of the data set.
    ignore_cameras: whether the user wants cameras to be ignored.
  """
  return dataclasses.replace(
    datasets.find('folder'),
    title=f'images of {scheme.title}, read by a pattern',
    pattern=scheme.pattern,
    ignore_cameras=ignore_cameras or scheme.ignore_cameras,
  )


# Folders, each with the variants of one data set whose layout it has.
Matches = list[tuple[pathlib.Path, list[raw.Layout]]]


def _layouts_named(name: str) -> list[raw.Layout]:
  """Returns the layouts of a data set: the named variant, or all variants."""
  one = datasets.find(name)
  if '/' in name:
    return [one]
  return [x for x in datasets.LAYOUTS if x.dataset == one.dataset]


def _complete(
  base: pathlib.Path, layouts: list[raw.Layout], nested: Iterable[raw.Layout]
) -> Matches:
  """Finds folders that have all files of a layout.

  Args:
    base: folder to search.
    layouts: layouts that a folder may have.
    nested: layouts whose usual folders below `base` are searched too.

  Returns:
    Each of these folders, with the layouts of one data set.
  """
  matches = []
  for root in _candidates(base, nested):
    complete = [layout for layout in layouts if not layout.missing(root)]
    if complete:
      first = complete[0]
      matches.append(
        (root, [x for x in complete if x.dataset == first.dataset])
      )
  return matches


def _candidates(
  base: pathlib.Path, layouts: Iterable[raw.Layout]
) -> Iterator[pathlib.Path]:
  """Yields a folder and the existing folders below it with usual names.

  Args:
    base: the folder.
    layouts: layouts that state the usual names of folders.
  """
  seen = set()
  names = dict.fromkeys(name for layout in layouts for name in layout.nested)
  for root in (base, *(base / name for name in names)):
    if root == base or root.is_dir():
      status = root.stat()  # file systems may ignore upper and lower case
      if (status.st_dev, status.st_ino) not in seen:
        seen.add((status.st_dev, status.st_ino))
        yield root


def _incomplete(base: pathlib.Path, named: list[raw.Layout]) -> Matches:
  """Finds the first folder that has some files of a known layout.

  Args:
    base: folder to search.
    named: layouts of the data set that the user expects; empty if unknown.

  Returns:
    The folder with its layout; empty if there is none.
  """
  for name, hints in HINTS.items():
    layout = datasets.find(name)
    for root in _candidates(base, [layout]):
      if any(next(root.glob(hint), None) for hint in hints):
        alike = [x for x in named if type(x) is type(layout)]
        return [(root, alike[:1] or [layout])]
  return []


def _own_images(base: pathlib.Path) -> Matches:
  own = datasets.find('folder')
  return [] if own.missing(base) else [(base, [own])]


def _read(layout: raw.Layout, root: pathlib.Path) -> FoundDataset:
  """Reads a raw folder as far as possible; the result states any error."""
  missing = layout.missing(root)
  error = f'{root} has no {", ".join(missing)}' if missing else ''
  if not missing:
    try:
      images = layout.read(root)
      return FoundDataset(layout, root, images, doubt=images.doubt)
    except raw.RawDataError as failure:
      return FoundDataset(
        layout, root, failure.dataset, str(failure), failure.misnamed,
        failure.missing_files, failure.doubt,
      )  # fmt: skip
    except (UserError, OSError) as failure:
      error = str(failure)
  if isinstance(layout, FolderLayout) and layout.pattern:
    return FoundDataset(layout, root, None, error)
  for below in (layout.variant, ''):
    if any((root / below / name).is_dir() for name in MARKET_HINTS):
      images, misnamed = _read_market_folders(root, below)
      return FoundDataset(layout, root, images, error, misnamed)
  return FoundDataset(layout, root, None, error)


def _read_market_folders(
  root: pathlib.Path, below: str
) -> tuple[raw.RawDataset, tuple[pathlib.Path, ...]]:
  """Reads the valid images and the misnamed files of Market-1501's folders."""
  try:
    return raw.RawDataset(root, raw.read_market_folders(root, below)), ()
  except raw.RawDataError as error:
    return error.dataset, error.misnamed


def _with_expectation(
  found: FoundDataset, base: pathlib.Path, name: str
) -> FoundDataset:
  """Adds the counts, and the published data set that was expected.

  Args:
    found: the data set as read.
    base: folder that the user gave.
    name: name of the data set that the user expects, or ''.
  """
  if found.images is None:
    return found
  counts = found.images.counts()
  exact = None
  if found.layout.published and not found.error:
    same = [x for x in datasets.LAYOUTS if x.published == counts]
    exact = found.layout if found.layout in same else (same or [None])[0]
  expected, because = _expected(found, counts, base, name)
  if expected and not expected.published:
    expected, because = None, ''
  if found.shares_layout and expected and exact:
    # The variant cannot be told from the layout either.
    expected = exact if exact.dataset == expected.dataset else expected
  return dataclasses.replace(
    found, counts=counts, exact=exact, expected=expected, because=because
  )


def _expected(
  found: FoundDataset,
  counts: Mapping[str, raw.Counts],
  base: pathlib.Path,
  name: str,
) -> tuple[raw.Layout | None, str]:
  """Determines which data set a folder should hold.

  Args:
    found: the data set as read.
    counts: counts of each split.
    base: folder that the user gave.
    name: name of the data set that the user expects, or ''.

  Returns:
    The layout of the data set, or None; and the evidence, as 'the layout says'.
  """
  layout = found.layout
  if name:
    one = datasets.find(name)
    same = layout.dataset == one.dataset and not found.shares_layout
    return layout if same else one, f'--dataset={name} says'
  if not found.shares_layout:
    return layout, 'the layout says'
  for folder in (found.root.resolve().name, base.resolve().name):
    if usual := _layout_of_folder_name(folder):
      return usual, f'the folder name {folder} suggests'
  return _nearest(counts), 'the number of images suggests'


def _layout_of_folder_name(name: str) -> raw.Layout | None:
  """Returns the layout of the data set that a folder's name suggests."""
  for layout in datasets.LAYOUTS:
    usual = {
      _normalize(pathlib.PurePath(below).name) for below in layout.nested
    }
    if _normalize(name) in usual:
      return layout
  return datasets.find('occluded_duke') if 'occluded' in name.lower() else None


def _normalize(name: str) -> str:
  return re.sub('[^a-z0-9]', '', name.lower())


def _nearest(counts: Mapping[str, raw.Counts]) -> raw.Layout | None:
  """Returns the layout with nearly the same published numbers of images."""
  for layout in datasets.LAYOUTS:
    if layout.published and all(
      abs(counts[split].images - published.images)
      <= COUNT_TOLERANCE * published.images
      for split, published in layout.published.items()
    ):
      return layout
  return None
