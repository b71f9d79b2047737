"""Files of embeddings: .npz, or Parquet for other programs.

Both hold the columns of the images, such as `path`, `embedding`s of length 1,
and `info`: JSON with the fingerprint of the network that made them.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import dataclasses
import json
import os
import pathlib
from typing import Any
import zipfile

import numpy as np

from apnet_jax import labels
from apnet_jax.errors import UserError, first_line
from apnet_jax.optional import import_optional
from apnet_jax.workdir import json_files
from apnet_jax.writing import whole

SUFFIXES = ('.npz', '.parquet')
DTYPES = ('float32', 'float16')
BLOCK = 4096  # rows that are read at once
EMBEDDING, INFO = 'embedding', 'info'
JUNK = '-1'  # identity of a bad box, in lists of Market-1501's naming
NO_PERSON = ('distractor', 'junk')  # values of the column `role`


@dataclasses.dataclass(frozen=True)
class EmbeddingFile:
  """A file of embeddings that is open for reading.

  Attributes:
    info: fields about the embeddings, with the `fingerprint` of the network.
    columns: arrays [rows] by name.
    dimensions: number of features.
    blocks: yields the embeddings, float [at most BLOCK, dimensions].
  """

  info: dict[str, Any]
  columns: dict[str, np.ndarray]
  dimensions: int
  blocks: Iterator[np.ndarray]


def read_labels(column: np.ndarray) -> np.ndarray:
  """Returns the labels in a column, text [rows]; see `labels.plain`."""
  return np.array([labels.plain(str(value)) for value in column], str)


def read_identities(
  columns: Mapping[str, np.ndarray], name: str = 'pid'
) -> np.ndarray | None:
  """Returns the identities in a column, as text.

  They are read as in a list of own images: see `labels.plain`, and 0 is a
  person like others. Distractors, who are different people, and junk are told
  by a column `role`.

  Args:
    columns: arrays [rows] by name.
    name: name of the column.

  Returns:
    Text [rows], `labels.UNKNOWN` where there is no value, or it is `JUNK`, or
    the role is one of `NO_PERSON`; None if there is no such column.
  """
  if name not in columns:
    return None
  identities = read_labels(columns[name])
  unknown = identities == JUNK
  if 'role' in columns:
    unknown |= np.isin(read_labels(columns['role']), NO_PERSON)
  return np.where(unknown, labels.UNKNOWN, identities)


def check_name(path: str | os.PathLike) -> None:
  """Checks that a file of embeddings can be written under a name.

  Raises:
    UserError: its suffix is not one of `SUFFIXES`, or the library for it is not
      installed.
  """
  suffix = pathlib.Path(path).suffix.lower()
  if suffix not in SUFFIXES:
    raise UserError(f'--output={path} must end in {" or ".join(SUFFIXES)}.')
  if suffix == '.parquet':
    import_optional('pyarrow.parquet', 'parquet')


def check_texts(
  path: str | os.PathLike, columns: Mapping[str, np.ndarray]
) -> None:
  """Checks that a file of embeddings can hold the texts of its columns.

  Parquet has texts in UTF-8 only, and names of files may be no such texts.

  Args:
    path: file to write.
    columns: arrays [rows] by name.

  Raises:
    UserError: it is a Parquet file, and a text is not UTF-8.
  """
  if pathlib.Path(path).suffix.lower() != '.parquet':
    return
  for name, column in columns.items():
    for text in column.tolist() if column.dtype.kind == 'U' else ():
      try:
        text.encode()
      except UnicodeEncodeError as error:
        raise UserError(
          f'--output={path}: {name} {text!r} is not UTF-8, and Parquet holds'
          ' nothing else. Write an .npz file instead.'
        ) from error


def write(
  path: str | os.PathLike,
  info: Mapping,
  columns: Mapping[str, np.ndarray],
  blocks: Iterable[np.ndarray],
  shape: tuple[int, int],
  dtype: str,
) -> None:
  """Writes a file of embeddings whole or not at all, block by block.

  Args:
    path: file to write; its suffix determines the format.
    info: fields about the embeddings.
    columns: arrays [rows] by name.
    blocks: the embeddings, [rows of the block, features].
    shape: rows and features of all blocks together.
    dtype: one of `DTYPES`, of the embeddings in the file.

  Raises:
    UserError: see `check_name`.
  """
  check_name(path)
  path = pathlib.Path(path)
  arrow = path.suffix.lower() == '.parquet'
  write_to = _write_parquet if arrow else _write_npz
  with whole(path) as part:
    write_to(part, info, columns, (b.astype(dtype) for b in blocks), shape)


def _write_npz(path, info, columns, blocks, shape) -> None:
  texts = {**columns, INFO: np.array(json.dumps(info))}
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, array in texts.items():
      with archive.open(f'{name}.npy', 'w', force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)
    stored = zipfile.ZipInfo(f'{EMBEDDING}.npy')  # not compressed
    with archive.open(stored, 'w', force_zip64=True) as file:
      for i, block in enumerate(blocks):
        if i == 0:
          descr = np.lib.format.dtype_to_descr(block.dtype)
          np.lib.format.write_array_header_1_0(
            file, {'shape': shape, 'fortran_order': False, 'descr': descr}
          )
        file.write(block.tobytes())


def _write_parquet(path, info, columns, blocks, shape) -> None:
  pa = import_optional('pyarrow', 'parquet')
  parquet = import_optional('pyarrow.parquet', 'parquet')
  writer, start = None, 0
  with contextlib.ExitStack() as stack:
    for block in blocks:
      stop = start + len(block)
      flat = pa.array(block.reshape(-1))
      table = pa.table(
        {
          **{n: pa.array(c[start:stop].tolist()) for n, c in columns.items()},
          EMBEDDING: pa.FixedSizeListArray.from_arrays(flat, shape[1]),
        }
      ).replace_schema_metadata({INFO: json.dumps(info)})
      if writer is None:
        writer = stack.enter_context(
          parquet.ParquetWriter(path, table.schema, write_page_checksum=True)
        )
      writer.write_table(table)
      start = stop


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[EmbeddingFile]:
  """Opens a file of embeddings; only one block is in memory at a time.

  Raises:
    UserError: the file is no such file, is damaged or cut off; or the library
      for it is not installed.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    problem = 'it is not a file' if path.exists() else 'it does not exist'
    raise UserError(f'{path} is not a file of embeddings: {problem}.')
  arrow = path.suffix.lower() == '.parquet'
  with contextlib.ExitStack() as stack:
    with _naming(path):
      found = (_read_parquet if arrow else _read_npz)(path, stack)
      _check(found, path)
    yield dataclasses.replace(found, blocks=_checked(found, path))


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except Exception as error:  # zipfile, numpy and pyarrow raise many classes
    raise UserError(
      f'{path} cannot be read as a file of embeddings: {first_line(error)}'
    ) from error


def _check(found: EmbeddingFile, path: pathlib.Path) -> None:
  """Raises UserError if the fields or columns of a file are not as written."""
  json_files.check_fields(found.info, path)
  if not isinstance(found.info.get('fingerprint'), str):
    raise UserError('it does not name its network')
  if 'path' not in found.columns:
    raise UserError('it has no column path')
  if len({column.shape for column in found.columns.values()}) > 1:
    raise UserError('its columns have different lengths')


def _checked(found: EmbeddingFile, path: pathlib.Path) -> Iterator[np.ndarray]:
  """Yields the blocks; raises UserError if one is damaged."""
  rows = 0
  with _naming(path):
    for block in found.blocks:
      rows += len(block)
      if not np.isfinite(block).all():
        raise UserError('it has embeddings that are not finite')
      yield block
    if rows != len(found.columns['path']):
      raise UserError('it is cut off')


def _read_npz(path: pathlib.Path, stack: contextlib.ExitStack):
  archive = stack.enter_context(zipfile.ZipFile(path))
  names = [name.removesuffix('.npy') for name in archive.namelist()]
  columns = {
    name: _read_column(archive, name) for name in names if name != EMBEDDING
  }
  info = json_files.parse_json(str(columns.pop(INFO)), INFO)
  file = stack.enter_context(archive.open(f'{EMBEDDING}.npy'))
  np.lib.format.read_magic(file)
  shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
  if len(shape) != 2 or by_columns or dtype.kind != 'f':
    raise UserError('its embeddings are not float [rows, features] by rows')
  size = shape[1] * dtype.itemsize

  def blocks():
    while content := file.read(BLOCK * size):
      yield np.frombuffer(content, dtype).reshape(-1, shape[1])

  return EmbeddingFile(info, columns, shape[1], blocks())


def _read_column(archive: zipfile.ZipFile, name: str) -> np.ndarray:
  with archive.open(f'{name}.npy') as file:
    column = np.lib.format.read_array(file, allow_pickle=False)
    if file.read(1):  # zipfile compares the checksum when it reads the end
      raise UserError(f'its column {name} is longer than it says')
  return column


def _read_parquet(path: pathlib.Path, stack: contextlib.ExitStack):
  parquet = import_optional('pyarrow.parquet', 'parquet')
  file = stack.enter_context(
    parquet.ParquetFile(path, page_checksum_verification=True)
  )
  schema = file.schema_arrow
  info = json_files.parse_json(schema.metadata[INFO.encode()].decode(), INFO)
  names = [name for name in schema.names if name != EMBEDDING]
  table = file.read(names)
  columns = {name: np.array(table[name].to_pylist()) for name in names}
  dimensions = schema.field(EMBEDDING).type.list_size

  def blocks():
    for batch in file.iter_batches(BLOCK, columns=[EMBEDDING]):
      flat = batch.column(0).flatten()
      yield flat.to_numpy(zero_copy_only=False).reshape(-1, dimensions)

  return EmbeddingFile(info, columns, dimensions, blocks())
