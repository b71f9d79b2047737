"""Binary codes of embeddings: one bit for each feature.

A code has the signs of an embedding's features, each less a centre. The more
similar two embeddings are, the smaller is the Hamming distance of their codes
(Charikar, 2002). Codes need a thirty-second of the memory of float32.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from apnet_jax.retrieval import nearest

CANDIDATES = 1000  # codes whose embeddings are compared exactly
ROWS = 131_072  # codes in a block; two blocks are in memory at once
_LANES = 16  # 32-bit words that are counted side by side


def encode(embeddings: np.ndarray, centre: np.ndarray) -> np.ndarray:
  """Returns the codes of embeddings.

  Args:
    embeddings: float [rows, features].
    centre: float [features].

  Returns:
    uint64 [rows, words]; see `words`.
  """
  bits = np.packbits(embeddings > centre, axis=1)
  padding = 8 * words(embeddings.shape[1]) - bits.shape[1]
  return np.pad(bits, ((0, 0), (0, padding))).view(np.uint64)


def words(features: int) -> int:
  """Returns the number of 64-bit words of a code, a multiple of 8."""
  return 8 * -(-features // 512)


def distances(queries: np.ndarray, codes: np.ndarray) -> np.ndarray:
  """Returns the Hamming distances between the codes of queries and many codes.

  The codes are read once for all queries. If they are memory-mapped, a JAX
  device that is a CPU reads them in place, and their pages are released.

  Args:
    queries: uint64 [queries, words].
    codes: uint64 [rows, words], at most 65,535 bits.

  Returns:
    uint16 [queries, rows].
  """
  found = np.empty((len(queries), len(codes)), np.uint16)
  device_queries = jax.device_put([query.view(np.uint32) for query in queries])
  size = min(ROWS, len(codes))

  def collect(start: int, counts: list[jax.Array]) -> None:
    for i, count in enumerate(counts):
      found[i, start : start + size] = count
    nearest.drop_pages(codes, start, start + size)

  last = None
  for start in range(0, len(codes), ROWS):
    # The last block overlaps the one before: another size would be compiled.
    start = min(start, len(codes) - size)
    block = jax.device_put(codes[start : start + size].view(np.uint32))
    counts = [_count_different(query, block) for query in device_queries]
    if last:  # while this block is counted
      collect(*last)
    last = start, counts
  if last:
    collect(*last)
  return found


@jax.jit
def _count_different(query: jax.Array, codes: jax.Array) -> jax.Array:
  """Counts different bits; uint32 [words] and [rows, words] to uint16 [rows].

  Written as a sum of slices, since XLA does not fuse what goes into a
  reduction; it would write all counts to memory.
  """
  query, codes = (
    query.reshape(-1, _LANES),
    codes.reshape(len(codes), -1, _LANES),
  )
  counts = functools.reduce(
    jnp.add,
    (
      jax.lax.population_count(query[i] ^ codes[:, i])
      for i in range(len(query))
    ),
  )
  return counts.sum(1, dtype=jnp.uint32).astype(jnp.uint16)


def closest(found: np.ndarray, count: int) -> np.ndarray:
  """Returns the rows of the smallest distances, ascending by row.

  Args:
    found: uint16 [rows], distances.
    count: number of rows to return; all rows as close as the last are returned.
  """
  if len(found) <= count:
    return np.arange(len(found))
  return np.flatnonzero(found <= np.partition(found, count - 1)[count - 1])
