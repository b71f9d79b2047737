"""Tests of decoding and resizing against Pillow."""

import io

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from apnet_jax import images
from data import decoding


def make_image(height, width, seed=0):
  """Returns noise, which is the hardest image to resize."""
  rng = np.random.default_rng(seed)
  return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def encode(image, kind):
  file = io.BytesIO()
  image.save(file, kind)
  return file.getvalue()


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_decodes_as_pil(kind):
  encoded = encode(make_image(50, 31), kind)
  expected = np.asarray(Image.open(io.BytesIO(encoded)).convert('RGB'))
  np.testing.assert_array_equal(decoding.decode(encoded), expected)


@pytest.mark.parametrize(
  'size', [(96, 48), (97, 33), (32, 33), (32, 16), (16, 8), (9, 15), (1, 1)]
  + [(96, 8), (20, 40)]
)  # fmt: skip
def test_resizes_as_pil(size):
  """Sizes that are larger, equal, smaller, and larger in one direction only."""
  image = make_image(32, 16)
  expected = image.resize(size[::-1], Image.Resampling.BILINEAR)
  resized = decoding.resize(tf.constant(np.asarray(image)), size)
  assert resized.dtype == tf.uint8
  assert resized.shape == (*size, 3)
  difference = np.abs(resized.numpy().astype(int) - np.asarray(expected))
  assert difference.mean() < 0.3
  assert difference.max() <= 1


@pytest.mark.parametrize('size', [(96, 48), (16, 8)])
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'grey', '16 bits'])
def test_search_reads_images_as_training_does(kind, size, tmp_path):
  """`apnet_jax.images`, without TensorFlow, agrees with `data.decoding`."""
  image = make_image(32, 16)
  if kind == 'grey':
    image = image.convert('L')
  elif kind == '16 bits':
    values = np.random.default_rng(0).integers(0, 2**16, (32, 16), np.uint16)
    image = Image.fromarray(values)
  path = tmp_path / 'image'
  image.save(path, 'JPEG' if kind == 'JPEG' else 'PNG')
  trained = decoding.resize(decoding.decode(path.read_bytes()), size).numpy()
  difference = trained.astype(int) - images.read_image(path, size)
  assert abs(difference).max() <= 1


@pytest.mark.parametrize('value', [0, 255])
@pytest.mark.parametrize('size', [(50, 31), (7, 5)])
def test_resizing_stays_within_a_byte(value, size):
  image = tf.fill((32, 16, 3), tf.constant(value, tf.uint8))
  assert (decoding.resize(image, size).numpy() == value).all()


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_no_more_pixels_than_allowed_are_decoded(kind, monkeypatch):
  encoded = encode(make_image(32, 16), kind)
  monkeypatch.setattr(decoding, 'MAX_PIXELS', 32 * 16)
  assert decoding.decode(encoded).shape == (32, 16, 3)
  monkeypatch.setattr(decoding, 'MAX_PIXELS', 32 * 16 - 1)
  monkeypatch.setattr(tf.io, 'decode_jpeg', None)
  with pytest.raises(tf.errors.InvalidArgumentError):
    decoding.decode(encoded)


@pytest.mark.parametrize('kind', ['GIF', 'BMP', 'WEBP'])
def test_other_formats_are_refused(kind):
  """`data.encoding` stores BMP and WebP as PNG."""
  with pytest.raises(tf.errors.InvalidArgumentError):
    decoding.decode(encode(make_image(32, 16), kind))


@pytest.mark.parametrize('length', [8, 15, 16, 20, 24])
def test_a_png_file_cut_off_in_its_header_is_refused(length):
  with pytest.raises(tf.errors.InvalidArgumentError):
    decoding.decode(encode(make_image(32, 16), 'PNG')[:length])
