"""Images from files, as training has seen them, without TensorFlow."""

from collections.abc import Iterator, Sequence
from concurrent import futures
import pathlib

import numpy as np
from PIL import Image

from apnet_jax.feed import Split

SUFFIXES = ('.jpg', '.jpeg', '.png')
FORMATS = ('JPEG', 'PNG')
# A file of a few kilobytes may claim to hold any number of pixels. None is
# decoded that claims more than these: 192 MB.
MOST_PIXELS = 64_000_000


def find_images(path: str | pathlib.Path) -> list[pathlib.Path]:
  """A file as it is, or all images below a folder, in order of their names.

  Raises:
    ValueError: there is no such file, or no image below the folder.
  """
  path = pathlib.Path(path)
  if path.is_file():
    return [path]
  found = sorted(
    p
    for p in path.rglob('*')
    if p.suffix.lower() in SUFFIXES and p.is_file() and p.name[0] != '.'
  )
  if not found:
    what = 'has no .jpg or .png below it' if path.is_dir() else 'is not there'
    raise ValueError(f'{path} {what}.')
  return found


def read_image(
  path: str | pathlib.Path, image_size: tuple[int, int]
) -> np.ndarray:
  """Reads and resizes as `data/` does, within a grey level.

  Args:
    path: of a JPEG or PNG file.
    image_size: height and width to make.

  Returns:
    uint8 [*image_size, 3].

  Raises:
    ValueError: it is no such image, is cut off, or has more pixels than
      `MOST_PIXELS`.
  """
  try:
    with Image.open(path, formats=FORMATS) as image:
      check_size(*image.size)
      if image.mode.startswith('I'):  # of 16 bits, of which the upper count
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
      image = image.convert('RGB')
  except Exception as error:  # Pillow's readers raise all kinds
    raise ValueError(f'{path} cannot be read: {error}') from error
  height, width = image_size
  return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def check_size(width: int, height: int) -> None:
  """Raises ValueError for what is too large to be decoded."""
  if width * height > MOST_PIXELS:
    raise ValueError(f'{width} x {height} pixels are more than {MOST_PIXELS:,}')


def make_split(
  paths: Sequence[str | pathlib.Path], image_size: tuple[int, int]
) -> Split:
  """A `Split` of files, of whose people and cameras nothing is known."""

  def batches(rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    with futures.ThreadPoolExecutor() as pool:
      for start in range(0, len(rows), batch_size):
        some = [paths[row] for row in rows[start : start + batch_size]]
        yield np.stack(
          list(pool.map(read_image, some, [image_size] * len(some)))
        )

  unknown = np.zeros(len(paths), int)
  return Split(unknown, unknown, np.array(list(map(str, paths))), batches)
