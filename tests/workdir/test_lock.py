import concurrent.futures
import contextlib
import errno
import fcntl
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys

import pytest

from apnet_jax.errors import UserError
from apnet_jax.workdir import lock
from apnet_jax.writing import check_place

HOLD = (
  'import sys, time\n'
  'from apnet_jax.workdir import lock\n'
  'with lock.held(sys.argv[1]):\n'
  "  open(sys.argv[1] + '/file', 'w').close()\n"
  "  print('held', flush=True)\n"
  '  time.sleep(60)\n'
)
FORK = (
  'import os, sys\n'
  'from apnet_jax.workdir import lock\n'
  'try:\n'
  '  with lock.held(sys.argv[1]):\n'
  '    if child := os.fork():\n'
  '      os.waitpid(child, 0)\n'
  '      with lock.held(sys.argv[1]):\n'
  "        os.path.isdir(sys.argv[1]) and print('still held')\n"
  '    else:\n'
  '      with lock.held(sys.argv[1]): pass\n'
  'except ValueError as error: print(error)\n'
)


@contextlib.contextmanager
def another_run(workdir):
  process = subprocess.Popen(
    [sys.executable, '-c', HOLD, str(workdir)],
    stdout=subprocess.PIPE,
    text=True,
  )
  with process:
    assert process.stdout.readline() == 'held\n'
    yield process
    process.kill()


def test_the_second_run_is_refused_until_the_first_is_killed(tmp_path):
  with another_run(tmp_path) as process:
    with pytest.raises(ValueError) as error:
      with lock.held(tmp_path):
        pass
    holder = f'process {process.pid} on {socket.gethostname()}'
    assert f'is in use by {holder}' in str(error.value)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with lock.held(tmp_path), lock.held(tmp_path):  # the same process
      pass
  assert (tmp_path / 'file').exists()


def test_a_process_of_the_same_name_is_another_one(tmp_path):
  """Two containers may have one host name, and process 1 in each."""
  name = f'process {os.getpid()} on {socket.gethostname()}'
  with (tmp_path / lock.FILE).open('w') as other:
    fcntl.flock(other, fcntl.LOCK_EX)
    other.write(name)
    other.flush()
    with pytest.raises(UserError, match=f'is in use by {name}'):
      with lock.held(tmp_path):
        pass
  with lock.held(tmp_path):
    pass


def test_another_thread_is_refused(tmp_path):
  def take():
    with lock.held(tmp_path):
      pass

  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    with lock.held(tmp_path), lock.held(tmp_path):
      with pytest.raises(UserError, match=f'in use by process {os.getpid()}'):
        pool.submit(take).result()
      take()
    pool.submit(take).result()


def test_a_workdir_is_known_by_other_paths(tmp_path, monkeypatch):
  (tmp_path / 'link').symlink_to('run')
  monkeypatch.chdir(tmp_path)
  with lock.held('run'), lock.held(tmp_path / 'link'):
    with lock.held(tmp_path / 'run'):
      pass
    assert (tmp_path / 'run').is_dir()
  assert not (tmp_path / 'run').exists()


def test_a_forked_process_does_not_hold_what_its_parent_holds(tmp_path):
  out = subprocess.run(
    [sys.executable, '-W', 'ignore', '-c', FORK, str(tmp_path / 'run')],
    capture_output=True,
    text=True,
    timeout=60,
  )
  child, parent = out.stdout.splitlines()
  assert 'is in use by process' in child, out.stderr
  assert parent == 'still held'


def test_a_workdir_that_nothing_was_written_to_goes_again(tmp_path):
  with lock.held(tmp_path / 'run'):
    with lock.held(tmp_path / 'run'):
      pass
    assert (tmp_path / 'run').is_dir()
  assert not (tmp_path / 'run').exists()
  with lock.held(tmp_path / 'a' / 'b' / 'run'):
    (tmp_path / 'a' / 'file').touch()  # of another run
  assert list((tmp_path / 'a').iterdir()) == [tmp_path / 'a' / 'file']


def test_a_full_disk_has_a_lock_without_the_name_of_its_holder(tmp_path):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
  try:
    with lock.held(tmp_path):
      assert (tmp_path / lock.FILE).read_bytes() == b''
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_file_of_a_lock_may_go_before_it_is_locked(tmp_path, monkeypatch):
  """The first run ends, and removes it, when the second has opened it."""
  first, run, flock = contextlib.ExitStack(), tmp_path / 'run', fcntl.flock
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    pool.submit(first.enter_context, lock.held(run)).result()

    def end_first(*arguments):
      monkeypatch.setattr(fcntl, 'flock', flock)
      pool.submit(first.close).result()
      flock(*arguments)

    monkeypatch.setattr(fcntl, 'flock', end_first)
    with lock.held(run):
      with (run / lock.FILE).open('a') as third:
        with pytest.raises(BlockingIOError):
          flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB)
  assert not run.exists()


def test_another_run_may_enter_a_folder_that_is_removed(tmp_path, monkeypatch):
  rmdir = pathlib.Path.rmdir

  def enter(folder):
    monkeypatch.undo()
    (folder / lock.FILE).touch()
    rmdir(folder)

  monkeypatch.setattr(pathlib.Path, 'rmdir', enter)
  with lock.held(tmp_path / 'run'):
    pass
  assert (tmp_path / 'run' / lock.FILE).exists()


def test_a_remote_folder_is_refused(tmp_path, monkeypatch):
  """It would be the local folder ./gs:/bucket/run."""
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match='--workdir=gs://a/run: remote folders'):
    with lock.held('gs://a/run'):
      pass
  with pytest.raises(UserError, match='-o=s3://a: remote folders are not'):
    check_place('s3://a', '-o=s3://a')
  assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
  def flock(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(fcntl, 'flock', flock)
  with lock.held(tmp_path / 'run'):
    pass
  assert 'cannot be locked' in capsys.readouterr().out


@contextlib.contextmanager
def open_to_others(parents):
  """Lets others enter folders while a `with` block lasts, up to an open one."""
  with contextlib.ExitStack() as restored:
    for parent in parents:
      mode = parent.stat().st_mode
      if mode & 0o055 == 0o055:
        break
      with contextlib.suppress(PermissionError):
        parent.chmod(mode | 0o055)
        restored.callback(parent.chmod, mode)
    yield


def test_a_workdir_that_cannot_be_written_to_is_named(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(ValueError, match=r'--workdir=.*/run cannot be written'):
    with lock.held(tmp_path / 'file' / 'run'):
      pass
  # Run as another user, since root may write anywhere.
  code = (
    'import os, sys\n'
    'from apnet_jax.workdir import lock\n'
    'os.getuid() or os.setuid(65534)\n'
    'try:\n'
    '  with lock.held(sys.argv[1]): pass\n'
    'except ValueError as error: print(error)\n'
  )
  folder = tmp_path / 'folder'
  folder.mkdir()
  os.chmod(folder, 0o555)
  with open_to_others(folder.parents):
    out = subprocess.run(
      [sys.executable, '-c', code, str(folder)], capture_output=True, text=True
    )
  assert out.stdout == (
    f'--workdir={folder} cannot be written to: Permission denied.\n'
  ), out.stderr
