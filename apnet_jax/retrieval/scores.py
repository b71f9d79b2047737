"""Labels and similarities: the input of every ranking.

`Labels` holds the true matches of each query. A `Scores` object returns the
similarities of queries to the gallery.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import mmap
from typing import Protocol

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from apnet_jax.config import CHOICES
from apnet_jax.errors import UserError
from apnet_jax.feed import JUNK_PID
from apnet_jax.parallel import sharded_gallery
from apnet_jax.retrieval.nearest import closest

# Columns of a block of similarities that a device compares at a time. A tile of
# this width stays in a CPU's cache while all matches are compared with it.
TILE = 2048
SCALED_ROWS = 1024  # rows of embeddings that are read at a time
QUERY_BLOCK = 256  # number of queries that `iterate_queries` scores at a time


@dataclasses.dataclass(frozen=True)
class Labels:
  """The true matches of each query, under Market-1501's rules.

  A true match is a gallery image of the query's identity under another camera.
  Images of its identity under its own camera are excluded from its ranking.

  Junk is removed first. The rest is the kept gallery, and indices of gallery
  images count within it. `order` sorts the kept gallery by identity and camera,
  so that the images of an identity, and those of an identity under one camera,
  are ranges of `order`.

  Attributes:
    kept: int [gallery], rows of the whole gallery that are not junk.
    order: int [gallery], indices sorted by identity, camera and index.
    identity_range: int [queries, 2], start and stop in `order` of the images
      of the query's identity.
    excluded_range: int [queries, 2], start and stop in `order` of the images
      of the query's identity under its camera.
  """

  kept: np.ndarray
  order: np.ndarray
  identity_range: np.ndarray
  excluded_range: np.ndarray

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
    """Makes labels from the identities and cameras of all images.

    Args:
      query_pids: int [queries], identities.
      query_camids: int [queries], cameras. None, for queries and gallery, if
        cameras are unknown: only junk is then excluded.
      gallery_pids: int [gallery], identities; -1 is junk.
      gallery_camids: int [gallery], cameras.
      queries: expected number of queries.
      gallery: expected number of gallery images, with junk.

    Raises:
      ValueError: lengths differ from these numbers, ids are not integers,
        cameras of one side only are None, or a query is junk.
    """
    if (query_camids is None) != (gallery_camids is None):
      raise ValueError(
        'query_camids and gallery_camids: both must be None, or neither.'
      )
    query_pids = _check_ids('query_pids', query_pids, queries)
    gallery_pids = _check_ids('gallery_pids', gallery_pids, gallery)
    if query_camids is None or gallery_camids is None:
      # No two images then share a camera.
      query_camids = np.zeros(queries, np.int64)
      gallery_camids = np.ones(gallery, np.int64)
    query_camids = _check_ids('query_camids', query_camids, queries)
    gallery_camids = _check_ids('gallery_camids', gallery_camids, gallery)
    if (query_pids == JUNK_PID).any():
      row = int(np.argmax(query_pids == JUNK_PID))
      raise ValueError(f'query_pids[{row}]={JUNK_PID} is junk, not a query.')
    kept = np.flatnonzero(gallery_pids != JUNK_PID)
    pids = _dense_codes(query_pids, gallery_pids[kept])
    camids = _dense_codes(query_camids, gallery_camids[kept])
    cameras = camids.max() + 1
    keys = pids * cameras + camids
    order = np.argsort(keys[queries:], kind='stable')
    position = keys[queries:][order].searchsorted
    first, key = pids[:queries] * cameras, keys[:queries]
    return cls(
      kept,
      order,
      identity_range=np.stack(
        [position(first), position(first + cameras)], axis=1
      ),
      excluded_range=np.stack([position(key), position(key + 1)], axis=1),
    )

  @property
  def num_matches(self) -> np.ndarray:
    """The number of true matches of each query, int [queries]."""
    return np.diff(self.identity_range)[:, 0] - self.num_excluded

  @property
  def num_excluded(self) -> np.ndarray:
    """The number of images excluded for each query, int [queries].

    These show its identity under its camera; junk is not counted.
    """
    return np.diff(self.excluded_range)[:, 0]

  def matches(self, queries: np.ndarray, width: int) -> np.ndarray:
    """Returns the true matches of some queries.

    Args:
      queries: int [n], rows of the queries.
      width: length of the returned rows.

    Returns:
      int32 [n, width], indices of gallery images, then -1.
    """
    start, stop = self.excluded_range[queries].T[..., None]
    positions = self.identity_range[queries, :1] + np.arange(width)
    positions += np.where(positions >= start, stop - start, 0)
    return self._indices(positions, self.identity_range[queries, 1:])

  def excluded(self, queries: np.ndarray, width: int) -> np.ndarray:
    """Returns the images excluded for some queries, as `matches` does."""
    positions = self.excluded_range[queries, :1] + np.arange(width)
    return self._indices(positions, self.excluded_range[queries, 1:])

  def _indices(self, positions: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Returns the images at positions in `order`, -1 from `stop` on."""
    indices = self.order.take(positions, mode='clip')
    return np.where(positions < stop, indices, -1).astype(np.int32)


def _check_ids(name: str, ids: np.ndarray, length: int) -> np.ndarray:
  ids = np.asarray(ids)
  if ids.shape != (length,):
    raise ValueError(
      f'{name} has shape {ids.shape}; there are {length} embeddings.'
    )
  # Conversion of floats or uint64 to int64 could make two ids equal.
  if ids.dtype.kind not in 'iu' or not np.can_cast(ids.dtype, np.int64):
    raise ValueError(f'{name} are {ids.dtype}, not integers within int64.')
  return ids.astype(np.int64)


def _dense_codes(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
  """Renumbers ids as 0, 1, 2, ... in ascending order.

  Returns:
    int [queries + gallery], the numbers of the query ids, then of the gallery
    ids.
  """
  ids = np.concatenate([query, gallery])
  return np.unique(ids, return_inverse=True)[1]


class Scores(Protocol):
  """Similarities of queries to a gallery, computed for blocks of queries.

  `evaluate_scores` ranks any such object. Only the order of similarities
  matters: higher is closer, and equal is a tie.

  Attributes:
    queries: number of queries.
    gallery: number of gallery images, those of `Labels.kept`.
  """

  queries: int
  gallery: int

  def block(self, rows: np.ndarray) -> np.ndarray | jax.Array:
    """Returns the similarities of some queries to the whole gallery.

    Args:
      rows: int [n], rows of the queries, in any order; rows may repeat.

    Returns:
      A numpy array [n, gallery] without NaN, which is ranked as float32; or
      such an array after `shard_similarities`.
    """
    ...


def shard_similarities(block: np.ndarray) -> jax.Array:
  """Shards a block of similarities over all devices, by gallery images.

  Args:
    block: float [queries, gallery].

  Returns:
    float32 [queries, columns], padded with -inf; see
    `sharded_gallery.padded_rows` for the number of columns.

  Raises:
    ValueError: a similarity is NaN.
  """
  if np.isnan(block).any():
    raise ValueError('similarities to be ranked are NaN.')
  columns = sharded_gallery.padded_rows(block.shape[1], TILE)
  return sharded_gallery.shard_columns(block, columns, fill=-np.inf)


def check_sizes(scores: Scores, labels: Labels) -> None:
  """Raises ValueError if scores and labels have different numbers of images."""
  sizes = len(labels.identity_range), len(labels.kept)
  if (scores.queries, scores.gallery) != sizes:
    raise ValueError(
      f'scores of {scores.queries} queries and {scores.gallery} gallery images,'
      f' labels of {sizes[0]} and {sizes[1]} (without junk).'
    )


@dataclasses.dataclass(frozen=True)
class QueryScores:
  """A query with its similarities to the kept gallery.

  Attributes:
    query: row of the query.
    similarity: float32 [gallery].
    matches: int [matches], indices of its true matches.
    excluded: int [excluded], indices of the images that its ranking excludes.
  """

  query: int
  similarity: np.ndarray
  matches: np.ndarray
  excluded: np.ndarray

  def closest(self, top: int) -> np.ndarray:
    """Returns the indices of the closest ranked images, closest first.

    Args:
      top: number of images; fewer are returned if fewer are ranked.
    """
    ranked = self.similarity.copy()
    ranked[self.excluded] = -np.inf
    return closest(ranked, min(top, len(ranked) - len(self.excluded)))


def iterate_queries(
  scores: Scores,
  labels: Labels,
  queries: Sequence[int] | np.ndarray | None = None,
) -> Iterator[QueryScores]:
  """Yields the similarities of one query after another, as numpy arrays.

  Args:
    scores: similarities.
    labels: labels of the same images.
    queries: rows of the queries; None for all.

  Raises:
    ValueError: scores and labels have different numbers of images, or a
      similarity is NaN.
  """
  check_sizes(scores, labels)
  if queries is None:
    queries = np.arange(scores.queries)
  wanted = np.asarray(queries, np.int64)
  for begin in range(0, len(wanted), QUERY_BLOCK):
    rows = wanted[begin : begin + QUERY_BLOCK]
    block = np.asarray(scores.block(rows))[:, : scores.gallery]
    for query, similarity in zip(rows, block):
      if np.isnan(similarity).any():
        raise ValueError(f'similarities of query {query} are NaN.')
      first, last = labels.identity_range[query]
      start, stop = labels.excluded_range[query]
      before, excluded, after = np.split(
        labels.order[first:last], [start - first, stop - first]
      )
      matches = np.concatenate([before, after])
      yield QueryScores(int(query), similarity, matches, excluded)


def check_embeddings(name: str, embeddings: np.ndarray) -> np.ndarray:
  """Returns embeddings as an array [images, features], without a copy.

  Args:
    name: name of the argument, for the error.
    embeddings: an array of numbers.

  Raises:
    ValueError: the array has another number of dimensions, or is empty.
  """
  embeddings = np.asarray(embeddings)
  if embeddings.ndim != 2 or not embeddings.size:
    raise ValueError(
      f'{name} has shape {embeddings.shape}, not [images, features].'
    )
  return embeddings


def is_memory_map(array: np.ndarray) -> bool:
  """Returns whether the values of an array lie in a file and not in memory."""
  base: object = array
  while base is not None and not isinstance(base, np.memmap | mmap.mmap):
    base = getattr(base, 'base', None)
  return base is not None


def check_widths(query: np.ndarray, gallery: np.ndarray) -> None:
  """Raises ValueError if embeddings have different numbers of features."""
  if query.shape[1] != gallery.shape[1]:
    raise ValueError(
      f'query_embeddings have {query.shape[1]} features,'
      f' gallery_embeddings {gallery.shape[1]}.'
    )


def check_rows(name: str, bad: np.ndarray, problem: str) -> None:
  """Raises UserError if any row of embeddings is marked as bad.

  Args:
    name: name of the embeddings, for the error.
    bad: bool [images], the marks.
    problem: the fault of the bad rows, as 'not finite'.
  """
  if bad.any():
    rows = np.flatnonzero(bad)
    raise UserError(
      f'{name} has {len(rows)} rows that are {problem}: {rows[:5].tolist()}'
      f'{" ..." if len(rows) > 5 else ""}.'
    )


class EmbeddingScores:
  """`Scores` by the cosine or Euclidean distance of embeddings.

  The devices hold a scaled copy of the gallery. A gallery that is a memory map
  is not copied: its rows are read and scaled again for each block of queries.
  """

  def __init__(
    self,
    query: np.ndarray,
    gallery: np.ndarray,
    kept: np.ndarray,
    distance: str,
  ):
    """Checks the embeddings, and shards a gallery in memory over all devices.

    Args:
      query: float [queries, features]; see `check_embeddings`.
      gallery: float [whole gallery, features].
      kept: int [gallery], rows of the whole gallery to rank: `Labels.kept`.
      distance: 'cosine' or 'euclidean'; see `evaluate_retrieval`.

    Raises:
      UserError: a row is not finite or, for cosine, is zero.
      ValueError: numbers of features differ, or the distance is unknown.
    """
    distances = CHOICES['eval.distance']
    if distance not in distances:
      raise ValueError(f'distance={distance!r} is not one of {distances}.')
    check_widths(query, gallery)
    queries = _Scaled('query_embeddings', query, distance)
    items = _Scaled('gallery_embeddings', gallery, distance)
    self.queries, self.gallery = len(query), len(kept)
    self._query = queries.rows(np.arange(len(query)))
    self._columns = sharded_gallery.padded_rows(len(kept), TILE)
    self._rows = lambda start, stop: items.rows(kept[start:stop])
    self._gallery = None
    if not is_memory_map(gallery):
      self._gallery = sharded_gallery.shard_rows(
        self._rows, len(kept), self._columns
      )
    self._bias = sharded_gallery.shard_rows(
      lambda start, stop: items.bias[kept[start:stop]],
      len(kept),
      self._columns,
      fill=-np.inf,
    )

  def block(self, rows: np.ndarray) -> jax.Array:
    """Returns similarities as `Scores.block` does, sharded over all devices.

    The similarities are cosines, or -d^2 / 2 for a Euclidean distance d, up to
    a constant for each query.
    """
    if self._gallery is None:
      return self._read_block(self._query[rows])
    return _similarities(self._query[rows], self._gallery, self._bias)

  def _read_block(self, query: np.ndarray) -> jax.Array:
    """Returns the similarities of queries, a tile of the gallery at a time."""
    block = sharded_gallery.empty_columns(len(query), self._columns)
    for first, rows in sharded_gallery.iterate_row_tiles(
      self._rows, self.gallery, self._columns, TILE
    ):
      block.block_until_ready()  # no more than two tiles are in memory
      block = _fill_tile(block, rows, self._bias, query, first)
    return block


@sharded_gallery.update_columns
def _fill_tile(block, rows, bias, query, first):
  """Fills a tile of columns of a block with similarities.

  Args:
    block: float32 [queries, columns], of this device.
    rows: float32 [tile, features], scaled embeddings of the gallery.
    bias: float32 [columns].
    query: float32 [queries, features], scaled embeddings.
    first: first column of the tile.
  """
  bias = lax.dynamic_slice_in_dim(bias, first, len(rows))
  tile = _similarities(query, rows, bias)
  return lax.dynamic_update_slice_in_dim(block, tile, first, 1)


@jax.jit
def _similarities(query, gallery, bias):
  return jnp.matmul(query, gallery.T, precision=lax.Precision.HIGHEST) + bias


class _Scaled:
  """Embeddings scaled so that similarities are dot products plus a bias.

  The similarity of a query q and a gallery image g is q . g + bias of g.

  Args:
    name: name of the embeddings, for errors.
    embeddings: [images, features]; types other than float32 and float64 become
      float32. Only a block of rows at a time is copied.
    distance: 'cosine' or 'euclidean'.

  Attributes:
    bias: float32 [images].

  Raises:
    UserError: a row is not finite or, for cosine, is zero.
  """

  def __init__(self, name: str, embeddings: np.ndarray, distance: str):
    cosine = distance == 'cosine'
    self._embeddings = embeddings
    self._dtype = np.float64 if embeddings.dtype == np.float64 else np.float32
    squares = np.empty(len(embeddings))
    for start in range(0, len(embeddings), SCALED_ROWS):
      some = self._read(slice(start, start + SCALED_ROWS))
      squares[start : start + len(some)] = np.einsum(
        'ij,ij->i', some, some, dtype=np.float64
      )
    with np.errstate(over='ignore', invalid='ignore'):  # `check_rows` reports
      norms = np.sqrt(squares).astype(self._dtype)
      # |q - g|^2 = |q|^2 - 2 (q . g - |g|^2 / 2); |q| is the same for all g.
      self.bias = (squares * (0 if cosine else -0.5)).astype(np.float32)
    bad = ~np.isfinite(norms if cosine else self.bias)
    bad |= cosine & (norms == 0)
    check_rows(name, bad, 'zero or not finite' if cosine else 'not finite')
    self._norms = norms if cosine else None

  def _read(self, rows: slice | np.ndarray) -> np.ndarray:
    return self._embeddings[rows].astype(self._dtype, copy=False)

  def rows(self, rows: np.ndarray) -> np.ndarray:
    """Returns scaled embeddings, float32 [rows, features]."""
    embeddings = self._read(rows)
    if self._norms is not None:
      embeddings = embeddings / self._norms[rows, None]
    return embeddings.astype(np.float32, copy=False)
