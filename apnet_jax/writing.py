"""Atomic writing of files, and checks that a path can be written."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import re

from apnet_jax.errors import UserError


def check_place(path: str | os.PathLike, name: str) -> None:
  """Checks that a file or a folder can be made at a path.

  Args:
    path: the path; the folders that it names need not exist.
    name: the path's name in messages, such as `--json=a.json`.

  Raises:
    UserError: the nearest folder that exists is a file, or cannot be written;
      or the path is that of a remote folder.
  """
  check_local(path, name)
  above = next(p for p in pathlib.Path(path).absolute().parents if p.exists())
  if not above.is_dir():
    raise UserError(f'{name} is in {above}, which is not a folder.')
  if not os.access(above, os.W_OK | os.X_OK):
    raise UserError(f'{name}: the folder {above} is not writable.')


def check_local(path: str | os.PathLike, name: str) -> None:
  """Raises UserError if a path is an address, such as `gs://bucket/run`.

  It would name a local folder, `./gs:/bucket/run`.

  Args:
    path: the path; as a `pathlib.Path`, it has a single slash.
    name: the path's name in messages.
  """
  if re.match(r'\w{2,}:/', os.fspath(path)):
    raise UserError(
      f'{name}: remote folders are not supported. Mount it, or give a folder on'
      ' a shared disk.'
    )


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
  """Adds a path to errors of the system without one, as that of a full disk.

  Args:
    path: what a `with` block writes to.
  """
  try:
    yield
  except OSError as error:
    if error.errno and error.filename is None:
      error.filename = os.fspath(path)
    raise


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a path to write to, which becomes `path` if the block succeeds.

  Whoever reads `path` finds the file before or after the block, never a part of
  it, even after a power failure. After an error, nothing is left; after a kill,
  `path` with `.part` behind its name, which the next call replaces.

  Links stay, and the file that they lead to is written. What cannot be replaced
  by a file, such as /dev/stdout or a pipe, is written directly.

  Args:
    path: the file; its folder is made if needed.
  """
  path = pathlib.Path(path)
  if path.exists() and not (path.is_file() or path.is_dir()):
    yield path
    return
  path = pathlib.Path(os.path.realpath(path))
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f'{path.name}.part')
  try:
    with naming(path):
      yield part
      sync(part)
      part.replace(path)
      with contextlib.suppress(OSError):  # some file systems sync no folders
        sync(path.parent)
  except BaseException:
    part.unlink(missing_ok=True)
    raise


def sync(path: str | os.PathLike) -> None:
  """Waits until a file's content, or the names in a folder, are on disk."""
  number = os.open(path, os.O_RDONLY)
  try:
    os.fsync(number)
  finally:
    os.close(number)
