"""A lock that lets one thread of one process at a time write into a folder."""

from collections.abc import Iterator
import contextlib
import fcntl
import os
import pathlib
import socket
import threading

from apnet_jax.errors import UserError
from apnet_jax.parallel import processes
from apnet_jax.writing import check_local

FILE = 'run.lock'
# The threads that hold locks, by folder. A process that is forked holds none.
_held: dict[pathlib.Path, int] = {}
os.register_at_fork(after_in_child=_held.clear)


@contextlib.contextmanager
def held(workdir: str | os.PathLike, flag: str = '--workdir') -> Iterator[None]:
  """Holds the lock of a workdir; a thread may take it several times.

  Another thread of this process is refused as another process is. The system
  frees the lock when the process ends for any reason. If the file system has no
  locks, a message says so and the run continues. Process 0 takes the lock for
  all processes of a run.

  Args:
    workdir: folder to lock. It is made if needed, with those above it, and
      removed again if nothing was written into it.
    flag: flag that names the folder, for messages.

  Raises:
    UserError: another run or thread holds the lock, or the workdir cannot be
      written to.
  """
  check_local(workdir, f'{flag}={workdir}')
  if not processes.is_first():
    yield
    return
  path = pathlib.Path(workdir) / FILE
  missing = [each for each in path.parent.parents if not each.exists()]
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent.resolve()
    file = path.open('a+')
  except OSError as error:
    raise UserError(
      f'{flag}={workdir} cannot be written to: {error.strerror}.'
    ) from error
  with file:
    thread = threading.get_ident()
    # Each opening of a file has a lock of its own, in one process too.
    taken = _held.get(folder) != thread and _take(file, workdir, flag)
    if taken and not _lies_at(path, file):  # its holder removed it just now
      with held(workdir, flag):
        yield
      return
    if taken:
      with contextlib.suppress(OSError):  # it is for messages; a disk is full
        os.truncate(file.fileno(), 0)
        os.write(file.fileno(), _this_process().encode())
      _held[folder] = thread
    try:
      yield
    finally:
      if taken and folder in _held:  # it is not in a forked process
        del _held[folder]
        with contextlib.suppress(OSError):  # another run may enter a folder
          if os.listdir(path.parent) == [FILE]:
            path.unlink()
            for emptied in (path.parent, *missing):
              emptied.rmdir()


def _take(file, workdir, flag: str) -> bool:
  """Takes the lock of a workdir.

  Returns:
    Whether the lock was taken: False if the file system has no locks.

  Raises:
    UserError: another process holds the lock. Its text in the file may be that
      of this process: in containers with the same host name, both are number 1.
  """
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    file.seek(0)
    holder = file.read()
    raise UserError(
      f'{flag}={workdir} is in use by {holder or "another process"}. Wait for'
      f' it, or give another {flag}.'
    ) from error
  except OSError as error:
    print(
      f'{workdir} cannot be locked ({error.strerror}): make sure that no other'
      ' run uses it.',
      flush=True,
    )
    return False
  return True


def _lies_at(path: pathlib.Path, file) -> bool:
  """Tells whether an open file is the one that a path leads to."""
  try:
    return os.path.samestat(path.stat(), os.fstat(file.fileno()))
  except FileNotFoundError:
    return False


def _this_process() -> str:
  return f'process {os.getpid()} on {socket.gethostname()}'
