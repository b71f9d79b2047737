"""What a ranking is made of: who is on the images, and how alike they are."""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Protocol

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from apnet_jax.errors import UserError
from apnet_jax.parallel import devices

JUNK_PID = -1
DISTANCES = ('cosine', 'euclidean')
# Gallery images that are compared at a time, on a device: so much of a block
# stays in a CPU's cache while all matches are compared with it.
TILE = 2048
ROWS = 256  # queries at a time that `each_query` asks for


@dataclasses.dataclass(frozen=True)
class Labels:
  """The true matches of each query, under Market-1501's rules.

  The gallery is counted without junk. In `order`, images of one identity stand
  together, and among them those of one camera: so two ranges say which images
  a query has as matches, and which are left out for it.

  Attributes:
    kept: int [gallery], the rows that are not junk.
    order: int [gallery], by identity, then camera, then row.
    identity: int [queries, 2], where in `order` an identity begins and ends.
    left_out: int [queries, 2], the same of its images under the same camera.
  """

  kept: np.ndarray
  order: np.ndarray
  identity: np.ndarray
  left_out: np.ndarray

  @classmethod
  def make(
    cls,
    query_pids: np.ndarray,
    query_camids: np.ndarray | None,
    gallery_pids: np.ndarray,
    gallery_camids: np.ndarray | None,
    queries: int,
    gallery: int,
  ) -> 'Labels':
    """Reads what `evaluate_retrieval` takes, of so many embeddings."""
    if (query_camids is None) != (gallery_camids is None):
      raise ValueError(
        'query_camids and gallery_camids: both must be None, or neither.'
      )
    query_pids = _ids('query_pids', query_pids, queries)
    gallery_pids = _ids('gallery_pids', gallery_pids, gallery)
    if query_camids is None:  # cameras that are never the same
      query_camids = np.zeros(queries, np.int64)
      gallery_camids = np.ones(gallery, np.int64)
    query_camids = _ids('query_camids', query_camids, queries)
    gallery_camids = _ids('gallery_camids', gallery_camids, gallery)
    if (query_pids == JUNK_PID).any():
      row = int(np.argmax(query_pids == JUNK_PID))
      raise ValueError(f'query_pids[{row}]={JUNK_PID} is junk, not a query.')
    kept = np.flatnonzero(gallery_pids != JUNK_PID)
    pids = _codes(query_pids, gallery_pids[kept])
    camids = _codes(query_camids, gallery_camids[kept])
    cameras = camids.max() + 1
    keys = pids * cameras + camids
    order = np.argsort(keys[queries:], kind='stable')
    place = keys[queries:][order].searchsorted
    first, key = pids[:queries] * cameras, keys[:queries]
    return cls(
      kept,
      order,
      identity=np.stack([place(first), place(first + cameras)], 1),
      left_out=np.stack([place(key), place(key + 1)], 1),
    )

  @property
  def num_matches(self) -> np.ndarray:
    """int [queries]."""
    return np.diff(self.identity)[:, 0] - self.num_left_out

  @property
  def num_left_out(self) -> np.ndarray:
    """int [queries], images of the same identity under the same camera."""
    return np.diff(self.left_out)[:, 0]

  def matches(self, queries: np.ndarray, width: int) -> np.ndarray:
    """Rows of the kept gallery: int32 [queries, width], -1 where no more."""
    start, stop = self.left_out[queries].T[..., None]
    places = self.identity[queries, :1] + np.arange(width)
    places += np.where(places >= start, stop - start, 0)
    return self._rows(places, self.identity[queries, 1:])

  def left_out_rows(self, queries: np.ndarray, width: int) -> np.ndarray:
    """As `matches`, of what is left out."""
    places = self.left_out[queries, :1] + np.arange(width)
    return self._rows(places, self.left_out[queries, 1:])

  def _rows(self, places: np.ndarray, stop: np.ndarray) -> np.ndarray:
    rows = self.order.take(places, mode='clip')
    return np.where(places < stop, rows, -1).astype(np.int32)


def _ids(name: str, ids: np.ndarray, length: int) -> np.ndarray:
  ids = np.asarray(ids)
  if ids.shape != (length,):
    raise ValueError(
      f'{name} has shape {ids.shape}; there are {length} embeddings.'
    )
  # Floats and uint64 can hold ids that int64 cannot tell apart.
  if ids.dtype.kind not in 'iu' or not np.can_cast(ids.dtype, np.int64):
    raise ValueError(f'{name} are {ids.dtype}, not integers within int64.')
  return ids.astype(np.int64)


def _codes(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
  """Small numbers for ids, in the order of the ids: the queries' first."""
  ids = np.concatenate([query, gallery])
  return np.unique(ids, return_inverse=True)[1]


class Scores(Protocol):
  """Similarities of queries and gallery, a block of queries at a time.

  `evaluate_scores` ranks any such object. Nothing is known of the numbers but
  their order: higher is closer, and equal is a tie.

  Attributes:
    queries: number of queries.
    gallery: number of gallery images, which are those of `Labels.kept`.
  """

  queries: int
  gallery: int

  def block(self, rows: np.ndarray) -> np.ndarray | jax.Array:
    """Similarities of these queries to the whole gallery.

    Args:
      rows: int [rows] of the queries, in any order; some may come twice.

    Returns:
      A numpy array [rows, gallery] without NaN, ranked as float32; or what
      `on_devices` makes of one.
    """
    ...


def on_devices(block: np.ndarray) -> jax.Array:
  """Pads similarities [rows, gallery] with -inf, and lays them on all devices.

  Returns:
    float32 [rows, `devices.padded_rows(gallery, TILE)`], split by columns.
  """
  if np.isnan(block).any():
    raise ValueError('similarities to be ranked are NaN.')
  columns = devices.padded_rows(block.shape[1], TILE)
  return devices.shard_columns(block, columns, fill=-np.inf)


def check_sizes(scores: Scores, labels: Labels) -> None:
  """Raises ValueError if scores and labels are of other numbers of images."""
  sizes = len(labels.identity), len(labels.kept)
  if (scores.queries, scores.gallery) != sizes:
    raise ValueError(
      f'scores of {scores.queries} queries and {scores.gallery} gallery images,'
      f' labels of {sizes[0]} and {sizes[1]} (without junk).'
    )


@dataclasses.dataclass(frozen=True)
class Row:
  """A query with its similarities; numbers are rows of the kept gallery.

  Attributes:
    query: its row.
    similarity: float32 [gallery].
    matches: int [matches], the true ones.
    left_out: int [left out], of its identity under its camera.
  """

  query: int
  similarity: np.ndarray
  matches: np.ndarray
  left_out: np.ndarray


def each_query(
  scores: Scores, labels: Labels, queries: Sequence[int] | None = None
) -> Iterator[Row]:
  """Yields queries one by one, for what needs no accelerator.

  Args:
    scores: any similarities.
    labels: of the same images.
    queries: rows, all by default.

  Raises:
    ValueError: scores and labels are of other numbers of images, or a
      similarity is NaN.
  """
  check_sizes(scores, labels)
  queries = np.arange(scores.queries) if queries is None else queries
  queries = np.asarray(queries, np.int64)
  for start in range(0, len(queries), ROWS):
    rows = queries[start : start + ROWS]
    block = np.asarray(scores.block(rows))[:, : scores.gallery]
    for query, similarity in zip(rows, block):
      if np.isnan(similarity).any():
        raise ValueError(f'similarities of query {query} are NaN.')
      first, last = labels.identity[query]
      start_out, stop_out = labels.left_out[query]
      before, left_out, after = np.split(
        labels.order[first:last], [start_out - first, stop_out - first]
      )
      matches = np.concatenate([before, after])
      yield Row(int(query), similarity, matches, left_out)


def as_embeddings(name: str, embeddings: np.ndarray) -> np.ndarray:
  """float [images, features], checked to be this; `name` is for the error."""
  embeddings = np.asarray(embeddings)
  if embeddings.ndim != 2 or not embeddings.size:
    raise ValueError(
      f'{name} has shape {embeddings.shape}, not [images, features].'
    )
  if embeddings.dtype not in (np.float32, np.float64):
    embeddings = embeddings.astype(np.float32)
  return embeddings


class EmbeddingScores:
  """`Scores` by cosine or Euclidean distance of embeddings."""

  def __init__(
    self,
    query: np.ndarray,
    gallery: np.ndarray,
    kept: np.ndarray,
    distance: str,
  ):
    """Checks embeddings, and lays the gallery on all devices.

    Args:
      query: float [queries, features], as of `as_embeddings`.
      gallery: float [all of the gallery, features], the same.
      kept: int [gallery], the rows of it that are ranked: `Labels.kept`.
      distance: one of `DISTANCES`; see `evaluate_retrieval`.

    Raises:
      ValueError: widths differ, a row is not finite or, for cosine, is zero.
    """
    if distance not in DISTANCES:
      raise ValueError(f'distance={distance!r} is not one of {DISTANCES}.')
    if query.shape[1] != gallery.shape[1]:
      raise ValueError(
        f'query_embeddings have {query.shape[1]} features,'
        f' gallery_embeddings {gallery.shape[1]}.'
      )
    queries = _Prepared('query_embeddings', query, distance)
    items = _Prepared('gallery_embeddings', gallery, distance)
    self.queries, self.gallery = len(query), len(kept)
    self._query = queries.rows(np.arange(len(query)))
    columns = devices.padded_rows(len(kept), TILE)
    self._gallery = devices.shard_rows(
      lambda start, stop: items.rows(kept[start:stop]), len(kept), columns
    )
    self._bias = devices.shard_rows(
      lambda start, stop: items.bias[kept[start:stop]],
      len(kept),
      columns,
      fill=-np.inf,
    )

  def block(self, rows: np.ndarray) -> jax.Array:
    return _products(self._query[rows], self._gallery, self._bias)


@jax.jit
def _products(query, gallery, bias):
  return jnp.matmul(query, gallery.T, precision=lax.Precision.HIGHEST) + bias


class _Prepared:
  """Embeddings such that the similarity of q and g is q . g + bias of g."""

  def __init__(self, name: str, embeddings: np.ndarray, distance: str):
    cosine = distance == 'cosine'
    squares = np.einsum('ij,ij->i', embeddings, embeddings, dtype=np.float64)
    with np.errstate(over='ignore', invalid='ignore'):  # it is reported below
      norms = np.sqrt(squares).astype(embeddings.dtype)
      # |q - g|^2 = |q|^2 - 2 (q . g - |g|^2 / 2), and |q| ranks nothing.
      self.bias = (squares * (0 if cosine else -0.5)).astype(np.float32)
    bad = ~np.isfinite(norms if cosine else self.bias)
    bad |= cosine & (norms == 0)
    if bad.any():
      rows = np.flatnonzero(bad)
      raise UserError(
        f'{name} has {len(rows)} rows that are'
        f' {"zero or " if cosine else ""}not finite: {rows[:5].tolist()}'
        f'{" ..." if len(rows) > 5 else ""}.'
      )
    self._embeddings = embeddings
    self._norms = norms if cosine else None

  def rows(self, rows: np.ndarray) -> np.ndarray:
    """float32 [rows, features]."""
    embeddings = self._embeddings[rows]
    if self._norms is not None:
      embeddings = embeddings / self._norms[rows, None]
    return embeddings.astype(np.float32, copy=False)
