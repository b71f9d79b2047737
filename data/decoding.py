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
  """uint8 [height, width, 3] of any size -> of `image_size`, bilinear."""
  image = tf.image.resize(image, image_size, antialias=True)
  image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
  return tf.ensure_shape(image, (*image_size, 3))


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
      f'{image.path}: {error}' for image, error in zip(images, errors) if error
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
