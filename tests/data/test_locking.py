"""Tests of the lock that lets one process at a time write into a folder."""

import errno
import fcntl
import os
import threading
import time

import pytest

from data import locking


def test_a_lock_is_open_to_all_users(tmp_path):
  file = tmp_path / '.lock'
  file.touch(mode=0o600)  # as an earlier version has left it
  with locking.locked(file, 'test'):
    assert file.stat().st_mode & 0o777 == 0o666
  assert file.exists()


def test_the_lock_of_another_user_is_held_without_writing(
  tmp_path, monkeypatch
):
  file = tmp_path / '.lock'
  system, opened = os.open, []

  def as_another_user(path, flags, mode=0o777):
    if flags & os.O_RDWR:
      raise PermissionError(errno.EACCES, 'Permission denied', str(path))
    opened.append(path)
    return system(path, flags, mode)

  monkeypatch.setattr(os, 'open', as_another_user)
  with pytest.raises(PermissionError):
    with locking.locked(file, 'test'):
      pass  # there is no file, and none can be made
  file.touch()
  opened.clear()
  with locking.locked(file, 'test'):
    assert opened == [file]
    with file.open() as other, pytest.raises(BlockingIOError):
      fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_one_holds_a_lock_that_is_removed_each_time(tmp_path):
  inside, most, rounds = [], [], 20

  def work():
    for _ in range(rounds):
      with locking.locked(tmp_path / 'lock', 'test', keep=False):
        inside.append(1)
        time.sleep(0.001)
        most.append(len(inside))
        inside.pop()

  threads = [threading.Thread(target=work) for _ in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(30)
  assert most == [1] * 3 * rounds
  assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
  def flock(*_):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(fcntl, 'flock', flock)
  with locking.locked(tmp_path / 'lock', 'prepare'):
    pass
  printed = capsys.readouterr().out
  assert 'cannot be locked (No locks available)' in printed
  assert 'no other process begins to prepare' in printed
