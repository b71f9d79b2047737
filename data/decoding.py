"""From encoded images to pixels, the same as PIL makes."""

from collections.abc import Iterable
from concurrent import futures
import os

import tensorflow as tf
from tqdm import tqdm

from apnet_jax.errors import UserError
from apnet_jax.images import MAX_PIXELS
from data import raw

PNG = b'\x89PNG\r\n\x1a\n'  # how such a file begins


def decode(encoded: bytes | tf.Tensor) -> tf.Tensor:
  """A JPEG or PNG file -> uint8 [height, width, 3], the same as PIL makes.

  TensorFlow's other ways of decoding are about a grey level too dark.

  Raises:
    tf.errors.InvalidArgumentError: it is no such file, is cut off, or claims
      more pixels than `MAX_PIXELS`; this is seen before any is decoded.
  """
  size = tf.cond(
    tf.strings.substr(encoded, 0, len(PNG)) == PNG,
    lambda: _png_size(encoded),
    lambda: tf.io.extract_jpeg_shape(encoded)[:2],
  )
  pixels = tf.reduce_prod(tf.cast(size, tf.int64))
  few = tf.debugging.Assert((0 < pixels) & (pixels <= MAX_PIXELS), [size])
  with tf.control_dependencies([few] if few is not None else []):
    return tf.io.decode_jpeg(  # reads PNG as well
      encoded, channels=3, dct_method='INTEGER_ACCURATE'
    )


def _png_size(encoded: tf.Tensor) -> tf.Tensor:
  """int32 [2], width and height: big-endian, at a fixed place."""
  return tf.io.decode_raw(
    tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False
  )


def resize(image: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
  """Resizes by bilinear interpolation, as PIL does.

  Args:
    image: uint8 [height, width, 3] of any size.
    image_size: height and width to make.

  Returns:
    uint8 [*image_size, 3], within a grey level of PIL's.
  """
  height, width = image_size
  shape = tf.shape(image)
  # Weights sum to one: the half, for rounding, passes through interpolation,
  # and nothing leaves 0..255. (Floats are also interpolated faster.)
  images = tf.cast(image, tf.float32)[None] + 0.5
  resized = tf.cond(
    (shape[0] <= height) & (shape[1] <= width),
    lambda: _enlarge(images, height, width),
    # Antialias matters only where something shrinks, and is slow.
    lambda: tf.image.resize(images, (height, width), antialias=True),
  )
  return tf.reshape(tf.cast(resized, tf.uint8), (height, width, 3))


def _enlarge(images: tf.Tensor, height: int, width: int) -> tf.Tensor:
  """First along the width, then along the height.

  TensorFlow interpolates a pixel at a time: along the width the three channels
  of each, but only for the few rows of the small image; along the height a
  whole row is one pixel of many channels, which goes much faster.
  """
  rows = tf.shape(images)[1]
  wide = _interpolate(images, (rows, width))
  wide = tf.reshape(wide, (1, rows, 1, width * 3))
  wide = _interpolate(wide, (height, 1))
  return tf.reshape(wide, (1, height, width, 3))


def _interpolate(images: tf.Tensor, image_size) -> tf.Tensor:
  """float32 [batch, height, width, channels]; for growing sizes."""
  return tf.raw_ops.ResizeBilinear(
    images=images, size=image_size, half_pixel_centers=True
  )


def check_readable(images: Iterable[raw.RawImage]) -> None:
  """Decodes every image.

  Raises:
    UserError: some cannot be decoded; names them.
  """
  images = list(images)
  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    errors = tqdm(
      pool.map(_decoding_error, images),
      total=len(images),
      desc='Checking images',
      unit=' images',
      leave=False,
    )
    bad = [
      f'{image.where}: {error}' for image, error in zip(images, errors) if error
    ]
  if bad:
    raise UserError(
      f'{len(bad)} of {len(images)} images cannot be read:\n{raw.shorten(bad)}'
    )


def _decoding_error(image: raw.RawImage) -> str | None:
  try:
    decode(image.read())
  except tf.errors.InvalidArgumentError:
    return f'not a JPEG or PNG image, cut off, or of over {MAX_PIXELS:,} pixels'
  except OSError as error:
    return str(error)
  return None
