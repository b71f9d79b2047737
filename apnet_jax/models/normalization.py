"""Normalisation of images by the mean and standard deviation of ImageNet."""

import jax
import jax.numpy as jnp

# Mean and standard deviation of RGB values in 0..1, as in torchvision.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalize(images: jax.Array) -> jax.Array:
  """Normalises images by the mean and standard deviation of ImageNet.

  Args:
    images: uint8 or float [..., 3], RGB values in 0..255.

  Returns:
    float32 [..., 3].
  """
  scale = 1 / (255 * jnp.array(STD))
  return images.astype(jnp.float32) * scale - jnp.array(MEAN) / jnp.array(STD)


def denormalize(images: jax.Array) -> jax.Array:
  """Reverses `normalize`, up to rounding.

  Args:
    images: float32 [..., 3], normalised.

  Returns:
    float32 [..., 3], RGB values in 0..255.
  """
  return (images * jnp.array(STD) + jnp.array(MEAN)) * 255
