"""AugMix: an image is mixed with chains of small changes of itself.

Hendrycks et al., ICLR 2020, arXiv:1912.02781, Algorithm 1, with their numbers.
The Jensen-Shannon loss of that paper, which needs each image three times, is
left out.

The operations are those that suit people in front of cameras: its translations,
and the four that the authors' code has as extras, which are brightness,
contrast, colour and sharpness. Rotations, shears, and operations that invert or
round colours are left out. An operation draws a level s between -severity and
severity; factors are 1 + 0.09 s. (The authors' code has 0.1 plus 0.18 times the
level, by which a low level darkens the most.)
"""

import jax
from jax import lax
import jax.numpy as jnp

from apnet_jax.training import colors

WIDTH, DEPTH = 3, 3  # number of chains; most operations of a chain
MAX_SEVERITY = 10


def augmix(key: jax.Array, image: jax.Array, severity: float) -> jax.Array:
  """Mixes an image with `WIDTH` chains of up to `DEPTH` random operations.

  Args:
    key: random key of the image.
    image: float [height, width, 3], RGB values in 0..1.
    severity: largest level of an operation, 0 to 10; 0 changes nothing.

  Returns:
    float [height, width, 3], in 0..1.
  """
  weights_key, share_key, chains_key = jax.random.split(key, 3)
  weights, share = mixing_weights(weights_key), mixing_share(share_key)
  mixed = (1 - share) * image

  def add(mixed, chain):
    chain_key, weight = chain
    changed = _chain(chain_key, image, severity)
    return mixed + share * weight * changed, None

  keys = jax.random.split(chains_key, WIDTH)
  mixed, _ = lax.scan(add, mixed, (keys, weights))
  return mixed


def mixing_weights(key: jax.Array) -> jax.Array:
  """Draws the weights of the chains from Dirichlet(1, ..., 1).

  That is the law of exponential numbers over their sum, which need no
  rejection sampling.
  """
  numbers = jax.random.exponential(key, (WIDTH,))
  return numbers / numbers.sum()


def mixing_share(key: jax.Array) -> jax.Array:
  """Draws the share of all chains from Beta(1, 1), which is uniform."""
  return jax.random.uniform(key)


def _chain(key, image, severity):
  """Applies one to `DEPTH` random operations, one after the other."""
  depth_key, operations_key = jax.random.split(key)
  depth = jax.random.randint(depth_key, (), 1, DEPTH + 1)

  def apply(image, step):
    number, operation_key = step
    changed = _random_operation(operation_key, image, severity)
    return jnp.where(number < depth, changed, image), None

  keys = jax.random.split(operations_key, DEPTH)
  return lax.scan(apply, image, (jnp.arange(DEPTH), keys))[0]


def _random_operation(key, image, severity):
  """Applies one of `OPERATIONS`, with a random level of either sign."""
  which, level = jax.random.split(key)
  level = jax.random.uniform(level, minval=-severity, maxval=severity)
  number = jax.random.randint(which, (), 0, len(OPERATIONS))
  return lax.switch(number, OPERATIONS, image, level)


def _by_factor(change):
  """Returns an operation that changes an image by a factor."""
  return lambda image, level: change(image, 1 + 0.9 * level / MAX_SEVERITY)


def _translation(axis):
  """Returns an operation that shifts an image, and fills with black.

  Level 10 shifts by a third of the size, rounded down to whole pixels.

  Args:
    axis: 0 for rows, 1 for columns.
  """

  def translate(image, level):
    size = image.shape[axis]
    most = size // 3
    shift = (level / MAX_SEVERITY * size / 3).astype(int)
    around = [(most, most) if i == axis else (0, 0) for i in range(3)]
    padded = jnp.pad(image, around)
    return lax.dynamic_slice_in_dim(padded, most - shift, size, axis)

  return translate


OPERATIONS = (
  _by_factor(colors.brighten),
  _by_factor(colors.stretch_contrast),
  _by_factor(colors.saturate),
  _by_factor(colors.sharpen),
  _translation(0),
  _translation(1),
)
