"""CUHK03-NP on disk: the release's .mat files, or folders made from them.

The release keeps all images in `cuhk-03.mat` (HDF5); the 767/700 split of
Zhong et al. (CVPR 2017) is in `cuhk03_new_protocol_config_<boxes>.mat`.
"""

import dataclasses
import functools
import io
import pathlib
import re
import zlib

import h5py
import numpy as np
from PIL import Image
import scipy.io

from apnet_jax.errors import UserError
from apnet_jax.images import check_pixels
from data import raw

RELEASE = ('cuhk03_release/cuhk-03.mat', 'cuhk-03.mat')
# That the split's file may take in memory; the published ones take a tenth.
MOST_BYTES = 64 * 2**20
COMPRESSED = 15  # a kind of element of MATLAB 5 files
# Indices from 1, identities and file names of all images of a release.
INDICES = {'train': 'train_idx', 'query': 'query_idx', 'gallery': 'gallery_idx'}
# Camera pair, person, view and number: 1_001_2_06.png. Person and view count
# from 1; the first five images of a person are of view 1.
IMAGE_NAME = re.compile(r'([1-9])_(\d{3,})_([12])_(\d{2})\.png')


@dataclasses.dataclass(frozen=True)
class MatImage(raw.RawImage):
  """An image in `cuhk-03.mat`, at `key`: boxes, pair, person, number."""

  key: tuple[str, int, int, int]

  @property
  def where(self) -> str:
    return f'{self.path}: {self.name}'

  def read(self) -> bytes:
    """The image as PNG, which loses nothing."""
    pixels = _pixels(self.path, self.key)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format='PNG', compress_level=1)
    return encoded.getvalue()


@dataclasses.dataclass(frozen=True, eq=False)
class Cuhk03Layout(raw.Layout):
  """`variant` says whose boxes: `detected` or `labeled`."""

  @property
  def config_file(self) -> str:
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
    """The release, or the folder that its images were extracted to."""
    for name in RELEASE:
      if (root / name).is_file():
        return root / name
    folder = root / f'images_{self.variant}'
    return folder if folder.is_dir() else None

  def read_root(self, root: pathlib.Path) -> raw.RawDataset:
    if not raw.missing_folders(root / self.variant):
      return raw.RawDataset(root, raw.read_market_folders(root, self.variant))
    images = self._images(root)
    entries = _read_config(root / self.config_file)
    if images.is_dir():
      splits = _files(entries, images, root)
    else:
      splits = _mat_images(entries, images, self.variant)
    for split in splits.values():
      split.sort(key=lambda image: image.name)
    return raw.RawDataset(root, splits, notes=(f'images of {images.name}',))


def _read_config(path: pathlib.Path) -> dict[str, list[tuple[str, int, int]]]:
  """Name, identity and camera (from 0) of each split's images.

  Raises:
    UserError: the file is not such a configuration.
  """
  try:
    _check_inflated(path.read_bytes())
    config = scipy.io.loadmat(path, variable_names=[
      *INDICES.values(), 'labels', 'filelist',
    ])  # fmt: skip
    labels = _whole(config['labels'])
    names = [str(np.asarray(name).item()) for name in config['filelist'].flat]
    rows = {k: _whole(config[v]) for k, v in INDICES.items()}
  except Exception as error:  # whatever SciPy's reader meets in other files
    raise UserError(
      f'{path} is not the split of the new protocol, a .mat file with'
      f' {", ".join(INDICES.values())}, labels and filelist: {_first(error)}'
    ) from error
  bad = [name for name in names if not IMAGE_NAME.fullmatch(name)]
  if bad or len(names) != len(labels):
    raise UserError(
      f'{path} has {len(labels)} labels and {len(names)} file names, of which'
      f' {len(bad)} are not like 1_001_1_01.png:\n{raw.shorten(bad)}'
    )
  for split, indices in rows.items():
    if indices.size and indices.max() > len(names):
      raise UserError(
        f'{path}: {INDICES[split]} goes to {indices.max()}; there are'
        f' {len(names)} images.'
      )
  return {
    split: [
      (names[i], int(labels[i]), int(IMAGE_NAME.fullmatch(names[i])[3]) - 1)
      for i in indices - 1
    ]
    for split, indices in rows.items()
  }


def _check_inflated(content: bytes) -> None:
  """Raises UserError for a file that would become larger than `MOST_BYTES`.

  After a header, MATLAB 5 files are elements with a kind and a length, each
  perhaps compressed by zlib.
  """
  order = 'little' if content[126:128] == b'IM' else 'big'
  left, start = MOST_BYTES - len(content), 128
  while left >= 0 and start + 8 <= len(content):
    kind, length = (
      int.from_bytes(content[i : i + 4], order) for i in (start, start + 4)
    )
    start += 8 + length
    if kind == COMPRESSED:
      inflate = zlib.decompressobj()
      element = content[start - length : start]
      left -= len(inflate.decompress(element, left + 1))
  if left < 0:
    raise UserError(f'it would take more than {MOST_BYTES:,} bytes')


def _whole(values: np.ndarray) -> np.ndarray:
  """Numbers from 1, which MATLAB may keep as floats."""
  numbers = np.asarray(values, np.float64).ravel()
  fit = (numbers >= 1) & (numbers <= raw.LARGEST_ID)
  if not fit.all() or (numbers != numbers.round()).any():
    raise UserError('its numbers are not whole numbers from 1')
  return numbers.astype(np.int64)


def _files(entries, folder: pathlib.Path, root: pathlib.Path):
  present = {path.name for path in folder.iterdir()}
  absent = [
    name for split in entries.values() for name, *_ in split
    if name not in present
  ]  # fmt: skip
  if absent:
    raise UserError(
      f'{len(absent)} images of the split are not in {folder}:\n'
      + raw.shorten(absent)
    )
  below = folder.relative_to(root).as_posix()
  return {
    split: [
      raw.RawImage(f'{below}/{name}', folder / name, pid, camid)
      for name, pid, camid in images
    ]
    for split, images in entries.items()
  }


def _mat_images(entries, path: pathlib.Path, boxes: str):
  _open(path)  # says at once if it is something else
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
  try:
    file = h5py.File(path, 'r')
    for boxes in ('detected', 'labeled'):
      if file[boxes].dtype != h5py.ref_dtype or file[boxes].ndim != 2:
        raise TypeError(f'{boxes} is not a cell array')
  except Exception as error:  # h5py raises all kinds
    raise UserError(
      f'{path} is not the release of CUHK03, an HDF5 file with cell arrays'
      f' detected and labeled: {_first(error)}'
    ) from error
  return file


def _pixels(path: pathlib.Path, key: tuple[str, int, int, int]) -> np.ndarray:
  """uint8 [height, width, 3]; MATLAB's axes are the other way round."""
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
    raise OSError(f'it is not there: {_first(error)}') from error
  raise OSError(f'{dtype} {shape[::-1]} is not an image of colours')


def _first(error: Exception) -> str:
  return (str(error).splitlines() or [''])[0][:200] or type(error).__name__


def _layout(variant: str, train: int, gallery: int) -> Cuhk03Layout:
  return Cuhk03Layout(
    dataset='cuhk03_np',
    variant=variant,
    title=f'CUHK03-NP ({variant})',
    homepage='https://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html',
    how_to_get=f"""\
CUHK03 has to be asked for, from the page of its authors
(https://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html); its new split is
at https://github.com/zhunzhong07/person-re-ranking. Set --config.data.dir to a
folder, or its parent, that holds either cuhk03_release/cuhk-03.mat and
cuhk03_new_protocol_config_{variant}.mat, or {variant}/bounding_box_train,
{variant}/query and {variant}/bounding_box_test.""",
    nested=('cuhk03', 'cuhk03-np', 'CUHK03-NP', 'cuhk03_np', 'CUHK03'),
    # Zhong et al., CVPR 2017. Labels carry two views, of six cameras.
    published={
      'train': raw.Counts(train, 767, 2),
      'query': raw.Counts(1_400, 700, 2),
      'gallery': raw.Counts(gallery, 700, 2),
    },
  )


LAYOUTS = (_layout('detected', 7_365, 5_332), _layout('labeled', 7_368, 5_328))
