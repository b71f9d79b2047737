"""Colours of an image: brightness, contrast, saturation, hue."""

import jax
import jax.numpy as jnp

GREY = (0.299, 0.587, 0.114)  # weights of RGB in the luma, as in Pillow


def blend(
  image: jax.Array, other: jax.Array | float, factor: jax.Array
) -> jax.Array:
  """Moves an image towards or away from another one, and clips to 0..1.

  Args:
    image: float [height, width, 3], in 0..1.
    other: an image of the same shape, or a value for all its pixels.
    factor: factor of the distance between them; 1 keeps the image.
  """
  return jnp.clip(other + factor * (image - other), 0, 1)


def grey(image: jax.Array) -> jax.Array:
  """Returns the luma of each pixel, [height, width, 1]."""
  return (image * jnp.array(GREY)).sum(-1, keepdims=True)


def brighten(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Multiplies all values by a factor."""
  return blend(image, 0, factor)


def stretch_contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Multiplies the distance to the mean grey of the image by a factor."""
  return blend(image, grey(image).mean(), factor)


def saturate(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Multiplies the distance to the grey of the same pixel by a factor."""
  return blend(image, grey(image), factor)


def adjust_colors(
  image: jax.Array,
  brightness: jax.Array,
  contrast: jax.Array,
  saturation: jax.Array,
  hue: jax.Array,
) -> jax.Array:
  """Adjusts the colours of an image, each as torchvision and Pillow define it.

  torchvision's `ColorJitter` also draws the order; here it is the one of the
  arguments.

  Args:
    image: float [height, width, 3], RGB values in 0..1.
    brightness: factor of all values.
    contrast: factor of the distance to the mean grey of the image.
    saturation: factor of the distance to the grey of the same pixel.
    hue: angle to turn the hue by, in full circles.

  Returns:
    float [height, width, 3], in 0..1.
  """

  image = brighten(image, brightness)
  image = stretch_contrast(image, contrast)
  image = saturate(image, saturation)
  return _turn_hue(image, hue)


def _turn_hue(image, angle):
  """Turns the hue of an image in HSV; value and saturation stay.

  Args:
    image: float [height, width, 3], RGB values in 0..1.
    angle: in full circles.
  """
  red, green, blue = image[..., 0], image[..., 1], image[..., 2]
  value = image.max(-1)
  chroma = value - image.min(-1)
  safe = jnp.where(chroma > 0, chroma, 1)
  # No comparison with `value`: XLA may compute it twice, and round differently.
  sixths = jnp.where(
    (red >= green) & (red >= blue),
    (green - blue) / safe,
    jnp.where(green >= blue, (blue - red) / safe + 2, (red - green) / safe + 4),
  )
  # Each channel falls from the value by the chroma, far from its own hue.
  place = (jnp.array([5, 3, 1]) + sixths[..., None] + 6 * angle) % 6
  far = jnp.clip(jnp.minimum(place, 4 - place), 0, 1)
  return value[..., None] - chroma[..., None] * far


def sharpen(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Multiplies the distance to a smoothed image by a factor, as Pillow does.

  A factor below 1 smooths. Pixels at the border stay.
  """
  height, width, _ = image.shape
  rows = [image[i : height - 2 + i] for i in range(3)]
  around = sum(row[:, j : width - 2 + j] for row in rows for j in range(3))
  center = image[1:-1, 1:-1]
  smooth = image.at[1:-1, 1:-1].set((around + 4 * center) / 13)
  return blend(image, smooth, factor)
