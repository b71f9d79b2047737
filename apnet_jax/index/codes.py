"""Binary codes of embeddings: one bit for each feature.

A code has the signs of an embedding's features, each less a centre. The more
similar two embeddings are, the smaller is the Hamming distance of their codes
(Charikar, 2002). Codes need a thirty-second of the memory of float32.
"""

from concurrent import futures
import os

import numpy as np

CANDIDATES = 1000  # codes whose embeddings are compared exactly
ROWS = 1024  # codes in a step, which stay in the processor's cache
_EVEN_BYTES = np.uint64(0x00FF00FF00FF00FF)
_SUM = np.uint64(0x0001000100010001)


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


def distances(code: np.ndarray, codes: np.ndarray) -> np.ndarray:
  """Returns the Hamming distances between a code and many, by all cores.

  Args:
    code: uint64 [words].
    codes: uint64 [rows, words], at most 32,767 bits.

  Returns:
    uint16 [rows].
  """
  found = np.empty(len(codes), np.uint16)
  workers = os.cpu_count() or 1
  share = -(-len(codes) // (workers * ROWS)) * ROWS or ROWS
  starts = range(0, len(codes), share)
  with futures.ThreadPoolExecutor(workers) as pool:
    list(
      pool.map(
        lambda a: _fill(found[a : a + share], code, codes[a : a + share]),
        starts,
      )
    )
  return found


def _fill(found, code, codes) -> None:
  """Writes the distances between a code and many into an array."""
  different = np.empty((ROWS, len(code)), np.uint64)
  counts = np.empty(different.shape, np.uint8)
  for start in range(0, len(codes), ROWS):
    some = codes[start : start + ROWS]
    size = len(some)
    np.bitwise_xor(some, code, out=different[:size])
    np.bitwise_count(different[:size], out=counts[:size])
    # Eight counts, of at most 64 each, lie in a word; their sums fit 16 bits.
    eight = counts[:size].view(np.uint64)
    pairs = (eight & _EVEN_BYTES) + (eight >> 8 & _EVEN_BYTES)
    sums = sum(pairs[:, i] for i in range(pairs.shape[1]))
    np.right_shift(
      sums * _SUM, 48, out=found[start : start + size], casting='unsafe'
    )


def closest(found: np.ndarray, count: int) -> np.ndarray:
  """Returns the rows of the smallest distances, ascending by row.

  Args:
    found: uint16 [rows], distances.
    count: number of rows to return; all rows as close as the last are returned.
  """
  if len(found) <= count:
    return np.arange(len(found))
  below = np.bincount(found).cumsum()
  return np.flatnonzero(found <= np.searchsorted(below, count))
