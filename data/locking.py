"""A lock on a file, which lets one process at a time write into a folder."""

from collections.abc import Iterator
import contextlib
import fcntl
import os
import pathlib

from apnet_jax.printing import printable


@contextlib.contextmanager
def locked(
  file: pathlib.Path, purpose: str, keep: bool = True
) -> Iterator[None]:
  """Holds the lock of a file, and waits for another process that holds it.

  The system frees the lock when the process ends for any reason. If the file
  system has no locks, a message says so, and the block is run.

  Args:
    file: the file to lock; made if needed, for all users of its folder.
    purpose: what is done under the lock, for messages, as 'prepare in DIR'.
    keep: whether the file stays; otherwise it is removed at the end.

  Raises:
    OSError: the file cannot be made or opened.
  """
  descriptor = _take(file, purpose)
  try:
    yield
  finally:
    if not keep:
      with contextlib.suppress(OSError):  # it belongs to another user
        file.unlink()
    os.close(descriptor)


def _take(file: pathlib.Path, purpose: str) -> int:
  """Returns the descriptor of the locked file."""
  while True:
    descriptor = _open(file)
    try:
      _lock(descriptor, file, purpose)
      if _is_still(file, descriptor):
        return descriptor
    except BaseException:
      os.close(descriptor)
      raise
    os.close(descriptor)  # another process has removed the file meanwhile


def _open(file: pathlib.Path) -> int:
  """Opens the file of a lock, for writing if possible: NFS locks no other."""
  try:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
  except PermissionError:
    if not file.exists():
      raise
    return os.open(file, os.O_RDONLY)  # it belongs to another user
  with contextlib.suppress(OSError):  # the same
    os.fchmod(descriptor, 0o666)
  return descriptor


def _lock(descriptor: int, file: pathlib.Path, purpose: str) -> None:
  try:
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      text = f'Waiting for another process to {purpose}'
      print(printable(text), flush=True)
      fcntl.flock(descriptor, fcntl.LOCK_EX)
  except OSError as error:
    text = (
      f'{file.parent} cannot be locked ({error.strerror}): make sure that no'
      f' other process begins to {purpose}.'
    )
    print(printable(text), flush=True)


def _is_still(file: pathlib.Path, descriptor: int) -> bool:
  """Returns whether a path still leads to an open file."""
  try:
    return os.path.samestat(os.stat(file), os.fstat(descriptor))
  except FileNotFoundError:
    return False
