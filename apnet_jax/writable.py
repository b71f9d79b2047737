"""Tells before long work whether its result can be written."""

import os
import pathlib

from apnet_jax.errors import UserError


def check_place(path: str | os.PathLike, name: str) -> None:
  """Checks that a file or a folder can be made at a path.

  Args:
    path: the path; the folders that it names need not exist.
    name: the path's name in messages, such as `--json=a.json`.

  Raises:
    UserError: the nearest folder that exists is a file, or cannot be written.
  """
  above = next(p for p in pathlib.Path(path).absolute().parents if p.exists())
  if not above.is_dir():
    raise UserError(f'{name} is in {above}, which is not a folder.')
  if not os.access(above, os.W_OK | os.X_OK):
    raise UserError(f'{name}: the folder {above} is not writable.')
