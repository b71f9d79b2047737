"""Adds rows to a search index, and takes removed ones off the disk.

Large files are written and synced first, index.json last; see `store`.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import itertools
import json
import os
import pathlib
from typing import BinaryIO

import numpy as np

from apnet_jax.errors import UserError
from apnet_jax.index import accuracy, codes, files
from apnet_jax.index.projection import Projection
from apnet_jax.index.store import Index, has_rows
from apnet_jax.inference import embedding_files
from apnet_jax.retrieval import nearest
from apnet_jax.workdir import lock
from apnet_jax.writing import naming

DTYPE = 'float16'  # of the embeddings in a new index, by default


def add(
  folder: str | os.PathLike,
  path: str | os.PathLike,
  dtype: str | None = None,
  projection: Projection | None = None,
) -> tuple[Index, int, int]:
  """Adds a file of embeddings to an index; see `add_files`.

  Returns:
    The index, the number of rows that were added, and of those that were not.
  """
  ((_, added, known),) = add_files(folder, [path], dtype, projection)
  return Index(folder), added, known


def add_files(
  folder: str | os.PathLike,
  paths: Sequence[str | os.PathLike],
  dtype: str | None = None,
  projection: Projection | None = None,
  removed: Sequence[str] = (),
) -> Iterator[tuple[str | os.PathLike, int, int]]:
  """Adds files of embeddings to an index, which is made if there is none.

  A row whose columns are all in the index already, or in an earlier row of the
  same file, is not added again. The index is checked before the first file, and
  its recall measured after the last one. Rows are removed together with the
  addition of the first file, so that it can replace them.

  Args:
    folder: folder of the index.
    paths: files that the command embed wrote.
    dtype: type of the embeddings, one of `files.DTYPES`; None for that of the
      index, or `DTYPE` in a new one.
    projection: projection of the embeddings in a new index; None for none.
    removed: paths of images in the index that are removed.

  Yields:
    When a file was added: its path, the number of rows that were added, and of
    those that were not.

  Raises:
    UserError: a file cannot be read or comes from another network, the folder
      is something else, another process writes into it, or it is an index that
      is damaged, has another type, or lacks an image to remove.
  """
  folder = pathlib.Path(folder)
  has_rows(folder)  # before the lock leaves its file there
  with lock.held(folder, '--index'):
    index, known = None, None
    if removed or has_rows(folder):
      index = Index(folder)
      if removed:
        index.mark_removed(removed)  # written with the first file
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
      index.info['recall'] = accuracy.measure_recall(index)
      files.write_info(folder, index.info)


def compact(folder: str | os.PathLike) -> int:
  """Rewrites an index without its removed rows; returns their number.

  An `Index` that is open keeps the files that it has. Of an index whose rows
  are all removed, nothing is left but its empty files.

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
  if not has_rows(folder):  # a call that was killed has taken all
    return 0
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
      stored = files.encode(block, index.info['dtype'])
      code = codes.encode(block, index.centre)
      some = kept[done : done + len(block)]
      opened[files.EMBEDDINGS].write(stored.tobytes())
      opened[files.CODES].write(code.tobytes())
      opened[files.ROWS].write(_describe_rows(some, stored, code, end))
      done, end = done + len(some), end + sum(map(len, some))
  info = index.info | {'rows': rows + len(kept)}
  if kept:
    info['recall'] = None  # until it is measured again
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
  with naming(folder), contextlib.ExitStack() as stack:
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
