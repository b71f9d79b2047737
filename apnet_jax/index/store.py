"""An index: embeddings and their images in a folder, which grows.

DIR/index.json      the network, the number of rows, the recall of fast search
DIR/embeddings.bin  float32, float16 or int8 [rows, dimensions]
DIR/codes.bin       binary codes, uint64 [rows, words]; see `codes`
DIR/centre.npy      the centre of the codes, float32 [dimensions]
DIR/mean.npy        of a projection to fewer dimensions; see `projection`
DIR/matrix.npy      its matrix, float32 [features, dimensions]
DIR/rows.jsonl      columns of each row, such as its path, as JSON
DIR/ends.bin        int64 [rows], where each line of rows.jsonl ends
DIR/removed.npy     rows that were removed
DIR/run.lock        lock of the command that writes into the index

Rows beyond the number in index.json were left by a call that was killed. They
are ignored, and overwritten by the next one.
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
import os
import pathlib
from typing import Any

import numpy as np

from apnet_jax.errors import UserError
from apnet_jax.index import codes
from apnet_jax.index.projection import Projection
from apnet_jax.inference import embedding_files
from apnet_jax.retrieval import nearest
from apnet_jax.workdir import json_files, lock

INFO = 'index.json'
DTYPES = (*embedding_files.DTYPES, 'int8')
VERSION = 1
SAMPLE = 100  # rows that are searched for to measure the recall
TOP = 10  # of the recall
READ = 1024  # embeddings that are compared exactly at once, or a multiple
QUERIES = 16  # queries that are compared with the codes at once


class Index:
  """Embeddings in a folder, to search for the most similar ones.

  Args:
    folder: folder of an index.

  Attributes:
    info: fields of index.json: `fingerprint` of the network, `features` of its
      embeddings, `dimensions` that are kept of them, `dtype`, `rows`, and
      `recall`, the share of the ten closest rows that fast search finds.
    centre: float32 [dimensions], the centre of the codes.
    removed: bool [rows], rows that were removed.

  Raises:
    UserError: the folder is no index, or is damaged.
  """

  def __init__(self, folder: str | os.PathLike):
    self._folder = pathlib.Path(folder)
    if not (self._folder / INFO).is_file():
      raise UserError(f'{folder} is not an index: it has no {INFO}.')
    self.info = _check(json_files.read_fields(self._folder / INFO), folder)
    rows, dimensions = self.info['rows'], self.info['dimensions']
    shape = rows, dimensions
    self._embeddings = self._map('embeddings', self.info['dtype'], shape)
    self._codes = self._map('codes', np.uint64, (rows, codes.words(dimensions)))
    self._ends = self._map('ends', np.int64, (rows,))
    self.centre = self._load('centre', (dimensions,))
    self._projection = None
    if dimensions != self.info['features']:
      shape = self.info['features'], dimensions
      self._projection = Projection(
        self._load('mean', shape[:1]),
        self._load('matrix', shape),
        self.info['fingerprint'],
      )
    self.removed = self._load('removed', None)
    extra = rows - len(self.removed)
    if extra < 0:
      raise UserError(f'{self._folder} is damaged: removed.npy is too long.')
    self.removed = np.pad(self.removed, (0, extra))

  def _map(self, name: str, dtype, shape) -> np.ndarray:
    path = self._folder / f'{name}.bin'
    if not shape[0]:
      return np.zeros(shape, dtype)
    needed = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not path.is_file() or path.stat().st_size < needed:
      raise UserError(f'{path} is damaged: it has less than {needed:,} bytes.')
    return np.memmap(path, dtype, 'r', shape=shape)

  def _load(self, name: str, shape) -> np.ndarray:
    path = self._folder / f'{name}.npy'
    try:
      array = np.load(path, allow_pickle=False)
      if shape and array.shape != shape:
        raise ValueError(f'its shape is {array.shape}')
    except (OSError, ValueError, EOFError) as error:
      raise UserError(f'{path} is damaged: {error}') from error
    return array

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
        f'{self._folder} is an index of another network: its fingerprint is'
        f' {self.info["fingerprint"]}, that of {name} is {fingerprint}.'
      )

  @property
  def is_projected(self) -> bool:
    """True if similarities are those of projected embeddings."""
    return self._projection is not None

  def project(self, embeddings: np.ndarray) -> np.ndarray:
    """Projects embeddings of the network, float32 [rows, dimensions]."""
    if self._projection is None:
      return np.asarray(embeddings, np.float32)
    return self._projection(embeddings)

  def stored(self, embeddings: np.ndarray) -> np.ndarray:
    """Returns embeddings of the network as the index would give them back.

    Returns:
      float32 [rows, dimensions], of length 1 but for rounding.
    """
    return rounded(self.project(embeddings), self.info['dtype'])

  def row(self, number: int) -> dict[str, Any]:
    """Returns the columns of a row by name, such as `path`."""
    start = int(self._ends[number - 1]) if number else 0
    with (self._folder / 'rows.jsonl').open('rb') as file:
      file.seek(start)
      line = file.read(int(self._ends[number]) - start)
    return json_files.check_fields(
      json_files.parse_json(line.decode(), f'row {number}'), self._folder
    )

  def sample(self, count: int) -> np.ndarray:
    """Returns embeddings of evenly spaced rows, float32 [rows, dimensions]."""
    kept = np.flatnonzero(~self.removed)
    picked = np.linspace(0, len(kept) - 1, min(count, len(kept))).astype(int)
    return _decode(self._read(kept[picked]))

  def search(
    self, queries: np.ndarray, top: int, fast: bool = False
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Finds the closest rows of each query.

    Args:
      queries: float [queries, features], embeddings of the network.
      top: number of rows to find for each query.
      fast: whether to compare only the embeddings whose binary codes are
        closest to that of the query; `info['recall']` says what is missed.

    Yields:
      For each query, rows and cosine similarities, both [top] or fewer, closest
      first.

    Raises:
      UserError: the index is empty.
    """
    if not len(self):
      raise UserError(f'the index {self._folder} is empty.')
    yield from self.search_projected(self.project(queries), top, fast)

  def search_projected(
    self, queries: np.ndarray, top: int, fast: bool
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Searches for the results of `project` or `sample`; see `search`."""
    if not fast:
      yield from nearest.search(queries, self._embeddings, top, self.removed)
      return
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
    with (self._folder / 'embeddings.bin').open('rb', buffering=0) as file:
      for row, number in zip(found, rows.tolist()):
        file.seek(number * row.nbytes)
        file.readinto(row)
    return found

  def _lines(self) -> Iterator[bytes]:
    """Yields the lines of rows.jsonl that belong to rows."""
    with (self._folder / 'rows.jsonl').open('rb') as file:
      for _ in range(self.info['rows']):
        yield file.readline()

  def remove(self, paths: list[str]) -> int:
    """Removes all rows of these paths; returns their number.

    Nothing else may write into the index meanwhile; see `lock.held`.

    Raises:
      UserError: a path is not in the index; then nothing is removed.
    """
    wanted, missing = set(paths), set(paths)
    removed = self.removed.copy()
    for row, line in enumerate(self._lines()):
      path = json.loads(line)['path']
      if path in wanted and not removed[row]:
        removed[row] = True
        missing.discard(path)
    if missing:
      raise UserError(
        f'{self._folder} does not have {len(missing)} of {len(wanted)} paths,'
        f' as {min(missing)}.'
      )
    count = int(removed.sum() - self.removed.sum())
    _save(self._folder / 'removed.npy', removed)
    self.removed = removed
    return count


def add(
  folder: str | os.PathLike,
  path: str | os.PathLike,
  dtype: str = 'float16',
  projection: Projection | None = None,
) -> tuple[Index, int, int]:
  """Adds a file of embeddings to an index, which is made if there is none.

  A row whose columns are all in the index already is not added again.

  Args:
    folder: folder of the index.
    path: file that the command embed wrote.
    dtype: type of the embeddings in a new index, one of `DTYPES`.
    projection: projection of the embeddings in a new index; None for none.

  Returns:
    The index, the number of rows that were added, and of those that were in it.

  Raises:
    UserError: the file cannot be read or comes from another network, the folder
      is something else, or another process writes into it.
  """
  folder = pathlib.Path(folder)
  with (
    embedding_files.reading(path) as file,
    lock.held(folder, '--index'),
  ):
    if not (folder / INFO).exists():
      _create(folder, file, dtype, projection)
    index = Index(folder)
    index.check_network(file.info['fingerprint'], str(path))
    if file.dimensions != index.info['features']:
      raise UserError(f'{path} has {file.dimensions} features.')
    added = _append(index, file)
    index = Index(folder)
    index.info['recall'] = measure_recall(index)
    json_files.write_json(folder / INFO, index.info)
  return index, added, len(file.columns['path']) - added


def _create(folder: pathlib.Path, file, dtype: str, projection) -> None:
  if any(path.name != lock.FILE for path in folder.iterdir()):
    raise UserError(f'{folder} is not an index, and not empty.')
  dimensions = file.dimensions
  if projection is not None:
    if projection.fingerprint != file.info['fingerprint']:
      raise UserError(
        'the file of --fit has embeddings of another network: its fingerprint'
        f' is {projection.fingerprint}, not {file.info["fingerprint"]}.'
      )
    dimensions = projection.matrix.shape[1]
    _save(folder / 'mean.npy', projection.mean)
    _save(folder / 'matrix.npy', projection.matrix)
  _save(folder / 'centre.npy', np.zeros(dimensions, np.float32))
  _save(folder / 'removed.npy', np.zeros(0, bool))
  (folder / 'rows.jsonl').touch()
  info = {
    'version': VERSION,
    'fingerprint': file.info['fingerprint'],
    'features': file.dimensions,
    'dimensions': dimensions,
    'dtype': dtype,
    'rows': 0,
    'recall': None,
  }
  json_files.write_json(folder / INFO, info)


def _append(index: Index, file) -> int:
  """Appends the new rows of a file; returns their number."""
  folder, rows = index._folder, index.info['rows']
  known = {
    line for line, gone in zip(index._lines(), index.removed) if not gone
  }
  lines = _encode_rows(file.columns)
  new = np.array([line not in known for line in lines])
  sizes = {
    'embeddings.bin': index._embeddings.dtype.itemsize
    * index.info['dimensions'],
    'codes.bin': 8 * codes.words(index.info['dimensions']),
    'ends.bin': 8,
  }
  end = int(index._ends[-1]) if rows else 0
  with contextlib.ExitStack() as stack:
    files = {
      name: stack.enter_context(_open_at(folder / name, rows * size))
      for name, size in sizes.items()
    }
    text = stack.enter_context(_open_at(folder / 'rows.jsonl', end))
    start = 0
    for block in file.blocks:
      kept = new[start : start + len(block)]
      block = index.project(block[kept])
      if not rows and not start:
        index.centre = block.mean(0)
        _save(folder / 'centre.npy', index.centre)
      stored = _encode(block, index.info['dtype'])
      files['embeddings.bin'].write(stored.tobytes())
      code = codes.encode(block, index.centre)
      files['codes.bin'].write(code.tobytes())
      for i in np.flatnonzero(kept):
        end += text.write(lines[start + i])
        files['ends.bin'].write(np.int64(end).tobytes())
      start += len(kept)
  added = int(new.sum())
  info = index.info | {'rows': rows + added}
  json_files.write_json(folder / INFO, info)
  return added


def rounded(embeddings: np.ndarray, dtype: str) -> np.ndarray:
  """Returns embeddings in float32, after they were stored in a type."""
  return _decode(_encode(embeddings, dtype))


def _encode(embeddings: np.ndarray, dtype: str) -> np.ndarray:
  """Rounds embeddings to a type of `DTYPES`.

  For int8 each row is scaled so that its largest feature is 127. The scale is
  not kept: cosines do not depend on it.
  """
  if dtype != 'int8':
    return embeddings.astype(dtype)
  largest = np.abs(embeddings).max(1, keepdims=True)
  scale = 127 / np.maximum(largest, np.finfo(np.float32).tiny)
  return np.rint(embeddings * scale).astype(np.int8)


def _decode(stored: np.ndarray) -> np.ndarray:
  """Returns embeddings as float32; rows of int8 get length 1 again."""
  embeddings = stored.astype(np.float32)
  if stored.dtype != np.int8:
    return embeddings
  return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def _encode_rows(columns: Mapping[str, np.ndarray]) -> list[bytes]:
  """Returns the columns of each row as a line of JSON."""
  names = sorted(columns)
  values = zip(*(columns[name].tolist() for name in names))
  return [json.dumps(dict(zip(names, row))).encode() + b'\n' for row in values]


def _open_at(path: pathlib.Path, size: int):
  """Opens a file for writing behind its first `size` bytes."""
  file = path.open('r+b' if path.exists() else 'w+b')
  file.truncate(size)
  file.seek(size)
  return file


def _save(path: pathlib.Path, array: np.ndarray) -> None:
  part = path.with_name(f'{path.name}.part')
  with part.open('wb') as file:
    np.save(file, array)
  part.replace(path)


def measure_recall(index: Index) -> float | None:
  """Returns the share of the closest rows that fast search finds.

  The queries are `SAMPLE` rows of the index, evenly spaced; each finds itself
  and is not counted.

  Returns:
    The share among the `TOP` closest rows; None with fewer than two rows.
  """
  queries = index.sample(SAMPLE)
  if len(queries) < 2:
    return None
  exact, fast = (
    index.search_projected(queries, TOP + 1, fast) for fast in (False, True)
  )
  shares = [
    len({*a[1:].tolist()} & {*b.tolist()}) / (len(a) - 1)
    for (a, _), (b, _) in zip(exact, fast)
  ]
  return round(float(np.mean(shares)), 4)


def _check(info: dict, folder) -> dict:
  kinds = {'fingerprint': str, 'dtype': str} | dict.fromkeys(
    ('features', 'dimensions', 'rows'), int
  )
  if info.get('version') != VERSION:
    raise UserError(
      f'{folder} has version {info.get("version")!r} of the format of an index;'
      f' this program reads {VERSION}.'
    )
  for name, kind in kinds.items():
    if not isinstance(info.get(name), kind):
      raise UserError(
        f'{folder}/{INFO} is damaged: {name} is {info.get(name)!r}.'
      )
  if (
    info['dtype'] not in DTYPES
    or info['rows'] < 0
    or not 1 <= info['dimensions'] <= info['features']
  ):
    raise UserError(f'{folder}/{INFO} is damaged.')
  return info
