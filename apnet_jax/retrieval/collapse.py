"""Detects a collapsed network, which embeds all images alike.

The cosine similarities of strangers tell: pairs of images of different
identities. A trained network spreads them widely.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

# Size of the sample. Its median lies within about two percentiles of the median
# of all pairs.
PAIRS = 2000
# Strangers of a collapsed network have a median similarity above this.
COLLAPSED = 0.95


def stranger_similarities(
  embeddings: np.ndarray, pids: np.ndarray, seed: int = 0
) -> np.ndarray:
  """Returns the cosine similarities of a sample of strangers.

  Pairs are drawn with replacement; all pairs are equally likely.

  Args:
    embeddings: float [images, features], of any length. Only the rows of the
      sample are read, so a memory map will do.
    pids: int [images], identities; two images with different numbers show
      strangers.
    seed: seed of the sample.

  Returns:
    float64 [PAIRS], in no order; empty if all images show one identity.
  """
  pids = np.asarray(pids)
  order = np.argsort(pids, kind='stable')  # strangers of a row lie around it
  _, first, size = np.unique(pids[order], return_index=True, return_counts=True)
  first, size = np.repeat(first, size), np.repeat(size, size)
  strangers = len(pids) - size
  if not strangers.any():
    return np.zeros(0)
  rng = np.random.default_rng(seed)
  a = rng.choice(len(pids), PAIRS, p=strangers / strangers.sum())
  b = rng.integers(strangers[a])
  b += np.where(b >= first[a], size[a], 0)
  one, other = (_normalized(embeddings[order[rows]]) for rows in (a, b))
  return (one * other).sum(1)


def median_stranger_similarity(
  embeddings: np.ndarray, pids: np.ndarray
) -> float | None:
  """Returns the median cosine similarity of a sample of strangers.

  Returns:
    The median; None if all images show one identity.
  """
  found = stranger_similarities(embeddings, pids)
  return float(np.median(found)) if len(found) else None


def describe(
  median: float | None, pairs: str = 'images of different persons'
) -> str:
  """Returns a sentence if a network has collapsed, else ''.

  Args:
    median: the result of `median_stranger_similarity`.
    pairs: name of the pairs whose median it is, in the plural.
  """
  if median is None or median <= COLLAPSED:
    return ''
  return (
    f'the network embeds all images alike: {pairs} have a median similarity of'
    f' {median:.4f}.'
  )


def describe_causes(train: Mapping[str, Any] | None = None) -> str:
  """Returns a sentence with the likely causes of a collapse.

  Args:
    train: the `train` part of a configuration, whose values are named; None if
      it is unknown.
  """

  def value(field):
    return '' if train is None else f' (config.train.{field}={train[field]:g})'

  return (
    'Likely causes: too few training steps; too high a learning rate'
    f'{value("learning_rate")} or too short a warm-up{value("warmup_epochs")};'
    f' too few images of each identity{value("K")}; wrong labels.'
  )


def _normalized(x: np.ndarray) -> np.ndarray:
  x = np.asarray(x, np.float64)
  length = np.linalg.norm(x, axis=1, keepdims=True)
  return x / np.maximum(length, np.finfo(np.float64).tiny)
