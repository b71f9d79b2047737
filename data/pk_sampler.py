"""PK sampling: batches of P identities with K images each.

The rule is that of torchreid, Luo et al. and the released APNet code. An
identity's images are shuffled and cut into chunks of K, the rest dropped; an
identity with fewer than K is filled up by drawing with replacement. Each batch
takes one chunk of each of P random identities.

Those end an epoch when fewer than P identities have a chunk left, which depends
on chance, and then either start over or stop early. Here an epoch has the most
batches that the chunks allow, on the benchmarks all of them over P: towards its
end, identities with as many chunks left as there are batches are preferred. So
no chunk is used twice, and few are left over.
"""

import numpy as np

from apnet_jax.errors import UserError


def steps_per_epoch(labels: np.ndarray, P: int, K: int) -> int:
  """The most batches of P identities that can be made of all chunks.

  Args:
    labels: int [images], identity of each training image.
    P: identities in a batch.
    K: images of each identity.

  Raises:
    UserError: P or K is not positive, or there are fewer than P identities.
  """
  for name, value in (('P', P), ('K', K)):
    if value < 1:
      raise UserError(f'config.train.{name}={value} must be at least 1.')
  _, counts = np.unique(labels, return_counts=True)
  if len(counts) < P:
    raise UserError(
      f'config.train.P={P} identities in a batch, but the training set has'
      f' only {len(counts)}.'
    )
  chunks = np.maximum(counts // K, 1)
  steps = int(chunks.sum()) // P
  while _spare(chunks, P, steps) < 0:  # ends at 1, as there are P identities
    steps = int(np.minimum(chunks, steps).sum()) // P
  return steps


def _spare(chunks: np.ndarray, P: int, steps: int) -> int:
  """Chunks that may be left over when `steps` batches are to be made.

  An identity is in a batch once, so that of more chunks than batches only as
  many are of use. If enough of these are left, the batches can be made.
  """
  return int(np.minimum(chunks, steps).sum()) - P * steps


def epoch_batches(
  labels: np.ndarray, P: int, K: int, seed: int, epoch: int
) -> np.ndarray:
  """Indices of an epoch's images, int64 [steps_per_epoch, P * K].

  A pure function of its arguments. Images of an identity stand together; an
  image stands once, unless its identity has fewer than K.
  """
  steps = steps_per_epoch(labels, P, K)
  order = np.argsort(labels, kind='stable')
  _, starts = np.unique(labels[order], return_index=True)
  images_of = np.split(order, starts[1:])
  rng = np.random.default_rng([seed, epoch])
  chunks = [_chunks(images, K, rng) for images in images_of]
  left = np.array([len(c) for c in chunks])
  batches = []
  for to_go in range(steps, 0, -1):
    chosen = _choose(left, P, to_go, rng)
    left[chosen] -= 1
    batches.append(np.concatenate([chunks[i][left[i]] for i in chosen]))
  return np.stack(batches)


def _choose(left: np.ndarray, P: int, to_go: int, rng) -> np.ndarray:
  """P identities with chunks left, such that the other batches can be made."""
  chosen = rng.choice(np.flatnonzero(left), P, replace=False)
  # One that has a chunk for each batch to go loses one if it is passed over.
  needed = np.flatnonzero(left >= to_go)
  passed_over = np.setdiff1d(needed, chosen)
  if len(passed_over) <= _spare(left, P, to_go):
    return chosen
  if len(needed) >= P:
    return rng.choice(needed, P, replace=False)
  others = np.flatnonzero((left > 0) & (left < to_go))
  return np.concatenate([needed, rng.choice(others, P - len(needed), False)])


def _chunks(images: np.ndarray, K: int, rng) -> np.ndarray:
  """[chunks, K] of one identity's images."""
  if len(images) < K:
    extra = rng.choice(images, K - len(images))
    images = np.concatenate([images, extra])
  shuffled = rng.permutation(images)
  return shuffled[: len(images) // K * K].reshape(-1, K)
