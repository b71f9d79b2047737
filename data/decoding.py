"""From encoded images to pixels, the same as PIL makes."""

from collections.abc import Iterable
from concurrent import futures
import os

import tensorflow as tf
from tqdm import tqdm

from data import raw


def decode(encoded: bytes | tf.Tensor) -> tf.Tensor:
  """A JPEG or PNG file -> uint8 [height, width, 3], the same as PIL makes.

  TensorFlow's other ways of decoding are about a grey level too dark.
  """
  return tf.io.decode_jpeg(  # reads PNG as well
    encoded, channels=3, dct_method='INTEGER_ACCURATE'
  )


def resize(image: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
  """Resizes by bilinear interpolation, as PIL does.

  Args:
    image: uint8 [height, width, 3] of any size.
    image_size: height and width to make.

  Returns:
    uint8 [*image_size, 3], within a grey level of PIL's.
  """
  image_size = tuple(image_size)
  shape = tf.shape(image)
  resized = tf.cond(
    (shape[0] <= image_size[0]) & (shape[1] <= image_size[1]),
    lambda: _enlarge(image, image_size),
    # Antialias matters only where something shrinks, and is slow.
    lambda: tf.image.resize(image, image_size, antialias=True) + 0.5,
  )
  # Weights that sum to one do not leave 0..255: nothing to clip.
  return tf.ensure_shape(tf.cast(resized, tf.uint8), (*image_size, 3))


def _enlarge(image: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
  """First along the width, then along the height, plus 0.5.

  TensorFlow interpolates a value at a time where there are three channels: here
  only the few rows of the small image. Along the height a whole row is one
  pixel of many channels, which it does in vectors. The half, for rounding, is
  added where there are fewest values: interpolation passes it on.
  """
  height, width = image_size
  rows = tf.shape(image)[0]
  wide = _interpolate(image[None], (rows, width)) + 0.5
  wide = tf.reshape(wide, (1, rows, 1, width * 3))
  return tf.reshape(_interpolate(wide, (height, 1)), (height, width, 3))


def _interpolate(images: tf.Tensor, image_size) -> tf.Tensor:
  """[batch, height, width, channels] -> float32; for growing sizes."""
  return tf.raw_ops.ResizeBilinear(
    images=images, size=image_size, half_pixel_centers=True
  )


def check_readable(images: Iterable[raw.RawImage]) -> None:
  """Decodes every image.

  Raises:
    ValueError: some cannot be decoded; names them.
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
    raise ValueError(
      f'{len(bad)} of {len(images)} images cannot be read:\n{raw.shorten(bad)}'
    )


def _decoding_error(image: raw.RawImage) -> str | None:
  try:
    decode(image.read())
  except tf.errors.InvalidArgumentError:
    return 'not a JPEG or PNG image, or cut off'
  except OSError as error:
    return str(error)
  return None
