"""How much an index loses: the recall of fast search, and mAP by shortening."""

from collections.abc import Mapping
import os

import numpy as np

from apnet_jax import labels
from apnet_jax.index.store import Index
from apnet_jax.inference import embedding_files
from apnet_jax.retrieval import metrics

ROWS = 5000  # images at most, since each is compared with all others
SAMPLE = 100  # rows that are searched for to measure the recall
TOP = 10  # of the recall
ROUNDING = 1e-5  # of similarities, by which rows count as equally close


def measure(index: Index, path: str | os.PathLike) -> dict[str, float] | None:
  """Measures how much mAP shortened embeddings lose, on known identities.

  Each image of a known person (`embedding_files.read_identities`) is a query
  among all others of them. Images of its person under its camera are not
  counted. An image without a camera is alone under its own.

  Args:
    index: the index, which says how embeddings are shortened.
    path: file of embeddings with a column `pid`, and perhaps `camid`.

  Returns:
    `images`, their number, and the mAP of the `full` embeddings, of those in
    the `index`, and of its `codes` alone; None if people are not known, or no
    two images show the same person.
  """
  with embedding_files.reading(path) as file:
    identities = embedding_files.read_identities(file.columns)
    if identities is None:
      return None
    kept = _choose(identities)
    full = np.concatenate(
      [np.zeros((0, file.dimensions), np.float32)]
      + [block[kept[rows]] for rows, block in _numbered(file.blocks)]
    ).astype(np.float32)
    columns = {name: values[kept] for name, values in file.columns.items()}
  pids = np.unique(identities[kept], return_inverse=True)[1]
  camids = np.unique(_cameras(columns, len(pids)), return_inverse=True)[1]
  if not _has_match(pids, camids):
    return None
  stored = index.stored(full)
  signs = np.where(stored > index.centre, np.float32(1), np.float32(-1))
  found: dict[str, float] = {'images': len(pids)}
  for name, rows in ('full', full), ('index', stored), ('codes', signs):
    result = metrics.evaluate_retrieval(rows, pids, camids, rows, pids, camids)
    found[name] = round(result.mAP, 4)
  return found


def _choose(pids: np.ndarray) -> np.ndarray:
  """Marks whole people, evenly spaced among all, of `ROWS` images at most."""
  people, person, counts = np.unique(
    pids, return_inverse=True, return_counts=True
  )
  counts[people == labels.UNKNOWN] = 0
  step = max(1, -(-counts.sum() // ROWS))
  chosen = (np.cumsum(counts > 0) % step == 0) & (counts > 0)
  chosen &= np.cumsum(counts * chosen) <= ROWS
  return chosen[person]


def _cameras(columns: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
  """Returns cameras by name, text [rows]: its own of an image without one."""
  own = np.array([f'of image {row}' for row in range(rows)], str)
  if 'camid' not in columns:
    return own
  names = embedding_files.read_labels(columns['camid'])
  return np.where(names == labels.UNKNOWN, own, names)


def _numbered(blocks):
  """Yields each block with the slice of its rows."""
  start = 0
  for block in blocks:
    yield slice(start, start + len(block)), block
    start += len(block)


def _has_match(pids: np.ndarray, camids: np.ndarray) -> bool:
  """Tells whether a person is seen by two cameras."""
  pairs = np.unique(np.stack([pids, camids]), axis=1)
  return len(pairs[0]) > len(np.unique(pids))


def measure_recall(index: Index) -> float | None:
  """Returns the share of the closest rows that fast search finds.

  The queries are `SAMPLE` rows of the index, evenly spaced; each finds itself
  and is not counted. A row that is as close as the last of the closest ones is
  one of them: which of several equal rows is found does not matter.

  Returns:
    The share among the `TOP` closest rows; None with fewer than two rows.
  """
  numbers, queries = index.sample_rows(SAMPLE), index.sample(SAMPLE)
  if len(queries) < 2:
    return None
  exact, fast = (
    index.search_projected(queries, TOP + 1, fast) for fast in (False, True)
  )
  shares = [
    _share_found(_others(number, *a), _others(number, *b))
    for number, a, b in zip(numbers, exact, fast)
  ]
  return round(float(np.mean(shares)), 4)


def _share_found(exact: np.ndarray, fast: np.ndarray) -> float:
  """Returns the share of the closest rows that were found.

  Args:
    exact: their similarities, the highest first.
    fast: similarities of the rows that were found.
  """
  return (fast >= exact[-1] - ROUNDING).sum() / len(exact)


def _others(
  number: int, rows: np.ndarray, similarity: np.ndarray
) -> np.ndarray:
  """Returns the similarities of the `TOP` closest rows but for one row.

  Args:
    number: the row. Its copies may be closer to it by rounding, so that it need
      not be the first, or be among the rows.
    rows: int [rows], closest first.
    similarity: float [rows].
  """
  return similarity[rows != number][:TOP]
