"""Bilinear resizing with antialiasing, as Pillow does it, in JAX."""

import jax
import jax.numpy as jnp


def resize(images: jax.Array, image_size: tuple[int, int]) -> jax.Array:
  """Resizes images bilinearly, with antialiasing.

  Values differ from those of Pillow by one grey level at most, because Pillow
  computes with integers. The height is changed before the width, and both
  results are rounded, as there.

  Args:
    images: uint8 [batch, height, width, channels]; sizes may be symbolic.
    image_size: height and width of the result, in pixels.

  Returns:
    float32 [batch, height, width, channels], whole numbers in 0..255.
  """
  height, width = image_size
  x = images.astype(jnp.float32)
  x = _mix('bijc,hi->bhjc', x, _weights(images.shape[1], height))
  return _mix('bhjc,wj->bhwc', x, _weights(images.shape[2], width))


def _mix(equation, x, weights):
  y = jnp.einsum(equation, x, weights, precision=jax.lax.Precision.HIGHEST)
  return jnp.clip(jnp.floor(y + 0.5), 0, 255)


def _weights(size, resized: int) -> jax.Array:
  """Returns the share of each pixel in each resized pixel.

  Args:
    size: number of pixels, which may be symbolic.
    resized: number of resized pixels.

  Returns:
    float32 [resized, size]; each row sums to 1.
  """
  scale = jnp.asarray(size).astype(jnp.float32) / resized
  centers = (jnp.arange(resized, dtype=jnp.float32) + 0.5) * scale
  pixels = jnp.arange(size).astype(jnp.float32) + 0.5
  distance = jnp.abs(pixels - centers[:, None]) / jnp.maximum(scale, 1)
  weights = jnp.maximum(1 - distance, 0)
  return weights / weights.sum(1, keepdims=True)
