import dataclasses
import errno
import fcntl
import json
import os
import pathlib
from unittest import mock

import numpy as np
from PIL import Image
import pytest

from apnet_jax.commands import search
from apnet_jax.errors import UserError
from apnet_jax.index import (
  accuracy,
  changes,
  codes,
  copies,
  files,
  projection,
  store,
)
from apnet_jax.inference import embedding_files
from apnet_jax.retrieval import nearest
from apnet_jax.workdir import lock

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  """Makes several blocks of few rows."""
  monkeypatch.setattr(nearest, 'BLOCK', 9)
  monkeypatch.setattr(codes, 'ROWS', 8)
  monkeypatch.setattr(embedding_files, 'BLOCK', 6)


def unit(rows):
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


EMBEDDINGS = unit(RNG.normal(size=(40, 24))).astype(np.float32)


def write(folder, name, rows, fingerprint='abc', **columns):
  path = folder / f'{name}.npz'
  columns['path'] = np.array([f'{row}.jpg' for row in rows])
  info = {'fingerprint': fingerprint}
  blocks = [EMBEDDINGS[rows]]
  embedding_files.write(path, info, columns, blocks, blocks[0].shape, 'float32')
  return path


@pytest.fixture
def folder(tmp_path):
  """An index of rows 0 to 29, added by two files."""
  changes.add(tmp_path / 'index', write(tmp_path, 'a', range(20)))
  changes.add(tmp_path / 'index', write(tmp_path, 'b', range(20, 30)))
  return tmp_path / 'index'


def names(index, query, top, fast=False):
  ((rows, similarity),) = index.search(EMBEDDINGS[[query]], top, fast)
  assert (np.diff(similarity) <= 0).all()
  return [index.row(int(row))['path'] for row in rows]


def expected(query, among, top):
  order = sorted(among, key=lambda i: -(EMBEDDINGS[i] @ EMBEDDINGS[query]))
  return [f'{row}.jpg' for row in order[:top]]


@pytest.mark.parametrize('fast', [False, True])
def test_the_closest_are_found(folder, fast):
  index = store.Index(folder)
  assert len(index) == 30 and index.info['dtype'] == 'float16'
  for query in (3, 25, 35):
    assert names(index, query, 5, fast) == expected(query, range(30), 5)
  assert len(names(index, 3, 99, fast)) == 30
  assert index.info['recall'] == 1


def test_queries_are_checked(folder):
  index = store.Index(folder)
  ((rows, _),) = index.search(EMBEDDINGS[3], 5)
  assert rows[0] == 3
  for queries in (EMBEDDINGS[:2, :9], EMBEDDINGS[None], EMBEDDINGS[0, :9]):
    with pytest.raises(UserError, match='features.*24 features of the index'):
      next(index.search(queries, 5))
  broken = EMBEDDINGS[:2].copy()
  for fast, value in ((False, np.nan), (True, -np.inf)):
    broken[1, 7] = value
    with pytest.raises(UserError, match=r'query 1 \(from 0\) is not finite'):
      next(index.search(broken, 5, fast))
    with pytest.raises(UserError, match='top=0 must be at least 1'):
      next(index.search(EMBEDDINGS[3], 0, fast))


def test_fast_search_compares_few_embeddings(folder, monkeypatch):
  monkeypatch.setattr(codes, 'CANDIDATES', 3)
  index = store.Index(folder)
  monkeypatch.setattr(index, '_codes', index._codes[::-1])  # misleading
  monkeypatch.setattr(index, '_check_codes', lambda: None)
  assert names(index, 3, 2, fast=True) != expected(3, range(30), 2)
  assert accuracy.measure_recall(index) < 1


@pytest.mark.parametrize('dtype', ['float16', 'float32'])
def test_near_copies_are_all_found(tmp_path, monkeypatch, dtype):
  """By rounding, a row may be closer to its copies than to itself."""
  alike = unit(EMBEDDINGS[:1] + 1e-3 * RNG.normal(size=(40, 24)))
  monkeypatch.setitem(globals(), 'EMBEDDINGS', alike.astype(np.float32))
  file = write(tmp_path, 'a', range(40))
  index, _, _ = changes.add(tmp_path / 'index', file, dtype)
  assert index.info['recall'] == 1


def test_rows_are_removed_and_added_again(folder, tmp_path):
  index = store.Index(folder)
  assert index.remove(['3.jpg', '25.jpg']) == 2
  kept = sorted({*range(30)} - {3, 25})
  for fast in (False, True):
    for found in (index, store.Index(folder)):
      assert len(found) == 28
      assert names(found, 3, 5, fast) == expected(3, kept, 5)
  with pytest.raises(UserError, match='3.jpg: of 3 paths, 2 cannot'):
    index.remove(['3.jpg', '4.jpg', 'x.jpg'])
  assert len(store.Index(folder)) == 28
  file = write(tmp_path, 'c', range(2, 5))
  index, added, known = changes.add(folder, file)
  assert (added, known, len(index)) == (1, 2, 29)
  assert names(index, 3, 5) == expected(3, [*kept, 3], 5)
  assert index.remove('7.jpg') == index.remove([pathlib.Path('8.jpg')]) == 1


def test_a_killed_addition_leaves_the_index_as_it_was(
  folder, tmp_path, monkeypatch
):
  file = write(tmp_path, 'c', range(30, 40))

  def kill(path, content):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(files.json_files, 'write_json', kill)
    with pytest.raises(KeyboardInterrupt):
      changes.add(folder, file)
  index = store.Index(folder)
  assert len(index) == 30
  assert names(index, 35, 5) == expected(35, range(30), 5)
  index, added, _ = changes.add(folder, file)
  assert added == 10
  assert names(index, 35, 5) == expected(35, range(40), 5)


def test_a_full_disk_is_named(folder, tmp_path):
  file = write(tmp_path, 'c', range(30, 40))
  full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  with mock.patch.object(os, 'fsync', side_effect=full):
    with pytest.raises(OSError, match=f"No space left.*'{folder}'"):
      changes.add(folder, file)
  assert len(store.Index(folder)) == 30


def test_rows_are_on_disk_before_the_index_names_them(
  folder, tmp_path, monkeypatch
):
  file = write(tmp_path, 'c', range(30, 40))
  synced = []

  def fsync(number):
    path = pathlib.Path(os.readlink(f'/proc/self/fd/{number}'))
    synced.append((path.name, path.stat().st_size))

  with monkeypatch.context() as patch:
    patch.setattr(os, 'fsync', fsync)
    changes.add(folder, file)
  names = [name for name, _ in synced]
  first = names.index('index.json.part')
  large = {'embeddings.bin', 'codes.bin', 'rows.bin', 'rows.jsonl'}
  assert {*names[:first]} == large
  assert all(
    size == (folder / name).stat().st_size for name, size in synced[:first]
  )


def test_equal_rows_of_a_file_are_added_once(folder, tmp_path):
  file = write(tmp_path, 'c', [3, 35, 35, 36, 35])
  assert changes.add(folder, file)[1:] == (2, 3)
  assert changes.add(folder, file)[1:] == (0, 5)


def test_an_index_is_made_beside_what_a_kill_left_of_one(tmp_path):
  target = tmp_path / 'index'
  target.mkdir()
  for name in ('run.lock', 'index.json.part'):
    (target / name).touch()
  index, _, _ = changes.add(target, write(tmp_path, 'a', [3]))
  assert len(index) == 1 and index.info['recall'] is None


@pytest.mark.parametrize('dtype', ['float32', 'int8'])
def test_a_compacted_index_has_the_rows_that_were_kept(tmp_path, dtype):
  folder, file = tmp_path / 'index', write(tmp_path, 'a', range(30))
  before, _, _ = changes.add(folder, file, dtype)
  gone = [f'{i}.jpg' for i in (0, 7, 8, 29)]
  kept = sorted({*range(30)} - {0, 7, 8, 29})
  store.Index(folder).remove(gone)
  assert changes.compact(folder) == 4
  index = store.Index(folder)
  index.check()
  for fast in (False, True):
    assert names(index, 8, 5, fast) == expected(8, kept, 5)
    assert names(before, 8, 5, fast) == expected(8, range(30), 5)  # open
  assert len(index) == index.info['rows'] == 26
  np.testing.assert_array_equal(index.sample(26), before.sample(30)[kept])
  with pytest.raises(UserError, match='has changed: open it again'):
    before.remove(['1.jpg'])
  assert changes.add(folder, file)[1:] == (4, 26)
  assert changes.compact(folder) == 0
  assert names(store.Index(folder), 8, 5) == expected(8, range(30), 5)
  store.Index(folder).remove(['29.jpg'])
  assert changes.compact(folder) == 1
  assert (folder / 'rows.2.bin').exists()  # no file is written in its place
  assert names(store.Index(folder), 8, 5) == expected(8, range(29), 5)


@pytest.mark.parametrize('fault', ['write_info', 'remove_other_generations'])
def test_a_killed_compaction_can_be_repeated(folder, monkeypatch, fault):
  """Killed before index.json is written, or behind it."""
  store.Index(folder).remove(['3.jpg'])

  def kill(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(files, 'remove_other_generations', kill)
    patch.setattr(files, fault, kill)
    with pytest.raises(KeyboardInterrupt):
      changes.compact(folder)
  kept = sorted({*range(30)} - {3})
  store.Index(folder).check()
  assert names(store.Index(folder), 3, 5) == expected(3, kept, 5)
  assert changes.compact(folder) == (fault == 'write_info')
  assert names(store.Index(folder), 3, 5) == expected(3, kept, 5)
  left = {p.name for p in folder.iterdir()} - {lock.FILE}
  assert left == {'index.json', 'centre.npy'} | {
    f'{name}.1.bin' for name in ('embeddings', 'codes', 'rows')
  } | {'rows.1.jsonl'}


def test_an_index_may_be_compacted_while_it_is_opened(folder, monkeypatch):
  store.Index(folder).remove(['3.jpg'])
  before = files.read_info(folder)
  changes.compact(folder)
  read = mock.Mock(side_effect=[before, *[files.read_info(folder)] * 2])
  monkeypatch.setattr(files, 'read_info', read)
  assert store.Index(folder).info['rows'] == 29


def test_no_more_is_removed_than_an_index_can_list(folder, monkeypatch):
  monkeypatch.setattr(store, 'REMOVED', 2)
  index = store.Index(folder)
  index.remove(['3.jpg', '4.jpg'])
  with pytest.raises(UserError, match='more than 2 removed rows.*--compact'):
    index.remove(['5.jpg'])
  assert len(index) == len(store.Index(folder)) == 28


def test_files_are_added_with_one_check_and_one_recall(folder, tmp_path):
  paths = [write(tmp_path, n, r) for n, r in (('c', [3, 31]), ('d', [31, 32]))]
  with (
    mock.patch.object(store.Index, 'check') as check,
    mock.patch.object(accuracy, 'measure_recall', return_value=0.5) as recall,
  ):
    added = [*changes.add_files(folder, paths)]
  assert added == [(paths[0], 1, 1), (paths[1], 1, 1)]
  assert check.call_count == recall.call_count == 1
  index = store.Index(folder)
  assert len(recall.call_args[0][0]) == len(index) == 32
  assert index.info['recall'] == 0.5 and index.row(31)['path'] == '32.jpg'
  paths = [write(tmp_path, 'e', [33]), tmp_path / 'none.npz']
  with pytest.raises(UserError):
    [*changes.add_files(folder, paths)]
  index = store.Index(folder)  # whose recall was not measured
  assert len(index) == 33 and index.info['recall'] is None


def test_another_network_is_refused(folder, tmp_path):
  file = write(tmp_path, 'c', range(3), fingerprint='xyz')
  with pytest.raises(UserError, match='another network.*abc.*c.npz is xyz'):
    changes.add(folder, file)
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / 'notes.txt').touch()
  with pytest.raises(UserError, match='is not an index, and not empty'):
    changes.add(tmp_path / 'other', file)
  with pytest.raises(UserError, match='is not an index: it has no index.json'):
    store.Index(tmp_path / 'other')


def test_two_processes_do_not_write_at_once(folder, tmp_path):
  file = write(tmp_path, 'c', range(30, 40))
  with (folder / lock.FILE).open('w') as other:
    other.write('process 1 on another machine')
    other.flush()
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(UserError, match='--index=.* is in use by process 1 on'):
      changes.add(folder, file)
  assert changes.add(folder, file)[1] == 10


def test_int8_keeps_the_order(tmp_path):
  file = write(tmp_path, 'a', range(30))
  index, _, _ = changes.add(tmp_path / 'index', file, 'int8')
  assert (tmp_path / 'index' / 'embeddings.bin').stat().st_size == 30 * 24
  for fast in (False, True):
    ((rows, similarity),) = index.search(EMBEDDINGS[[35]], 30, fast)
    exact = EMBEDDINGS[rows] @ EMBEDDINGS[35]
    np.testing.assert_allclose(similarity, exact, atol=0.01)
    assert names(index, 3, 1, fast) == ['3.jpg']
  np.testing.assert_allclose(index.sample(30), EMBEDDINGS[:30], atol=0.01)
  np.testing.assert_array_equal(index.stored(EMBEDDINGS[:30]), index.sample(30))


@pytest.mark.parametrize('dimensions', [5, 24])  # of 24 features
def test_similarities_are_those_of_the_projection(tmp_path, dimensions):
  fitted = projection.fit(write(tmp_path, 'fit', range(40)), dimensions)
  short = fitted.whitened()
  file = write(tmp_path, 'a', range(30))
  index, _, _ = changes.add(tmp_path / 'index', file, 'float32', short)
  assert index.projection and index.info['dimensions'] == dimensions
  expected = short(EMBEDDINGS)
  for fast in (False, True):
    ((rows, similarity),) = index.search(EMBEDDINGS[[35]], 30, fast)
    cosines = expected[rows] @ expected[35]
    np.testing.assert_allclose(similarity, cosines, atol=1e-5)
  assert changes.add(tmp_path / 'index', write(tmp_path, 'b', [33]))[1] == 1
  other = dataclasses.replace(short, fingerprint='xyz')
  with pytest.raises(
    UserError, match='--fit has embeddings of another network'
  ):
    changes.add(tmp_path / 'new', file, projection=other)
  other = dataclasses.replace(short, mean=short.mean[:9])
  with pytest.raises(UserError, match='--fit has 9 features, not 24'):
    changes.add(tmp_path / 'new', file, projection=other)
  assert not (tmp_path / 'new').exists()


def damage_info(folder, **change):
  path = folder / 'index.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (
      lambda f: (f / 'embeddings.bin').write_bytes(b''),
      'embeddings.bin is damaged: it has less than 1,440 bytes',
    ),
    (lambda f: (f / 'codes.bin').unlink(), 'codes.bin is damaged'),
    (lambda f: (f / 'centre.npy').write_bytes(b'x'), 'centre.npy is damaged'),
    (lambda f: damage_info(f, version=2), 'has version 2.*Make the index ag'),
    (lambda f: damage_info(f, rows=29), 'index.json is damaged: its digest'),
    (lambda f: damage_info(f, dtype='int8'), 'index.json is damaged: its dig'),
  ],
)
def test_a_damaged_index_is_named(folder, damage, message):
  damage(folder)
  with pytest.raises(UserError, match=message):
    store.Index(folder)


def flip(path, place):
  """Flips a bit of a file."""
  content = bytearray(path.read_bytes())
  content[place] ^= 1
  path.write_bytes(content)


@pytest.mark.parametrize(
  ('name', 'place', 'use', 'message'),
  [
    ('embeddings.bin', 7 * 48, lambda i: names(i, 3, 1), 'row 7 does not'),
    ('embeddings.bin', 7 * 48, lambda i: i.sample(30), 'row 7 does not'),
    ('embeddings.bin', -1, lambda i: names(i, 3, 30, True), 'row 29 does'),
    ('codes.bin', 7 * 64, lambda i: names(i, 3, 1, True), 'row 7 does not'),
    ('rows.jsonl', 9, lambda i: i.row(0), 'row 0 does not'),
    ('rows.jsonl', -3, lambda i: i.remove(['3.jpg']), 'row 29 does not'),
    ('rows.bin', 7 * 32 + 8, lambda i: i.row(7), 'row 7 does not.* rows.bin'),
    ('rows.bin', 7 * 32, lambda i: i.row(8), 'row 8 does not.* rows.bin'),
    ('rows.bin', 7 * 32 + 16, lambda i: names(i, 3, 1), 'row 7 .* rows.bin'),
    ('centre.npy', -1, None, 'does not have the digest'),
    ('index.json', 20, None, 'index.json'),
  ],
)
def test_a_changed_bit_is_an_error_where_it_is_read(
  folder, name, place, use, message
):
  flip(folder / name, place)
  with pytest.raises(UserError, match=message) as error:
    use(store.Index(folder))
  assert name in str(error.value)
  if use is not None:
    with pytest.raises(UserError, match=name):
      store.Index(folder).check()


@pytest.mark.parametrize('fast', [False, True])
def test_rows_that_a_disk_lost_are_an_error(folder, fast):
  """After a power failure, the end of each file may read as zeros."""
  for name in ('embeddings.bin', 'codes.bin', 'rows.bin'):
    content = (folder / name).read_bytes()
    kept = len(content) // 30 * 20
    (folder / name).write_bytes(content[:kept].ljust(len(content), b'\0'))
  with pytest.raises(UserError, match='row 20 does not have the checksum'):
    names(store.Index(folder), 25, 5, fast)


def test_nothing_is_added_to_a_damaged_index(folder, tmp_path):
  flip(folder / 'codes.bin', -1)
  before = {p.name: p.read_bytes() for p in folder.iterdir()}
  with pytest.raises(UserError, match='codes.bin is damaged: row 29'):
    changes.add(folder, write(tmp_path, 'c', range(30, 40)))
  after = {p.name: p.read_bytes() for p in folder.iterdir()}
  assert after | {lock.FILE: b''} == before | {lock.FILE: b''}


def test_checksums_see_each_word_and_the_order():
  rows = RNG.integers(0, 255, (6, 24), np.uint8)
  rows[1] = rows[0]
  rows[1, :16] = np.roll(rows[0, :16], 8)  # two words change places
  found = files.checksums(rows)
  assert len(np.unique(found)) == 6
  changed = rows.copy()
  changed[2, 23] ^= 128
  assert (files.checksums(changed) != found).tolist() == [0, 0, 1, 0, 0, 0]
  odd = rows[:, :13]  # bytes that are not whole words
  assert len(np.unique(files.checksums(odd))) == 6
  assert len(files.checksums(rows[:0])) == 0


def test_an_unfinished_index_is_made_again(tmp_path, monkeypatch):
  """By any settings: it has no rows yet."""
  short = projection.fit(write(tmp_path, 'fit', range(40)), 5)
  target = tmp_path / 'index'
  with monkeypatch.context() as patch:
    patch.setattr(changes, '_append', None)
    with pytest.raises(TypeError):
      changes.add(target, write(tmp_path, 'a', range(20)), projection=short)
  assert not store.has_rows(target)
  index, added, _ = changes.add(target, write(tmp_path, 'a', range(20)), 'int8')
  assert (added, index.info['dimensions'], index.info['dtype']) == (
    20,
    24,
    'int8',
  )


def test_an_empty_index_is_said(folder):
  index = store.Index(folder)
  index.remove([f'{i}.jpg' for i in range(30)])
  with pytest.raises(UserError, match='is empty'):
    names(index, 0, 1)


def test_the_cost_in_map_is_measured(tmp_path, monkeypatch):
  people = np.array(['a', 'a', 'a', 'b', 'b', 'b', '-1', 'c', '', ''])
  file = write(tmp_path, 'a', range(10), pid=people)
  monkeypatch.setattr(embedding_files, 'BLOCK', 3)
  index, _, _ = changes.add(tmp_path / 'index', file)
  found = accuracy.measure(index, file)
  kept = ~np.isin(people, ['-1', ''])
  full, pids = EMBEDDINGS[:10][kept], people[kept]
  signs = np.where(full > index.centre, 1.0, -1.0)
  assert found['images'] == 7
  for name, rows in ('full', full), ('index', full), ('codes', signs):
    assert found[name] == pytest.approx(mean_precision(rows, pids), abs=1e-4)
  short = projection.fit(write(tmp_path, 'fit', range(40)), 2)
  index, _, _ = changes.add(tmp_path / 'short', file, 'float32', short)
  expected = mean_precision(short(full), pids)
  assert accuracy.measure(index, file)['index'] == pytest.approx(
    expected, abs=1e-4
  )
  for columns in ({}, {'pid': np.arange(3)}):
    file = write(tmp_path, 'b', range(3), **columns)
    assert accuracy.measure(index, file) is None


def test_labels_of_tables_are_read_as_those_of_own_images(tmp_path):
  people = np.array(['1', '1.0', '2', '02', '-1.0', '-1.0', 'nan', 'None'])
  file = write(tmp_path, 'a', range(8), pid=people)
  index, _, _ = changes.add(tmp_path / 'index', file)
  found = accuracy.measure(index, file)
  pids = np.array([1, 1, 2, 2])
  assert found['images'] == 4
  expected = mean_precision(EMBEDDINGS[:4], pids)
  assert found['full'] == pytest.approx(expected, abs=1e-4)
  cameras = np.array(['', 'nan', '', '', '', '', '', ''])  # none is known
  file = write(tmp_path, 'b', range(8), pid=people, camid=cameras)
  assert accuracy.measure(index, file) == found
  for cameras in ('1', '1.0', '1', '1.0', '', '', '', ''), ['1'] * 8:
    file = write(tmp_path, 'c', range(8), pid=people, camid=np.array(cameras))
    assert accuracy.measure(index, file) is None  # there is but one camera


def mean_precision(rows, pids):
  """The mAP of each image among all others, by sorting."""
  found = []
  for i, query in enumerate(rows):
    order = np.argsort(-(rows @ query), kind='stable')
    hits = pids[order[order != i]] == pids[i]
    ranks = 1 + np.flatnonzero(hits)
    if len(ranks):
      found.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
  return np.mean(found)


def test_whole_people_are_chosen(monkeypatch):
  monkeypatch.setattr(accuracy, 'ROWS', 5)
  pids = np.array(['a', 'b', 'c', 'd', ''] * 3)
  chosen = pids[accuracy._choose(pids)]
  assert 0 < len(chosen) <= 5
  assert all((chosen == pid).sum() == 3 for pid in chosen)
  assert '' not in chosen


# The command search


class Known:
  """An embedder that knows the embedding of each path `I.jpg`."""

  threshold, about, fingerprint = 0.5, '', 'abc'

  def __call__(self, paths, *, on_error, progress):
    return EMBEDDINGS[[int(pathlib.Path(path).stem) for path in paths]]


def test_search_answers_from_an_index(folder, tmp_path, capsys):
  track = {'frame': np.array([8, 9]), 'track': np.array([1, 2])}
  index, _, _ = changes.add(
    tmp_path / 'new', write(tmp_path, 'x', [1, 2], **track)
  )
  found = search.search_index(Known(), ['2.jpg'], index, 1)
  (hit,) = found['results'][0]['found']
  assert (hit['image'], hit['frame'], hit['track']) == ('2.jpg', 9, 2)
  assert '2.jpg (frame 9, track 2)' in capsys.readouterr().out
  other = Known()
  other.fingerprint = 'xyz'
  with pytest.raises(UserError, match='index of another network'):
    search.search_index(other, ['2.jpg'], index, 1)


def test_fields_of_a_search_are_not_columns_of_the_same_name(tmp_path, capsys):
  columns = {
    name: np.array([f'my {name}'] * 2)
    for name in ('image', 'similarity', 'verdict', 'column_verdict', 'pid')
  }
  file = write(tmp_path, 'x', [1, 2], **columns)
  index, _, _ = changes.add(tmp_path / 'new', file)
  found = search.search_index(Known(), ['2.jpg'], index, 1)
  (hit,) = found['results'][0]['found']
  assert hit['image'] == '2.jpg' and hit['similarity'] == pytest.approx(1)
  assert hit['verdict'] == 'same person' and hit['pid'] == 'my pid'
  assert hit['share_of_pairs_below'] is None
  assert hit['column_image'] == 'my image'
  assert hit['column_similarity'] == 'my similarity'
  assert hit['column_verdict'] == 'my column_verdict'
  assert hit['column_column_verdict'] == 'my verdict'
  assert 'same person            2.jpg\n' in capsys.readouterr().out


def test_a_similarity_is_at_most_one(tmp_path, monkeypatch):
  """Although embeddings of float16 may be longer."""
  index, _, _ = changes.add(tmp_path / 'new', write(tmp_path, 'x', [1, 2]))
  wrong = iter([(np.array([1, 0]), np.float32([1.000013, -1.000013]))])
  monkeypatch.setattr(index, 'search', lambda *_: wrong)
  found = search.search_index(Known(), ['2.jpg'], index, 2)
  hits = found['results'][0]['found']
  assert [hit['similarity'] for hit in hits] == [1, -1]


BOX = {'x1': 2.0, 'y1': 3.0, 'x2': 6.0, 'y2': 8.0}


def test_what_was_found_is_copied(tmp_path):
  pixels = RNG.integers(0, 256, (9, 9, 3), np.uint8)
  for name in ('q.png', 'a.png'):
    Image.fromarray(pixels).save(tmp_path / name)
  found = [
    {'image': str(tmp_path / 'a.png'), 'similarity': 0.9},
    {'image': 'v.mp4', 'similarity': 0.8, 'frame': 3},
    {'image': str(tmp_path / 'a.png'), 'similarity': 0.7} | BOX,
    {'image': str(tmp_path / 'gone.png'), 'similarity': 0.6},
    {'image': str(tmp_path / 'gone.png'), 'similarity': 0.5} | BOX,
  ]
  results = [{'query': str(tmp_path / 'q.png'), 'found': found}]
  target = tmp_path / 'out'
  copies.check_folder(str(target))
  done = copies.copy_found(results, str(target))
  assert search.describe_copies(done, 'out') == (
    'copied 2 images to out, without 1 box in videos'
  )
  assert done.images == 3 and done.unreadable.keys() == {
    str(tmp_path / 'gone.png')
  }
  copied = {p.name: p for p in (target / '0000_q').iterdir()}
  assert copied.keys() == {'query.png', '01_0.900_a.png', '03_0.700_a.png'}
  crop = np.asarray(Image.open(copied['03_0.700_a.png']))
  np.testing.assert_array_equal(crop, pixels[3:8, 2:6])
  with pytest.raises(UserError, match='give a new or empty folder'):
    copies.check_folder(str(target))
  with pytest.raises(UserError, match='a.png, which is not a folder'):
    copies.check_folder(str(tmp_path / 'a.png' / 'out'))


def test_long_names_are_cut_in_copies(tmp_path):
  path = tmp_path / ('é' * 125 + '.png')
  Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(path)
  found = [{'image': str(path), 'similarity': 0.9}] * 2
  results = [{'query': str(path), 'found': found}]
  assert copies.copy_found(results, str(tmp_path / 'out')).copies == 2
  (folder,) = (tmp_path / 'out').iterdir()
  assert folder.name.startswith('0000_éé')
  names = sorted(file.name for file in folder.iterdir())
  assert names == [
    f'01_0.900_{"é" * 121}.png', f'02_0.900_{"é" * 121}.png', 'query.png',
  ]  # fmt: skip


def test_removed_rows_do_not_take_places_of_candidates(folder, monkeypatch):
  monkeypatch.setattr(codes, 'CANDIDATES', 5)
  index = store.Index(folder)
  index.remove(expected(3, range(30), 20))
  assert len(names(index, 3, 5, fast=True)) == 5


def test_fast_search_finds_as_many_as_are_asked_for(folder, monkeypatch):
  monkeypatch.setattr(codes, 'CANDIDATES', 3)
  assert len(names(store.Index(folder), 3, 20, fast=True)) == 20


def test_a_sample_has_no_removed_rows(folder):
  index = store.Index(folder)
  index.remove(['3.jpg', '25.jpg'])
  rows = index.sample_rows(30).tolist()
  assert len(rows) == 28 and not {3, 25} & {*rows}
