import colorsys
from functools import partial
import types

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageEnhance
import pytest

from apnet_jax.models.normalization import MEAN, STD, normalize
from apnet_jax.training import augment as augment_module
from apnet_jax.training import augmix, colors
from apnet_jax.training.augment import augment
from apnet_jax.training.colors import adjust_colors
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
adjust, sharpen = jax.jit(adjust_colors), jax.jit(colors.sharpen)


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


NOTHING = {
  'flip': 0.0, 'pad': 0, 'erase': 0.0, 'erase_fill': (0.0,) * 3,
  'jitter': 0.0, 'augmix': 0.0,
}  # fmt: skip


@jax.jit
def jittered(seed, images, positions, limits):
  """Jitters half of the images; nothing else is changed."""
  names = ('brightness', 'contrast', 'saturation', 'hue')
  fields = dict(zip(names, limits), jitter=0.5)
  config = types.SimpleNamespace(**NOTHING | fields)
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


@pytest.mark.parametrize('factor', [0.4, 1.5])
def test_images_are_sharpened_as_by_pillow(factor, images):
  """Pillow rounds the smoothed image to whole values."""
  ours = 255 * sharpen(images[0] / 255, factor)
  pillow = ImageEnhance.Sharpness(Image.fromarray(images[0]))
  assert np.abs(ours - np.asarray(pillow.enhance(factor))).max() < 1.5
  assert np.abs(ours - images[0]).max() > 40


def test_mixing_weights_are_of_dirichlet_and_beta():
  keys = jax.random.split(jax.random.key(0), 4000)
  weights = np.asarray(jax.vmap(augmix.mixing_weights)(keys))
  shares = np.asarray(jax.vmap(augmix.mixing_share)(keys))
  np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
  assert weights.shape == (4000, 3) and (weights > 0).all()
  # Dirichlet(1, 1, 1): mean 1/3, variance 1/18, covariance -1/36.
  np.testing.assert_allclose(weights.mean(0), 1 / 3, atol=0.02)
  expected = np.eye(3) / 12 - 1 / 36
  np.testing.assert_allclose(np.cov(weights.T), expected, atol=0.004)
  # Beta(1, 1): as many shares in each tenth.
  counts, _ = np.histogram(shares, 10, (0, 1))
  assert counts.sum() == 4000 and counts.min() > 330


@jax.jit
def each_operation(image, level):
  return [operation(image, level) for operation in augmix.OPERATIONS]


@pytest.mark.parametrize('level', [-10.0, -4.0, 0.0, 10.0])
def test_operations_of_augmix_are_those_of_its_paper(level, images):
  image, factor = images[0] / 255, 1 + 0.09 * level
  *recolored, rows, columns = each_operation(image, level)
  grey = (image @ colors.GREY)[..., None]
  for found, expected in zip(
    recolored,
    [
      *(
        np.clip(x + factor * (image - x), 0, 1) for x in (0, grey.mean(), grey)
      ),
      sharpen(image, factor),
    ],
    strict=True,
  ):
    np.testing.assert_allclose(found, expected, atol=1e-6)
  for axis, found in enumerate((rows, columns)):
    size = image.shape[axis]
    source = np.arange(size) - int(level * size / 30)
    expected = np.moveaxis(image, axis, 0)[source % size]
    expected = expected * ((source >= 0) & (source < size))[:, None, None]
    np.testing.assert_allclose(np.moveaxis(found, axis, 0), expected, atol=1e-7)


@pytest.fixture
def halve(monkeypatch):
  """The only operation halves all values, at any level."""
  operations = (lambda image, level: image / 2,)
  monkeypatch.setattr(augmix, 'OPERATIONS', operations)


def test_an_image_is_mixed_with_chains_of_one_to_three_operations(halve):
  """If all operations halve an image of ones, its value tells the depths."""
  keys = jax.random.split(jax.random.key(1), 300)

  def one(key):
    share = augmix.mixing_share(jax.random.split(key, 3)[1])
    return augmix.augmix(key, jnp.ones((1, 1, 3)), 3.0).mean(), share

  mixed, shares = map(np.asarray, jax.jit(jax.vmap(one))(keys))
  chains = (mixed - (1 - shares)) / shares  # the weighted mean of three chains
  assert (chains > 1 / 8 - 1e-3).all() and (chains < 1 / 2 + 1e-3).all()
  # Depths 1, 2 and 3 are equally frequent: values of 1/2, 1/4 and 1/8.
  assert np.mean(chains) == pytest.approx(7 / 24, abs=0.02)
  # Chains of one image have depths of their own.
  assert (np.abs(chains[:, None] - [1 / 2, 1 / 4, 1 / 8]) > 0.01).all(1).any()


def test_levels_reach_the_severity_in_both_directions(monkeypatch):
  """If the only operation writes its level, the value tells the last level."""
  write = (lambda image, level: jnp.full_like(image, level),)
  monkeypatch.setattr(augmix, 'OPERATIONS', write)
  monkeypatch.setattr(augmix, 'WIDTH', 1)

  def one(key, severity):
    share = augmix.mixing_share(jax.random.split(key, 3)[1])
    return augmix.augmix(key, jnp.zeros((1, 1, 3)), severity).max() / share

  levels_of = jax.jit(jax.vmap(one, (0, None)))
  keys = jax.random.split(jax.random.key(0), 300)
  assert not levels_of(keys, 0.0).any()
  levels = levels_of(keys, 3.0)
  assert levels.min() == pytest.approx(-3, abs=0.1)
  assert levels.max() == pytest.approx(3, abs=0.1)
  assert abs(jnp.median(levels)) < 0.3


@jax.jit
def augmixed(seed, images, positions):
  config = types.SimpleNamespace(**NOTHING | {'augmix': 3.0})
  return augment(jax.random.key(seed), images, positions, config)


def test_augmix_depends_on_key_and_position_alone(images):
  images, positions = images[:8], np.arange(8)
  whole = np.asarray(augmixed(0, images, positions))
  backwards = augmixed(0, images[::-1], positions[::-1])
  np.testing.assert_array_equal(backwards, whole[::-1])
  assert not np.allclose(augmixed(1, images, positions), whole, atol=1e-2)
  same = np.asarray(augmixed(0, np.tile(images[:1], (8, 1, 1, 1)), positions))
  assert len({image.tobytes() for image in same}) == 8
  changed = np.abs(whole - normalize(images)).max((1, 2, 3)) > 1e-3
  assert changed.all()  # each image, as in the paper


def test_recipes_that_are_off_leave_no_trace_in_the_program(
  config, images, monkeypatch
):
  def called(*_):
    raise AssertionError

  def trace():
    function = partial(augment, config=config)
    jax.eval_shape(function, jax.random.key(0), images, np.arange(64))

  monkeypatch.setattr(augment_module, '_jitter', called)
  monkeypatch.setattr(augment_module, 'augmix', called)
  trace()
  for field in ('jitter', 'augmix'):
    config.update(NOTHING | {field: 0.5})
    with pytest.raises(AssertionError):
      trace()


def test_depends_on_key_and_position_alone(images):
  """Batches are therefore equal on any number of devices, and after resume."""
  config = common.get_config().augment
  function = jax.jit(partial(augment, config=config))

  def run(images, key=0, first=0):
    positions = np.arange(first, first + len(images))
    return np.asarray(function(jax.random.key(key), images, positions))

  whole = run(images)
  part = run(images[48:], first=48)
  np.testing.assert_array_equal(part, whole[48:])
  np.testing.assert_array_equal(run(images), whole)
  assert not np.array_equal(run(images, key=1), whole)
  same = np.tile(images[:1], (64, 1, 1, 1))
  assert len({image.tobytes() for image in run(same)}) > 60


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
