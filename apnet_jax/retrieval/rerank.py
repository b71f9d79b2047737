"""k-reciprocal re-ranking without the full matrix of distances.

The method is that of Zhong et al., Re-ranking Person Re-identification with
k-reciprocal Encoding, CVPR 2017; equation numbers below are theirs. The result
equals the authors' code, which uses squared Euclidean distances of normalised
embeddings and divides the distances of an image by their maximum. Other
projects square distances again, do not divide, or count neighbours differently;
their figures are not comparable.

The authors' code sorts all distances between all images. This module computes
distances on the accelerator, a tile at a time, and keeps only the nearest
neighbours of each image. Sets of neighbours are sparse matrices. Distances of
queries are stored if these fit `MAX_STORED_BYTES`; otherwise they are computed
again when needed.
"""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from apnet_jax.retrieval.scores import (
  check_embeddings,
  check_rows,
  check_widths,
)

K1 = 20
K2 = 6
LAMBDA_VALUE = 0.3
TILE = 1024  # number of rows, and of columns, of a tile of distances
QUERY_BLOCK = 256  # number of queries re-ranked at a time
PAIR_BLOCK = 1024  # number of single pairs whose distances are computed at once
MAX_STORED_BYTES = 2**28  # larger distances of queries are computed again
MIN_MAXIMUM = 1e-6  # if all distances are smaller, they are rounding errors


def describe(k1: int, k2: int, lambda_value: float) -> str:
  """Returns the variant of re-ranking in words, for result cards."""
  return (
    'k-reciprocal (Zhong et al., CVPR 2017): squared Euclidean distance over'
    f' its row maximum, k1 {k1}, k2 {k2}, lambda {lambda_value:g}'
  )


def k_reciprocal_rerank(
  query_embeddings: np.ndarray,
  gallery_embeddings: np.ndarray,
  k1: int = K1,
  k2: int = K2,
  lambda_value: float = LAMBDA_VALUE,
  places: np.ndarray | None = None,
) -> np.ndarray:
  """Computes distances re-ranked by k-reciprocal encoding.

  See Zhong et al., CVPR 2017, Eq. 12; the defaults are the paper's. Neighbours
  are searched among queries and gallery together, so every distance depends on
  all images. Ties rank by index, queries before gallery. `KReciprocal` computes
  the same distances a block at a time.

  Args:
    query_embeddings: float [queries, features]; need not be normalised.
    gallery_embeddings: float [gallery, features].
    k1: number of nearest neighbours that form the sets, not counting the image
      itself. With fewer images, all are neighbours.
    k2: number of nearest neighbours whose encodings are averaged, counting the
      image itself; 1 averages none.
    lambda_value: weight of the original distance, 0 to 1.
    places: int [queries], index of each query in the gallery, -1 if it is not
      there. An image that is in both counts once among the neighbours. Default:
      no query is in the gallery.

  Returns:
    float32 [queries, gallery], from 0 (equal) to 1.

  Raises:
    UserError: an embedding is zero or not finite.
    ValueError: the shapes of embeddings do not fit, k1 or k2 is below 1, or
      lambda_value is not in 0 to 1.
  """
  scores = KReciprocal(
    query_embeddings, gallery_embeddings, k1, k2, lambda_value, places
  )
  distances = np.empty((scores.queries, scores.gallery), np.float32)
  for start in range(0, scores.queries, QUERY_BLOCK):
    rows = np.arange(scores.queries)[start : start + QUERY_BLOCK]
    distances[rows] = -scores.block(rows)
  return distances


class KReciprocal:
  """`Scores` after re-ranking: negative distances of `k_reciprocal_rerank`.

  The class takes the arguments of that function and raises the same errors. The
  memory used is that of the embeddings, of a small multiple of (queries +
  gallery) * k1 numbers, and of stored distances, at most `MAX_STORED_BYTES`.

  Attributes:
    queries: number of queries.
    gallery: number of gallery images.
  """

  def __init__(
    self,
    query_embeddings: np.ndarray,
    gallery_embeddings: np.ndarray,
    k1: int = K1,
    k2: int = K2,
    lambda_value: float = LAMBDA_VALUE,
    places: np.ndarray | None = None,
  ):
    for name, k in (('k1', k1), ('k2', k2)):
      if k < 1:
        raise ValueError(f'{name}={k} must be at least 1.')
    if not 0 <= lambda_value <= 1:
      raise ValueError(f'lambda_value={lambda_value} is not in 0 to 1.')
    query = _normalized('query_embeddings', query_embeddings)
    gallery = _normalized('gallery_embeddings', gallery_embeddings)
    check_widths(query, gallery)
    self.queries, self.gallery = len(query), len(gallery)
    self._lambda = float(lambda_value)
    # Row of each gallery image among all images, the queries first.
    self._rows, others = _rows_of_gallery(self.queries, self.gallery, places)
    images = np.concatenate([query, gallery[others]])
    stored = None
    if 4 * self.queries * len(images) <= MAX_STORED_BYTES:
      stored = np.empty((self.queries, len(images)), np.float32)
    encodings, maxima = _encode(images, k1, k2, stored)
    self._query, self._gallery = query, jnp.asarray(gallery)
    self._stored = stored
    self._maxima = maxima[: self.queries, None]
    self._query_encodings = encodings[: self.queries]
    # By columns: `_jaccard` selects gallery images by their neighbours.
    self._gallery_encodings = encodings[self._rows].tocsc()

  def block(self, rows: np.ndarray) -> np.ndarray:
    """Returns negative re-ranked distances of some queries.

    Args:
      rows: int [n], rows of the queries, in any order; rows may repeat.

    Returns:
      float32 [n, gallery].
    """
    distance = self._original_distances(rows) / self._maxima[rows]
    jaccard = self._jaccard(rows)
    return -((1 - self._lambda) * jaccard + self._lambda * distance)  # Eq. 12

  def _original_distances(self, rows) -> np.ndarray:
    if self._stored is not None:
      return self._stored[rows[:, None], self._rows]
    return np.asarray(_squared_distances(self._query[rows], self._gallery))

  def _jaccard(self, rows) -> np.ndarray:
    """Returns Jaccard distances of encodings, float32 [rows, gallery]."""
    mine = self._query_encodings[rows]
    others = self._gallery_encodings[:, mine.indices]
    lengths = np.diff(others.indptr)
    minima = np.minimum(np.repeat(mine.data, lengths), others.data)
    shape = len(rows), self.gallery
    starts = mine.nonzero()[0].astype(np.int64) * self.gallery
    place = np.repeat(starts, lengths) + others.indices
    flat = np.bincount(place, minima, minlength=np.prod(shape))
    sums = flat.astype(np.float32).reshape(shape)
    # Eq. 10. Encodings sum to 1, so that sums of minima and maxima sum to 2.
    return 1 - sums / (2 - sums)


def _rows_of_gallery(
  queries: int, gallery: int, places: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
  """Numbers all images: first the queries, then the rest of the gallery.

  Args:
    queries: number of queries.
    gallery: number of gallery images.
    places: see `k_reciprocal_rerank`.

  Returns:
    int [gallery], the number of each gallery image; and int [rest], indices of
    the gallery images that are no queries.
  """
  rows = np.full(gallery, -1)
  if places is not None:
    both = np.flatnonzero(places >= 0)
    rows[places[both]] = both
  rest = np.flatnonzero(rows < 0)
  rows[rest] = queries + np.arange(len(rest))
  return rows, rest


def _normalized(name: str, embeddings: np.ndarray) -> np.ndarray:
  embeddings = check_embeddings(name, embeddings)
  embeddings = embeddings.astype(np.float32, copy=False)
  norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
  bad = ~np.isfinite(norms) | (norms == 0)
  check_rows(name, bad[:, 0], 'zero or not finite')
  return embeddings / norms


def _encode(embeddings, k1, k2, stored) -> tuple[sparse.csr_array, np.ndarray]:
  """Computes k-reciprocal encodings and largest distances of all images.

  Args:
    embeddings: float32 [images, features], normalised.
    k1: see `k_reciprocal_rerank`.
    k2: see `k_reciprocal_rerank`.
    stored: float32 [queries, images], an array to fill with the distances of
      the queries, which are the first images; or None.

  Returns:
    Encodings, sparse [images, images], and largest distances [images].
  """
  nearest, distances, maxima = _find_neighbours(
    embeddings, max(k1 + 1, k2), stored
  )
  encodings = _expanded_sets(nearest, k1)
  # Eq. 7. An image that follows more than k1 images equal to it may have an
  # empty set.
  rows, columns = encodings.nonzero()
  pairs = _pair_distances(embeddings, rows, columns, nearest, distances)
  weights = np.exp(-pairs / maxima[rows])
  sums = np.bincount(rows, weights, minlength=len(maxima))
  encodings.data = (weights / sums[rows]).astype(np.float32)
  if k2 > 1:
    mean = _neighbour_sets(nearest, k2) / min(k2, len(nearest))
    encodings = mean @ encodings  # Eq. 11
  return encodings, maxima


def _find_neighbours(embeddings, k, stored) -> tuple[np.ndarray, ...]:
  """Finds the k nearest neighbours and the largest distance of each image.

  Args:
    embeddings: float32 [images, features], normalised.
    k: number of neighbours, the image itself included.
    stored: see `_encode`.

  Returns:
    Indices and distances of the neighbours, [images, k] each, and the largest
    distances [images].
  """
  images = len(embeddings)
  starts = range(0, images, TILE)
  tiles = [embeddings[start : start + TILE] for start in starts]
  # With tiles of one shape, `_merge` is compiled once.
  tiles[-1] = np.pad(tiles[-1], ((0, -images % TILE), (0, 0)))
  tiles = list(map(jnp.asarray, tiles))
  none = jnp.full((TILE, min(k, images)), -jnp.inf, jnp.float32)
  found = [(jnp.zeros(none.shape, jnp.int32), none, none[:, 0])] * len(tiles)
  for i, a in enumerate(tiles):
    for j, b in enumerate(tiles[i:], i):
      distances = _squared_distances(a, b)
      found[i] = _merge(found[i], distances, starts[j], images)
      _store(stored, distances, starts[i], starts[j])
      if j > i:  # distances are symmetric
        distances = distances.T
        found[j] = _merge(found[j], distances, starts[i], images)
        _store(stored, distances, starts[j], starts[i])
  nearest, nearness, maxima = (
    np.concatenate(all)[:images] for all in zip(*found)
  )
  return nearest, -nearness, np.where(maxima < MIN_MAXIMUM, 1, maxima)


def _store(stored, distances, row, column) -> None:
  """Copies the part of a tile that lies within the array `stored`.

  Args:
    stored: see `_encode`.
    distances: float32 [TILE, TILE], the tile.
    row: index of the first row of the tile.
    column: index of the first column of the tile.
  """
  if stored is not None and row < len(stored):
    target = stored[row : row + TILE, column : column + TILE]
    target[:] = np.asarray(distances)[: target.shape[0], : target.shape[1]]


@jax.jit
def _merge(found, distances, start, images):
  """Updates the neighbours found so far with the images of another tile.

  Args:
    found: indices [rows, k], negative distances [rows, k] and largest distances
      [rows] among the images before the tile.
    distances: [rows, columns], distances to the images of the tile.
    start: index of the first image of the tile.
    images: number of all images; columns beyond this number are padding.

  Returns:
    The updated `found`.
  """
  nearest, nearness, maxima = found
  k = nearest.shape[1]
  is_image = start + jnp.arange(distances.shape[1]) < images
  near = jnp.where(is_image, -distances, -jnp.inf)
  nearness, place = lax.top_k(jnp.concatenate([nearness, near], 1), k)
  before = jnp.take_along_axis(nearest, jnp.minimum(place, k - 1), 1)
  # Of ties, `top_k` takes the first.
  nearest = jnp.where(place < k, before, start + place - k)
  maxima = jnp.maximum(maxima, jnp.where(is_image, distances, 0).max(1))
  return nearest, nearness, maxima


@jax.jit
def _squared_distances(a, b):
  """Returns squared Euclidean distances, [rows of a, rows of b].

  Args:
    a: float32 [rows of a, features], normalised.
    b: float32 [rows of b, features], normalised.
  """
  products = jnp.matmul(a, b.T, precision=lax.Precision.HIGHEST)
  return jnp.maximum(2 - 2 * products, 0)


def _pair_distances(
  embeddings, rows, columns, nearest, neighbours
) -> np.ndarray:
  """Returns the squared Euclidean distances of pairs of images, [pairs].

  If the second image is among the nearest neighbours of the first, the distance
  is looked up. Otherwise it is computed.

  Args:
    embeddings: float32 [images, features], normalised.
    rows: int [pairs], the first image of each pair.
    columns: int [pairs], the second image of each pair.
    nearest: int [images, k], the nearest neighbours of each image.
    neighbours: float32 [images, k], the distances to them.
  """
  images = len(embeddings)
  keys = nearest + images * np.arange(images)[:, None]
  # Keys of a row are larger than those of the rows before it. Sorting each row
  # therefore sorts them all.
  order = np.argsort(keys, axis=1)
  keys, neighbours = (
    np.take_along_axis(array, order, 1).ravel() for array in (keys, neighbours)
  )
  wanted = rows.astype(np.int64) * images + columns
  place = keys.searchsorted(wanted).clip(max=len(keys) - 1)
  distances = neighbours[place]
  others = np.flatnonzero(keys[place] != wanted)
  for start in range(0, len(others), PAIR_BLOCK):
    pairs = others[start : start + PAIR_BLOCK]
    a, b = embeddings[rows[pairs]], embeddings[columns[pairs]]
    distances[pairs] = np.maximum(2 - 2 * np.einsum('pf,pf->p', a, b), 0)
  return distances


def _neighbour_sets(nearest: np.ndarray, k: int) -> sparse.csr_array:
  """Returns N(p, k) of Eq. 2: 1 for the k nearest neighbours of each row."""
  images, k = len(nearest), min(k, nearest.shape[1])
  ones = np.ones(images * k, np.float32)
  indptr = np.arange(0, images * k + 1, k)
  columns = nearest[:, :k].ravel()
  return sparse.csr_array((ones, columns, indptr), shape=(images, images))


def _reciprocal_sets(nearest: np.ndarray, k: int) -> sparse.csr_array:
  """Returns R(p, k) of Eq. 3: 1 where row and column are mutual neighbours."""
  neighbours = _neighbour_sets(nearest, k)
  return neighbours.multiply(neighbours.T).tocsr()


def _expanded_sets(nearest: np.ndarray, k1: int) -> sparse.csr_array:
  """Returns R*(p, k1) of Eq. 4: nonzero for the members of each row's set."""
  sets = _reciprocal_sets(nearest, k1 + 1)
  halves = _reciprocal_sets(nearest, round(k1 / 2) + 1)
  shared = sets.multiply(sets @ halves.T).tocsr()
  # The paper says "at least" two thirds; its code requires more than that.
  shared.data *= 3 * shared.data > 2 * halves.sum(1)[shared.indices]
  expanded = (sets + shared @ halves).tocsr()
  expanded.eliminate_zeros()
  return expanded
