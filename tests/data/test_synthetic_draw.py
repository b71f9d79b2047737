"""Tests of the synthetic set: layout, properties and determinism."""

from collections import Counter
import re
import threading
import time

import numpy as np
from PIL import Image
import pytest

from data import locking
from data.synthetic import draw, person
from data.synthetic import layout as synthetic

NAME = re.compile(r'(-1|\d{4})_c([1-6])s(\d)_(\d{6})_(\d{2})\.jpg')
COUNTS = {
  'train_identities': 5,
  'test_identities': 4,
  'distractors': 6,
  'junk': 3,
}


def draw_small(root, **changes):
  draw.draw_dataset(root, progress=False, **{**COUNTS, **changes})
  return root


def read_names(folder):
  """Returns (pid, camera) of every file of a folder."""
  matches = [NAME.fullmatch(path.name) for path in sorted(folder.iterdir())]
  return [(int(m[1]), int(m[2])) for m in matches]


def read_bytes(root):
  files = sorted(path for path in root.rglob('*') if path.is_file())
  return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return draw_small(tmp_path_factory.mktemp('drawn') / 'set')


def test_has_the_layout_of_market_1501(root):
  folders = {draw.TRAIN, draw.QUERY, draw.GALLERY}
  assert {path.name for path in root.iterdir()} == folders
  assert [path.name for path in root.parent.iterdir()] == ['set']
  for folder in folders:
    assert read_names(root / folder)
    for path in (root / folder).iterdir():
      with Image.open(path) as image:
        assert (image.format, image.mode) == ('JPEG', 'RGB')
        assert image.size == (64, 128)


def test_counts(root):
  train, gallery = (read_names(root / f) for f in (draw.TRAIN, draw.GALLERY))
  pids = Counter(pid for pid, _ in gallery)
  assert len({pid for pid, _ in train}) == COUNTS['train_identities']
  assert pids.pop(draw.DISTRACTOR) == COUNTS['distractors']
  assert pids.pop(draw.JUNK) == COUNTS['junk']
  assert len(pids) == COUNTS['test_identities']


def test_identities_are_disjoint(root):
  train, query, gallery = (
    {pid for pid, _ in read_names(root / folder)}
    for folder in (draw.TRAIN, draw.QUERY, draw.GALLERY)
  )
  assert gallery == query | {draw.DISTRACTOR, draw.JUNK}
  assert not train & gallery
  assert min(train) == 1


@pytest.mark.parametrize('seed', range(3))
def test_every_query_has_a_match_under_another_camera(seed):
  shots = draw.plan_shots(seed, 20, 50, 5, 5)
  queries, gallery = (
    [(s.pid, s.camera) for s in shots if s.folder == folder]
    for folder in (draw.QUERY, draw.GALLERY)
  )
  assert len(set(queries)) == len(queries)
  for pid, camera in queries:
    assert any(p == pid and c != camera for p, c in gallery)
  assert len({(s.folder, s.name) for s in shots}) == len(shots)
  for pid in range(1, 71):
    assert 3 <= len({s.camera for s in shots if s.pid == pid}) <= 6


def test_is_deterministic(root, tmp_path):
  assert read_bytes(draw_small(tmp_path / 'again')) == read_bytes(root)
  other = read_bytes(draw_small(tmp_path / 'other', seed=1))
  assert other.keys() != read_bytes(root).keys()


def test_an_image_depends_on_no_other():
  shots = draw.plan_shots(0, *COUNTS.values())
  forward = [np.asarray(draw.draw_shot(0, shot)) for shot in shots]
  for cached in (person.deck, person.make_look, draw.draw_scene):
    cached.cache_clear()
  backward = [np.asarray(draw.draw_shot(0, shot)) for shot in shots[::-1]]
  np.testing.assert_array_equal(forward, backward[::-1])


def test_more_identities_keep_the_first(root, tmp_path):
  more = read_bytes(draw_small(tmp_path / 'more', test_identities=5, junk=4))
  files = read_bytes(root)
  assert {name: more[name] for name in files} == files


@pytest.mark.parametrize('share', [0, 1])
def test_occluders_in_queries_change_queries_only(root, tmp_path, share):
  changed = read_bytes(draw_small(tmp_path / 'set', occluded_queries=share))
  files = read_bytes(root)
  assert changed.keys() == files.keys()
  different = {name for name in files if changed[name] != files[name]}
  queries = {name for name in files if name.startswith(f'{draw.QUERY}/')}
  assert different and different <= queries


def test_neighbouring_identities_differ_in_clothes():
  size = len(person.UPPERS) * len(person.LOWERS)
  for number in range(3):
    assert len(set(person.deck(0, number))) == size


def test_fills_an_empty_folder_only(tmp_path):
  draw_small(tmp_path / 'empty', junk=0)
  with pytest.raises(ValueError, match='root is not an empty folder'):
    draw_small(tmp_path / 'empty')
  (tmp_path / 'file').touch()
  with pytest.raises(ValueError, match='root is not an empty folder'):
    draw_small(tmp_path / 'file')


@pytest.mark.parametrize('parent_is_closed', [False, True])
def test_an_empty_folder_is_filled_and_not_replaced(
  root, tmp_path, monkeypatch, parent_is_closed
):
  """It may be a mount point, with what a file system has left there."""
  (tmp_path / 'disk/lost+found').mkdir(parents=True)
  (tmp_path / 'link').symlink_to(tmp_path / 'disk')
  monkeypatch.setattr(draw.os, 'access', lambda *_: not parent_is_closed)
  before = (tmp_path / 'disk').stat().st_ino
  assert read_bytes(draw_small(tmp_path / 'link')) == read_bytes(root)
  assert (tmp_path / 'disk').stat().st_ino == before
  assert {path.name for path in tmp_path.iterdir()} == {'disk', 'link'}
  assert {path.name for path in (tmp_path / 'disk').iterdir()} == {
    'lost+found', draw.TRAIN, draw.QUERY, draw.GALLERY,
  }  # fmt: skip


def test_two_first_uses_draw_once(tmp_path, monkeypatch, capsys):
  monkeypatch.delattr(draw, 'draw_shot')  # the second need not draw
  path, found = tmp_path / 'set', []
  thread = threading.Thread(
    target=lambda: found.append(synthetic.LAYOUT.locate(path))
  )
  with locking.locked(draw.lock_file(path), 'draw', keep=False):
    thread.start()
    deadline, said = time.time() + 60, ''
    while 'Waiting for another process' not in said and time.time() < deadline:
      time.sleep(0.01)
      said += capsys.readouterr().out
    assert 'Waiting for another process' in said
    with draw.new_parts(path):
      pass
  thread.join(60)
  assert found == [path]
  assert [path.name for path in tmp_path.iterdir()] == ['set']


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
  def interrupt(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(draw, 'draw_shot', interrupt)
  with pytest.raises(KeyboardInterrupt):
    draw_small(tmp_path / 'set')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('seed', -1),
    ('train_identities', 0),
    ('test_identities', 0),
    ('distractors', -1),
    ('junk', -1),
    ('occluded_queries', 1.5),
    ('train_identities', 10_000),
  ],
)
def test_refuses_numbers_out_of_range(tmp_path, name, value):
  with pytest.raises(ValueError, match=name):
    draw_small(tmp_path / 'set', **{name: value})
  assert not list(tmp_path.iterdir())


def test_command_line(tmp_path, capsys):
  flags = '--train-identities 1 --test-identities 1 --junk 1 --distractors 1'
  draw.main([str(tmp_path / 'set'), *flags.split(), '--no-progress'])
  assert (tmp_path / 'set' / draw.QUERY).is_dir()
  with pytest.raises(SystemExit):
    draw.main([str(tmp_path / 'set')])
  assert 'not an empty folder' in capsys.readouterr().err
  (tmp_path / 'file').touch()
  with pytest.raises(SystemExit) as error:
    draw.main([str(tmp_path / 'file' / 'set')])
  assert error.value.code == 2
  assert f'{tmp_path}/file' in capsys.readouterr().err
