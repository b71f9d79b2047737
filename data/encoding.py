"""Makes the file that a prepared data set stores for an image.

TensorFlow reads JPEG and PNG only, and ignores EXIF. Images that it would not
read as Pillow does are therefore stored anew, so that the input pipeline has
nothing to do.
"""

from collections.abc import Iterator
import dataclasses
import io

from apnet_jax import images
from apnet_jax.errors import UserError, first_line

JPEG, PNG = b'\xff\xd8', b'\x89PNG\r\n\x1a\n'  # the first bytes of the files
# Second bytes of JPEG markers: application data 14, which Adobe uses; the start
# of the pixels; and headers of a frame, of all kinds of JPEG.
APP14, SCAN = 0xEE, 0xDA
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


@dataclasses.dataclass(frozen=True)
class Stored:
  """The file to store for an image.

  Attributes:
    encoded: content of a JPEG or PNG file.
    fault: why EXIF was ignored, or ''.
  """

  encoded: bytes
  fault: str = ''


def to_stored(encoded: bytes) -> Stored:
  """Returns the file to store for an image file.

  JPEG and PNG files are stored unchanged, unless their EXIF says that the image
  must be turned, or TensorFlow would invert it (`_is_inverted`). All others are
  stored as PNG, without loss.

  Raises:
    UserError: the file cannot be stored unchanged, and Pillow cannot read it.
  """
  is_known, fault = encoded.startswith((JPEG, PNG)), ''
  if is_known:
    try:
      change = _is_turned(encoded)
    except Exception as error:  # Pillow's readers raise all kinds
      change, fault = False, first_line(error)
    if not change and not _is_inverted(encoded):
      return Stored(encoded, fault)
  try:
    image = images.open_image(io.BytesIO(encoded))
    pixels = images.upright(image)
  except Exception as error:  # as above
    raise UserError(first_line(error)) from error
  return Stored(to_png(pixels), fault if is_known else _exif_fault(image))


def to_png(image) -> bytes:
  """Encodes a Pillow image as PNG, fast."""
  encoded = io.BytesIO()
  image.save(encoded, format='PNG', compress_level=1)
  return encoded.getvalue()


def _is_turned(encoded: bytes) -> bool:
  if not images.may_be_turned(encoded):
    return False
  image = images.open_image(io.BytesIO(encoded))
  return images.orientation(image) in images.TURNS


def _is_inverted(encoded: bytes) -> bool:
  """Returns whether a file is a CMYK JPEG file without Adobe's marker.

  Adobe stores inverted values. Pillow takes all CMYK files for inverted,
  TensorFlow only those with the marker.

  Args:
    encoded: content of the file, of any format; it may be damaged.
  """
  components = 0
  for marker, start in _header_segments(encoded):
    if marker == APP14 and encoded.startswith(b'Adobe', start + 4):
      return False
    if marker in FRAMES:
      components = encoded[start + 9]
  return components == 4


def start_of_pixels(encoded: bytes) -> int:
  """Returns where the pixels of a JPEG file begin; 0 if that is unknown.

  Args:
    encoded: content of the file, of any format; it may be damaged.
  """
  segments = _header_segments(encoded)
  return next((start for marker, start in segments if marker == SCAN), 0)


def _header_segments(encoded: bytes) -> Iterator[tuple[int, int]]:
  """Yields the segments of a JPEG file up to the start of the pixels.

  Yields:
    The second byte of the segment's marker, and the index of the first byte.
  """
  start = len(JPEG)
  while start + 10 <= len(encoded) and encoded[start] == 0xFF:
    marker = encoded[start + 1]
    if marker != 0xFF:  # any number of them may precede a marker
      yield marker, start
    if marker == SCAN:
      return
    length = int.from_bytes(encoded[start + 2 : start + 4], 'big')
    start += 1 if marker == 0xFF else 2 + length


def _exif_fault(image) -> str:
  try:
    images.orientation(image)
  except UserError as error:
    return str(error)
  return ''
