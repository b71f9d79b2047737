"""Raw data sets: which images a folder holds, and who is on them.

Nothing here needs TensorFlow: the doctor looks at raw folders by this alone.
"""

import abc
from collections.abc import Iterable, Mapping
import dataclasses
import hashlib
import os
import pathlib
import re
import stat
from typing import Any

from apnet_jax.errors import FieldError, UserError

SPLITS = ('train', 'query', 'gallery')
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png')
# Market-1501's naming: 0002_c1s1_000451_03.jpg, -1_c2s3_041407_01.jpg.
MARKET_NAME = re.compile(r'(-1|\d+)_c(\d+)')
MARKET_FOLDERS = {
  'train': 'bounding_box_train',
  'query': 'query',
  'gallery': 'bounding_box_test',
}
JUNK_PID = -1
DISTRACTOR_PID = 0
LARGEST_ID = 2**31 - 1
# No image of a person is larger; what is, is not read.
MOST_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class RawImage:
  """One image of a raw data set.

  Attributes:
    name: unique in its split; for a file, its path below the raw folder.
    path: the file that holds it.
    pid: identity; in the gallery, -1 is junk and 0 a distractor.
    camid: camera, from 0.
  """

  name: str
  path: pathlib.Path
  pid: int
  camid: int

  @property
  def where(self) -> str:
    """Its place, for people."""
    return str(self.path)

  def read(self) -> bytes:
    """The encoded image; OSError if it cannot be read."""
    return read_file(self.path)


def read_file(path: pathlib.Path) -> bytes:
  """The bytes of an image file.

  Raises:
    OSError: it is not there, is larger than `MOST_BYTES`, or no file: reading a
      pipe would wait forever.
  """
  status = path.stat()
  if not stat.S_ISREG(status.st_mode):
    raise OSError('not a file')
  if status.st_size > MOST_BYTES:
    raise OSError(f'{status.st_size:,} bytes: too large to be read')
  with path.open('rb') as file:
    return file.read(status.st_size)


Splits = Mapping[str, list[RawImage]]


@dataclasses.dataclass(frozen=True)
class Counts:
  """What a split holds; also the published figures, which may lack some.

  Attributes:
    images: all of them.
    identities: people; in query and gallery without distractors and junk.
    cameras: that any image is of; 0 where cameras are not known.
    distractors: images of identity 0, outside the training split.
    junk: images of identity -1.
  """

  images: int
  identities: int
  cameras: int
  distractors: int = 0
  junk: int = 0


@dataclasses.dataclass(frozen=True)
class RawDataset:
  """The images of a raw folder.

  Attributes:
    root: the folder that names are relative to.
    splits: images by split, each in the order of their names; `train` may be
      empty.
    has_cameras: False if none are known; then each image has a `camid` of its
      own, so that evaluation removes the query itself and nothing else.
    notes: what was decided while reading, for people.
    splits_made: whether the splits were made here, from a seed.
  """

  root: pathlib.Path
  splits: Splits
  has_cameras: bool = True
  notes: tuple[str, ...] = ()
  splits_made: bool = False

  def counts(self) -> dict[str, Counts]:
    """Of each split."""
    return {
      split: count(
        split,
        [image.pid for image in images],
        [image.camid for image in images] if self.has_cameras else (),
      )
      for split, images in self.splits.items()
    }

  def fingerprint(self) -> str:
    """Short hash of names, sizes and labels: changes when the images do."""
    digest = hashlib.sha256()
    for split in SPLITS:
      for image in self.splits[split]:
        size = image.path.stat().st_size
        fields = (split, image.name, size, image.pid, image.camid)
        digest.update(repr(fields).encode())
    return digest.hexdigest()[:12]


def count(split: str, pids: Iterable[int], camids: Iterable[int]) -> Counts:
  """Counts a split by the labels of its images."""
  pids = list(pids)
  special = () if split == 'train' else (DISTRACTOR_PID, JUNK_PID)
  return Counts(
    images=len(pids),
    identities=len(set(pids) - set(special)),
    cameras=len(set(camids)),
    distractors=pids.count(DISTRACTOR_PID) if special else 0,
    junk=pids.count(JUNK_PID) if special else 0,
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Layout(abc.ABC):
  """How the copies of one data set lie on disk, and what it should hold.

  Attributes:
    dataset: folder in data/.
    title: for people.
    homepage: where it is published.
    how_to_get: what to do if it is not there.
    nested: folders below a given one in which copies lie.
    published: counts of each split; empty if any will do.
    variant: of a data set that has several.
  """

  dataset: str
  title: str
  homepage: str
  how_to_get: str
  nested: tuple[str, ...] = ()
  published: Mapping[str, Counts] = dataclasses.field(default_factory=dict)
  variant: str = ''

  @property
  def name(self) -> str:
    """What `config.data.name` calls it: `market1501`, `msmt17/train`."""
    return '/'.join(filter(None, (self.dataset, self.variant)))

  def configured(self, data_config: Mapping[str, Any]) -> 'Layout':
    """The layout under the fields of `config.data` that concern it."""
    del data_config
    return self

  def read(self, directory: str | os.PathLike) -> RawDataset:
    """Finds the raw folder in or below `directory` and lists its images.

    Raises:
      UserError: there is none (says where it was looked for), or what it
        holds is not a data set (names the files).
    """
    root = self.locate(directory)
    try:
      dataset = self.read_root(root)
      _check_splits(dataset.splits)
    except UserError as error:
      if str(root) in str(error):
        raise
      raise UserError(f'{root}: {error}') from error
    return dataset

  def locate(self, directory: str | os.PathLike) -> pathlib.Path:
    """The raw folder: `directory` or one of `nested` below it.

    Raises:
      UserError: neither looks like it; says where it was looked for.
    """
    base = pathlib.Path(directory).expanduser()
    candidates = [base, *(base / name for name in self.nested)]
    missing = {root: self.missing(root) for root in candidates}
    for root in candidates:
      if not missing[root]:
        return root
    looked = '\n'.join(
      f'  {root} ({_lack(root, missing[root])})' for root in candidates
    )
    raise FieldError(
      'data.dir',
      f'={str(directory)!r} does not hold {self.title}. Looked in:\n{looked}\n'
      f'{self.how_to_get}',
    )

  @abc.abstractmethod
  def missing(self, root: pathlib.Path) -> list[str]:
    """What `root` lacks to be the raw folder; empty if nothing."""

  @abc.abstractmethod
  def read_root(self, root: pathlib.Path) -> RawDataset:
    """Lists the images of a raw folder; UserError names bad files."""


def _lack(root: pathlib.Path, missing: list[str]) -> str:
  if root.is_dir():
    return f'no {", ".join(missing)}'
  return 'not a folder' if root.exists() else 'no such folder'


@dataclasses.dataclass(frozen=True, eq=False)
class MarketLayout(Layout):
  """Three folders of files that Market-1501's naming tells everything of."""

  def missing(self, root: pathlib.Path) -> list[str]:
    return missing_folders(root)

  def read_root(self, root: pathlib.Path) -> RawDataset:
    return RawDataset(root, read_market_folders(root))


def missing_folders(
  root: pathlib.Path, folders: Iterable[str] = tuple(MARKET_FOLDERS.values())
) -> list[str]:
  """Those of `folders` that `root` does not have."""
  return [folder for folder in folders if not (root / folder).is_dir()]


def read_market_folders(root: pathlib.Path, below: str = '.') -> Splits:
  """Lists `bounding_box_train`, `query` and `bounding_box_test`.

  Args:
    root: names are relative to it.
    below: the folder in `root` that holds the three.
  """
  return {
    split: read_market_folder(root / below / folder, root)
    for split, folder in MARKET_FOLDERS.items()
  }


def read_market_folder(
  folder: pathlib.Path, root: pathlib.Path
) -> list[RawImage]:
  """Lists a folder of files named as Market-1501 names them, in name order.

  Raises:
    UserError: no image, or a name that does not begin `<pid>_c<camera>`.
  """
  paths = list_images(folder)
  if not paths:
    raise UserError(f'{folder} holds no images ({", ".join(IMAGE_SUFFIXES)}).')
  images = []
  for path in paths:
    match = MARKET_NAME.match(path.name)
    if not match or int(match[2]) < 1:
      raise UserError(
        f'{path} is not named as Market-1501 names images: <identity>_c<camera'
        ' from 1>..., as 0002_c1s1_000451_03.jpg.'
      )
    name = path.relative_to(root).as_posix()
    images.append(RawImage(name, path, int(match[1]), int(match[2]) - 1))
  return images


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
  """The JPEG and PNG files of a folder, in name order; not of its folders."""
  return sorted(
    path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES
  )


class PathsBelow:
  """Turns the relative paths of a list into files below a folder.

  What stands in a list may come from anywhere: a path that leaves the folder,
  also by a link, is refused.
  """

  def __init__(self, folder: pathlib.Path, list_file: pathlib.Path):
    self.folder = folder
    self.list_file = list_file
    self._real = os.path.realpath(folder)
    self._listed = {}  # folder below: names of its files
    self._found = 0
    self._absent = []

  def file(self, relative: str, line: int) -> pathlib.Path | None:
    """The file of a path in the list, or None if it does not exist.

    Raises:
      UserError: the path is empty, absolute, or leaves the folder.
    """
    where = f'{self.list_file}, line {line}: the path {relative!r}'
    pure = pathlib.PurePosixPath(relative)
    outside = pure.is_absolute() or '..' in pure.parts or '\0' in relative
    if outside or not pure.name or re.match('[A-Za-z]:|.*\\\\', relative):
      raise UserError(
        f'{where} is not one below {self.folder}, as folder/image.jpg.'
      )
    parent, path = self.folder / pure.parent, self.folder / pure
    links = [path] if os.path.islink(path) else []
    if parent not in self._listed:  # else it has been looked at
      self._listed[parent] = self._list(parent)
      links.append(parent)
    if not all(map(self._is_inside, links)):
      raise UserError(f'{where} is a link that leads out of {self.folder}.')
    if pure.name not in self._listed[parent]:
      self._absent.append(f'{relative} (line {line})')
      return None
    self._found += 1
    return path

  def check_all_found(self) -> None:
    """Raises UserError if files were missing, or none was asked for."""
    if self._absent:
      raise UserError(
        f'{len(self._absent)} images that {self.list_file} names are not in'
        f' {self.folder}:\n{shorten(self._absent)}'
      )
    if not self._found:
      raise UserError(f'{self.list_file} is empty: it names no image.')

  def _list(self, parent: pathlib.Path) -> set[str]:
    # Unlike pathlib's, this one takes a name that is too long to exist.
    return set(os.listdir(parent)) if os.path.isdir(parent) else set()

  def _is_inside(self, path: pathlib.Path) -> bool:
    real = os.path.realpath(path)
    return os.path.commonpath([real, self._real]) == self._real


def shorten(lines: Iterable[str], most: int = 10) -> str:
  """Lines for a message, indented, the first ones if there are many."""
  lines = list(lines)
  shown = [f'  {line}' for line in lines[:most]]
  if len(lines) > most:
    shown.append(f'  ... and {len(lines) - most} more')
  return '\n'.join(shown)


def _check_splits(splits: Splits) -> None:
  """Checks what every split promises.

  Raises:
    UserError: query or gallery is empty, an image stands twice in a split or
      both in training and test, or it has an identity that its split may not
      hold.
  """
  for split in ('query', 'gallery'):
    if not splits[split]:
      raise UserError(f'the {split} split is empty: no image is in it.')
  names = {split: [image.name for image in splits[split]] for split in SPLITS}
  for split in SPLITS:
    seen, twice = set(), []
    for name in names[split]:
      if name in seen:
        twice.append(name)
      seen.add(name)
    if twice:
      raise UserError(
        f'{len(twice)} images stand twice in the {split} split:\n'
        + shorten(twice)
      )
  both = sorted(set(names['train']) & {*names['query'], *names['gallery']})
  if both:
    raise UserError(
      f'{len(both)} images are in both training and test:\n{shorten(both)}'
    )
  for image in (image for split in SPLITS for image in splits[split]):
    _check_image(image)
  for image in (*splits['train'], *splits['query']):
    if image.pid == JUNK_PID:
      raise UserError(
        f'{image.path} is junk (identity {image.pid}), which only the gallery'
        ' may hold.'
      )
  for image in splits['query']:
    if image.pid == DISTRACTOR_PID:
      raise UserError(
        f'{image.path} has identity 0, which means a distractor: nobody to'
        ' look for. Number people from 1.'
      )


def _check_image(image: RawImage) -> None:
  """What TFDS can store."""
  if not JUNK_PID <= image.pid <= LARGEST_ID or image.camid > LARGEST_ID:
    raise UserError(
      f'{image.where} has identity {image.pid} and camera {image.camid}, which'
      f' are not from {JUNK_PID} and 0 to {LARGEST_ID}.'
    )
  try:
    image.name.encode()
  except UnicodeEncodeError as error:
    raise UserError(
      f'{ascii(image.name)} is not a name in UTF-8: rename the file.'
    ) from error
