"""Replaces training images that can no longer be decoded.

All images were decoded when the data set was prepared. Files may be damaged
later, or another version of a library may refuse an image. Training replaces up
to `config.data.bad_images` of them by other images. The replacement depends on
the files alone, not on when the damage was found: batch k is the same after a
resume and in every process. Evaluation replaces none, because its figures would
not be comparable.
"""

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from apnet_jax.errors import UserError
from apnet_jax.printing import printable
from data import decoding

ADVICE = (
  'Delete the prepared data set, whose folder train.py and eval.py print: it is'
  ' made again from the raw images.'
)


def apply_replacements(records, rows: np.ndarray) -> np.ndarray:
  """Returns `rows` with the replacements of rows known to be unreadable."""
  if not records.replacements:
    return rows
  return np.array([records.replacements.get(row, row) for row in rows.tolist()])


def replace_unreadable(
  records, rows: np.ndarray, limit: int, error: Exception
) -> None:
  """Finds the unreadable images of a batch, and replacements for them.

  Args:
    records: the training split; its `replacements` are extended.
    rows: rows of the batch, with known replacements applied.
    limit: `config.data.bad_images`.
    error: error of reading the batch; raised again if all images are readable.

  Raises:
    UserError: more images are unreadable than the limit allows; names the first
      one above it.
  """
  for row in _unreadable(records, rows, error):
    path = records.paths[row]
    if len(records.replacements) >= limit:
      raise UserError(
        f'the training image {path} cannot be read: one more than'
        f' config.data.bad_images={limit} allows. {ADVICE}'
      )
    other = records.replacements[row] = _find_replacement(records, row)
    message = (
      f'The training image {path} cannot be read ({len(records.replacements)}'
      f' of at most config.data.bad_images={limit}); {records.paths[other]} is'
      ' used in its place.'
    )
    tqdm.write(printable(message))


def evaluation_error(records, rows: np.ndarray, error: Exception) -> UserError:
  """Returns the error to raise when images of an evaluation are unreadable.

  Args:
    records: the split.
    rows: rows that were read.
    error: error of reading them; raised if all of them are readable.
  """
  path = records.paths[_unreadable(records, rows, error)[0]]
  return UserError(
    f'the image {path} cannot be read, and figures without it would not be'
    f' comparable. {ADVICE}'
  )


def _unreadable(records, rows: np.ndarray, error: Exception) -> list[int]:
  found = [r for r in np.unique(rows).tolist() if not _is_readable(records, r)]
  if not found:
    raise error
  return found


def _is_readable(records, row: int) -> bool:
  try:
    decoding.decode(tf.gather(records.encoded, row))
  except tf.errors.InvalidArgumentError:
    return False
  return True


def _find_replacement(records, row: int) -> int:
  """Returns the next readable image of the same identity, or else of any.

  Labels are looked up by row, so that the replacement gets its own label.
  """
  following = np.roll(np.arange(len(records.pids)), -row - 1)[:-1]
  same = records.pids[following] == records.pids[row]
  for other in (*following[same].tolist(), *following[~same].tolist()):
    if _is_readable(records, other):
      return other
  raise UserError(f'no training image can be read. {ADVICE}')
