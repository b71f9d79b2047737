"""Augmentation on the device: flip, crop, recolour, normalise, erase.

The order and the settings are those of the released APNet recipe, which has
neither colour jitter nor AugMix. The random numbers of an image depend only on
the key of the step and on the position of the image in the global batch. A
batch is therefore the same on any number of devices.
"""

import chex
import jax
from jax import lax
import jax.numpy as jnp
import ml_collections

from apnet_jax.models.normalization import normalize
from apnet_jax.training.augmix import augmix
from apnet_jax.training.colors import adjust_colors

# Random erasing (Zhong et al., AAAI 2020), the settings of the field.
ERASED_AREA = (0.02, 0.4)  # of the image
ASPECT_RATIO = (0.3, 1 / 0.3)  # height over width, drawn uniformly
ERASING_TRIES = 100


def augment(
  key: jax.Array,
  images: jax.Array,
  positions: jax.Array,
  config: ml_collections.ConfigDict,
) -> jax.Array:
  """Flips, shifts, recolours and erases images at random, and normalises them.

  Args:
    key: random key of the step, the same on all devices.
    images: uint8 [batch, height, width, 3].
    positions: int [batch], positions of the images in the global batch.
    config: the `augment` part of a configuration.

  Returns:
    float32 [batch, height, width, 3], normalised.
  """
  chex.assert_shape(images, (None, None, None, 3))
  chex.assert_shape(positions, (len(images),))

  def one(image, position):
    own = jax.random.fold_in(key, position)
    flip, crop, erase, jitter, mix = (
      jax.random.fold_in(own, i) for i in range(5)
    )
    image = _flip(flip, image, config.flip)
    image = _pad_and_crop(crop, image, config.pad)
    if config.jitter > 0:
      image = _jitter(jitter, image, config)
    if config.augmix > 0:
      image = 255 * augmix(mix, image / 255, config.augmix)
    return _erase(erase, normalize(image), config.erase, config.erase_fill)

  return jax.vmap(one)(images, positions)


def _flip(key, image, probability):
  flip = jax.random.bernoulli(key, probability)
  return jnp.where(flip, image[:, ::-1], image)


def _pad_and_crop(key, image, pad):
  """Shifts an image at random by up to `pad` pixels, and fills with black."""
  offset = jax.random.randint(key, (2,), 0, 2 * pad + 1)
  padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
  return lax.dynamic_slice(padded, (*offset, 0), image.shape)


def _jitter(key, image, config):
  """Changes the colours of an image, with the probability `config.jitter`.

  Args:
    key: random key.
    image: uint8 [height, width, 3].
    config: the `augment` part of a configuration.

  Returns:
    float32 [height, width, 3], values in 0..255.
  """
  chosen, amounts = jax.random.split(key)
  amounts = jax.random.uniform(amounts, (4,), minval=-1.0)
  changed = adjust_colors(
    image / 255,
    brightness=1 + config.brightness * amounts[0],
    contrast=1 + config.contrast * amounts[1],
    saturation=1 + config.saturation * amounts[2],
    hue=config.hue * amounts[3],
  )
  jitter = jax.random.bernoulli(chosen, config.jitter)
  return jnp.where(jitter, 255 * changed, image.astype(changed.dtype))


def _erase(key, image, probability, fill):
  """Fills a random rectangle of an image, with a given probability.

  Args:
    key: random key.
    image: float32 [height, width, 3], normalised.
    probability: probability that the image is changed.
    fill: three values, the colour of the rectangle in normalised units.

  Returns:
    float32 [height, width, 3].
  """
  height, width, _ = image.shape
  keys = jax.random.split(key, 5)
  tries = (ERASING_TRIES,)
  area = (
    height
    * width
    * jax.random.uniform(
      keys[0], tries, minval=ERASED_AREA[0], maxval=ERASED_AREA[1]
    )
  )
  aspect = jax.random.uniform(
    keys[1], tries, minval=ASPECT_RATIO[0], maxval=ASPECT_RATIO[1]
  )
  h = jnp.round(jnp.sqrt(area * aspect)).astype(int)
  w = jnp.round(jnp.sqrt(area / aspect)).astype(int)
  fits = (h < height) & (w < width)
  first = jnp.argmax(fits)
  h, w = h[first], w[first]
  top = jax.random.randint(keys[2], (), 0, jnp.maximum(height - h, 0) + 1)
  left = jax.random.randint(keys[3], (), 0, jnp.maximum(width - w, 0) + 1)
  rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None]
  inside = (rows >= top) & (rows < top + h)
  inside &= (columns >= left) & (columns < left + w)
  erase = jax.random.bernoulli(keys[4], probability) & fits[first]
  return jnp.where((inside & erase)[..., None], jnp.array(fill), image)
