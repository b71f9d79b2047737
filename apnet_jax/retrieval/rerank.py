"""k-reciprocal re-ranking without the matrix of distances.

Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding,
CVPR 2017; equations below are the paper's. Other projects square distances
again, divide by no maximum or count neighbours otherwise, and their figures do
not compare. This is the authors' code: squared Euclidean distances of
normalised embeddings, those of an image over the greatest of them.

That code sorts all distances of all images. Here the accelerator finds each
image's few neighbours, a tile of the matrix at a time; sets of neighbours are
sparse matrices. Distances of queries are held if they are few, else made again
for those that are asked for.
"""

from collections.abc import Sequence

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

K1 = 20
K2 = 6
LAMBDA_VALUE = 0.3
TILE = 1024  # rows and columns of distances that are searched at a time
BLOCK = 256  # queries whose distances are made at a time
PAIRS = 1024  # single pairs whose distances are made at a time
HELD = 2**28  # bytes of distances of queries that are not made again
LEAST_MAXIMUM = 1e-6  # below it, images differ by rounding only


def describe(k1=K1, k2=K2, lambda_value=LAMBDA_VALUE) -> str:
  """Names this form of re-ranking, for result cards."""
  return (
    'k-reciprocal (Zhong et al., CVPR 2017): squared Euclidean distance over'
    f' its row maximum, k1 {k1}, k2 {k2}, lambda {lambda_value:g}'
  )


VARIANT = describe()


def k_reciprocal_rerank(
  query_embeddings: np.ndarray,
  gallery_embeddings: np.ndarray,
  k1: int = K1,
  k2: int = K2,
  lambda_value: float = LAMBDA_VALUE,
) -> np.ndarray:
  """Distances re-ranked by k-reciprocal encoding (Zhong et al., CVPR 2017).

  The defaults are the paper's. Neighbours come from queries and gallery
  together, so a distance depends on all images. Ties go by index, queries
  first. `KReciprocal` has the same distances a block at a time.

  Args:
    query_embeddings: float [queries, features]; need not be normalised.
    gallery_embeddings: float [gallery, features].
    k1: neighbours that are looked at, the image itself not counted; all images
      where there are fewer.
    k2: neighbours, the image itself counted, whose encodings are averaged;
      1 averages none.
    lambda_value: weight of the original distance, 0 to 1.

  Returns:
    float32 [queries, gallery], 0 (alike) to 1.

  Raises:
    ValueError: embeddings are not 2-D, differ in width, or have rows that are
      zero or not finite; k1 or k2 is below 1; lambda_value is not in 0 to 1.
  """
  scores = KReciprocal(
    query_embeddings, gallery_embeddings, k1, k2, lambda_value
  )
  distances = np.empty((scores.queries, scores.gallery), np.float32)
  for start in range(0, scores.queries, BLOCK):
    rows = np.arange(scores.queries)[start : start + BLOCK]
    distances[rows] = -scores.block(rows)
  return distances


class KReciprocal:
  """Re-ranked similarities, made when asked for.

  Memory is that of the embeddings, of some (queries + gallery) k1 numbers, and
  at most a quarter of a gigabyte. Arguments and errors are those of
  `k_reciprocal_rerank`.

  Attributes:
    queries: their number.
    gallery: number of gallery images.
    variant: what this is, in words, for result cards.
  """

  def __init__(
    self,
    query_embeddings: np.ndarray,
    gallery_embeddings: np.ndarray,
    k1: int = K1,
    k2: int = K2,
    lambda_value: float = LAMBDA_VALUE,
  ):
    for name, k in (('k1', k1), ('k2', k2)):
      if k < 1:
        raise ValueError(f'{name}={k} must be at least 1.')
    if not 0 <= lambda_value <= 1:
      raise ValueError(f'lambda_value={lambda_value} is not in 0 to 1.')
    query = _normalized('query_embeddings', query_embeddings)
    gallery = _normalized('gallery_embeddings', gallery_embeddings)
    if query.shape[1] != gallery.shape[1]:
      raise ValueError(
        f'query_embeddings have {query.shape[1]} features,'
        f' gallery_embeddings {gallery.shape[1]}.'
      )
    self.queries, self.gallery = len(query), len(gallery)
    self.variant = describe(k1, k2, lambda_value)
    self._lambda = float(lambda_value)
    images = np.concatenate([query, gallery])
    held = None
    if 4 * self.queries * len(images) <= HELD:
      held = np.empty((self.queries, len(images)), np.float32)
    encodings, maxima = _encode(images, k1, k2, held)
    self._query, self._gallery = query, jnp.asarray(gallery)
    self._held = None if held is None else held[:, self.queries :]
    self._maxima = maxima[: self.queries, None]
    self._query_encodings = encodings[: self.queries]
    # By column: who in the gallery has some image among its neighbours?
    self._gallery_encodings = encodings[self.queries :].tocsc()

  def block(self, rows: Sequence[int]) -> np.ndarray:
    """Negative re-ranked distances of queries: float32 [rows, gallery]."""
    distance = self._original(rows) / self._maxima[rows]
    jaccard = self._jaccard(rows)
    return -((1 - self._lambda) * jaccard + self._lambda * distance)  # Eq. 12

  def _original(self, rows) -> np.ndarray:
    if self._held is not None:
      return self._held[rows]
    return np.asarray(_squared_distances(self._query[rows], self._gallery))

  def _jaccard(self, rows) -> np.ndarray:
    mine = self._query_encodings[rows]
    others = self._gallery_encodings[:, mine.indices]
    lengths = np.diff(others.indptr)
    minima = np.minimum(np.repeat(mine.data, lengths), others.data)
    shape = len(rows), self.gallery
    starts = mine.nonzero()[0].astype(np.int64) * self.gallery
    place = np.repeat(starts, lengths) + others.indices
    sums = np.bincount(place, minima, minlength=np.prod(shape))
    sums = sums.astype(np.float32).reshape(shape)
    # Eq. 10; the sum of maxima is 2 - that of minima, as encodings sum to 1.
    return 1 - sums / (2 - sums)


def _normalized(name: str, embeddings: np.ndarray) -> np.ndarray:
  embeddings = np.asarray(embeddings)
  if embeddings.ndim != 2 or not len(embeddings):
    raise ValueError(
      f'{name} has shape {embeddings.shape}, not [images, features].'
    )
  embeddings = embeddings.astype(np.float32, copy=False)
  norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
  bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
  if len(bad):
    raise ValueError(
      f'{name} has {len(bad)} rows that are zero or not finite:'
      f' {bad[:5].tolist()}{" ..." if len(bad) > 5 else ""}.'
    )
  return embeddings / norms


def _encode(embeddings, k1, k2, held) -> tuple[sparse.csr_array, np.ndarray]:
  """The encodings of all images, a row each, and their greatest distances.

  Distances of the first images to all go to `held`, unless it is None.
  """
  nearest, distances, maxima = _find_neighbours(
    embeddings, max(k1 + 1, k2), held
  )
  encodings = _expanded_sets(nearest, k1)
  # Eq. 7. With k1 images equal to it before it, an image may have none.
  rows, columns = encodings.nonzero()
  pairs = _pair_distances(embeddings, rows, columns, nearest, distances)
  weights = np.exp(-pairs / maxima[rows])
  sums = np.bincount(rows, weights, minlength=len(maxima))
  encodings.data = (weights / sums[rows]).astype(np.float32)
  if k2 > 1:
    mean = _neighbour_sets(nearest, k2) / min(k2, len(nearest))
    encodings = mean @ encodings  # Eq. 11
  return encodings, maxima


def _find_neighbours(embeddings, k, held) -> tuple[np.ndarray, ...]:
  """Of each image the k nearest and how far, and how far the farthest is.

  Returns:
    Indices and distances [images, k], greatest distances [images].
  """
  images = len(embeddings)
  starts = range(0, images, TILE)
  tiles = [embeddings[start : start + TILE] for start in starts]
  tiles[-1] = np.pad(tiles[-1], ((0, -images % TILE), (0, 0)))  # one shape
  tiles = list(map(jnp.asarray, tiles))
  none = jnp.full((TILE, min(k, images)), -jnp.inf, jnp.float32)
  found = [(jnp.zeros(none.shape, jnp.int32), none, none[:, 0])] * len(tiles)
  for i, a in enumerate(tiles):
    for j, b in enumerate(tiles[i:], i):
      distances = _squared_distances(a, b)
      found[i] = _merge(found[i], distances, starts[j], images)
      _hold(held, distances, starts[i], starts[j])
      if j > i:  # distances are symmetric: half of them will do
        distances = distances.T
        found[j] = _merge(found[j], distances, starts[i], images)
        _hold(held, distances, starts[j], starts[i])
  nearest, nearness, maxima = (
    np.concatenate(all)[:images] for all in zip(*found)
  )
  return nearest, -nearness, np.where(maxima < LEAST_MAXIMUM, 1, maxima)


def _hold(held, distances, row, column) -> None:
  """Copies the part of a tile that belongs there."""
  if held is not None and row < len(held):
    place = held[row : row + TILE, column : column + TILE]
    place[:] = np.asarray(distances)[: place.shape[0], : place.shape[1]]


@jax.jit
def _merge(found, distances, start, images):
  """Adds images from `start` on to what was found in those before."""
  nearest, nearness, maxima = found
  k = nearest.shape[1]
  there = start + jnp.arange(distances.shape[1]) < images
  near = jnp.where(there, -distances, -jnp.inf)
  nearness, place = lax.top_k(jnp.concatenate([nearness, near], 1), k)
  before = jnp.take_along_axis(nearest, jnp.minimum(place, k - 1), 1)
  nearest = jnp.where(place < k, before, start + place - k)  # of ties the first
  maxima = jnp.maximum(maxima, jnp.where(there, distances, 0).max(1))
  return nearest, nearness, maxima


@jax.jit
def _squared_distances(a, b):
  """Of each of these to each of those, normalised: [a, b]."""
  products = jnp.matmul(a, b.T, precision=lax.Precision.HIGHEST)
  return jnp.maximum(2 - 2 * products, 0)


def _pair_distances(
  embeddings, rows, columns, nearest, neighbours
) -> np.ndarray:
  """Distances of pairs; most are neighbours, whose distances are known."""
  images = len(embeddings)
  keys = nearest + images * np.arange(images)[:, None]
  order = np.argsort(keys, axis=1)  # the whole is then in order too
  keys, neighbours = (
    np.take_along_axis(of, order, 1).ravel() for of in (keys, neighbours)
  )
  wanted = rows.astype(np.int64) * images + columns
  place = keys.searchsorted(wanted).clip(max=len(keys) - 1)
  distances = neighbours[place]
  others = np.flatnonzero(keys[place] != wanted)
  for start in range(0, len(others), PAIRS):
    pairs = others[start : start + PAIRS]
    a, b = embeddings[rows[pairs]], embeddings[columns[pairs]]
    distances[pairs] = np.maximum(2 - 2 * np.einsum('pf,pf->p', a, b), 0)
  return distances


def _neighbour_sets(nearest: np.ndarray, k: int) -> sparse.csr_array:
  """N(p, k), Eq. 2: 1 where the column is one of the row's k nearest."""
  images, k = len(nearest), min(k, nearest.shape[1])
  ones = np.ones(images * k, np.float32)
  indptr = np.arange(0, images * k + 1, k)
  columns = nearest[:, :k].ravel()
  return sparse.csr_array((ones, columns, indptr), shape=(images, images))


def _reciprocal_sets(nearest: np.ndarray, k: int) -> sparse.csr_array:
  """R(p, k), Eq. 3: 1 where row and column are neighbours of each other."""
  neighbours = _neighbour_sets(nearest, k)
  return neighbours.multiply(neighbours.T).tocsr()


def _expanded_sets(nearest: np.ndarray, k1: int) -> sparse.csr_array:
  """R*(p, k1), Eq. 4: not 0 where the column belongs to it."""
  sets = _reciprocal_sets(nearest, k1 + 1)
  halves = _reciprocal_sets(nearest, round(k1 / 2) + 1)
  shared = sets.multiply(sets @ halves.T).tocsr()
  # "At least" two thirds in the paper, more than that in its code.
  shared.data *= 3 * shared.data > 2 * halves.sum(1)[shared.indices]
  expanded = (sets + shared @ halves).tocsr()
  expanded.eliminate_zeros()
  return expanded
