"""Files that are written whole or not at all, where they can be written."""

import errno
import json
import os
import pathlib

import pytest

from apnet_jax.workdir.json_files import write_json
from apnet_jax.writing import whole


def test_a_file_appears_when_it_is_whole(tmp_path):
  path = tmp_path / 'made' / 'a.txt'
  for text in ('first', 'second'):
    before = path.exists() and path.read_text()
    with whole(path) as part:
      part.write_text(text)
      assert (path.exists() and path.read_text()) == before
    assert path.read_text() == text
  assert list(path.parent.iterdir()) == [path]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
  with pytest.raises(OSError, match='disk full'):
    with whole(tmp_path / 'a.png') as part, part.open('wb') as file:
      file.write(b'half')
      raise OSError('disk full')
  assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_is_told_with_the_file(tmp_path):
  full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  with pytest.raises(OSError, match='No space left.*/a.json'):
    with whole(tmp_path / 'a.json'):
      raise full


def test_an_error_keeps_the_file_before_it(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('before')
  with pytest.raises(KeyboardInterrupt), whole(path) as part:
    part.write_text('half')
    raise KeyboardInterrupt
  assert path.read_text() == 'before'
  assert list(tmp_path.iterdir()) == [path]


def test_files_with_one_stem_do_not_meet(tmp_path):
  with whole(tmp_path / 'a.txt') as part:
    part.write_text('text')
    write_json(tmp_path / 'a.json', {})
  assert (tmp_path / 'a.txt').read_text() == 'text'
  assert (tmp_path / 'a.json').read_text() == '{}\n'


def test_a_link_stays_and_its_file_is_written(tmp_path):
  link, target = tmp_path / 'link.json', tmp_path / 'other' / 'a.json'
  link.symlink_to('other/a.json')  # which does not exist yet
  for content in ({}, {'a': 1}):
    write_json(link, content)
    assert link.is_symlink() and json.loads(target.read_text()) == content
  assert [*target.parent.iterdir()] == [target]


def test_a_pipe_is_written_and_stays(tmp_path):
  path = tmp_path / 'pipe'
  os.mkfifo(path)
  reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
  try:
    write_json(path, {})
    assert os.read(reader, 99) == b'{}\n'
  finally:
    os.close(reader)
  assert path.is_fifo() and [*tmp_path.iterdir()] == [path]


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
  synced = []

  def fsync(number):
    path = pathlib.Path(os.readlink(f'/proc/self/fd/{number}'))
    synced.append((path.name, path.is_file() and path.read_text()))

  monkeypatch.setattr(os, 'fsync', fsync)
  with whole(tmp_path / 'a.txt') as part:
    part.write_text('text')
  assert synced == [('a.txt.part', 'text'), (tmp_path.name, False)]
