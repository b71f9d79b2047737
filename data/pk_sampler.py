"""PK sampling: batches of P identities with K images each.

The rule is that of torchreid, Luo et al. and the released APNet code. The
images of each identity are shuffled and cut into chunks of K, and the remainder
is dropped. An identity with fewer than K images gets one chunk, filled up by
drawing with replacement. Each batch takes one chunk of each of P random
identities.

Those implementations end an epoch when fewer than P identities have chunks
left, which depends on chance. Here an epoch has as many batches as the chunks
allow: on the benchmarks, the number of chunks divided by P. To reach this
number, identities with many chunks left are preferred towards the end of an
epoch. No chunk is used twice, and few are left over.
"""

import numpy as np

from apnet_jax.errors import FieldError


def steps_per_epoch(labels: np.ndarray, P: int, K: int) -> int:
  """Returns the number of batches in an epoch, which is as large as possible.

  The images of each identity form chunks of K. An epoch uses a chunk at most
  once, and a batch has at most one chunk of an identity.

  Args:
    labels: int [images], identity of each training image.
    P: number of identities in a batch.
    K: number of images of each identity in a batch.

  Raises:
    FieldError: P or K is not positive, or there are fewer than P identities.
  """
  for name, value in (('P', P), ('K', K)):
    if value < 1:
      raise FieldError(f'train.{name}', f'={value} must be at least 1.')
  _, counts = np.unique(labels, return_counts=True)
  if len(counts) < P:
    raise FieldError(
      'train.P',
      f'={P} identities in a batch, but the training set has only'
      f' {len(counts)}.',
    )
  chunks = np.maximum(counts // K, 1)
  steps = int(chunks.sum()) // P
  while _spare_chunks(chunks, P, steps) < 0:  # never for one batch
    steps = int(np.minimum(chunks, steps).sum()) // P
  return steps


def _spare_chunks(chunks: np.ndarray, P: int, batches: int) -> int:
  """Returns the number of chunks that are left over after some batches.

  A chunk is K images of an identity. An identity is at most once in a batch, so
  that only `batches` of its chunks can be used.

  Args:
    chunks: int [identities], number of chunks of each identity.
    P: number of identities in a batch.
    batches: number of batches to make.

  Returns:
    The number of usable chunks that are left over. If it is negative, so many
    batches cannot be made; otherwise they can.
  """
  return int(np.minimum(chunks, batches).sum()) - P * batches


def epoch_batches(
  labels: np.ndarray, P: int, K: int, seed: int, epoch: int
) -> np.ndarray:
  """Returns the image indices of all batches of an epoch.

  The result depends on the arguments alone.

  Args:
    labels: int [images], identity of each training image.
    P: number of identities in a batch.
    K: number of images of each identity in a batch.
    seed: seed of the run.
    epoch: number of the epoch, from 0.

  Returns:
    int64 [steps_per_epoch, P * K]. The K images of an identity are consecutive.
    An image occurs at most once, unless its identity has fewer than K images.

  Raises:
    FieldError: see `steps_per_epoch`.
  """
  steps = steps_per_epoch(labels, P, K)
  order = np.argsort(labels, kind='stable')
  _, starts = np.unique(labels[order], return_index=True)
  images_of = np.split(order, starts[1:])
  rng = np.random.default_rng([seed, epoch])
  chunks = [_make_chunks(images, K, rng) for images in images_of]
  chunks_left = np.array([len(c) for c in chunks])
  batches = []
  for batches_left in range(steps, 0, -1):
    chosen = _choose_identities(chunks_left, P, batches_left, rng)
    chunks_left[chosen] -= 1
    batches.append(np.concatenate([chunks[i][chunks_left[i]] for i in chosen]))
  return np.stack(batches)


def _choose_identities(
  chunks_left: np.ndarray, P: int, batches_left: int, rng
) -> np.ndarray:
  """Chooses P identities so that the remaining batches can still be made.

  Args:
    chunks_left: int [identities], number of unused chunks of each identity.
    P: number of identities in a batch.
    batches_left: number of batches to make, including this one.
    rng: NumPy random generator.

  Returns:
    int [P], indices of the identities.
  """
  chosen = rng.choice(np.flatnonzero(chunks_left), P, replace=False)
  # An identity with as many chunks as batches remain must be in every batch, or
  # one of its chunks is left over.
  urgent = np.flatnonzero(chunks_left >= batches_left)
  omitted = np.setdiff1d(urgent, chosen)
  if len(omitted) <= _spare_chunks(chunks_left, P, batches_left):
    return chosen
  if len(urgent) >= P:
    return rng.choice(urgent, P, replace=False)
  others = np.flatnonzero((chunks_left > 0) & (chunks_left < batches_left))
  return np.concatenate([urgent, rng.choice(others, P - len(urgent), False)])


def _make_chunks(images: np.ndarray, K: int, rng) -> np.ndarray:
  """Shuffles the images of one identity and cuts them into chunks of K.

  A remainder is dropped. Fewer than K images are first filled up by repetition.

  Args:
    images: int [n], indices of the images.
    K: number of images in a chunk.
    rng: NumPy random generator.

  Returns:
    int [chunks, K].
  """
  if len(images) < K:
    extra = rng.choice(images, K - len(images))
    images = np.concatenate([images, extra])
  shuffled = rng.permutation(images)
  return shuffled[: len(images) // K * K].reshape(-1, K)
