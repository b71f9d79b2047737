"""Embeds the images of a data split on all devices."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from tqdm import tqdm

from apnet_jax.feed import Split
from apnet_jax.models.normalization import normalize
from apnet_jax.parallel import devices, processes

# Zeros have no direction, so that a cosine with them would end the evaluation.
# A black image gets that of the greys, and Euclidean distances hardly change.
BLACK = np.float32(1e-6)


def make_embed(
  model: nn.Module, rules: ml_collections.ConfigDict
) -> Callable[[Mapping, Split, np.ndarray], np.ndarray]:
  """Makes a function that embeds images of a data split.

  With several processes, each embeds an equal share of the images, and all
  processes must call the function.

  Args:
    model: a model that returns a `ReidOutput`.
    rules: `config.eval`. `batch_size` is the number of images in a batch on all
      devices, rounded up to a multiple of the number of devices. For `feature`,
      `flip` and `distance` see `make_embed_batch`.

  Returns:
    `embed(variables, split, rows) -> float32 [rows, features]`, where `rows`
    are the indices of the images in the split.
  """
  batch_size = devices.local_batch_size(rules.batch_size)
  embed_batch = make_embed_batch(model, rules)

  @_shared_among_processes
  def embed(variables, split, rows):
    def batches():
      for images in split.batches(rows, batch_size):
        padded = np.zeros((batch_size, *images.shape[1:]), images.dtype)
        padded[: len(images)] = images
        yield padded, len(images)

    with progress_bar(len(rows)) as bar:
      return embed_batches(embed_batch, variables, batches(), bar)

  return embed


def embed_batches(
  embed_batch: Callable,
  variables: Mapping,
  batches: Iterable[tuple[np.ndarray, int]],
  bar: tqdm,
) -> np.ndarray:
  """Embeds batches of images; while one is computed, the next one is read.

  Args:
    embed_batch: the result of `make_embed_batch`.
    variables: variables of the model.
    batches: at least one pair of a padded batch, uint8 [images, height, width,
      3], and its number of images before the padding.
    bar: progress bar, which counts images.

  Returns:
    float32 [images, features], without the padding.
  """
  outputs = []
  running: tuple[jax.Array, int] | None = None  # and its number of images
  for images, count in batches:
    if running is not None:  # it was computed while these images were read
      outputs.append(_without_padding(*running))
    running = embed_batch(variables, devices.shard_batch(images)), count
    bar.update(count)
  assert running is not None
  return np.concatenate([*outputs, _without_padding(*running)])


def _without_padding(output: jax.Array, count: int) -> np.ndarray:
  rows = np.asarray(output)
  return rows.reshape(-1, rows.shape[-1])[:count]


def make_embed_batch(
  model: nn.Module,
  rules: ml_collections.ConfigDict,
  on: Sequence[jax.Device] | None = None,
) -> jax.stages.Wrapped:
  """Makes the compiled function that embeds a batch on all devices.

  Args:
    model: a model that returns a `ReidOutput`.
    rules: `config.eval`. `feature` names the output of the model that is the
      embedding. With `flip`, embeddings are averages over an image and its
      mirror image (Section IV.B). If `distance` is 'cosine', embeddings are
      then divided by their lengths.
    on: devices to compile for; None for those of this process.

  Returns:
    `embed_batch(variables, images)`: from uint8 images [devices, images,
    height, width, 3] to float32 embeddings [devices, images, features].
  """

  def embed_batch(variables, images):
    return embed_normalized(model, rules, variables, normalize(images))

  return devices.pmap_batch(embed_batch, on)


def embed_normalized(
  model: nn.Module,
  rules: ml_collections.ConfigDict,
  variables: Mapping,
  images: jax.Array,
) -> jax.Array:
  """Embeds normalised images; the function that programs are traced from.

  Args:
    model: a model that returns a `ReidOutput`.
    rules: see `make_embed_batch`.
    variables: variables of the model.
    images: float32 [images, height, width, 3], normalised.

  Returns:
    Embeddings [images, features].
  """

  def apply(images):
    return getattr(model.apply(variables, images, train=False), rules.feature)

  embeddings = apply(images)
  if rules.flip:
    embeddings = (embeddings + apply(jnp.flip(images, axis=2))) / 2
  if rules.distance == 'cosine':
    embeddings /= jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
  return embeddings


def _shared_among_processes(embed: Callable) -> Callable:
  """Wraps an embedding function, so that processes share the images.

  Each process embeds its share, and returns the gathered embeddings of all.
  """

  @functools.wraps(embed)
  def embed_share(variables, split, rows):
    share = embed(variables, split, processes.local_rows(rows))
    return processes.gather_rows(share, len(rows))

  return embed_share


@_shared_among_processes
def embed_pixels(variables, split: Split, rows: np.ndarray) -> np.ndarray:
  """Returns raw pixels as embeddings, a baseline for trained networks.

  Args:
    variables: ignored; functions made by `make_embed` have this argument.
    split: data split that holds the images.
    rows: int [rows], indices of the images in the split.

  Returns:
    float32 [rows, height * width * 3], values from 0 to 1; those of a black
    image are `BLACK`.
  """
  del variables
  images = np.concatenate(list(split.batches(rows, 256)))
  pixels = images.reshape(len(images), -1) / np.float32(255)
  pixels[~pixels.any(1)] = BLACK
  return pixels


def progress_bar(images: int, shown: bool = True) -> tqdm:
  """Returns a progress bar that appears after a second, and goes at the end.

  Args:
    images: number of images to embed.
    shown: whether it appears at all.
  """
  return tqdm(
    total=images, desc='Embedding', unit=' images', leave=False, delay=1,
    disable=not shown,
  )  # fmt: skip
