"""Compares an exported file with the network that it was made from."""

from collections.abc import Callable, Sequence
import itertools
import os

import jax
import numpy as np
from PIL import Image

from apnet_jax import images as image_files
from apnet_jax.errors import UserError
from apnet_jax.export.graph import Graph
from apnet_jax.models import normalization

BATCHES = (1, 7, 32)
LARGEST_DIFFERENCE = 1e-3


def pixels(
  source: str | os.PathLike, image_size: tuple[int, int]
) -> tuple[np.ndarray, str]:
  """Returns the images of the comparison.

  Args:
    source: a folder of images; empty for drawn patterns.
    image_size: height and width of the images, in pixels.

  Returns:
    uint8 [images, height, width, 3], RGB; and what they show, as a phrase.

  Raises:
    UserError: an image cannot be read.
  """
  count = max(BATCHES)
  if not source:
    return _draw(count, image_size), f'{count} drawn patterns'
  paths = image_files.find_images(source)[:count]
  read = [image_files.read_image(path, image_size) for path in paths]
  filled = list(itertools.islice(itertools.cycle(read), count))
  return np.stack(filled), f'{len(paths)} images of --images'


def compare(
  graph: Graph,
  run: Callable[[np.ndarray], np.ndarray],
  images: np.ndarray,
  batches: Sequence[int] = BATCHES,
) -> dict:
  """Compares the embeddings of an exported file with those of JAX.

  Args:
    graph: the network as it was exported.
    run: the exported file in its runtime: from images as `graph.takes` has
      them, channels last, to embeddings.
    images: uint8 [images, height, width, 3], RGB; of the size of the graph
      unless it resizes.
    batches: numbers of images to try.

  Returns:
    `largest_difference` of a feature and `lowest_cosine` over all batches.

  Raises:
    UserError: a feature differs by more than `LARGEST_DIFFERENCE`.
  """
  expected = _embed(graph, images)
  given = {
    'normalized': lambda x: np.asarray(normalization.normalize(x)),
    'uint8': lambda x: x,
    'unit': lambda x: np.float32(x) / 255,
  }[graph.takes](images)
  difference, cosine = 0.0, 1.0
  for batch in batches:
    found = run(given[:batch])
    if found.shape != expected[:batch].shape or not np.isfinite(found).all():
      raise UserError(
        f'the exported network gives {list(found.shape)} for {batch} images,'
        f' not finite {list(expected[:batch].shape)}; nothing was written.'
      )
    difference = max(difference, np.abs(found - expected[:batch]).max())
    cosine = min(cosine, (found * expected[:batch]).sum(1).min())
  if difference > LARGEST_DIFFERENCE:
    raise UserError(
      f'the exported network differs from the trained one: a feature by'
      f' {difference:.2g}, more than {LARGEST_DIFFERENCE:g}; the lowest cosine'
      f' is {cosine:.6f}. Nothing was written.'
    )
  return {
    'largest_difference': float(difference),
    'lowest_cosine': float(cosine),
    'batches': list(batches),
  }


def _embed(graph: Graph, images: np.ndarray) -> np.ndarray:
  """Embeds images by `graph.network`, with Pillow's resizing."""
  height, width = graph.image_size
  resized = [
    image_files.resize(Image.fromarray(image), (height, width))
    for image in images
  ]

  @jax.jit
  def embed(variables, batch):
    return graph.network.embed_normalized(
      variables, normalization.normalize(batch)
    )

  variables = jax.tree.map(np.asarray, graph.network.variables)
  return np.asarray(embed(variables, np.stack(resized)))


def _draw(count: int, image_size: tuple[int, int]) -> np.ndarray:
  """Draws coloured patterns with edges, gradients and noise."""
  height, width = image_size
  rng = np.random.default_rng(0)
  drawn = []
  for _ in range(count):
    coarse = rng.integers(0, 256, (6, 3, 3), np.uint8)
    method = rng.choice([Image.Resampling.NEAREST, Image.Resampling.BICUBIC])
    image = Image.fromarray(coarse).resize((width, height), int(method))
    noise = rng.normal(0, 4, (height, width, 3))
    drawn.append(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
  return np.stack(drawn)
