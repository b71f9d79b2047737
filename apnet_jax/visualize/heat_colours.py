"""Colours of attention maps, alone or over their image."""

import numpy as np
from PIL import Image

COLOURS = 'turbo'
# Share of the colour where a map is 0 and where it is 1; the rest is the image.
FAINTEST, STRONGEST = 0.25, 0.65


def colour(heat: np.ndarray) -> np.ndarray:
  """Returns the colours of a map.

  Args:
    heat: float [height, width], in 0..1.

  Returns:
    uint8 [height, width, 3].
  """
  import matplotlib  # slow to import

  return matplotlib.colormaps[COLOURS](heat, bytes=True)[..., :3]


def overlay(image: np.ndarray, heat: np.ndarray) -> Image.Image:
  """Lays the colours of a map over its image.

  Args:
    image: uint8 [height, width, 3].
    heat: float [height, width], in 0..1, of numpy or JAX.

  Returns:
    A picture of the size of the image.
  """
  heat = np.asarray(heat)  # Pillow takes no arrays of JAX
  share = (FAINTEST + (STRONGEST - FAINTEST) * heat)[..., None]
  mixed = (1 - share) * image + share * colour(heat)
  return Image.fromarray(mixed.round().astype(np.uint8))
