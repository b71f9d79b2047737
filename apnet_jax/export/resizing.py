"""Bilinear resizing with antialiasing, as Pillow does it, in JAX."""

import jax
import jax.numpy as jnp


def resize(images: jax.Array, image_size: tuple[int, int]) -> jax.Array:
  """Resizes images bilinearly, with antialiasing.

  Values differ from those of Pillow by one grey level at most, because Pillow
  computes with integers. As there, the axis that leaves fewer pixels is resized
  first, and both results are rounded.

  Args:
    images: uint8 [batch, height, width, channels]; sizes may be symbolic.
    image_size: height and width of the result, in pixels.

  Returns:
    float32 [batch, height, width, channels], whole numbers in 0..255.
  """
  _, old_height, old_width, _ = images.shape
  height, width = image_size

  def resize_height(x):
    return _mix('bijc,hi->bhjc', x, _weights(old_height, height))

  def resize_width(x):
    return _mix('bijc,wj->biwc', x, _weights(old_width, width))

  return jax.lax.cond(
    jnp.asarray(old_height) * width <= jnp.asarray(old_width) * height,
    lambda x: resize_height(resize_width(x)),
    lambda x: resize_width(resize_height(x)),
    images.astype(jnp.float32),
  )


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
