"""The gallery images whose embeddings are most similar to those of queries."""

from collections.abc import Callable, Iterator
import mmap

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 8192  # rows of the gallery that are in memory at once
QUERIES = 256  # queries that are compared at once


@jax.jit
def similarities(queries: jax.Array, block: jax.Array) -> jax.Array:
  """Returns cosine similarities, float32 [queries, images].

  Args:
    queries: float32 [queries, features], of length 1.
    block: float16 or float32 [images, features], of length 1; or int8, of any
      length.
  """
  images = block.astype(jnp.float32)
  cosines = jnp.matmul(queries, images.T, precision=jax.lax.Precision.HIGHEST)
  if block.dtype == jnp.int8:
    cosines *= jax.lax.rsqrt(jnp.maximum((images**2).sum(1), 1))
  return cosines


def search(
  queries: np.ndarray,
  gallery: np.ndarray,
  top: int,
  removed: np.ndarray | None = None,
  check: Callable[[int, np.ndarray], None] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Finds the closest gallery images of each query, exactly.

  Similarities are computed block by block on a JAX device and discarded, so
  that a memory-mapped gallery may be larger than memory.

  Args:
    queries: float [queries, features], embeddings of length 1.
    gallery: float [images, features], embeddings of length 1; or int8, of any
      length.
    top: number of images to find for each query.
    removed: bool [images], images that are not found; None for none.
    check: is called with the first row and the stored images of each block
      before they are compared; None for none.

  Yields:
    For each query, rows of `gallery` and cosine similarities, both [top] or
    fewer, closest first. Ties rank by row.
  """
  for start in range(0, len(queries), QUERIES):
    some = np.asarray(queries[start : start + QUERIES], np.float32)
    yield from _search(some, gallery, top, removed, check)


def _search(queries, gallery, top, removed, check):
  """Returns the closest images of a few queries; see `search`."""
  rows = np.zeros((len(queries), 0), int)
  best = np.zeros((len(queries), 0), np.float32)
  count = len(queries)
  # Padded, so that few numbers of queries are compiled.
  padded = min(QUERIES, 1 << (count - 1).bit_length())
  device_queries = jnp.asarray(np.pad(queries, ((0, padded - count), (0, 0))))
  for start in range(0, len(gallery), BLOCK):
    block = gallery[start : start + BLOCK]
    size = len(block)
    if check is not None:
      check(start, block)
    if start and size < BLOCK:  # else another program would be compiled
      block = np.concatenate([block, np.zeros_like(gallery[: BLOCK - size])])
    found = np.array(similarities(device_queries, block))[:count, :size]
    drop_pages(gallery, start, start + size)
    if removed is not None:
      found[:, removed[start : start + size]] = -np.inf
    rows, best = _merge(rows, best, found, start, top)
  for order, values in zip(rows, best):
    known = np.isfinite(values)
    yield order[known], values[known]


def _merge(rows, best, found, start: int, top: int):
  """Merges the closest images so far with those of a block.

  Args:
    rows: int [queries, at most top], closest first.
    best: float [queries, at most top], their similarities.
    found: float [queries, images of the block], similarities.
    start: row of the first image of the block.
    top: number of images to keep.
  """
  full = best.shape[1] == top
  if full and not (found.max(1) > best[:, -1]).any():
    return rows, best
  keep = min(top, best.shape[1] + found.shape[1])
  new_rows = np.zeros((len(found), keep), int)
  new_best = np.zeros((len(found), keep), np.float32)
  for i, values in enumerate(found):
    columns = np.flatnonzero(values > best[i, -1]) if full else None
    if columns is None or len(columns) > 4 * top:
      columns = closest(values, min(top, len(values)))
    # Rows of earlier blocks come first, and so do they among equal ones.
    all_rows = np.concatenate([rows[i], start + columns])
    values = np.concatenate([best[i], values[columns]])
    order = closest(values, keep)
    new_rows[i], new_best[i] = all_rows[order], values[order]
  return new_rows, new_best


def closest(similarity: np.ndarray, top: int) -> np.ndarray:
  """Returns the indices of the largest similarities, closest first.

  Args:
    similarity: float [images].
    top: number of indices to return, at most the number of images. Of equal
      similarities, that of the lower index comes first.
  """
  if not top:
    return np.zeros(0, np.int64)
  last = np.partition(similarity, -top)[-top]
  candidates = np.flatnonzero(similarity >= last)
  order = np.argsort(-similarity[candidates], kind='stable')
  return candidates[order[:top]]


def drop_pages(array: np.ndarray, start: int, stop: int) -> None:
  """Releases the memory of rows of a memory map, which stay on disk.

  Args:
    array: any array; nothing happens unless it is a `np.memmap` of a whole
      file.
    start: first row.
    stop: row after the last one.
  """
  if not isinstance(array, np.memmap) or not hasattr(mmap, 'MADV_DONTNEED'):
    return
  size = array.strides[0]
  first = -(-start * size // mmap.PAGESIZE) * mmap.PAGESIZE
  length = stop * size - first
  if length > 0:
    pages = array._mmap  # type: ignore[attr-defined]  # private to numpy
    pages.madvise(mmap.MADV_DONTNEED, first, length)
