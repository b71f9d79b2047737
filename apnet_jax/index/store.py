"""A search index in a folder: embeddings with the columns of their images.

Rows can be added and removed. The files:

- index.json: the network, the number of rows, rows that were removed, the
  recall of fast search, and digests of the small arrays
- embeddings.bin: float32, float16 or int8 [rows, dimensions]
- codes.bin: binary codes, uint64 [rows, words]; see `codes`
- centre.npy: the centre of the codes, float32 [dimensions]
- mean.npy: of a projection, if there is one; see `Projection`
- matrix.npy: its matrix, float32 [features, dimensions]
- rows.jsonl: columns of each row, such as its path, as JSON
- rows.bin: the end of each line and checksums; see `files.ROW`
- run.lock: lock of the command that writes into the index

Removed rows stay in the files until `changes.compact` writes embeddings.1.bin
and so on without them, and then embeddings.2.bin: files of another generation.

All changes become valid by index.json, which is written last. Rows beyond the
number there were left by a call that was killed. They are ignored, and
overwritten by the next one. An index of no rows was not finished; it is made
again.
"""

from collections.abc import Iterator, Sequence
import itertools
import json
import os
import pathlib
from typing import Any
import weakref

import numpy as np

from apnet_jax.errors import UserError
from apnet_jax.index import codes, files
from apnet_jax.index.projection import Projection
from apnet_jax.printing import counted
from apnet_jax.retrieval import nearest
from apnet_jax.workdir import lock

READ = 1024  # embeddings that are compared exactly at once, or a multiple
QUERIES = 16  # queries that are compared with the codes at once
# Rows that can be removed before a compaction: index.json lists them, and must
# not exceed the limit of its reader.
REMOVED = 5_000_000


class Index:
  """Embeddings in a folder, to search for the most similar ones.

  Checksums are compared when a part of it is read first. So a search in damaged
  files is an error, or has the results of whole files. What is added or removed
  by others later is not seen.

  Args:
    folder: folder of an index.
    info: fields of an index.json that is to be written; None to read it.

  Attributes:
    info: fields of index.json: `fingerprint` of the network, `features` of its
      embeddings, `dimensions` that are kept of them, `dtype`, `rows`, numbers
      of those that were `removed`, and `recall`, the share of the ten closest
      rows that fast search finds.
    centre: float32 [dimensions], the centre of the codes.
    projection: projection of the network's embeddings; None for none.
    removed: bool [rows], rows that were removed.

  Raises:
    UserError: the folder is no index, or is damaged.
  """

  def __init__(
    self, folder: str | os.PathLike, info: dict[str, Any] | None = None
  ):
    self._folder = pathlib.Path(folder)
    if info is not None:
      self.info = info
      self._open()
      return
    while True:
      self.info = files.read_info(self._folder)
      if not self.info['rows']:
        raise UserError(f'{folder} is an index without rows: add some.')
      try:
        return self._open()
      except (UserError, FileNotFoundError):
        # A compaction may have removed the files in this moment.
        if files.read_info(self._folder) == self.info:
          raise

  def _open(self) -> None:
    """Opens the files that `info` is about."""
    rows, dimensions = self.info['rows'], self.info['dimensions']
    self._embeddings = self._map(
      files.EMBEDDINGS, self.info['dtype'], (rows, dimensions)
    )
    width = codes.words(dimensions)
    self._codes = self._map(files.CODES, np.uint64, (rows, width))
    self._rows = np.asarray(self._map(files.ROWS, files.ROW, (rows,)))
    if rows:
      self._text = files.map_lines(self._path(files.LINES), self._rows)
      # Kept open, since a compaction removes it.
      file = self._path(files.EMBEDDINGS).open('rb', buffering=0)
      weakref.finalize(self, file.close)
      self._file = file.fileno()
    self.centre = self._load(files.CENTRE, (dimensions,))
    self.projection = None
    if files.MATRIX in self.info['arrays']:
      shape = self.info['features'], dimensions
      self.projection = Projection(
        self._load(files.MEAN, shape[:1]),
        self._load(files.MATRIX, shape),
        self.info['fingerprint'],
      )
    self.removed = np.zeros(rows, bool)
    self.removed[self.info['removed']] = True
    # Blocks of rows, and files, whose checksums were compared.
    self._checked: set[int | str] = set()

  def _map(self, name: str, dtype, shape) -> np.ndarray:
    if not shape[0]:
      return np.zeros(shape, dtype)
    return files.map_array(self._path(name), dtype, shape)

  def _path(self, name: str) -> pathlib.Path:
    return files.large_file(self._folder, name, self.info['generation'])

  def _load(self, name: str, shape) -> np.ndarray:
    digest = self.info['arrays'].get(name)
    return files.read_array(self._folder / name, shape, digest)

  def __len__(self) -> int:
    """Returns the number of rows that were not removed."""
    return self.info['rows'] - int(self.removed.sum())

  def check_network(self, fingerprint: str, name: str) -> None:
    """Raises UserError if another network made the embeddings.

    Args:
      fingerprint: fingerprint of a network.
      name: what has this fingerprint, for the message.
    """
    if fingerprint != self.info['fingerprint']:
      raise UserError(
        f'{self._folder} is an index of another network, or of the same with'
        ' another --flip: its fingerprint is'
        f' {self.info["fingerprint"]}, that of {name} is {fingerprint}. Try'
        ' --flip or --noflip, as its images were embedded, or embed them again'
        ' into a new index.'
      )

  def project(self, embeddings: np.ndarray) -> np.ndarray:
    """Projects embeddings of the network, float32 [rows, dimensions]."""
    if self.projection is None:
      return np.asarray(embeddings, np.float32)
    return self.projection(embeddings)

  def stored(self, embeddings: np.ndarray) -> np.ndarray:
    """Returns embeddings of the network as the index would give them back.

    Returns:
      float32 [rows, dimensions], of length 1 but for rounding.
    """
    return files.rounded(self.project(embeddings), self.info['dtype'])

  def row(self, number: int) -> dict[str, Any]:
    """Returns the columns of a row by name, such as `path`."""
    path = self._path(files.LINES)
    return json.loads(files.read_line(path, self._text, self._rows, number))

  def sample(self, count: int) -> np.ndarray:
    """Returns embeddings of evenly spaced rows, float32 [rows, dimensions]."""
    return files.decode(self._read(self.sample_rows(count)))

  def sample_rows(self, count: int) -> np.ndarray:
    """Returns the numbers of the rows of `sample`."""
    kept = np.flatnonzero(~self.removed)
    places = np.linspace(0, len(kept) - 1, min(count, len(kept)))
    return kept[places.astype(int)]

  def search(
    self, queries: np.ndarray, top: int, fast: bool = False
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Finds the closest rows of each query.

    Args:
      queries: float [queries, features], embeddings of the network; or one of
        them, [features].
      top: number of rows to find for each query.
      fast: whether to compare only the embeddings whose binary codes are
        closest to that of the query; `info['recall']` says what is missed.

    Yields:
      For each query, rows and cosine similarities, both [top] or fewer, closest
      first.

    Raises:
      UserError: the index is empty or has embeddings of other `features`, a
        query is not finite, or `top` is below 1.
    """
    if top < 1:
      raise UserError(f'top={top} must be at least 1.')
    if not len(self):
      raise UserError(f'the index {self._folder} is empty.')
    queries, features = np.atleast_2d(queries), self.info['features']
    if queries.shape[1:] != (features,):
      raise UserError(
        f'the queries are {list(queries.shape)}: give [queries, features], with'
        f' the {features:,} features of the index {self._folder}.'
      )
    for query in np.flatnonzero(~np.isfinite(queries).all(1)):
      raise UserError(f'query {query} (from 0) is not finite: leave it out.')
    yield from self.search_projected(self.project(queries), top, fast)

  def search_projected(
    self, queries: np.ndarray, top: int, fast: bool
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Searches for the results of `project` or `sample`; see `search`."""
    if not fast:
      yield from nearest.search(
        queries, self._embeddings, top, self.removed, self._check_embeddings
      )
      return
    self._check_codes()
    for start in range(0, len(queries), QUERIES):
      yield from self._search_fast(queries[start : start + QUERIES], top)

  def _search_fast(self, queries, top):
    """Finds the closest rows of a few queries by their codes; see `search`."""
    found = codes.distances(codes.encode(queries, self.centre), self._codes)
    found[:, np.flatnonzero(self.removed)] = np.iinfo(found.dtype).max
    for query, distances in zip(queries, found):
      rows = codes.closest(distances, max(codes.CANDIDATES, top))
      rows = rows[~self.removed[rows]]
      # Padded, so that few numbers of rows are compiled.
      block = self._read(rows, -(-len(rows) // READ) * READ)
      similarity = np.asarray(nearest.similarities(query[None], block))
      similarity = similarity[0, : len(rows)]
      order = np.argsort(-similarity, kind='stable')[:top]
      yield rows[order], similarity[order]

  def _read(self, rows: np.ndarray, size: int | None = None) -> np.ndarray:
    """Reads embeddings of scattered rows.

    By way of the memory map, the system would hold their neighbours too.

    Args:
      rows: int [rows].
      size: number of rows of the result, those beyond `rows` zero.

    Returns:
      [size or rows, dimensions], of the type in the index.
    """
    shape = size or len(rows), self.info['dimensions']
    found = np.zeros(shape, self.info['dtype'])
    for row, number in zip(found.view(np.uint8), rows.tolist()):
      content = os.pread(self._file, row.nbytes, number * row.nbytes)
      row[: len(content)] = np.frombuffer(content, np.uint8)
    wrong = files.checksums(found[: len(rows)]) != self._rows['embedding'][rows]
    if wrong.any():
      path = self._path(files.EMBEDDINGS)
      raise files.damaged_row(path, int(rows[wrong][0]))
    return found

  def check(self) -> None:
    """Reads the whole index.

    Raises:
      UserError: a row was changed.
    """
    for _ in self._lines():
      pass
    for start in range(0, len(self._embeddings), nearest.BLOCK):
      block = self._embeddings[start : start + nearest.BLOCK]
      self._check_embeddings(start, block)
      nearest.drop_pages(self._embeddings, start, start + len(block))
    self._check_codes()

  def _check_embeddings(self, start: int, block: np.ndarray) -> None:
    """Compares the checksums of a block of embeddings at its first use."""
    if start in self._checked:
      return
    expected = self._rows['embedding'][start : start + len(block)]
    path = self._path(files.EMBEDDINGS)
    files.check_rows(path, block, expected, start)
    self._checked.add(start)

  def _check_codes(self) -> None:
    """Compares the checksums of all codes at their first use."""
    if files.CODES in self._checked:
      return
    for start in range(0, len(self._codes), codes.ROWS):
      block = self._codes[start : start + codes.ROWS]
      expected = self._rows['code'][start : start + len(block)]
      files.check_rows(self._path(files.CODES), block, expected, start)
      nearest.drop_pages(self._codes, start, start + len(block))
    self._checked.add(files.CODES)

  def kept_lines(self) -> set[bytes]:
    """Returns the lines of the rows that were not removed."""
    return {*itertools.compress(self._lines(), ~self.removed)}

  def _lines(self) -> Iterator[bytes]:
    """Yields the line of each row."""
    path = self._path(files.LINES)
    for number in range(len(self._rows)):
      yield files.read_line(path, self._text, self._rows, number)

  def remove(self, paths: Sequence[str | os.PathLike]) -> int:
    """Removes all rows of these paths; returns their number.

    They stay in the files until `changes.compact` is called.

    Args:
      paths: paths as they were embedded; a text is one path.

    Raises:
      UserError: a path is not in the index, too many rows are removed, or
        another process writes into the index, or has since it was opened. Then
        nothing is removed.
    """
    with lock.held(self._folder, '--index'):
      if files.read_info(self._folder) != self.info:
        raise UserError(f'{self._folder} has changed: open it again.')
      before = len(self)
      self.mark_removed(paths)
      files.write_info(self._folder, self.info)
    return before - len(self)

  def mark_removed(self, paths: Sequence[str | os.PathLike]) -> None:
    """Removes rows in memory, until index.json is written; see `remove`."""
    paths = [paths] if isinstance(paths, str) else paths
    wanted = {os.fspath(path) for path in paths}
    missing = wanted.copy()
    removed = self.removed.copy()
    for row, line in enumerate(self._lines()):
      path = json.loads(line)['path']
      if path in wanted and not removed[row]:
        removed[row] = True
        missing.discard(path)
    if missing:
      raise UserError(
        f'{self._folder} has no image with the path {min(missing)}: of'
        f' {counted(len(wanted), "path")}, {len(missing)} cannot be found.'
        ' Nothing was removed. Give paths as they were embedded; `search`'
        ' prints them.'
      )
    if removed.sum() > REMOVED:
      raise UserError(
        f'{self._folder} would have more than {REMOVED:,} removed rows on disk:'
        ' call `index --compact` first.'
      )
    self.info['removed'] = np.flatnonzero(removed).tolist()
    self.removed = removed


def has_rows(folder: str | os.PathLike) -> bool:
  """Tells whether a folder holds an index that was finished.

  Raises:
    UserError: the folder holds a damaged index, or something else.
  """
  folder = pathlib.Path(folder)
  if (folder / files.INFO).is_file():
    return files.read_info(folder)['rows'] > 0
  left = {lock.FILE, f'{files.INFO}.part'}  # by a call that was killed
  if folder.is_dir() and any(p.name not in left for p in folder.iterdir()):
    raise UserError(f'{folder} is not an index, and not empty.')
  return False
