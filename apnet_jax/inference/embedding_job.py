"""Embeds many images into a file, and resumes where it was killed.

OUTPUT.parts/job.json    the network and the images, which must not change
OUTPUT.parts/N.npz       embeddings of part N, and sizes and times of its files
OUTPUT.parts/run.lock    lock of the call that writes here
OUTPUT                   the file of embeddings, made of the parts at the end

A part is written whole or not at all. Parts belong to the job.json beside them:
without one they are nobody's.
"""

from collections.abc import Iterator
import dataclasses
import itertools
import json
import os
import pathlib

import numpy as np
from tqdm import tqdm

from apnet_jax.errors import UserError
from apnet_jax.inference import embedding_files, rows
from apnet_jax.inference.embedder import Embedder
from apnet_jax.workdir import json_files, lock
from apnet_jax.writing import whole

PART = 1024  # rows that a kill can lose
JOB = 'job.json'
KEPT_ERRORS = 1000  # in the file: one for each image could make it unreadable


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The result of a job.

  Attributes:
    rows: number of rows in the file.
    errors: error messages of the rows that were left out.
    resumed: number of rows that an earlier call had embedded.
    replaced: what the file was that this one replaced, in words; '' if there
      was none, or one of the same images and network.
  """

  rows: int
  errors: list[str]
  resumed: int
  replaced: str = ''


def embed_into(
  output: str | os.PathLike,
  embedder: Embedder,
  source: 'rows.ImageRows | rows.VideoRows',
  dtype: str = 'float32',
  strict: bool = False,
) -> Outcome:
  """Embeds images and writes their embeddings to a file.

  If it is killed, the next call with the same arguments continues. Parts in
  which a file has changed since are embedded again.

  Args:
    output: file to write, .npz or .parquet.
    embedder: the network.
    source: the images or boxes.
    dtype: 'float32' or 'float16', of the embeddings in the file.
    strict: whether a row that cannot be read is an error; it is left out
      otherwise. Parts in which an earlier call has left rows out are embedded
      again.

  Raises:
    UserError: a row cannot be read and `strict` is set, none can be read, the
      file cannot hold the name of an image, an earlier call for this file was
      about other images, or another process writes it.
  """
  embedding_files.check_name(output)
  embedding_files.check_texts(output, source.columns)
  folder = pathlib.Path(f'{output}.parts')
  with lock.held(folder, '--output'):
    _claim(folder, embedder, source, dtype)
    outcome = _embed_parts(output, folder, embedder, source, dtype, strict)
    _clear(folder)
  return outcome


def _embed_parts(output, folder, embedder, source, dtype, strict) -> Outcome:
  """Embeds the parts that are missing, and joins all of them."""
  size = len(source)
  spans = [(i, min(i + PART, size)) for i in range(0, size, PART)]
  files = [folder / f'{i:06d}.npz' for i in range(len(spans))]
  done = [
    _is_done(file, source.columns['path'][start:stop], strict)
    for file, (start, stop) in zip(files, spans)
  ]
  resumed = sum(b - a for (a, b), is_done in zip(spans, done) if is_done)
  with tqdm(
    total=size, initial=resumed, desc='Embedding', unit=' images',
    leave=False, delay=1,
  ) as bar:  # fmt: skip
    for (start, stop), file, is_done in zip(spans, files, done):
      if not is_done:
        _embed_part(file, embedder, source, start, stop, dtype, strict)
        bar.update(stop - start)
  return _join(output, files, embedder, source, dtype, resumed)


def _is_done(part: pathlib.Path, paths: np.ndarray, strict: bool) -> bool:
  """Returns whether a part need not be embedded again.

  Args:
    part: file of the part.
    paths: paths of its rows.
    strict: whether rows may not be left out.
  """
  if not part.exists() or (strict and _read_errors(part)):
    return False
  return np.array_equal(_read(part, 'states'), _file_states(paths))


def _file_states(paths: np.ndarray) -> np.ndarray:
  """Returns what tells that files have changed: their sizes and times.

  Args:
    paths: paths of the files; the same may follow each other.

  Returns:
    int64 [files, 2], bytes and nanoseconds; -1 if there is no such file, as for
    a video that is a pattern of images.
  """
  states = []
  for path, _ in itertools.groupby(paths.tolist()):
    try:
      status = os.stat(path)
      states.append((status.st_size, status.st_mtime_ns))
    except (OSError, ValueError):  # ValueError: the path has a null character
      states.append((-1, -1))
  return np.array(states)


def _clear(folder: pathlib.Path) -> None:
  """Removes job.json, and then the parts; a kill in between leaves no job."""
  (folder / JOB).unlink(missing_ok=True)
  for file in folder.glob('*.npz*'):  # and what a kill has left of one
    file.unlink()


def _claim(folder: pathlib.Path, embedder, source, dtype: str) -> None:
  """Writes job.json, or checks that the parts belong to this job."""
  job = {
    'fingerprint': embedder.fingerprint,
    'images': rows.digest(source.columns),
    'first_frame': source.first_frame,
    'dtype': dtype,
    'part': PART,
  }
  path = folder / JOB
  if not path.exists():
    _clear(folder)
    json_files.write_json(path, job)
  theirs = json_files.read_fields(path)
  different = [name for name in job if theirs.get(name) != job[name]]
  if different:
    raise UserError(
      f'{folder} holds embeddings that an earlier call has begun, with another'
      f' {", ".join(different)}. Give the same arguments to continue it, or'
      ' delete that folder.'
    )


def _embed_part(file, embedder, source, start, stop, dtype, strict) -> None:
  errors = {}

  def on_error(row: int, error: UserError):
    if strict:
      raise error
    errors[row - start] = str(error)

  states = _file_states(source.columns['path'][start:stop])  # before reading
  embeddings = source.embed(embedder, start, stop, on_error)
  kept = np.array([i not in errors for i in range(stop - start)])
  with whole(file) as part, part.open('wb') as opened:
    np.savez(
      opened,
      embeddings=embeddings[kept].astype(dtype),
      kept=kept,
      states=states,
      errors=np.array(json.dumps(list(errors.values()))),
    )


def _read(file: pathlib.Path, name: str) -> np.ndarray:
  try:
    with file.open('rb') as opened, np.load(opened) as arrays:
      return arrays[name]
  except Exception as error:  # zipfile and numpy raise many classes
    raise UserError(f'{file} is damaged: delete it and try again.') from error


def _read_errors(file: pathlib.Path) -> list[str]:
  """Returns the error messages of the rows that a part leaves out."""
  return json.loads(str(_read(file, 'errors')))


def _join(output, files, embedder, source, dtype, resumed: int) -> Outcome:
  """Writes the file of embeddings from its parts."""
  kept = np.concatenate([_read(file, 'kept') for file in files])
  errors = [error for file in files for error in _read_errors(file)]
  if not kept.any():
    _clear(files[0].parent)  # to read the images again at the next call
    raise UserError(
      f'none of {len(kept):,} images can be read. The first: {errors[0]}'
    )
  info = {
    'fingerprint': embedder.fingerprint,
    'settings': embedder.settings,
    'threshold': embedder.threshold,
    'unreadable': errors[:KEPT_ERRORS],
    'unreadable_count': len(errors),
  }
  columns = {name: column[kept] for name, column in source.columns.items()}

  def blocks() -> Iterator[np.ndarray]:
    for file in files:
      embeddings = _read(file, 'embeddings')
      if len(embeddings):
        yield embeddings

  shape = (int(kept.sum()), embedder.dimensions)
  replaced = _describe_other(output, embedder.fingerprint, columns)
  embedding_files.write(output, info, columns, blocks(), shape, dtype)
  return Outcome(shape[0], errors, resumed, replaced)


def _describe_other(output, fingerprint: str, columns) -> str:
  """Describes a file of other content that lies at `output`, else ''.

  Args:
    output: file to write.
    fingerprint: that of the network.
    columns: the columns to write, arrays [rows] by name.
  """
  if not pathlib.Path(output).exists():
    return ''
  try:
    with embedding_files.reading(output) as found:
      same = found.info['fingerprint'] == fingerprint
      same = same and rows.digest(found.columns) == rows.digest(columns)
      return '' if same else f'{len(found.columns["path"]):,} embeddings'
  except UserError:  # damaged, or written by another program
    return 'not a file of embeddings'
