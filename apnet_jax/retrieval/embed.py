"""Embeds images of a split, on all devices."""

from collections.abc import Callable, Mapping
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

FEATURES = ('embedding', 'feature', 'logits')


def make_embed(
  model: nn.Module, rules: ml_collections.ConfigDict
) -> Callable[[Mapping, Split, np.ndarray], np.ndarray]:
  """Returns `embed(variables, split, rows) -> float32 [rows, features]`.

  With `flip`, an embedding is the average with that of the mirrored image
  (Section IV.B). If cosines are compared it is then normalised, once. The last
  batch is padded, so that every row is embedded.

  Args:
    model: returns a `ReidOutput`.
    rules: `config.eval`, of which matter: `batch_size`, images at a time on
      all devices, rounded up to a multiple of them; `flip`; `feature`, the
      output of the model that is ranked, one of `FEATURES`; `distance`.
  """
  batch_size = devices.local_batch_size(rules.batch_size)
  embed_batch = make_embed_batch(model, rules)

  @_by_all_processes
  def embed(variables, split, rows):
    embeddings = []
    with _progress(len(rows)) as bar:
      for images in split.batches(rows, batch_size):
        padded = np.zeros((batch_size, *images.shape[1:]), images.dtype)
        padded[: len(images)] = images
        output = embed_batch(variables, devices.shard_batch(padded))
        output = np.asarray(output).reshape(batch_size, -1)
        embeddings.append(output[: len(images)])
        bar.update(len(images))
    return np.concatenate(embeddings)

  return embed


def make_embed_batch(
  model: nn.Module, rules: ml_collections.ConfigDict
) -> Callable[[Mapping, np.ndarray], jax.Array]:
  """Returns `embed_batch(variables, images)`, which `make_embed` repeats.

  Images are uint8 [devices, images, height, width, 3], embeddings float32
  [devices, images, features].
  """

  def apply(variables, images):
    return getattr(model.apply(variables, images, train=False), rules.feature)

  @devices.pmap_batch
  def embed_batch(variables, images):
    images = normalize(images)
    embeddings = apply(variables, images)
    if rules.flip:
      embeddings = (embeddings + apply(variables, images[:, :, ::-1])) / 2
    if rules.distance == 'cosine':
      embeddings /= jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings

  return embed_batch


def _by_all_processes(embed: Callable) -> Callable:
  """Each process embeds its share of the rows, and has all embeddings."""

  @functools.wraps(embed)
  def embed_share(variables, split, rows):
    share = embed(variables, split, processes.local_rows(rows))
    return processes.gather_rows(share, len(rows))

  return embed_share


@_by_all_processes
def embed_pixels(variables, split: Split, rows: np.ndarray) -> np.ndarray:
  """Raw pixels as embeddings: what a network has to beat. No variables."""
  del variables
  images = np.concatenate(list(split.batches(rows, 256)))
  return images.reshape(len(images), -1) / np.float32(255)


def _progress(images: int) -> tqdm:
  return tqdm(
    total=images, desc='Embedding', unit=' images', leave=False, delay=1
  )
