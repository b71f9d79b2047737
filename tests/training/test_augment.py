import colorsys
import types

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageEnhance
import pytest

from apnet_jax.models.normalization import MEAN, STD, normalize
from apnet_jax.training.augment import adjust_colors, augment
from configs import common


@pytest.fixture
def config():
  config = common.get_config().augment
  config.update(flip=0.0, pad=0, erase=0.0)
  return config


@pytest.fixture(scope='module')
def images():
  rng = np.random.default_rng(0)
  return rng.integers(1, 256, (64, 24, 12, 3), np.uint8)  # no pixel is black


def run(config, images, key=0, positions=None):
  if positions is None:
    positions = jnp.arange(len(images))
  function = jax.jit(lambda k, x, p: augment(k, x, p, config))
  return np.asarray(function(jax.random.key(key), images, positions))


def test_normalize(images):
  expected = (images / 255 - np.array(MEAN)) / np.array(STD)
  np.testing.assert_allclose(normalize(images), expected, atol=1e-5)


def test_nothing_asked_nothing_changed(config, images):
  np.testing.assert_allclose(run(config, images), normalize(images), atol=1e-6)


def test_flips_half(config, images):
  config.flip = 0.5
  out, plain = run(config, images), np.asarray(normalize(images))
  flipped = np.array([np.allclose(o, p[:, ::-1], atol=1e-6)
                      for o, p in zip(out, plain)])  # fmt: skip
  kept = np.array([np.allclose(o, p, atol=1e-6) for o, p in zip(out, plain)])
  assert (flipped ^ kept).all()
  assert 16 < flipped.sum() < 48


def test_pads_and_crops(config, images):
  """Every image is shifted by at most `pad`; uncovered pixels are black."""
  config.pad = 3
  out, shifts = run(config, images), set()
  padded = np.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)))
  for image, source in zip(out, np.asarray(normalize(padded))):
    places = [
      (i, j)
      for i in range(7)
      for j in range(7)
      if np.allclose(image, source[i : i + 24, j : j + 12], atol=1e-6)
    ]
    assert len(places) == 1
    shifts.add(places[0])
  rows, columns = zip(*shifts)
  assert set(rows) == set(columns) == set(range(7))


def test_erases_one_rectangle(config, images):
  config.erase, config.erase_fill = 0.5, (9.0, 8.0, 7.0)
  images = np.tile(images, (8, 1, 1, 1))
  out = run(config, images)
  erased = (out == np.array([9, 8, 7])).all(-1)
  some = erased.any((1, 2))
  assert 0.4 < some.mean() < 0.6
  for mask, image, plain in zip(erased, out, np.asarray(normalize(images))):
    np.testing.assert_allclose(image[~mask], plain[~mask], atol=1e-6)
    if mask.any():
      rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
      box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
      assert box.all() and mask.sum() == box.size
      assert box.shape[0] < 24 and box.shape[1] < 12
  share = erased[some].mean((1, 2))
  assert share.min() < 0.06 and 0.3 < share.max() < 0.45
  # All places are reached.
  assert erased.any(0).all()


NO_CHANGE = {'brightness': 1, 'contrast': 1, 'saturation': 1, 'hue': 0}
adjust = jax.jit(adjust_colors)


@pytest.mark.parametrize(
  ('name', 'enhance'),
  [
    ('brightness', ImageEnhance.Brightness),
    ('contrast', ImageEnhance.Contrast),
    ('saturation', ImageEnhance.Color),
  ],
)
def test_colors_are_adjusted_as_by_pillow(name, enhance, images):
  """Pillow rounds to whole values, also in between."""
  for factor in (0.6, 1.5):
    ours = 255 * adjust(images[0] / 255, **NO_CHANGE | {name: factor})
    theirs = np.asarray(enhance(Image.fromarray(images[0])).enhance(factor))
    assert np.abs(ours - theirs).max() < 2.1
    assert np.abs(ours - images[0]).max() > 40


def test_hue_is_turned_in_hsv(images):
  pixels = np.concatenate([images[0, :2] / 255, np.eye(3)[None].repeat(4, 1)])
  pixels[0, 0] = 0.5  # a grey pixel has no hue
  for angle in (0.1, -0.3):
    turned = adjust(pixels, **NO_CHANGE | {'hue': angle})
    for found, pixel in zip(turned.reshape(-1, 3), pixels.reshape(-1, 3)):
      h, s, v = colorsys.rgb_to_hsv(*pixel)
      expected = colorsys.hsv_to_rgb((h + angle) % 1, s, v)
      np.testing.assert_allclose(found, expected, atol=1e-5)


@jax.jit
def jittered(seed, images, positions, limits):
  """Jitters half of the images; nothing else is changed."""
  names = ('brightness', 'contrast', 'saturation', 'hue')
  fields = dict(zip(names, limits), jitter=0.5)
  fields |= {'flip': 0.0, 'pad': 0, 'erase': 0.0, 'erase_fill': (0.0,) * 3}
  config = types.SimpleNamespace(**fields)
  return augment(jax.random.key(seed), images, positions, config)


def test_jitter_changes_half_within_the_limits(images):
  images = images // 2
  out, plain = (
    x * np.array(STD) + np.array(MEAN)
    for x in (
      jittered(0, images, np.arange(64), np.array([0.2, 0, 0, 0])),
      np.asarray(normalize(images)),
    )
  )
  factors = np.median(out / plain, axis=(1, 2, 3))
  np.testing.assert_allclose(
    out, factors[:, None, None, None] * plain, atol=1e-5
  )
  changed = np.abs(factors - 1) > 1e-5
  assert 20 < changed.sum() < 44
  assert 0.8 <= factors.min() < 0.84 and 1.16 < factors.max() <= 1.2
  # Each image has a jitter of its own.
  assert len(set(factors[changed].round(6))) == changed.sum()


def test_each_field_of_the_jitter_has_an_effect(images):
  positions, plain = np.arange(64), normalize(images)
  none = jittered(0, images, positions, np.zeros(4))
  np.testing.assert_allclose(none, plain, atol=1e-4)
  for limits in np.eye(4) / 2:
    change = jittered(0, images, positions, limits) - plain
    changed = np.abs(change).max((1, 2, 3)) > 0.01
    assert 20 < changed.sum() < 44


def test_jitter_depends_on_key_and_position_alone(images):
  positions, limits = np.arange(64), np.full(4, 0.3)
  whole = jittered(0, images, positions, limits)
  backwards = jittered(0, images[::-1], positions[::-1], limits)
  np.testing.assert_array_equal(backwards, whole[::-1])
  other = jittered(1, images, positions, limits)
  assert not np.allclose(other, whole, atol=1e-2)


def test_depends_on_key_and_position_alone(images):
  """Batches are therefore equal on any number of devices, and after resume."""
  config = common.get_config().augment
  whole = run(config, images)
  part = run(config, images[48:], positions=jnp.arange(48, 64))
  np.testing.assert_array_equal(part, whole[48:])
  np.testing.assert_array_equal(run(config, images), whole)
  assert not np.array_equal(run(config, images, key=1), whole)
  same = np.tile(images[:1], (64, 1, 1, 1))
  assert len({image.tobytes() for image in run(config, same)}) > 60


def test_erased_rectangles_have_the_published_shapes_and_places(config):
  """On square images, where no shape is drawn again because it does not fit."""
  config.erase = 1.0
  out = run(config, np.full((256, 32, 32, 3), 255, np.uint8))
  erased = (out == 0).all(-1)
  assert erased.any((1, 2)).mean() > 0.99
  erased = erased[erased.any((1, 2))]
  rows, columns = erased.any(2), erased.any(1)
  height, width = rows.sum(1), columns.sum(1)
  # Height over width is uniform from 0.3 to 3.3.
  assert 1.5 < np.median(height / width) < 2.1
  # One random number for both would put all squares on the diagonal.
  top, left, square = rows.argmax(1), columns.argmax(1), height == width
  assert square.any() and (top != left)[square].any()
