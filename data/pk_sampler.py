"""PK sampling: batches of P identities with K images each.

The rule is that of torchreid, Luo et al. and the released APNet code. An
identity's images are shuffled and cut into chunks of K, the rest dropped; an
identity with fewer than K is filled up by drawing with replacement. Batches
take one chunk of each of P random identities until fewer than P have one left.
As in the released training loop, an epoch has the length that the number of
chunks suggests, and is filled up by starting over.
"""

import numpy as np


def steps_per_epoch(labels: np.ndarray, P: int, K: int) -> int:
  """Batches in an epoch: all full chunks, P at a time.

  Args:
    labels: int [images], identity of each training image.
    P: identities in a batch.
    K: images of each identity.

  Raises:
    ValueError: P or K is not positive, or there are fewer than P identities.
  """
  for name, value in (('P', P), ('K', K)):
    if value < 1:
      raise ValueError(f'config.train.{name}={value} must be at least 1.')
  _, counts = np.unique(labels, return_counts=True)
  if len(counts) < P:
    raise ValueError(
      f'config.train.P={P} identities in a batch, but the training set has'
      f' only {len(counts)}.'
    )
  return int(np.maximum(counts // K, 1).sum()) // P


def epoch_batches(
  labels: np.ndarray, P: int, K: int, seed: int, epoch: int
) -> np.ndarray:
  """Indices of an epoch's images, int64 [steps_per_epoch, P * K].

  A pure function of its arguments. Images of an identity stand together.
  """
  steps = steps_per_epoch(labels, P, K)
  order = np.argsort(labels, kind='stable')
  _, starts = np.unique(labels[order], return_index=True)
  images_of = np.split(order, starts[1:])
  rng = np.random.default_rng([seed, epoch])
  batches = []
  while len(batches) < steps:
    batches.extend(_one_pass(images_of, P, K, rng))
  return np.stack(batches[:steps])


def _one_pass(images_of: list[np.ndarray], P, K, rng) -> list[np.ndarray]:
  chunks = [_chunks(images, K, rng) for images in images_of]
  left = np.array([len(c) for c in chunks])
  batches = []
  while (left > 0).sum() >= P:
    chosen = rng.choice(np.flatnonzero(left), P, replace=False)
    left[chosen] -= 1
    batches.append(np.concatenate([chunks[i][left[i]] for i in chosen]))
  return batches


def _chunks(images: np.ndarray, K: int, rng) -> np.ndarray:
  """[chunks, K] of one identity's images."""
  if len(images) < K:
    extra = rng.choice(images, K - len(images))
    images = np.concatenate([images, extra])
  shuffled = rng.permutation(images)
  return shuffled[: len(images) // K * K].reshape(-1, K)
