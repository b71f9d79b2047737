"""Reads CUHK03-NP from the release's .mat files, or from extracted images.

The release holds all images in `cuhk-03.mat`, an HDF5 file. The split of Zhong
et al. (CVPR 2017) into 767 and 700 identities is in
`cuhk03_new_protocol_config_<boxes>.mat`.
"""

import dataclasses
import functools
import pathlib
import re
import zlib

import h5py
import numpy as np
from PIL import Image
import scipy.io

from apnet_jax.errors import UserError, first_line
from apnet_jax.images import check_pixels
from data import raw
from data.encoding import to_png

RELEASE = ('cuhk03_release/cuhk-03.mat', 'cuhk-03.mat')
# Limit on the memory for the file of the split; published ones take a tenth.
MAX_SPLIT_BYTES = 64 * 2**20
COMPRESSED = 15  # type of compressed elements in MATLAB 5 files
# Fields of the split's file: indices, from 1, into its list of file names.
INDICES = {'train': 'train_idx', 'query': 'query_idx', 'gallery': 'gallery_idx'}
# Camera pair, person, view and number, all from 1: 1_001_2_06.png. The first
# five images of a person are of view 1.
IMAGE_NAME = re.compile(r'([1-9])_(\d{3,})_([12])_(\d{2})\.png')


@dataclasses.dataclass(frozen=True)
class MatImage(raw.RawImage):
  """An image inside `cuhk-03.mat`.

  Attributes:
    key: kind of boxes (`detected` or `labeled`), and indices, from 0, of the
      camera pair, the person and the image.
  """

  key: tuple[str, int, int, int]

  @property
  def location(self) -> str:
    return f'{self.path}: {self.name}'

  def read(self) -> bytes:
    """Returns the image encoded as PNG; raises OSError if it cannot be read."""
    pixels = _pixels(self.path, self.key)
    return to_png(Image.fromarray(pixels))


@dataclasses.dataclass(frozen=True, eq=False)
class Cuhk03Layout(raw.Layout):
  """Reader of CUHK03-NP in the forms in which copies are stored.

  The attribute `variant` is `detected`, for boxes of a person detector, or
  `labeled`, for boxes drawn by hand.
  """

  @property
  def config_file(self) -> str:
    """Name of the .mat file that assigns the images to splits."""
    return f'cuhk03_new_protocol_config_{self.variant}.mat'

  def missing(self, root: pathlib.Path) -> list[str]:
    if not raw.missing_folders(root / self.variant):
      return []
    lacking = []
    if self._images(root) is None:
      lacking.append(f'{self.variant}/bounding_box_train or {RELEASE[0]}')
    if not (root / self.config_file).is_file():
      lacking.append(self.config_file)
    return lacking

  def _images(self, root: pathlib.Path) -> pathlib.Path | None:
    """Returns `cuhk-03.mat` or the folder of extracted images; else None."""
    for name in RELEASE:
      if (root / name).is_file():
        return root / name
    folder = root / f'images_{self.variant}'
    return folder if folder.is_dir() else None

  def read_root(self, root: pathlib.Path) -> raw.RawDataset:
    if not raw.missing_folders(root / self.variant):
      return raw.RawDataset(root, raw.read_market_folders(root, self.variant))
    images = self._images(root)
    entries = _read_split_file(root / self.config_file)
    if images.is_dir():
      splits = _extracted_images(entries, images, root)
    else:
      splits = _mat_images(entries, images, self.variant)
    for split in splits.values():
      split.sort(key=lambda image: image.name)
    return raw.RawDataset(root, splits, notes=(f'images of {images.name}',))


def _read_split_file(
  path: pathlib.Path,
) -> dict[str, list[tuple[str, int, int]]]:
  """Reads the .mat file that assigns the images to train, query and gallery.

  Returns:
    File name, identity and camera (from 0) of each image, by split.

  Raises:
    UserError: the file does not hold such a split.
  """
  try:
    _check_inflated(path.read_bytes())
    config = scipy.io.loadmat(path, variable_names=[
      *INDICES.values(), 'labels', 'filelist',
    ])  # fmt: skip
    labels = _whole_numbers(config['labels'])
    names = [str(np.asarray(name).item()) for name in config['filelist'].flat]
    rows = {k: _whole_numbers(config[v]) for k, v in INDICES.items()}
  except Exception as error:  # SciPy's reader raises all kinds
    raise UserError(
      f'{path} is not the split of the new protocol, a .mat file with'
      f' {", ".join(INDICES.values())}, labels and filelist:'
      f' {first_line(error)}'
    ) from error
  bad = [name for name in names if not IMAGE_NAME.fullmatch(name)]
  if bad or len(names) != len(labels):
    raise UserError(
      f'{path} has {len(labels)} labels and {len(names)} file names, of which'
      f' {len(bad)} are not like 1_001_1_01.png:\n{raw.format_lines(bad)}'
    )
  for split, indices in rows.items():
    if indices.size and indices.max() > len(names):
      raise UserError(
        f'{path}: {INDICES[split]} goes up to {indices.max()}, but there are'
        f' only {len(names)} images.'
      )
  return {
    split: [
      (names[i], int(labels[i]), int(IMAGE_NAME.fullmatch(names[i])[3]) - 1)
      for i in indices - 1
    ]
    for split, indices in rows.items()
  }


def _check_inflated(content: bytes) -> None:
  """Raises UserError if a .mat file decompresses to over `MAX_SPLIT_BYTES`.

  A MATLAB 5 file is a header and elements, each with a type and a length; zlib
  may have compressed the content.
  """
  order = 'little' if content[126:128] == b'IM' else 'big'
  bytes_left, start = MAX_SPLIT_BYTES - len(content), 128
  while bytes_left >= 0 and start + 8 <= len(content):
    kind, length = (
      int.from_bytes(content[i : i + 4], order) for i in (start, start + 4)
    )
    start += 8 + length
    if kind == COMPRESSED:
      inflate = zlib.decompressobj()
      element = content[start - length : start]
      bytes_left -= len(inflate.decompress(element, bytes_left + 1))
  if bytes_left < 0:
    raise UserError(f'it would take more than {MAX_SPLIT_BYTES:,} bytes')


def _whole_numbers(values: np.ndarray) -> np.ndarray:
  """Converts whole numbers of at least 1, maybe stored as floats, to int64 [n].

  Raises:
    UserError: a value is not a whole number from 1 to `raw.MAX_ID`.
  """
  numbers = np.asarray(values, np.float64).ravel()
  in_range = (numbers >= 1) & (numbers <= raw.MAX_ID)
  if not in_range.all() or (numbers != numbers.round()).any():
    raise UserError('its numbers are not whole numbers from 1')
  return numbers.astype(np.int64)


def _extracted_images(
  entries, folder: pathlib.Path, root: pathlib.Path
) -> raw.Splits:
  """Finds the image files of each split in a folder of extracted images.

  Args:
    entries: result of `_read_split_file`.
    folder: folder that holds the image files.
    root: folder that the names of images are relative to.

  Raises:
    UserError: image files are missing, or the folder cannot be read.
  """
  present = {path.name for path in raw.list_images(folder)}
  absent = [
    name for split in entries.values() for name, *_ in split
    if name not in present
  ]  # fmt: skip
  if absent:
    raise UserError(
      f'{len(absent)} images of the split are not in {folder}:\n'
      + raw.format_lines(absent)
    )
  below = folder.relative_to(root).as_posix()
  return {
    split: [
      raw.RawImage(f'{below}/{name}', folder / name, pid, camid)
      for name, pid, camid in images
    ]
    for split, images in entries.items()
  }


def _mat_images(entries, path: pathlib.Path, boxes: str) -> raw.Splits:
  """Returns the images of each split, to be read from `cuhk-03.mat`.

  Args:
    entries: result of `_read_split_file`.
    path: the file `cuhk-03.mat`.
    boxes: kind of boxes, `detected` or `labeled`.

  Raises:
    UserError: the file is not the release of CUHK03.
  """
  _open(path)  # raises UserError if it is another file
  splits = {}
  for split, images in entries.items():
    splits[split] = []
    for name, pid, camid in images:
      pair, person, _, number = map(int, IMAGE_NAME.fullmatch(name).groups())
      key = (boxes, pair - 1, person - 1, number - 1)
      image = MatImage(f'{boxes}/{name}', path, pid, camid, key)
      splits[split].append(image)
  return splits


@functools.lru_cache(maxsize=1)
def _open(path: pathlib.Path) -> h5py.File:
  """Opens `cuhk-03.mat`; further calls return the same open file.

  Raises:
    UserError: the file is not the release of CUHK03.
  """
  try:
    file = h5py.File(path, 'r')
    for boxes in ('detected', 'labeled'):
      if file[boxes].dtype != h5py.ref_dtype or file[boxes].ndim != 2:
        raise TypeError(f'{boxes} is not a cell array')
  except Exception as error:  # h5py raises all kinds
    raise UserError(
      f'{path} is not the release of CUHK03, an HDF5 file with cell arrays'
      f' detected and labeled: {first_line(error)}'
    ) from error
  return file


def _pixels(path: pathlib.Path, key: tuple[str, int, int, int]) -> np.ndarray:
  """Reads an image of the .mat file; returns uint8 [height, width, 3].

  Args:
    path: the .mat file.
    key: kind of boxes (detected or labeled), and indices, from 0, of the
      camera pair, the person and the image.

  Raises:
    OSError: the image is missing, damaged or not a colour image.
  """
  boxes, pair, person, number = key
  file = _open(path)
  try:
    people = file[file[boxes][0, pair]]
    image = file[people[number, person]]
    shape, dtype = image.shape, image.dtype
    if dtype == np.uint8 and len(shape) == 3 and shape[0] == 3:
      check_pixels(*shape[1:])
      return np.ascontiguousarray(np.asarray(image).T)
  except Exception as error:  # h5py raises all kinds
    raise OSError(f'it is missing or damaged: {first_line(error)}') from error
  raise OSError(f'{dtype} {shape[::-1]} is not a colour image')


def _layout(variant: str, train: int, gallery: int) -> Cuhk03Layout:
  return Cuhk03Layout(
    dataset='cuhk03_np',
    variant=variant,
    title=f'CUHK03-NP ({variant})',
    homepage='https://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html',
    how_to_get=f"""\
Request CUHK03 on the page of its authors
(https://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html); its new split is
at https://github.com/zhunzhong07/person-re-ranking. Set --config.data.dir to a
folder, or its parent, that holds either cuhk03_release/cuhk-03.mat and
cuhk03_new_protocol_config_{variant}.mat, or {variant}/bounding_box_train,
{variant}/query and {variant}/bounding_box_test.""",
    nested=('cuhk03', 'cuhk03-np', 'CUHK03-NP', 'cuhk03_np', 'CUHK03'),
    # Zhong et al., CVPR 2017. The labels hold two views, not the six cameras.
    published={
      'train': raw.Counts(train, 767, 2),
      'query': raw.Counts(1_400, 700, 2),
      'gallery': raw.Counts(gallery, 700, 2),
    },
  )


LAYOUTS = (_layout('detected', 7_365, 5_332), _layout('labeled', 7_368, 5_328))
