"""Raw data sets: the images of a folder, with their identities and cameras.

Nothing here needs TensorFlow, so that the doctor starts quickly.
"""

import abc
from collections.abc import Iterable, Mapping
import dataclasses
import functools
import hashlib
import os
import pathlib
import re
import shlex
import stat
from typing import Any

from apnet_jax.errors import FieldError, UserError
from apnet_jax.feed import JUNK_PID
from apnet_jax.images import SUFFIXES, folder_error, is_image

SPLITS = ('train', 'query', 'gallery')
IMAGE_SUFFIXES = SUFFIXES
# Images that cannot be read: they have to be converted.
OTHER_FORMATS = (
  '.avif', '.gif', '.heic', '.heif', '.jfif', '.jp2', '.ppm', '.tif', '.tiff',
)  # fmt: skip
# Market-1501's names: 0002_c1s1_000451_03.jpg, -1_c2s3_041407_01.jpg.
MARKET_NAME = re.compile(r'(-1|\d+)_c(\d+)')
MARKET_FOLDERS = {
  'train': 'bounding_box_train',
  'query': 'query',
  'gallery': 'bounding_box_test',
}
DISTRACTOR_PID = 0
MAX_ID = 2**31 - 1
# The reason, for messages, to refuse training images of which each shows
# somebody else.
TWO_IMAGES = 'a network learns from two or more images of a person'
MAX_FILE_BYTES = 64 * 2**20  # no image of a person is larger


@dataclasses.dataclass(frozen=True)
class RawImage:
  """One image of a raw data set.

  Attributes:
    name: name that is unique in the split; for an image file, its path relative
      to the raw folder.
    path: the file that holds the image.
    pid: identity; in the gallery, -1 is junk and 0 a distractor.
    camid: camera, from 0.
  """

  name: str
  path: pathlib.Path
  pid: int
  camid: int

  @property
  def location(self) -> str:
    """The place of the image on disk, for messages."""
    return str(self.path)

  def read(self) -> bytes:
    """Returns the encoded image; raises OSError if it cannot be read."""
    return read_file(self.path)


def read_file(path: pathlib.Path) -> bytes:
  """Returns the content of an image file.

  Raises:
    OSError: there is no such file, it is larger than `MAX_FILE_BYTES`, or it is
      not a regular file: reading a pipe would wait forever.
  """
  status = path.stat()
  if not stat.S_ISREG(status.st_mode):
    raise OSError('not a file')
  if status.st_size > MAX_FILE_BYTES:
    raise OSError(f'{status.st_size:,} bytes: too large to be read')
  with path.open('rb') as file:
    return file.read(status.st_size)


Splits = Mapping[str, list[RawImage]]


@dataclasses.dataclass(frozen=True)
class Counts:
  """Numbers of images, identities and cameras in a split.

  Published counts may lack distractors and junk.

  Attributes:
    images: number of all images.
    identities: number of people; in query and gallery, distractors and junk are
      not counted.
    cameras: number of cameras; 0 if they are unknown.
    distractors: number of images of identity 0 in query or gallery.
    junk: number of images of identity -1 in query or gallery.
  """

  images: int
  identities: int
  cameras: int
  distractors: int = 0
  junk: int = 0


@dataclasses.dataclass(frozen=True)
class Doubt:
  """A reason why folders of images are probably not one person each.

  Attributes:
    reason: description of the fact.
    pattern: value of `config.data.pattern` that probably reads the images.
  """

  reason: str
  pattern: str

  def error(self) -> 'RawDataError':
    """Returns the error to raise when the images would be used."""
    return RawDataError(
      f'{self.reason} As it is, each folder would be one person. If they are'
      ' not, set\n'
      f'--config.data.pattern={shlex.quote(self.pattern)}\n'
      'which says where a path has the camera and the person. If each folder is'
      ' one person, set --config.data.folders_are_people. (eval.py and the'
      ' doctor: --pattern and --folders_are_people.)',
      doubt=self,
    )


@dataclasses.dataclass(frozen=True)
class RawDataset:
  """A data set as stored in a raw folder: its images with their labels.

  Attributes:
    root: folder that the names of images are relative to.
    splits: images of each split in the order of their names; `train` may be
      empty.
    has_cameras: False if cameras are unknown. Each image then has a `camid` of
      its own, so that evaluation removes only the query itself.
    notes: remarks for the user on how the folder was read.
    splits_made: whether the images came without splits, and these were made
      from a seed.
    doubt: reason why the identities are probably wrong, if there is one. Such
      images are not prepared.
    release: which of several published versions this is, where counts do not
      tell; '' if there is one only.
    first_camera: number of the camera with `camid` 0, for people: 1 in
      published data sets, whose files count cameras from 1.
  """

  root: pathlib.Path
  splits: Splits
  has_cameras: bool = True
  notes: tuple[str, ...] = ()
  splits_made: bool = False
  doubt: Doubt | None = None
  release: str = ''
  first_camera: int = 1

  def counts(self) -> dict[str, Counts]:
    """Returns the numbers of images, identities and cameras, by split."""
    return {
      split: count(
        split,
        [image.pid for image in images],
        [image.camid for image in images] if self.has_cameras else (),
      )
      for split, images in self.splits.items()
    }

  @property
  def images(self) -> list[RawImage]:
    """The images of all splits; one that is in two splits is there twice."""
    return [image for split in SPLITS for image in self.splits[split]]

  @functools.cached_property
  def _status(self) -> dict[pathlib.Path, os.stat_result]:
    """Sizes and dates of all files, which are looked up once.

    Raises:
      UserError: files cannot be looked up, as links to nowhere; the message
        names them.
    """
    found, failed = {}, []
    paths = {image.path for image in self.images}
    for path in paths:
      try:
        found[path] = path.stat()
      except OSError as error:
        failed.append(f'{path}: {error.strerror}')
    if failed:
      raise UserError(
        f'{len(failed)} of {len(paths)} images cannot be read:\n'
        + format_lines(sorted(failed))
      )
    return found

  def fingerprint(self) -> str:
    """Returns a short hash of the names, sizes and labels of all images.

    BMP files have their content hashed, too: those of one width and height all
    have the same size.
    """
    digest = hashlib.sha256()
    for split in SPLITS:
      for image in self.splits[split]:
        size = self._status[image.path].st_size
        fields = (split, image.name, size, image.pid, image.camid)
        if image.name.lower().endswith('.bmp'):
          fields += (_content_hash(image),)
        digest.update(repr(fields).encode())
    return digest.hexdigest()[:12]

  def changed_since(self, date: float) -> list[str]:
    """Returns the names of images whose files are younger than a date.

    Args:
      date: seconds since 1970.
    """
    return list(
      dict.fromkeys(
        image.name
        for image in self.images
        if self._status[image.path].st_mtime > date
      )
    )


def _content_hash(image: RawImage) -> str:
  """Returns a hash of an image file; '' if it cannot be read.

  Preparing the images names those that cannot be read.
  """
  try:
    return hashlib.sha256(image.read()).hexdigest()
  except OSError:
    return ''


def without_cameras(dataset: RawDataset) -> RawDataset:
  """Returns a data set with a camera of its own for each image.

  Evaluation then compares a query with all images except itself.
  """
  names = sorted({image.name for image in dataset.images})
  number = {name: i for i, name in enumerate(names)}
  return dataclasses.replace(
    dataset,
    splits={
      split: [
        dataclasses.replace(image, camid=number[image.name]) for image in rows
      ]
      for split, rows in dataset.splits.items()
    },
    has_cameras=False,
    notes=(
      *dataset.notes,
      'no cameras: each query is compared with all images except itself',
    ),
  )


def count(split: str, pids: Iterable[int], camids: Iterable[int]) -> Counts:
  """Counts the images, identities and cameras of a split.

  Args:
    split: name of the split.
    pids: identity of each image.
    camids: camera of each image; empty if cameras are unknown.
  """
  pids = list(pids)
  special = () if split == 'train' else (DISTRACTOR_PID, JUNK_PID)
  return Counts(
    images=len(pids),
    identities=len(set(pids) - set(special)),
    cameras=len(set(camids)),
    distractors=pids.count(DISTRACTOR_PID) if special else 0,
    junk=pids.count(JUNK_PID) if special else 0,
  )


class RawDataError(UserError):
  """Error of a raw folder whose files are not a valid data set.

  The attributes are for data/doctor.py, which reports all mistakes.

  Attributes:
    dataset: the images that could be read nevertheless, or None.
    misnamed: images whose names do not follow Market-1501's naming.
    missing_files: for each list, the listed files that do not exist.
    doubt: reason why the identities are probably wrong, or None.
  """

  def __init__(
    self,
    message: str,
    dataset: RawDataset | None = None,
    misnamed: Iterable[pathlib.Path] = (),
    missing_files: Mapping[pathlib.Path, list[pathlib.Path]] | None = None,
    doubt: Doubt | None = None,
  ):
    super().__init__(message)
    self.dataset = dataset
    self.misnamed = tuple(misnamed)
    self.missing_files = dict(missing_files or {})
    self.doubt = doubt


@dataclasses.dataclass(frozen=True, eq=False)
class Layout(abc.ABC):
  """Base class for the storage formats of data sets, with published counts.

  A subclass finds and lists the images of a raw folder: the folder that holds
  the original files of a data set.

  Attributes:
    dataset: name of the data set's folder in data/.
    title: name of the data set, for people.
    homepage: web page where the data set is published.
    how_to_get: instructions for a user who lacks the data set.
    nested: usual paths from the folder that a user gives to the raw folder.
    published: published counts of each split; empty if any counts are fine.
    variant: name of the variant, for a data set that has several.
    ignore_cameras: treats cameras as unknown, so that each query is compared
      with all images except itself.
  """

  dataset: str
  title: str
  homepage: str
  how_to_get: str
  nested: tuple[str, ...] = ()
  published: Mapping[str, Counts] = dataclasses.field(default_factory=dict)
  variant: str = ''
  ignore_cameras: bool = False

  @property
  def name(self) -> str:
    """Value of `config.data.name`, as `market1501` or `msmt17/train`."""
    return '/'.join(filter(None, (self.dataset, self.variant)))

  def configured(self, data_config: Mapping[str, Any]) -> 'Layout':
    """Returns the layout with its settings taken from a configuration.

    Args:
      data_config: the `data` part of a configuration.

    Raises:
      FieldError: there is a pattern, which only own images may have.
    """
    if data_config['pattern']:
      raise FieldError(
        'data.pattern',
        f'={data_config["pattern"]!r}: {self.title} has names of its own. For'
        ' other images, use configs/folder.py.',
      )
    return dataclasses.replace(
      self, ignore_cameras=data_config['ignore_cameras']
    )

  def read(self, directory: str | os.PathLike) -> RawDataset:
    """Finds the raw folder in or below `directory` and lists its images.

    Raises:
      UserError: no raw folder was found, or its files are not a data set; the
        message names the folders or files.
    """
    if not os.fspath(directory):  # pathlib would take it for this folder
      raise FieldError('data.dir', "='' names no folder.")
    root = self.locate(directory)
    dataset = self.read_root(root)
    mistake = _find_mistake(dataset)
    if mistake:
      raise RawDataError(f'{root}: {mistake}', dataset)
    if self.ignore_cameras and dataset.has_cameras:
      return without_cameras(dataset)
    return dataset

  def locate(self, directory: str | os.PathLike) -> pathlib.Path:
    """Returns the raw folder: `directory` or one of `nested` below it.

    Raises:
      UserError: none of these is the raw folder; the message names them.
    """
    base = pathlib.Path(directory).expanduser()
    candidates = [base, *(base / name for name in self.nested)]
    missing = {root: self.missing(root) for root in candidates}
    for root in candidates:
      if not missing[root]:
        return root
    looked = '\n'.join(
      f'  {root} ({_reason(root, missing[root])})' for root in candidates
    )
    raise FieldError(
      'data.dir',
      f'={str(directory)!r} does not hold {self.title}. Looked in:\n{looked}\n'
      f'{self.how_to_get}',
    )

  def more_queries(self, dataset: RawDataset) -> list[RawImage]:
    """Lists images that multi-query averages, beside those of the query split.

    They may show other people, too. The base class has none.

    Args:
      dataset: the data set that this layout has read.

    Raises:
      UserError: cameras are unknown, without which no images can be averaged;
        or the images belong to the data set, and are missing.
    """
    if not dataset.has_cameras:
      raise FieldError(
        'eval.multi_query',
        '=True averages the images of one identity and camera, but in'
        f' {dataset.root} the cameras are unknown. Evaluate single queries.',
      )
    return []

  @abc.abstractmethod
  def missing(self, root: pathlib.Path) -> list[str]:
    """Returns the files and folders that `root` lacks to be the raw folder."""

  @abc.abstractmethod
  def read_root(self, root: pathlib.Path) -> RawDataset:
    """Lists the images of a complete raw folder, for which `missing` is empty.

    Raises:
      UserError: files are invalid; the message names `root` or the files.
    """


def _reason(root: pathlib.Path, missing: list[str]) -> str:
  """Returns the reason why a folder is not the raw folder, for a message.

  Args:
    root: the folder.
    missing: names of the files and folders that `root` lacks.
  """
  if root.is_dir():
    return f'no {", ".join(missing)}'
  return 'not a folder' if root.exists() else 'no such folder'


@dataclasses.dataclass(frozen=True, eq=False)
class MarketLayout(Layout):
  """Market-1501's layout: three folders, with labels in the file names.

  Attributes:
    more_queries_folder: folder of further images of the queries' people, for
      multi-query; '' if the data set has none.
  """

  more_queries_folder: str = ''

  def missing(self, root: pathlib.Path) -> list[str]:
    return missing_folders(root)

  def read_root(self, root: pathlib.Path) -> RawDataset:
    splits = read_market_folders(root)
    return RawDataset(root, splits, notes=market_notes(splits))

  def more_queries(self, dataset: RawDataset) -> list[RawImage]:
    super().more_queries(dataset)  # checks that cameras are known
    if not self.more_queries_folder:
      return []
    folder = dataset.root / self.more_queries_folder
    images, misnamed = _read_market_folder(folder, dataset.root)
    if misnamed:
      raise RawDataError(misnamed_message(misnamed[0]), misnamed=misnamed)
    if not images:
      raise FieldError(
        'eval.multi_query',
        f'=True averages the images of {folder}, which holds no images. Copy'
        f' the folder {self.more_queries_folder} of {self.title} there, or'
        ' evaluate single queries.',
      )
    # An image that is in both folders has the same name there.
    queries = {image.path.name for image in dataset.splits['query']}
    return [image for image in images if image.path.name not in queries]


def missing_folders(
  root: pathlib.Path, folders: Iterable[str] = tuple(MARKET_FOLDERS.values())
) -> list[str]:
  """Returns the names of `folders` that `root` does not contain."""
  return [folder for folder in folders if not (root / folder).is_dir()]


def read_market_folders(root: pathlib.Path, below: str = '.') -> Splits:
  """Lists the images of Market-1501's three folders.

  Args:
    root: folder that the names of images are relative to.
    below: path from `root` to the folder that holds the three.

  Raises:
    RawDataError: a folder cannot be read or has no image, or a name does not
      begin with `<identity>_c<camera>`. The error's `dataset` has the images
      with valid names.
  """
  splits, misnamed, mistakes = {}, [], []
  for split, name in MARKET_FOLDERS.items():
    folder = root / below / name
    try:
      splits[split], wrong = _read_market_folder(folder, root)
    except UserError as error:
      splits[split], wrong = [], []
      mistakes.append(str(error))
      continue
    misnamed += wrong
    if wrong:
      mistakes.append(misnamed_message(wrong[0]))
    elif not splits[split]:
      mistakes.append(
        f'{folder} holds no images ({", ".join(IMAGE_SUFFIXES)}).'
      )
  if mistakes:
    raise RawDataError(mistakes[0], RawDataset(root, splits), misnamed)
  return splits


def market_notes(splits: Splits) -> tuple[str, ...]:
  """Returns a warning if a training image named as Market's has identity 0.

  Identity 0 is then a person in training, but would be a distractor in test.
  """
  if all(image.pid != DISTRACTOR_PID for image in splits['train']):
    return ()
  return (
    'warning: identity 0 is in training. In the gallery it means a distractor:'
    ' if your identities begin with 0, number them from 1.',
  )


def misnamed_message(path: pathlib.Path) -> str:
  """Returns the message for a file that lacks a name like Market-1501's."""
  return (
    f'{path} is not named as Market-1501 names images: <identity>_c<camera from'
    ' 1>..., as 0002_c1s1_000451_03.jpg.'
  )


def _read_market_folder(
  folder: pathlib.Path, root: pathlib.Path
) -> tuple[list[RawImage], list[pathlib.Path]]:
  """Lists the images of a folder that should follow Market-1501's naming.

  Args:
    folder: the folder, which need not exist.
    root: folder that the names of images are relative to.

  Returns:
    The images with valid names, and the paths of those with invalid names.

  Raises:
    UserError: the folder cannot be read.
  """
  images, misnamed = [], []
  for path in list_images(folder) if folder.is_dir() else ():
    match = MARKET_NAME.match(path.name)
    if match and int(match[2]) >= 1:
      name = path.relative_to(root).as_posix()
      images.append(RawImage(name, path, int(match[1]), int(match[2]) - 1))
    else:
      misnamed.append(path)
  return images, misnamed


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the image files directly in a folder, in name order.

  Hidden files and those of the system (`is_hidden`) are omitted.

  Raises:
    UserError: the folder cannot be read.
  """
  try:
    return sorted(filter(is_image, folder.iterdir()))
  except OSError as error:
    raise folder_error(error) from error


class ListedFiles:
  """Finds files that a text file lists by paths relative to a folder.

  A list may come from anywhere, so that paths and links which lead out of the
  folder are refused.

  Args:
    folder: folder that the paths are relative to.
    list_file: the text file, for messages.

  Attributes:
    found: number of files found so far.
    missing: for each listed file that does not exist, its path and line in the
      list, for messages.
  """

  def __init__(self, folder: pathlib.Path, list_file: pathlib.Path):
    self.folder = folder
    self.list_file = list_file
    self.found = 0
    self.missing: dict[pathlib.Path, str] = {}
    self._real = os.path.realpath(folder)
    self._names = {}  # names of all files, by folder

  def find(self, relative: str, line: int) -> pathlib.Path | None:
    """Returns the file of a path in the list, or None if it does not exist.

    Args:
      relative: the path.
      line: its line in the list, from 1.

    Raises:
      UserError: the path is empty, absolute, or leaves the folder; or its
        folder cannot be read.
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
    if parent not in self._names:  # not checked yet
      self._names[parent] = self._list(parent)
      links.append(parent)
    if not all(map(self._is_inside, links)):
      raise UserError(f'{where} is a link that leads out of {self.folder}.')
    if pure.name not in self._names[parent]:
      self.missing[path] = f'{relative} (line {line})'
      return None
    self.found += 1
    return path

  def _list(self, parent: pathlib.Path) -> set[str]:
    # Unlike pathlib's functions, these accept names that are too long.
    try:
      return set(os.listdir(parent)) if os.path.isdir(parent) else set()
    except OSError as error:
      raise folder_error(error) from error

  def _is_inside(self, path: pathlib.Path) -> bool:
    real = os.path.realpath(path)
    return os.path.commonpath([real, self._real]) == self._real


def check_all_found(lists: Iterable[ListedFiles]) -> None:
  """Raises an error if listed files do not exist, or a list is empty.

  Args:
    lists: lists after `find` has been called for all of their lines.

  Raises:
    RawDataError: listed files do not exist, or a list is empty.
  """
  lists = list(lists)
  incomplete = [one for one in lists if one.missing]
  if incomplete:
    raise RawDataError(
      '\n'.join(
        f'{len(one.missing)} images that {one.list_file} names are not in'
        f' {one.folder}:\n{format_lines(one.missing.values())}'
        for one in incomplete
      ),
      missing_files={one.list_file: list(one.missing) for one in incomplete},
    )
  for one in lists:
    if not one.found:
      raise RawDataError(f'{one.list_file} is empty: it names no image.')


def format_lines(lines: Iterable[str], limit: int = 10) -> str:
  """Joins indented lines for a message, with at most `limit` of them shown."""
  lines = list(lines)
  shown = [f'  {line}' for line in lines[:limit]]
  if len(lines) > limit:
    shown.append(f'  ... and {len(lines) - limit} more')
  return '\n'.join(shown)


def _find_mistake(dataset: RawDataset) -> str:
  """Returns a description of the first mistake in the splits, or ''.

  The rules are: query and gallery are not empty; no image is twice in a split,
  in both training and test, or in query and gallery with different labels;
  identities and cameras can be stored; only the gallery has junk, and no query
  is a distractor.
  """
  splits = dataset.splits
  for split in ('query', 'gallery'):
    if not splits[split]:
      mistake = f'the {split} split is empty: no image is in it.'
      return '\n'.join([mistake, *dataset.notes])  # they say what is left out
  names = {split: [image.name for image in splits[split]] for split in SPLITS}
  for split in SPLITS:
    seen, repeated = set(), []
    for name in names[split]:
      if name in seen:
        repeated.append(name)
      seen.add(name)
    if repeated:
      return (
        f'{len(repeated)} images are twice in the {split} split:\n'
        + format_lines(repeated)
      )
  both = sorted(set(names['train']) & {*names['query'], *names['gallery']})
  if both:
    return (
      f'{len(both)} images are in both training and test:\n'
      + format_lines(both)
    )
  # Evaluation leaves out matches of the query's identity and camera only.
  labels = {image.name: (image.pid, image.camid) for image in splits['query']}
  other = sorted(
    image.name
    for image in splits['gallery']
    if image.pid != JUNK_PID  # which is not ranked
    and labels.get(image.name, (image.pid, image.camid))
    != (image.pid, image.camid)
  )
  if other:
    return (
      f'{len(other)} images are in query and gallery with different labels, so'
      ' that a query would find itself:\n' + format_lines(other)
    )
  for image in (image for split in SPLITS for image in splits[split]):
    if mistake := _find_mistake_of_image(image):
      return mistake
  for image in (*splits['train'], *splits['query']):
    if image.pid == JUNK_PID:
      return (
        f'{image.name} is junk (identity {image.pid}), which is allowed in the'
        ' gallery only.'
      )
  for image in splits['query']:
    if image.pid == DISTRACTOR_PID:
      return (
        f'{image.name} has identity 0, which means a distractor and cannot be'
        ' searched for. Number people from 1.'
      )
  return ''


def _find_mistake_of_image(image: RawImage) -> str:
  """Returns the reason why TFDS cannot store an image, or ''."""
  if not JUNK_PID <= image.pid <= MAX_ID or image.camid > MAX_ID:
    return (
      f'{image.name!a} has identity {image.pid} and camera {image.camid}, which'
      f' are not from {JUNK_PID} and 0 to {MAX_ID}.'
    )
  try:
    image.name.encode()
  except UnicodeEncodeError:
    return f'{image.name!a} is not a name in UTF-8: rename the file.'
  return ''
