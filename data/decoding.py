"""Decodes and resizes images as Pillow does."""

from collections.abc import Iterable
from concurrent import futures
import os
import sys

import tensorflow as tf
from tqdm import tqdm

from apnet_jax.errors import UserError
from apnet_jax.images import FORMAT_NAMES, MAX_PIXELS, strict_pillow
from apnet_jax.printing import printable
from data import encoding, raw


def decode(encoded: bytes | tf.Tensor) -> tf.Tensor:
  """Decodes a JPEG or PNG file to the same pixels as Pillow.

  TensorFlow's other decoding methods are about a grey level too dark.

  Returns:
    uint8 [height, width, 3].

  Raises:
    tf.errors.InvalidArgumentError: the bytes are no JPEG or PNG file, are cut
      off, or have a header with more than `MAX_PIXELS` pixels. The header is
      checked before decoding.
  """
  size = tf.cond(
    tf.strings.substr(encoded, 0, len(encoding.PNG)) == encoding.PNG,
    lambda: _png_size(encoded),
    lambda: tf.io.extract_jpeg_shape(encoded)[:2],
  )
  pixels = tf.reduce_prod(tf.cast(size, tf.int64))
  check = tf.debugging.Assert((0 < pixels) & (pixels <= MAX_PIXELS), [size])
  with tf.control_dependencies([check] if check is not None else []):
    return tf.io.decode_jpeg(  # reads PNG as well
      encoded, channels=3, dct_method='INTEGER_ACCURATE'
    )


def _png_size(encoded: tf.Tensor) -> tf.Tensor:
  """Reads width and height, int32 [2], from the header of a PNG file.

  Both are 0 if the file ends before them. (TensorFlow's error would show the
  file's bytes, from which Python cannot make a message.)
  """
  header = tf.strings.join([tf.strings.substr(encoded, 0, 24), b'\0' * 24])
  return tf.io.decode_raw(
    tf.strings.substr(header, 16, 8), tf.int32, little_endian=False
  )


def resize(image: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
  """Resizes an image by bilinear interpolation, as Pillow does.

  Args:
    image: uint8 [height, width, 3] of any size.
    image_size: height and width of the result.

  Returns:
    uint8 [*image_size, 3], within one grey level of Pillow's.
  """
  height, width = image_size
  shape = tf.shape(image)
  # Adding 0.5 makes the cast to integers round. The weights of interpolation
  # sum to one, so that the 0.5 survives it and no value leaves 0..255. (Floats
  # are also interpolated faster than integers.)
  images = tf.cast(image, tf.float32)[None] + 0.5
  resized = tf.cond(
    (shape[0] <= height) & (shape[1] <= width),
    lambda: _enlarge(images, height, width),
    # Antialiasing is slow and matters only where the image shrinks.
    lambda: tf.image.resize(images, (height, width), antialias=True),
  )
  return tf.reshape(tf.cast(resized, tf.uint8), (height, width, 3))


def _enlarge(images: tf.Tensor, height: int, width: int) -> tf.Tensor:
  """Enlarges an image bilinearly, first in width and then in height, for speed.

  TensorFlow's time depends on the number of pixels, and little on the number of
  channels. The width is therefore enlarged while there are few rows. Then each
  row is passed as one pixel with many channels, and the height is enlarged.

  Args:
    images: float32 [1, old height, old width, 3].
    height: height of the result.
    width: width of the result.

  Returns:
    float32 [1, height, width, 3].
  """
  rows = tf.shape(images)[1]
  wide = _interpolate(images, (rows, width))
  wide = tf.reshape(wide, (1, rows, 1, width * 3))
  wide = _interpolate(wide, (height, 1))
  return tf.reshape(wide, (1, height, width, 3))


def _interpolate(images: tf.Tensor, image_size) -> tf.Tensor:
  """Enlarges images bilinearly, without antialiasing.

  Args:
    images: float32 [batch, height, width, channels].
    image_size: height and width of the result.
  """
  return tf.raw_ops.ResizeBilinear(
    images=images, size=image_size, half_pixel_centers=True
  )


def check_readable(images: Iterable[raw.RawImage]) -> None:
  """Checks that the files to store for all images can be decoded.

  A warning names images whose EXIF is ignored because it is damaged.

  Raises:
    UserError: images cannot be decoded; the message names them.
  """
  images = list(images)
  bad, warnings = [], []
  with strict_pillow(), futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    results = tqdm(
      pool.map(_check, images),
      total=len(images),
      desc='Checking images',
      unit=' images',
      leave=False,
    )
    for image, (error, warning) in zip(images, results):
      bad += [f'{image.location}: {error}'] if error else []
      warnings += [f'{image.location}: {warning}'] if warning else []
  if bad:
    raise UserError(
      f'{len(bad)} of {len(images)} images cannot be read:\n'
      + raw.format_lines(bad)
    )
  if warnings:
    text = (
      f'The EXIF of {len(warnings)} of {len(images)} images cannot be parsed:'
      ' they are read as they are stored, which may be on their side or'
      ' upside down.\n' + raw.format_lines(warnings)
    )
    # Standard output is redirected while TFDS prepares.
    print(printable(text), file=sys.stderr)


def _check(image: raw.RawImage) -> tuple[str, str]:
  """Returns why an image cannot be decoded, and why its EXIF is ignored.

  Both are '' if there is no such reason.
  """
  try:
    stored = encoding.to_stored(image.read())
    decode(stored.encoded)
  except (tf.errors.InvalidArgumentError, UserError):
    kinds = f'not a {FORMAT_NAMES} image, cut off'
    return f'{kinds}, or of over {MAX_PIXELS:,} pixels', ''
  except OSError as error:
    return str(error), ''
  return '', stored.fault
