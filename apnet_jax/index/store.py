"""A search index in a folder: embeddings with the columns of their images.

Rows can be added and removed. The files:

- index.json: the network, the number of rows, rows that were removed, the
  recall of fast search, and digests of the small arrays
- embeddings.bin: float32, float16 or int8 [rows, dimensions]
- codes.bin: binary codes, uint64 [rows, words]; see `codes`
- centre.npy: the centre of the codes, float32 [dimensions]
- mean.npy: of a projection, if there is one; see `projection`
- matrix.npy: its matrix, float32 [features, dimensions]
- rows.jsonl: columns of each row, such as its path, as JSON
- rows.bin: the end of each line and checksums; see `files.ROW`
- run.lock: lock of the command that writes into the index

Removed rows stay in the files until `compact` writes embeddings.1.bin and so on
without them, and then embeddings.2.bin: files of another generation.

All changes become valid by index.json, which is written last. Rows beyond the
number there were left by a call that was killed. They are ignored, and
overwritten by the next one. An index of no rows was not finished; it is made
again.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import itertools
import json
import os
import pathlib
from typing import Any, BinaryIO
import weakref

import numpy as np

from apnet_jax.errors import UserError
from apnet_jax.index import codes, files
from apnet_jax.index.projection import Projection
from apnet_jax.inference import embedding_files
from apnet_jax.retrieval import nearest
from apnet_jax.workdir import lock

DTYPE = 'float16'  # of the embeddings in a new index, by default
SAMPLE = 100  # rows that are searched for to measure the recall
TOP = 10  # of the recall
ROUNDING = 1e-5  # of similarities, by which rows count as equally close
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
    self._projection = None
    if files.MATRIX in self.info['arrays']:
      shape = self.info['features'], dimensions
      self._projection = Projection(
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
    path = self._path(files.LINES)
    return json.loads(files.read_line(path, self._text, self._rows, number))

  def sample(self, count: int) -> np.ndarray:
    """Returns embeddings of evenly spaced rows, float32 [rows, dimensions]."""
    return _decode(self._read(self.sample_rows(count)))

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

  def remove(self, paths: list[str]) -> int:
    """Removes all rows of these paths; returns their number.

    They stay in the files until `compact` is called.

    Raises:
      UserError: a path is not in the index, too many rows are removed, or
        another process writes into the index, or has since it was opened. Then
        nothing is removed.
    """
    with lock.held(self._folder, '--index'):
      if files.read_info(self._folder) != self.info:
        raise UserError(f'{self._folder} has changed: open it again.')
      removed = self._mark(paths)
      count = int(removed.sum() - self.removed.sum())
      self.info['removed'] = np.flatnonzero(removed).tolist()
      files.write_info(self._folder, self.info)
      self.removed = removed
    return count

  def _mark(self, paths: list[str]) -> np.ndarray:
    """Marks rows of these paths, and those that are removed; see `remove`."""
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
    if removed.sum() > REMOVED:
      raise UserError(
        f'{self._folder} would have more than {REMOVED:,} removed rows on disk:'
        ' call `index --compact` first.'
      )
    return removed


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


def add(
  folder: str | os.PathLike,
  path: str | os.PathLike,
  dtype: str | None = None,
  projection: Projection | None = None,
) -> tuple[Index, int, int]:
  """Adds a file of embeddings to an index; see `add_files`.

  Returns:
    The index, the number of rows that were added, and of those that were in it.
  """
  ((_, added, known),) = add_files(folder, [path], dtype, projection)
  return Index(folder), added, known


def add_files(
  folder: str | os.PathLike,
  paths: Sequence[str | os.PathLike],
  dtype: str | None = None,
  projection: Projection | None = None,
) -> Iterator[tuple[str | os.PathLike, int, int]]:
  """Adds files of embeddings to an index, which is made if there is none.

  A row whose columns are all in the index already is not added again. The index
  is checked before the first file, and its recall measured after the last one.

  Args:
    folder: folder of the index.
    paths: files that the command embed wrote.
    dtype: type of the embeddings, one of `files.DTYPES`; None for that of the
      index, or `DTYPE` in a new one.
    projection: projection of the embeddings in a new index; None for none.

  Yields:
    When a file was added: its path, the number of rows that were added, and of
    those that were in the index.

  Raises:
    UserError: a file cannot be read or comes from another network, the folder
      is something else, another process writes into it, or it is an index that
      is damaged or has another type.
  """
  folder = pathlib.Path(folder)
  has_rows(folder)  # before the lock leaves its file there
  with lock.held(folder, '--index'):
    index, known = Index(folder) if has_rows(folder) else None, None
    for path in paths:
      with embedding_files.reading(path) as file:
        blocks = file.blocks
        if index is not None:
          check_file(index, file, path, dtype)
        else:
          first = next(blocks, None)
          if first is None:
            raise UserError(f'{path} has no embeddings.')
          blocks = itertools.chain([first], blocks)
          index = _create(folder, file, first, dtype or DTYPE, projection)
        if known is None:
          index.check()
          known = index.kept_lines()
        size = len(file.columns['path'])
        added = _append(index, known, file.columns, blocks)
      index = Index(folder)
      yield path, added, size - added
    if index is not None:
      index.info['recall'] = measure_recall(index)
      files.write_info(folder, index.info)


def compact(folder: str | os.PathLike) -> int:
  """Rewrites an index without its removed rows; returns their number.

  An `Index` that is open keeps the files that it has. Of an index whose rows
  are all removed, nothing is left but its empty files.

  Args:
    folder: folder of the index.

  Raises:
    UserError: the folder is no index, the index is damaged, or another process
      writes into it.
  """
  folder = pathlib.Path(folder)
  files.read_info(folder)  # before the lock makes the folder
  with lock.held(folder, '--index'):
    try:
      return _compact(folder)
    finally:  # an error leaves new files, and a kill new or old ones
      files.remove_other_generations(folder)


def _compact(folder: pathlib.Path) -> int:
  """Writes large files without removed rows, and lets index.json name them."""
  index = Index(folder)
  index.check()
  count = len(index.info['removed'])
  if count:
    generation = index.info['generation'] + 1
    _copy_rows(index, ~index.removed, generation)
    changed = {'rows': len(index), 'removed': [], 'generation': generation}
    files.write_info(folder, index.info | changed)
  return count


def _copy_rows(index: Index, kept: np.ndarray, generation: int) -> None:
  """Writes large files with some rows of an index.

  Args:
    index: the index, which was checked.
    kept: bool [rows], rows to copy.
    generation: generation of the new files.
  """
  rows = index._rows[kept]
  rows['end'] = np.cumsum(np.diff(index._rows['end'], prepend=0)[kept])
  sizes = dict.fromkeys(files.LARGE, 0)
  with _writing(index._folder, generation, sizes) as opened:
    opened[files.LINES].writelines(itertools.compress(index._lines(), kept))
    opened[files.ROWS].write(rows.tobytes())
    for name, array in (
      (files.EMBEDDINGS, index._embeddings), (files.CODES, index._codes),
    ):  # fmt: skip
      for start in range(0, len(array), nearest.BLOCK):
        block = slice(start, min(start + nearest.BLOCK, len(array)))
        opened[name].write(array[block][kept[block]].tobytes())
        nearest.drop_pages(array, block.start, block.stop)


def check_file(index: Index, file, path, dtype: str | None) -> None:
  """Raises UserError if a file of embeddings does not fit an index.

  Args:
    index: the index.
    file: the file, open for reading.
    path: its path, for messages.
    dtype: type that the index shall have; None for any.
  """
  index.check_network(file.info['fingerprint'], str(path))
  if file.dimensions != index.info['features']:
    raise UserError(
      f'{path} has {file.dimensions} features; the index has'
      f' {index.info["features"]}.'
    )
  if dtype not in (None, index.info['dtype']):
    raise UserError(
      f'--dtype={dtype} is for a new index: this one has embeddings of type'
      f' {index.info["dtype"]}.'
    )


def _create(
  folder: pathlib.Path, file, first: np.ndarray, dtype: str, projection
) -> Index:
  """Writes an index without rows, which `has_rows` takes for unfinished.

  Args:
    folder: its folder.
    file: file of embeddings, open for reading.
    first: embeddings of the file that determine the centre of codes.
    dtype: type of the embeddings in the index.
    projection: projection of them; None for none.
  """
  info = {
    'version': files.VERSION,
    'fingerprint': file.info['fingerprint'],
    'features': file.dimensions,
    'dimensions': file.dimensions,
    'dtype': dtype,
    'rows': 0,
    'removed': [],
    'generation': 0,
    'recall': None,
    'arrays': {},
  }
  arrays = {}
  if projection is not None:
    _check_projection(projection, file)
    info['dimensions'] = projection.matrix.shape[1]
    arrays = {files.MEAN: projection.mean, files.MATRIX: projection.matrix}
    first = projection(first)
  files.write_info(folder, info)
  arrays[files.CENTRE] = first.astype(np.float32).mean(0)
  info['arrays'] = {
    name: files.write_array(folder / name, array)
    for name, array in arrays.items()
  }
  return Index(folder, info)


def _check_projection(projection: Projection, file) -> None:
  if projection.fingerprint != file.info['fingerprint']:
    raise UserError(
      'the file of --fit has embeddings of another network: its fingerprint'
      f' is {projection.fingerprint}, not {file.info["fingerprint"]}.'
    )
  if len(projection.mean) != file.dimensions:
    raise UserError(
      f'the file of --fit has {len(projection.mean)} features, not'
      f' {file.dimensions}.'
    )


def _append(
  index: Index,
  known: set[bytes],
  columns: Mapping[str, np.ndarray],
  blocks: Iterator[np.ndarray],
) -> int:
  """Appends rows that are new; returns their number.

  Args:
    index: the index, whose rows were checked.
    known: the result of its `kept_lines`, to which the new lines are added.
    columns: columns of the rows, by name.
    blocks: their embeddings.
  """
  folder, rows = index._folder, index.info['rows']
  lines = _encode_rows(columns)
  new = np.zeros(len(lines), bool)
  for row, line in enumerate(lines):
    new[row] = line not in known
    known.add(line)
  kept = [line for line, is_new in zip(lines, new) if is_new]
  width = index._embeddings.dtype.itemsize * index.info['dimensions']
  sizes = {
    files.EMBEDDINGS: rows * width,
    files.CODES: rows * 8 * codes.words(index.info['dimensions']),
    files.ROWS: rows * files.ROW.itemsize,
    files.LINES: int(index._rows['end'][-1]) if rows else 0,
  }
  with _writing(folder, index.info['generation'], sizes) as opened:
    opened[files.LINES].write(b''.join(kept))
    start, done, end = 0, 0, sizes[files.LINES]
    for block in blocks:
      is_new = new[start : start + len(block)]
      start += len(block)
      block = index.project(block[is_new])
      stored = _encode(block, index.info['dtype'])
      code = codes.encode(block, index.centre)
      some = kept[done : done + len(block)]
      opened[files.EMBEDDINGS].write(stored.tobytes())
      opened[files.CODES].write(code.tobytes())
      opened[files.ROWS].write(_describe_rows(some, stored, code, end))
      done, end = done + len(some), end + sum(map(len, some))
  info = index.info | {'rows': rows + len(kept)}
  files.write_info(folder, info)
  return len(kept)


def _describe_rows(lines, stored, code, end: int) -> bytes:
  """Returns rows of rows.bin.

  Args:
    lines: lines of the rows.
    stored: their embeddings in the index.
    code: their codes.
    end: where the line before them ends.
  """
  described = np.empty(len(lines), files.ROW)
  described['end'] = end + np.cumsum([len(line) for line in lines], dtype=int)
  described['line'] = [files.checksum_of_line(line) for line in lines]
  described['embedding'] = files.checksums(stored)
  described['code'] = files.checksums(code)
  return described.tobytes()


def rounded(embeddings: np.ndarray, dtype: str) -> np.ndarray:
  """Returns embeddings in float32, after they were stored in a type."""
  return _decode(_encode(embeddings, dtype))


def _encode(embeddings: np.ndarray, dtype: str) -> np.ndarray:
  """Rounds embeddings to a type of `files.DTYPES`.

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


@contextlib.contextmanager
def _writing(
  folder: pathlib.Path, generation: int, sizes: Mapping[str, int]
) -> Iterator[dict[str, BinaryIO]]:
  """Opens large files for writing behind their first bytes.

  At the end they are on disk, as they must be before index.json says so.

  Args:
    folder: folder of the index.
    generation: generation of the files.
    sizes: number of the bytes that are kept, by name.
  """
  with contextlib.ExitStack() as stack:
    opened = {
      name: stack.enter_context(
        _open_at(files.large_file(folder, name, generation), size)
      )
      for name, size in sizes.items()
    }
    yield opened
    for file in opened.values():
      file.flush()
      os.fsync(file.fileno())


def _open_at(path: pathlib.Path, size: int) -> BinaryIO:
  """Opens a file for writing behind its first `size` bytes."""
  if not size:  # whoever has it open keeps what was in it
    path.unlink(missing_ok=True)
  file = path.open('r+b' if size else 'w+b')
  file.truncate(size)
  file.seek(size)
  return file


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
