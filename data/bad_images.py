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
  """Replaces the rows of images that are known to be unreadable.

  Args:
    records: the training split (`records.Records`).
    rows: int [n], indices of images in the split.

  Returns:
    int [n], with the index of a replacement for each unreadable image.
  """
  if not records.replacements:
    return rows
  return np.array([records.replacements.get(row, row) for row in rows.tolist()])


def replace_unreadable(
  records, rows: np.ndarray, limit: int, error: Exception
) -> None:
  """Finds the unreadable images of a batch, and replacements for them.

  Args:
    records: the training split (`records.Records`); its `replacements` are
      extended.
    rows: int [n], indices of the batch's images, known replacements applied.
    limit: largest allowed number of unreadable images,
      `config.data.bad_images`.
    error: error of reading the batch; raised again if all images are readable.

  Raises:
    UserError: more images are unreadable than the limit allows; the message
      names the first image above the limit.
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
    records: the query or gallery split (`records.Records`).
    rows: int [n], indices of the images that were to be read.
    error: error of reading the images; raised again if all are readable.
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
  """Returns the index of the next readable image of the same identity.

  If there is none, the next readable image of any identity is taken. Labels are
  looked up by row, so that the replacement gets its own label.

  Args:
    records: the training split (`records.Records`).
    row: index of the unreadable image.

  Raises:
    UserError: no image can be read.
  """
  following = np.roll(np.arange(len(records.pids)), -row - 1)[:-1]
  same = records.pids[following] == records.pids[row]
  for other in (*following[same].tolist(), *following[~same].tolist()):
    if _is_readable(records, other):
      return other
  raise UserError(f'no training image can be read. {ADVICE}')
