"""One run at a time in a workdir."""

from collections.abc import Iterator
import contextlib
import fcntl
import os
import pathlib
import socket

import jax

FILE = 'run.lock'


@contextlib.contextmanager
def held(workdir: str | os.PathLike) -> Iterator[None]:
  """Keeps a workdir to this process, which may take it again.

  The system frees it when the process ends, however that happens. Where the
  file system has no locks, that is said and the run goes on. Of the processes
  of one run, the first takes it for all.

  Args:
    workdir: made if need be; if nothing was written into it, it goes again.

  Raises:
    ValueError: another run has it, or it cannot be written to.
  """
  if jax.process_index():
    yield
    return
  path = pathlib.Path(workdir) / FILE
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open('a+')
  except OSError as error:
    raise ValueError(
      f'--workdir={workdir} cannot be written to: {error.strerror}.'
    ) from error
  with file:
    taken = _take(file, workdir)
    if taken:
      file.truncate(0)
      file.write(_this_process())
      file.flush()
    try:
      yield
    finally:
      if taken and os.listdir(path.parent) == [FILE]:
        path.unlink()
        path.parent.rmdir()


def _take(file, workdir) -> bool:
  """Whether the lock was taken; False if this process has it, or none can."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    file.seek(0)
    holder = file.read()
    if holder == _this_process():
      return False
    raise ValueError(
      f'--workdir={workdir} is in use by {holder or "another process"}. Wait'
      ' for it, or give another --workdir.'
    ) from error
  except OSError as error:
    print(
      f'No lock on {workdir} ({error.strerror}): see to it that no other run'
      ' has it.',
      flush=True,
    )
    return False
  return True


def _this_process() -> str:
  return f'process {os.getpid()} on {socket.gethostname()}'
