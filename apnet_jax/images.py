"""Reads image files without TensorFlow, with the pixels of training."""

from collections.abc import Iterator, Sequence
from concurrent import futures
import pathlib

import numpy as np
from PIL import Image

from apnet_jax.errors import UserError
from apnet_jax.feed import Split

SUFFIXES = ('.jpg', '.jpeg', '.png')
FORMATS = ('JPEG', 'PNG')
# Names, in lower case, that macOS and Windows give to files of their own.
SYSTEM_NAMES = ('__macosx', 'thumbs.db', 'desktop.ini')
# Larger images are not decoded: a small file can declare any number of pixels.
# An image of this size takes 192 MB.
MAX_PIXELS = 64_000_000


def find_images(path: str | pathlib.Path) -> list[pathlib.Path]:
  """Returns the image at a path, or the images below a folder.

  Args:
    path: a file, which is returned whatever its name is, or a folder, which is
      searched recursively for .jpg, .jpeg and .png files. What `is_hidden` in
      it is omitted.

  Returns:
    The paths of the images, sorted.

  Raises:
    UserError: the path does not exist, or the folder has no images.
  """
  path = pathlib.Path(path)
  if path.is_file():
    return [path]
  found = sorted(
    p
    for p in path.rglob('*')
    if p.suffix.lower() in SUFFIXES
    and p.is_file()
    and not any(map(is_hidden, p.relative_to(path).parts))
  )
  if not found:
    what = 'has no .jpg or .png below it' if path.is_dir() else 'does not exist'
    raise UserError(f'{path} {what}.')
  return found


def is_hidden(name: str) -> bool:
  """Returns whether a file or folder of this name is hidden or of the system.

  Such files are no images, whatever their suffix is: macOS leaves `._a.jpg`
  beside `a.jpg` on foreign disks, and `__MACOSX` in archives.

  Args:
    name: last part of the path.
  """
  return name.startswith('.') or name.lower() in SYSTEM_NAMES


def read_image(
  path: str | pathlib.Path, image_size: tuple[int, int]
) -> np.ndarray:
  """Reads an image and resizes it bilinearly.

  Pixels differ from those of `data.decoding` by one grey level at most.

  Args:
    path: path of a JPEG or PNG file.
    image_size: height and width of the result, in pixels.

  Returns:
    uint8 [height, width, 3], RGB.

  Raises:
    UserError: the file is not a whole JPEG or PNG image, or has more than
      `MAX_PIXELS` pixels.
  """
  try:
    with Image.open(path, formats=FORMATS) as image:
      check_pixels(*image.size)
      if image.mode.startswith('I'):  # 16 bits; the upper 8 are used
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
      image = image.convert('RGB')
  except Exception as error:  # Pillow's readers raise errors of many classes
    raise UserError(f'{path} cannot be read: {error}') from error
  height, width = image_size
  return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def check_pixels(width: int, height: int) -> None:
  """Raises UserError if an image has more than `MAX_PIXELS` pixels."""
  if width * height > MAX_PIXELS:
    raise UserError(f'{width} x {height} pixels are more than {MAX_PIXELS:,}')


def make_split(
  paths: Sequence[str | pathlib.Path], image_size: tuple[int, int]
) -> Split:
  """Makes a data split of image files whose identities are unknown.

  Args:
    paths: paths of the images.
    image_size: height and width to resize images to, in pixels.

  Returns:
    A split whose identities and cameras are all 0. Its `batches` raises
    UserError for files that `read_image` cannot read.
  """

  def batches(rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    with futures.ThreadPoolExecutor() as pool:
      for start in range(0, len(rows), batch_size):
        some = [paths[row] for row in rows[start : start + batch_size]]
        yield np.stack(
          list(pool.map(read_image, some, [image_size] * len(some)))
        )

  unknown = np.zeros(len(paths), int)
  return Split(unknown, unknown, np.array(list(map(str, paths))), batches)
