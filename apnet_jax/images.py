"""Reads image files without TensorFlow, with the pixels of training."""

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
import contextlib
import os
import pathlib
import stat
from typing import BinaryIO
import warnings

import numpy as np
from PIL import ExifTags, Image

from apnet_jax.errors import UserError
from apnet_jax.feed import Split

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
LISTS = ('.csv', '.txt')  # of images, which the command embed reads
FORMATS = ('JPEG', 'PNG', 'BMP', 'WEBP')
FORMAT_NAMES = 'JPEG, PNG, BMP or WebP'  # for messages
# Names, in lower case, that systems give to files and folders of their own. The
# last is on disks of Linux, where only root can read it.
SYSTEM_NAMES = ('__macosx', 'thumbs.db', 'desktop.ini', 'lost+found')
# Larger images are not decoded: a small file can declare any number of pixels.
# An image of this size takes 192 MB.
MAX_PIXELS = 64_000_000
# How to turn an image of each EXIF orientation; others are upright.
TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
# A file has one of these if it has an orientation, in EXIF or in XMP.
MARKS = (
  b'Exif\0', b'EXIF', b'eXIf', b'Raw profile type exif', b'com.adobe.xmp',
  b'tiff:Orientation',
)  # fmt: skip


def find_images(path: str | os.PathLike) -> list[pathlib.Path]:
  """Returns the image at a path, or the images below a folder.

  Args:
    path: a file, which is returned whatever its name is unless it is that of a
      list (`LISTS`), or a folder, which is searched recursively for files whose
      names end in one of `SUFFIXES`. Hidden files and those of the system
      (`is_hidden`) are omitted.

  Returns:
    The paths of the images, sorted.

  Raises:
    UserError: the path does not exist, is a list, the folder has no images, or
      it or a folder below it cannot be read.
  """
  path = pathlib.Path(path)
  if path.is_file():
    if path.suffix.lower() in LISTS:
      raise UserError(
        f'{path} is a list of images: only an image or a folder can be given'
        ' here. To search the images of a list, embed it and make an index (the'
        ' commands embed and index).'
      )
    return [path]
  if not path.is_dir():
    raise UserError(f'{path} does not exist.')
  found = sorted(filter(_can_be_tried, images_below(path)))
  if not found:
    raise UserError(f'{path} has no image ({", ".join(SUFFIXES)}) below it.')
  return found


def _can_be_tried(path: pathlib.Path) -> bool:
  """Returns False for a pipe or device, whose reading might never end.

  What cannot be looked up, as a link to a disk that is not there, is no reason
  for False: reading it fails and names it.
  """
  try:
    return stat.S_ISREG(path.stat().st_mode)
  except OSError:
    return True


def images_below(
  folder: pathlib.Path, on_error: Callable[[OSError], None] | None = None
) -> Iterator[pathlib.Path]:
  """Yields the image files in and below a folder, as `files_below` does."""
  return filter(is_image, files_below(folder, on_error=on_error))


def files_below(
  folder: pathlib.Path,
  hidden: bool = False,
  on_error: Callable[[OSError], None] | None = None,
) -> Iterator[pathlib.Path]:
  """Yields the files in and below a folder, in name order within each folder.

  Links to folders are followed, except a link to a folder that it lies in or
  below: that would never end.

  Args:
    folder: the folder.
    hidden: whether to yield files that are hidden or in a hidden folder
      (`is_hidden`), too.
    on_error: called with the error of each folder that cannot be read; its
      files are then omitted. By default, the error is raised as `UserError`.

  Raises:
    UserError: a folder cannot be read, and there is no `on_error`.
  """
  # Folders to list, each with the numbers of the folders above it.
  todo: list[tuple[str, tuple[tuple[int, int], ...]]]
  todo = [(os.fspath(folder), ())]
  while todo:
    parent, above = todo.pop()
    try:
      status = os.stat(parent)
      names, folders = _list_folder(parent)
    except OSError as error:
      if on_error is None:
        raise folder_error(error) from error
      on_error(error)
      continue
    here = (status.st_dev, status.st_ino)
    if here in above:
      continue
    if not hidden:
      names = [name for name in names if not is_hidden(name)]
      folders = [name for name in folders if not is_hidden(name)]
    for name in sorted(names):
      yield pathlib.Path(parent, name)
    for name in sorted(folders, reverse=True):
      todo.append((os.path.join(parent, name), (*above, here)))


def _list_folder(folder: str) -> tuple[list[str], list[str]]:
  """Returns the names of the files and of the folders in a folder.

  Raises:
    OSError: the folder cannot be read.
  """
  files: list[str] = []
  folders: list[str] = []
  with os.scandir(folder) as entries:
    for entry in entries:
      (folders if _is_folder(entry) else files).append(entry.name)
  return files, folders


def _is_folder(entry: os.DirEntry) -> bool:
  try:
    return entry.is_dir()
  except PermissionError:
    # A link to a place that is closed to us. If it could be a folder, it counts
    # as one, so that reading it fails and names it.
    return not is_image(pathlib.Path(entry.name))
  except OSError:  # a link to itself
    return False


def folder_error(error: OSError) -> UserError:
  """Returns the error to raise when a folder of images cannot be read.

  Args:
    error: error of the system, which knows the folder.
  """
  return UserError(
    f'the folder {error.filename} cannot be read: {error.strerror}. Make it'
    ' readable, or move it away.'
  )


def is_image(path: pathlib.Path) -> bool:
  """Returns whether a name is that of an image, and not hidden."""
  return path.suffix.lower() in SUFFIXES and not is_hidden(path.name)


def is_hidden(name: str) -> bool:
  """Returns whether a file or folder is hidden, or one of the system.

  Such files are no images, whatever their suffix is: macOS puts `._a.jpg`
  beside `a.jpg` on disks of other systems, and `__MACOSX` into archives.

  Args:
    name: last part of the path.
  """
  return name.startswith('.') or name.lower() in SYSTEM_NAMES


def read_image(
  path: str | os.PathLike, image_size: tuple[int, int]
) -> np.ndarray:
  """Reads an image, turns it upright and resizes it bilinearly.

  Pixels differ from those of `data.decoding` by one grey level at most.

  Args:
    path: path of a JPEG, PNG, BMP or WebP file.
    image_size: height and width of the result, in pixels.

  Returns:
    uint8 [height, width, 3], RGB.

  Raises:
    UserError: the file is not a whole image of these formats, or has more than
      `MAX_PIXELS` pixels.
  """
  return resize(read_upright(path), image_size)


def read_upright(path: str | os.PathLike) -> Image.Image:
  """Reads an image in its own size and turns it upright.

  Returns:
    An image of mode RGB.

  Raises:
    UserError: see `read_image`.
  """
  try:
    with open_image(path) as image:
      return upright(image)
  except Image.UnidentifiedImageError as error:
    raise UserError(
      f'{path} cannot be read: it is not a {FORMAT_NAMES} image, or is damaged'
    ) from error
  except Exception as error:  # Pillow's readers raise errors of many classes
    raise UserError(f'{path} cannot be read: {error}') from error


def resize(image: Image.Image, image_size: tuple[int, int]) -> np.ndarray:
  """Resizes an image bilinearly, with antialiasing.

  Args:
    image: image of mode RGB.
    image_size: height and width of the result, in pixels.

  Returns:
    uint8 [height, width, 3].
  """
  height, width = image_size
  return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def open_image(file: str | os.PathLike | BinaryIO) -> Image.Image:
  """Opens an image of one of `FORMATS`, and checks its size.

  Args:
    file: path or content of the file.

  Returns:
    The image as it is stored. Only its header has been read.

  Raises:
    UserError: the image has more than `MAX_PIXELS` pixels.
    Exception: Pillow raises errors of many classes for other files.
  """
  image = Image.open(file, formats=FORMATS)
  try:
    check_pixels(*image.size)
  except UserError:
    image.close()
    raise
  return image


def upright(image: Image.Image) -> Image.Image:
  """Decodes an image and turns it as its EXIF orientation says.

  An image whose EXIF cannot be parsed is not turned.

  Args:
    image: result of `open_image`.

  Returns:
    An image of mode RGB, with the pixels of `PIL.ImageOps.exif_transpose`.
  """
  try:
    turn = TURNS.get(orientation(image))
  except UserError:
    turn = None
  if image.mode.startswith('I'):  # 16 bits; the upper 8 are used
    pixels = np.asarray(image)
    # That of a file is I;16. In memory, I also holds values of 8 bits.
    if image.mode != 'I' or pixels.max() > 255:
      image = Image.fromarray((pixels >> 8).astype(np.uint8))
  image = image.convert('RGB')
  return image if turn is None else image.transpose(turn)


def may_be_turned(encoded: bytes) -> bool:
  """Returns False if an image file has no orientation, without parsing it.

  This takes microseconds. True means that `orientation` has to be asked.

  Args:
    encoded: content of a file of one of `FORMATS`.
  """
  return any(mark in encoded for mark in MARKS)


def orientation(image: Image.Image) -> int:
  """Returns the orientation of an image in EXIF or XMP; 1 if there is none.

  Args:
    image: result of `open_image`. A PNG image is decoded, because EXIF may
      follow the pixels.

  Raises:
    UserError: the EXIF cannot be parsed.
  """
  if image.format == 'PNG':
    image.load()
  written = image.info.get('exif') or image.info.get('Raw profile type exif')
  try:
    exif = image.getexif()
  except Exception as error:  # Pillow's readers raise errors of many classes
    raise UserError('its EXIF cannot be parsed') from error
  if written and not exif:  # Pillow then only warns
    raise UserError('its EXIF cannot be parsed')
  found = exif.get(ExifTags.Base.Orientation, 1)
  return found if isinstance(found, int) else 1


@contextlib.contextmanager
def strict_pillow() -> Iterator[None]:
  """Makes Pillow refuse huge images, and silences its other warnings.

  This holds for all threads of the process. Enter it in one thread only, around
  the work of the others.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    warnings.simplefilter('error', Image.DecompressionBombWarning)
    yield


def check_pixels(width: int, height: int) -> None:
  """Raises UserError if an image has more than `MAX_PIXELS` pixels."""
  if width * height > MAX_PIXELS:
    raise UserError(f'{width} x {height} pixels are more than {MAX_PIXELS:,}')


def make_split(
  paths: Sequence[str | pathlib.Path],
  image_size: tuple[int, int],
) -> Split:
  """Makes a data split of image files whose identities are unknown.

  Args:
    paths: paths of the images.
    image_size: height and width to resize images to, in pixels.

  Returns:
    A split whose identities and cameras are all 0. Its `batches` raises
    UserError for a file that `read_image` cannot read.
  """

  def read(row):
    return read_image(paths[row], image_size)

  def batches(rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    with futures.ThreadPoolExecutor() as pool:
      for start in range(0, len(rows), batch_size):
        some = rows[start : start + batch_size].tolist()
        with strict_pillow():
          images = list(pool.map(read, some))
        yield np.stack(images)

  unknown = np.zeros(len(paths), int)
  return Split(unknown, unknown, np.array(list(map(str, paths))), batches)
