"""The files of an index, and the checks that they are whole.

index.json has a digest of its own fields, and those of the small arrays. The
large files are checked as they are read, by a checksum for each row: a row that
was changed, or that is cut off, is an error.
"""

from collections.abc import Mapping
import hashlib
import io
import json
import os
import pathlib
from typing import Any
import zlib

import numpy as np

from apnet_jax.errors import UserError, first_line
from apnet_jax.inference import embedding_files
from apnet_jax.workdir import json_files
from apnet_jax.writing import whole

INFO, LINES = 'index.json', 'rows.jsonl'
EMBEDDINGS, CODES, ROWS = 'embeddings.bin', 'codes.bin', 'rows.bin'
LARGE = EMBEDDINGS, CODES, ROWS, LINES
CENTRE, MEAN, MATRIX = 'centre.npy', 'mean.npy', 'matrix.npy'
DTYPES = (*embedding_files.DTYPES, 'int8')
VERSION = 3
# What rows.bin has of each row: where its line in rows.jsonl ends, and the
# checksums of that line, of its embedding and of its code.
ROW = np.dtype(
  [('end', '<i8'), ('line', '<u8'), ('embedding', '<u8'), ('code', '<u8')]
)
FIELDS = {
  'fingerprint': str, 'dtype': str, 'features': int, 'dimensions': int,
  'rows': int, 'removed': list, 'arrays': dict, 'generation': int,
}  # fmt: skip
# Odd, so that no word of 8 bytes can change alone and keep the checksum.
_FACTOR = 0x9E3779B97F4A7C15
_AGAIN = 'Make the index again, or restore it from a copy.'


def damaged(path: str | os.PathLike, problem: str) -> UserError:
  """Returns the error of a damaged file of an index."""
  return UserError(f'{path} is damaged: {problem}. {_AGAIN}')


def checksums(rows: np.ndarray) -> np.ndarray:
  """Returns a checksum of each row: a polynomial of its words, modulo 2^64.

  That of zeros is not 0: what a disk has lost often reads as zeros, the row and
  its checksum alike.

  Args:
    rows: array [rows, columns] of any type.

  Returns:
    uint64 [rows].
  """
  content = np.ascontiguousarray(rows).view(np.uint8)
  if padding := -content.shape[1] % 8:
    content = np.pad(content, ((0, 0), (0, padding)))
  words = content.view(np.uint64)
  factors = np.full(words.shape[1], _FACTOR, np.uint64)
  return words @ np.multiply.accumulate(factors) + np.uint64(_FACTOR)


def checksum_of_line(line: bytes) -> int:
  """Returns the checksum of a line of rows.jsonl."""
  return zlib.crc32(line)


def check_rows(
  path: pathlib.Path, rows: np.ndarray, expected: np.ndarray, start: int = 0
) -> None:
  """Raises UserError if the checksum of a row is another one.

  Args:
    path: the file that the rows come from.
    rows: array [rows, columns], as it was read.
    expected: uint64 [rows], checksums.
    start: number of the first row, for messages.
  """
  wrong = np.flatnonzero(checksums(rows) != expected)
  if len(wrong):
    raise damaged_row(path, start + int(wrong[0]))


def damaged_row(path: pathlib.Path, row: int) -> UserError:
  """Returns the error of a row whose checksum is another one."""
  return damaged(
    path, f'row {row} does not have the checksum that {ROWS} has of it'
  )


def large_file(
  folder: pathlib.Path, name: str, generation: int
) -> pathlib.Path:
  """Returns the path of a large file.

  Args:
    folder: folder of the index.
    name: one of `LARGE`.
    generation: how often the large files were written anew, a field of
      index.json.
  """
  stem, kind = name.split('.')
  return folder / (f'{stem}.{generation}.{kind}' if generation else name)


def remove_other_generations(folder: pathlib.Path) -> None:
  """Removes all large files but those that index.json is about."""
  generation = read_info(folder)['generation']
  for name in LARGE:
    stem, kind = name.split('.')
    for path in folder.glob(f'{stem}.*{kind}'):
      if path != large_file(folder, name, generation):
        path.unlink()


def read_info(folder: pathlib.Path) -> dict[str, Any]:
  """Reads index.json.

  Raises:
    UserError: the folder is no index, has another version, or the file is
      damaged.
  """
  path = folder / INFO
  if not path.is_file():
    raise UserError(f'{folder} is not an index: it has no {INFO}.')
  info = json_files.read_fields(path)
  digest = info.pop('digest', None)
  if info.get('version') != VERSION:
    raise UserError(
      f'{path} has version {info.get("version")!r} of the format of an index;'
      f' this program reads {VERSION}. Make the index again.'
    )
  if digest != _digest_of(info):
    raise damaged(path, 'its digest does not belong to it')
  wrong = [n for n, kind in FIELDS.items() if not isinstance(info.get(n), kind)]
  if wrong:
    raise damaged(path, f'{wrong[0]} is {info.get(wrong[0])!r}')
  return info


def write_info(folder: pathlib.Path, info: Mapping) -> None:
  """Writes index.json whole or not at all, with a digest of its fields."""
  json_files.write_json(folder / INFO, {**info, 'digest': _digest_of(info)})


def _digest_of(info: Mapping) -> str:
  text = json.dumps(info, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def write_array(path: pathlib.Path, array: np.ndarray) -> str:
  """Writes a small array; returns the digest of the file."""
  file = io.BytesIO()
  np.save(file, array)
  with whole(path) as part:
    part.write_bytes(file.getvalue())
  return hashlib.sha256(file.getvalue()).hexdigest()


def read_array(
  path: pathlib.Path, shape: tuple[int, ...], digest: str | None
) -> np.ndarray:
  """Reads a small array of float32.

  Raises:
    UserError: the file has another digest, or is missing.
  """
  try:
    needed = int(np.prod(shape)) * 4 + 4096  # with its header
    if path.stat().st_size > needed:
      raise damaged(path, f'it has more than {needed:,} bytes')
    content = path.read_bytes()
  except OSError as error:
    raise damaged(path, first_line(error)) from error
  if hashlib.sha256(content).hexdigest() != digest:
    raise damaged(path, f'it does not have the digest that {INFO} has of it')
  return np.load(io.BytesIO(content), allow_pickle=False)


def map_array(path: pathlib.Path, dtype, shape: tuple[int, ...]) -> np.ndarray:
  """Maps the first rows of a file into memory; there may be more behind them.

  Raises:
    UserError: the file is missing or too short.
  """
  needed = int(np.prod(shape)) * np.dtype(dtype).itemsize
  if not path.is_file() or path.stat().st_size < needed:
    raise damaged(path, f'it has less than {needed:,} bytes')
  return np.memmap(path, dtype, 'r', shape=shape)


def map_lines(path: pathlib.Path, rows: np.ndarray) -> np.ndarray:
  """Maps rows.jsonl into memory, uint8 [bytes].

  Args:
    path: the file. If it is cut off, what is left is mapped.
    rows: `ROW` [rows], at least one.

  Raises:
    UserError: the file is missing or empty.
  """
  size = path.stat().st_size if path.is_file() else 0
  size = max(1, min(size, int(rows['end'][-1])))
  return np.asarray(map_array(path, np.uint8, (size,)))


def read_line(
  path: pathlib.Path, text: np.ndarray, rows: np.ndarray, number: int
) -> bytes:
  """Returns the line of a row.

  Args:
    path: path of rows.jsonl, for messages.
    text: the result of `map_lines`.
    rows: `ROW` [rows].
    number: number of the row.

  Raises:
    UserError: the line was changed.
  """
  start = int(rows['end'][number - 1]) if number else 0
  end = int(rows['end'][number])
  if not 0 <= start < end <= len(text):
    raise damaged_row(path, number)
  line = text[start:end].tobytes()
  if checksum_of_line(line) != rows['line'][number]:
    raise damaged_row(path, number)
  return line


def rounded(embeddings: np.ndarray, dtype: str) -> np.ndarray:
  """Returns embeddings in float32, after they were stored in a type."""
  return decode(encode(embeddings, dtype))


def encode(embeddings: np.ndarray, dtype: str) -> np.ndarray:
  """Rounds embeddings to a type of `DTYPES`.

  For int8 each row is scaled so that its largest feature is 127. The scale is
  not kept: cosines do not depend on it.
  """
  if dtype != 'int8':
    return embeddings.astype(dtype)
  largest = np.abs(embeddings).max(1, keepdims=True)
  scale = 127 / np.maximum(largest, np.finfo(np.float32).tiny)
  return np.rint(embeddings * scale).astype(np.int8)


def decode(stored: np.ndarray) -> np.ndarray:
  """Returns embeddings as float32; rows of int8 get length 1 again."""
  embeddings = stored.astype(np.float32)
  if stored.dtype != np.int8:
    return embeddings
  return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
