"""Multi-query: all images of one identity and camera are one query.

This is the second query method of Market-1501 (Zheng et al., Scalable Person
Re-identification: A Benchmark, ICCV 2015), with average pooling: the embeddings
of the images are averaged. With the cosine distance, the embedding of each
image has length 1 before, and the average is scaled to length 1 again.
"""

import numpy as np

from apnet_jax.feed import Averaged, Split

RULE = 'multi-query: average over the images of one identity and camera'


def group(query: Split, images: Split) -> Split:
  """Makes queries of all images of an identity under a camera.

  Args:
    query: the single queries. Of each identity and camera, the first one names
      and pictures the query.
    images: the images to average. Each identity and camera of `query` has one
      at least; images of others are left out.

  Returns:
    A split with a query for each identity and camera of `query`, in their
    order, and with `averaged`.
  """
  keys = _keys(query)
  _, first = np.unique(keys, axis=0, return_index=True)
  first = np.sort(first)
  number = {tuple(key): i for i, key in enumerate(keys[first].tolist())}
  owners = np.array(
    [number.get(tuple(key), -1) for key in _keys(images).tolist()], np.int64
  )
  rows = np.flatnonzero(owners >= 0)
  missing = set(number.values()) - set(owners.tolist())
  if missing:
    raise ValueError(f'no image to average for {len(missing)} queries.')
  return Split(
    query.pids[first],
    query.camids[first],
    query.paths[first],
    lambda some, size: query.batches(first[np.asarray(some, int)], size),
    averaged=Averaged(select(images, rows), owners[rows]),
  )


def select(split: Split, rows: np.ndarray) -> Split:
  """Returns the images of a split at the indices `rows`."""
  return Split(
    split.pids[rows],
    split.camids[rows],
    split.paths[rows],
    lambda some, size: split.batches(rows[np.asarray(some, int)], size),
  )


def _keys(split: Split) -> np.ndarray:
  return np.stack([split.pids, split.camids], axis=1)


def average(
  embeddings: np.ndarray, owners: np.ndarray, distance: str
) -> np.ndarray:
  """Averages the embeddings of the images of each query.

  Args:
    embeddings: float [images, features].
    owners: int [images], the query of each image; all queries from 0 on.
    distance: `config.eval.distance`.

  Returns:
    float [queries, features]; for 'cosine' of length 1, or zero.
  """
  number = np.bincount(owners)
  sums = np.zeros((len(number), embeddings.shape[1]))
  np.add.at(sums, owners, embeddings)
  means = sums / number[:, None]
  if distance == 'cosine':
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    means /= np.where(lengths > 0, lengths, 1)  # ranking refuses those of 0
  return means.astype(embeddings.dtype)
