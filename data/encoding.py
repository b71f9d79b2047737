"""Makes the file that a prepared data set stores for an image.

TensorFlow reads JPEG and PNG only, and ignores EXIF. Images that it would not
read as Pillow does are therefore stored anew, so that the input pipeline has
nothing to do.
"""

import dataclasses
import io

from apnet_jax import images
from apnet_jax.errors import UserError, first_line

JPEG, PNG = b'\xff\xd8', b'\x89PNG\r\n\x1a\n'  # the first bytes of the files


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
  must be turned. All others are stored as PNG, without loss.

  Args:
    encoded: content of the file.

  Raises:
    UserError: the file is neither JPEG nor PNG, or has to be turned, and Pillow
      cannot read it.
  """
  is_known = encoded.startswith((JPEG, PNG))
  if is_known:
    try:
      if not _is_turned(encoded):
        return Stored(encoded)
    except Exception as error:  # Pillow's readers raise all kinds
      return Stored(encoded, first_line(error))
  try:
    image = images.open_image(io.BytesIO(encoded))
    pixels = images.upright(image)
  except Exception as error:  # as above
    raise UserError(first_line(error)) from error
  return Stored(to_png(pixels), '' if is_known else _exif_fault(image))


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


def _exif_fault(image) -> str:
  try:
    images.orientation(image)
  except UserError as error:
    return str(error)
  return ''
