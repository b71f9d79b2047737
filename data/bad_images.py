"""Images that turn out to be unreadable in the middle of a run.

All were decoded when the set was prepared. Bytes may rot after that, or another
version of a library may read less. Training bears some (`config.data.
bad_images`): another image stands in for each. Which one depends on the bytes
alone, not on when it was met, so that batch k is the same after a resume and
for every host. Evaluation bears none: its figures would not compare.
"""

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from apnet_jax.errors import UserError
from apnet_jax.printing import printable
from data import decoding

WHAT_TO_DO = (
  'Delete the prepared data set (train.py and eval.py tell where it is): it is'
  ' made anew of the raw images.'
)


def replaced(records, rows: np.ndarray) -> np.ndarray:
  """`rows`, with others in place of those known to be unreadable."""
  if not records.bad:
    return rows
  return np.array([records.bad.get(row, row) for row in rows.tolist()])


def bear(records, rows: np.ndarray, limit: int, error: Exception) -> None:
  """Finds what is unreadable among the images of a batch, and stand-ins.

  Args:
    records: `bad` gets them.
    rows: of the batch, without those that are known.
    limit: `config.data.bad_images`.
    error: what reading the batch has raised; raised again if all are readable.

  Raises:
    UserError: these are more than may be borne; names the first of them.
  """
  for row in _unreadable(records, rows, error):
    path = records.paths[row]
    if len(records.bad) >= limit:
      raise UserError(
        f'the training image {path} cannot be read, and'
        f' config.data.bad_images={limit} are borne. {WHAT_TO_DO}'
      )
    other = records.bad[row] = _stand_in(records, row)
    said = (
      f'The training image {path} cannot be read ({len(records.bad)} of at most'
      f' config.data.bad_images={limit}): {records.paths[other]} stands in.'
    )
    tqdm.write(printable(said))


def refuse(records, rows: np.ndarray, error: Exception) -> UserError:
  """What to raise where reading these images for evaluation has failed."""
  path = records.paths[_unreadable(records, rows, error)[0]]
  return UserError(
    f'the image {path} cannot be read: figures without it would not compare.'
    f' {WHAT_TO_DO}'
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


def _stand_in(records, row: int) -> int:
  """The next readable image of the identity, or else of any.

  Labels go by rows, so that it has its own.
  """
  after = np.roll(np.arange(len(records.pids)), -row - 1)[:-1]
  same = records.pids[after] == records.pids[row]
  for other in (*after[same].tolist(), *after[~same].tolist()):
    if _is_readable(records, other):
      return other
  raise UserError(f'no training image can be read. {WHAT_TO_DO}')
