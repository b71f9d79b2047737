"""What all re-identification data sets share: a TFDS builder over raw folders.

A builder says which images its raw folder holds (`read_splits`); this base
class checks that each can be decoded and writes them, as they are, into
random-access files.
"""

import abc
from collections.abc import Iterable, Iterator, Mapping
from concurrent import futures
import dataclasses
import hashlib
import os
import pathlib
import re

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tqdm import tqdm

SPLITS = ('train', 'query', 'gallery')
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png')
# Market-1501's naming: 0002_c1s1_000451_03.jpg, -1_c2s3_041407_01.jpg.
MARKET_NAME = re.compile(r'(-1|\d+)_c(\d+)')
JUNK_PID = -1
DISTRACTOR_PID = 0


@dataclasses.dataclass(frozen=True)
class RawImage:
  """One file of a raw data set; `camid` counts from 0."""

  path: pathlib.Path
  pid: int
  camid: int


class ReidBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Prepares splits train, query and gallery from a folder of images.

  Examples hold `image` (encoded as found), `path` (relative to the raw folder),
  `pid` (-1 is junk) and `camid` (from 0). Identities are those of the file
  names: making training labels of them is the pipeline's work.
  """

  VERSION = tfds.core.Version('1.0.0')

  def __init_subclass__(cls, **kwargs):
    super().__init_subclass__(**kwargs)
    # Else a builder would show the README of the builder it inherits from.
    cls.pkg_dir_path = None

  @classmethod
  @abc.abstractmethod
  def locate(cls, directory: str) -> pathlib.Path:
    """The raw folder in or below `directory`.

    Raises:
      ValueError: there is none; says where it was looked for.
    """

  @classmethod
  @abc.abstractmethod
  def read_splits(cls, root: pathlib.Path) -> Mapping[str, list[RawImage]]:
    """Lists the images of each split below `root`.

    Raises:
      ValueError: the folder has another layout.
    """

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(None, None, 3)),
          'path': tfds.features.Text(),
          'pid': tfds.features.Scalar(np.int64),
          'camid': tfds.features.Scalar(np.int64),
        }
      ),
      homepage='https://github.com/CHENGY12/APNet',
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager):
    root = pathlib.Path(dl_manager.manual_dir)
    splits = self.read_splits(root)
    check_readable(image.path for name in SPLITS for image in splits[name])
    return {
      name: self._generate_examples(splits[name], root) for name in SPLITS
    }

  def _generate_examples(
    self, images: list[RawImage], root: pathlib.Path
  ) -> Iterator[tuple[str, dict]]:
    for image in images:
      relative = image.path.relative_to(root).as_posix()
      yield (
        relative,
        {
          'image': image.path,
          'path': relative,
          'pid': image.pid,
          'camid': image.camid,
        },
      )


def find_root(
  directory: str, folders: Iterable[str], nested: Iterable[str], help_text: str
) -> pathlib.Path:
  """The folder that holds `folders`: `directory` or one of `nested` below it.

  Raises:
    ValueError: neither does; says where they were looked for.
  """
  base = pathlib.Path(directory).expanduser()
  candidates = [base, *(base / name for name in nested)]
  for root in candidates:
    if all((root / folder).is_dir() for folder in folders):
      return root
  looked = '\n'.join(
    f'  {root}' + ('' if root.is_dir() else ' (no such folder)')
    for root in candidates
  )
  raise ValueError(
    f'config.data.dir={directory!r} has no folders {", ".join(folders)}.'
    f' Looked in:\n{looked}\n{help_text}'
  )


def read_market_folder(folder: pathlib.Path) -> list[RawImage]:
  """Lists a folder of files named as Market-1501 names them, in name order.

  Raises:
    ValueError: no image, or a name that does not begin `<pid>_c<camera>`.
  """
  paths = sorted(
    path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES
  )
  if not paths:
    raise ValueError(f'{folder} holds no images ({", ".join(IMAGE_SUFFIXES)}).')
  images = []
  for path in paths:
    match = MARKET_NAME.match(path.name)
    if not match or int(match[2]) < 1:
      raise ValueError(
        f'{path} is not named as Market-1501 names images: <identity>_c<camera'
        ' from 1>..., as 0002_c1s1_000451_03.jpg.'
      )
    images.append(RawImage(path, int(match[1]), int(match[2]) - 1))
  return images


def fingerprint(
  splits: Mapping[str, list[RawImage]], root: pathlib.Path
) -> str:
  """Short hash of names, sizes and labels: changes when the raw images do."""
  digest = hashlib.sha256()
  for name in SPLITS:
    for image in splits[name]:
      fields = (
        name,
        image.path.relative_to(root).as_posix(),
        image.path.stat().st_size,
        image.pid,
        image.camid,
      )
      digest.update(repr(fields).encode())
  return digest.hexdigest()[:12]


def check_readable(paths: Iterable[pathlib.Path]) -> None:
  """Decodes every image.

  Raises:
    ValueError: some cannot be decoded; names them.
  """
  paths = list(paths)
  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    errors = tqdm(
      pool.map(_decoding_error, paths),
      total=len(paths),
      desc='Checking images',
      unit=' images',
      leave=False,
    )
    bad = [f'  {p}: {error}' for p, error in zip(paths, errors) if error]
  if bad:
    shown = '\n'.join(bad[:10]) + ('\n  ...' if len(bad) > 10 else '')
    raise ValueError(
      f'{len(bad)} of {len(paths)} images cannot be read:\n{shown}'
    )


def decode(encoded: bytes | tf.Tensor) -> tf.Tensor:
  """A JPEG or PNG file -> uint8 [height, width, 3], the same as PIL makes.

  TensorFlow's other ways of decoding are about a grey level too dark.
  """
  return tf.io.decode_jpeg(  # reads PNG as well
    encoded, channels=3, dct_method='INTEGER_ACCURATE'
  )


def _decoding_error(path: pathlib.Path) -> str | None:
  try:
    decode(path.read_bytes())
  except tf.errors.InvalidArgumentError:
    return 'not a JPEG or PNG image, or cut off'
  except OSError as error:
    return str(error)
  return None
