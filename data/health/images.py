"""Checks of image files: headers, end markers and, on request, contents."""

from collections.abc import Iterable, Iterator
from concurrent import futures
import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import pathlib
import statistics
import warnings

from PIL import Image
from tqdm import tqdm

from apnet_jax.errors import UserError, first_line
from apnet_jax.images import FORMATS, check_pixels
from data import raw
from data.cuhk03_np.layout import MatImage

# A file, or an image inside CUHK03's release.
Source = pathlib.Path | MatImage
JPEG_END, JPEG_SCAN = b'\xff\xd9', b'\xff\xda'
PNG_END = b'IEND\xaeB`\x82'
CHUNK = 64  # images that a thread checks at a time


@dataclasses.dataclass(frozen=True)
class ImageCheck:
  """The result of checking an image.

  Attributes:
    fault: `unreadable`, `truncated`, or '' if the image has no fault.
    reason: description of the fault, for people.
    width: width in pixels; 0 if it is unknown.
    height: height in pixels; 0 if it is unknown.
    digest: hash of the file; empty if the image has a fault.
  """

  fault: str = ''
  reason: str = ''
  width: int = 0
  height: int = 0
  digest: bytes = b''


def source_of(image: raw.RawImage) -> Source:
  """Returns the file of an image, or the image itself if inside a .mat file.

  The results of `check_images` are keyed by it.
  """
  return image if isinstance(image, MatImage) else image.path


def check_images(
  sources: Iterable[Source], decode: bool = False
) -> dict[Source, ImageCheck]:
  """Checks images in parallel, with a progress bar if that takes long.

  Args:
    sources: images, without repetitions.
    decode: whether to decode the images in full; otherwise only the header and
      the end are checked.

  Returns:
    The result of each image.
  """
  sources = list(sources)
  chunks = [sources[i : i + CHUNK] for i in range(0, len(sources), CHUNK)]
  check = functools.partial(_check_chunk, decode=decode)
  bar = tqdm(
    total=len(sources), desc='Checking images', unit=' images', leave=False,
    delay=1, mininterval=0.5,
  )  # fmt: skip
  results = []
  with (
    _strict_pillow(),
    bar,
    futures.ThreadPoolExecutor(os.cpu_count()) as pool,
  ):
    for checks in pool.map(check, chunks):
      results += checks
      bar.update(len(checks))
  return dict(zip(sources, results))


@contextlib.contextmanager
def _strict_pillow() -> Iterator[None]:
  """Makes Pillow refuse huge images, and silences its other warnings."""
  with warnings.catch_warnings():  # holds for all threads of the process
    warnings.simplefilter('ignore')
    warnings.simplefilter('error', Image.DecompressionBombWarning)
    yield


def _check_chunk(sources: list[Source], decode: bool) -> list[ImageCheck]:
  return [check_image(source, decode) for source in sources]


def load(source: Source) -> Image.Image | None:
  """Returns the decoded image, or None if it cannot be read."""
  try:
    with _strict_pillow():
      image = Image.open(io.BytesIO(_read(source)), formats=FORMATS)
      check_pixels(*image.size)
      image.load()
      return image
  except Exception:  # Pillow's readers raise all kinds
    return None


def check_image(source: Source, decode: bool = False) -> ImageCheck:
  """Checks one image; see `check_images`."""
  try:
    data = _read(source)
  except OSError as error:
    return ImageCheck('unreadable', error.strerror or str(error))
  return check_bytes(data, decode)


def _read(source: Source) -> bytes:
  if isinstance(source, MatImage):
    return source.read()
  return raw.read_file(source)


def check_bytes(data: bytes, decode: bool = False) -> ImageCheck:
  """Checks the content of an image file, and never raises an exception.

  Args:
    data: the content, which may be anything.
    decode: whether to decode the image in full.
  """
  if not data:
    return ImageCheck('unreadable', 'empty')
  try:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
  except Image.UnidentifiedImageError:
    return ImageCheck('unreadable', _reason_of_unknown_format(data))
  except (Image.DecompressionBombError, Image.DecompressionBombWarning):
    return ImageCheck('unreadable', 'too many pixels to be decoded')
  except Exception as error:  # Pillow's readers raise all kinds
    return ImageCheck('unreadable', f'broken header: {first_line(error)}')
  size = image.size
  try:
    check_pixels(*size)
  except UserError as error:
    return ImageCheck('unreadable', str(error), *size)
  if not image.tile or not _has_end(image.format, data):  # or no pixels
    return ImageCheck('truncated', 'its end is missing', *size)
  if decode:
    try:
      image.load()
    except Exception as error:  # as above
      return ImageCheck('unreadable', f'broken: {first_line(error)}', *size)
  digest = hashlib.blake2b(data, digest_size=16).digest()
  return ImageCheck('', '', *size, digest)


def _has_end(form: str, data: bytes) -> bool:
  """Returns whether an image file has the end marker of its format.

  TensorFlow requires the marker. Other bytes may follow it. A thumbnail in the
  header has a marker of its own, which does not count.

  Args:
    form: the format, 'PNG' or 'JPEG'.
    data: content of the file.
  """
  if form == 'PNG':
    return PNG_END in data
  return data.endswith(JPEG_END) or data.rfind(JPEG_END) > data.rfind(JPEG_SCAN)


def _reason_of_unknown_format(data: bytes) -> str:
  if data.startswith((b'\xff\xd8', b'\x89PNG')):
    return 'broken header'
  return 'neither JPEG nor PNG'


def summarize(lengths: Iterable[int]) -> dict[str, float]:
  """Returns the minimum, median and maximum of one or more lengths."""
  lengths = list(lengths)
  return {
    'min': min(lengths),
    'median': statistics.median(lengths),
    'max': max(lengths),
  }
