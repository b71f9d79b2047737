"""Checks of image files: headers, end markers and, on request, contents."""

from collections.abc import Iterable
from concurrent import futures
import dataclasses
import functools
import hashlib
import io
import os
import pathlib
import statistics

from PIL import Image
from tqdm import tqdm

from apnet_jax.errors import UserError, first_line
from apnet_jax.images import (
  FORMAT_NAMES,
  FORMATS,
  TURNS,
  check_pixels,
  may_be_turned,
  open_image,
  orientation,
  strict_pillow,
  upright,
)
from data import encoding, raw
from data.cuhk03_np.layout import MatImage

# A file, or an image inside CUHK03's release.
Source = pathlib.Path | MatImage
JPEG_END, JPEG_SCAN = b'\xff\xd9', b'\xff\xda'
PNG_END = b'IEND\xaeB`\x82'
WEBP = b'RIFF'  # the first bytes of the file, before its length
LYING = (5, 6, 7, 8)  # EXIF orientations whose width is a height
CHUNK = 64  # images that a thread checks at a time


@dataclasses.dataclass(frozen=True)
class ImageCheck:
  """The result of checking an image.

  Attributes:
    fault: `unreadable`, `truncated`, or '' if the image has no fault.
    reason: description of the fault, for people.
    width: width in pixels, of the upright image; 0 if it is unknown.
    height: height in pixels, of the upright image; 0 if it is unknown.
    digest: hash of the file; empty if the image has a fault.
    turned: whether its EXIF orientation says that it is stored on its side,
      upside down or mirrored.
    exif_fault: why EXIF is ignored, or ''.
  """

  fault: str = ''
  reason: str = ''
  width: int = 0
  height: int = 0
  digest: bytes = b''
  turned: bool = False
  exif_fault: str = ''


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
    strict_pillow(),
    bar,
    futures.ThreadPoolExecutor(os.cpu_count()) as pool,
  ):
    for checks in pool.map(check, chunks):
      results += checks
      bar.update(len(checks))
  return dict(zip(sources, results))


def _check_chunk(sources: list[Source], decode: bool) -> list[ImageCheck]:
  return [check_image(source, decode) for source in sources]


def load(source: Source) -> Image.Image | None:
  """Returns the decoded, upright image, or None if it cannot be read."""
  try:
    with strict_pillow():
      return upright(open_image(io.BytesIO(_read(source))))
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
    if _is_cut_webp(data):
      return ImageCheck('truncated', 'its end is missing')
    return ImageCheck('unreadable', f'broken header: {first_line(error)}')
  size = image.size
  try:
    check_pixels(*size)
  except UserError as error:
    return ImageCheck('unreadable', str(error), *size)
  has_pixels = image.tile or image.format == 'WEBP'
  if not has_pixels or not _has_end(image, data):
    return ImageCheck('truncated', 'its end is missing', *size)
  try:
    if decode:
      image.load()
    turn, exif_fault = _turn(image, data)
  except Exception as error:  # as above
    return ImageCheck('unreadable', f'broken: {first_line(error)}', *size)
  if turn in LYING:
    size = size[::-1]
  digest = hashlib.blake2b(data, digest_size=16).digest()
  return ImageCheck('', '', *size, digest, turn in TURNS, exif_fault)


def _turn(image: Image.Image, data: bytes) -> tuple[int, str]:
  """Returns the orientation of an image, and why its EXIF is ignored, or ''."""
  if not may_be_turned(data):
    return 1, ''
  try:
    return orientation(image), ''
  except UserError as error:
    return 1, str(error)


def _has_end(image: Image.Image, data: bytes) -> bool:
  """Returns whether an image file is as long as its format says.

  TensorFlow requires the end markers of JPEG and PNG. Other bytes may follow
  them, as the film of a phone's photograph. A thumbnail in the header has a
  marker of its own, which does not count.
  """
  if image.format == 'PNG':
    return PNG_END in data
  if image.format == 'BMP':
    codec, (*_, height), start, form = image.tile[0]
    return codec != 'raw' or len(data) >= start + form[1] * height
  if image.format == 'WEBP':  # Pillow opens whole files only
    return True
  if start := encoding.start_of_pixels(data):
    return data.find(JPEG_END, start) >= 0
  return data.rfind(JPEG_END) > data.rfind(JPEG_SCAN)  # an odd header


def _is_cut_webp(data: bytes) -> bool:
  length = int.from_bytes(data[4:8], 'little')
  return data.startswith(WEBP) and len(data) < 8 + length


def _reason_of_unknown_format(data: bytes) -> str:
  if data.startswith((b'\xff\xd8', b'\x89PNG')):
    return 'broken header'
  return f'not a {FORMAT_NAMES} image'


def summarize(lengths: Iterable[int]) -> dict[str, float]:
  """Returns the minimum, median and maximum of one or more lengths."""
  lengths = list(lengths)
  return {
    'min': min(lengths),
    'median': statistics.median(lengths),
    'max': max(lengths),
  }
