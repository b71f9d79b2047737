"""Mistakes in calls of the command index; nothing is written by any."""

import numpy as np
import pytest

from apnet_jax.commands import index
from apnet_jax.index import store
from apnet_jax.inference import embedding_files
from tests.commands.running import in_this_process

FEATURES = 6


def write(path, rows, fingerprint='abc'):
  embeddings = np.random.default_rng(rows).normal(size=(rows, FEATURES))
  columns = {'path': np.array([f'{i}.jpg' for i in range(rows)])}
  embedding_files.write(
    path, {'fingerprint': fingerprint}, columns, [embeddings],
    embeddings.shape, 'float32',
  )  # fmt: skip


@pytest.fixture(scope='module')
def run():
  """Runs the command in this process; returns its exit code."""
  with in_this_process(index.command) as run:
    yield run


@pytest.fixture(scope='module')
def folder(run, tmp_path_factory):
  """Files of embeddings, and an index with a projection to two dimensions."""
  root = tmp_path_factory.mktemp('index')
  for name, rows, network in (
    ('a', 20, 'abc'), ('few', 4, 'abc'), ('none', 0, 'abc'), ('b', 9, 'xyz'),
  ):  # fmt: skip
    write(root / f'{name}.npz', rows, network)
  (root / 'broken.npz').write_bytes((root / 'a.npz').read_bytes()[:900])
  (root / 'holiday').mkdir()
  (root / 'holiday' / 'notes.txt').touch()
  assert not run(
    f'--index={root}/short', f'--add={root}/a.npz', '--dimensions=2',
    f'--fit={root}/a.npz',
  )  # fmt: skip
  assert not run(f'--index={root}/full', f'--add={root}/a.npz')
  return root


def snapshot(root):
  return {
    path: path.read_bytes() if path.is_file() else None
    for path in root.rglob('*')
    if path.name != 'run.lock'
  }


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ('new', '--add, --remove, --compact or --check'),
    ('new --add=a --dimensions=2', '--dimensions and --fit belong together'),
    ('new --add=a --fit=a', '--dimensions and --fit belong together'),
    ('new --add=a --fit=a --dimensions=0', 'dimensions'),
    ('new --add=a --whiten', '--whiten needs --dimensions and --fit'),
    (
      'new --add=a --fit=a --dimensions=7',
      '--dimensions=7 is more than the 6 principal components of the 20',
    ),
    (
      'new --add=a --fit=few --dimensions=4',
      '--dimensions=4 is more than the 3 principal components of the 4',
    ),
    ('new --add=a --fit=b --dimensions=2', 'b.npz has embeddings of another'),
    ('new --add=a --fit=none --dimensions=2', 'none.npz has no embeddings'),
    ('new --add=a --fit=broken --dimensions=2', 'broken.npz cannot be read'),
    ('new --add=a --fit=x --dimensions=2', 'x.npz is not a file of embeddings'),
    ('new --add=a --add=b', 'b.npz has embeddings of another network than'),
    ('new --add=a --add=broken', 'broken.npz cannot be read'),
    ('new --add=none', 'none.npz has no embeddings'),
    ('new --remove=1.jpg', 'new is not an index'),
    ('new --check', 'new is not an index'),
    ('new --compact', 'new is not an index'),
    (
      'short --add=few --fit=a --dimensions=3',
      'short exists, and keeps 2 dimensions of all that is added',
    ),
    ('short --add=few --dimensions=3', 'are for a new index'),
    ('short --add=few --fit=a', 'are for a new index'),
    (
      'short --add=few --fit=a --dimensions=2 --whiten',
      'short exists, and is not whitened',
    ),
    ('full --add=few --fit=a --dimensions=6', 'are for a new index'),
    ('short --add=few --dtype=int8', '--dtype=int8 is for a new index'),
    ('short --add=b', 'short is an index of another network'),
    ('short --remove=x.jpg', 'has no image with the path x.jpg'),
    ('short --remove=x.jpg --add=few', 'has no image with the path x.jpg'),
    ('short --remove=1.jpg --add=b', 'short is an index of another network'),
    ('short --remove=1.jpg --add=few --dtype=int8', 'is for a new index'),
    ('new --remove=1.jpg --add=few', 'new is not an index'),
    ('holiday --add=a', 'holiday is not an index, and not empty'),
  ],
)
def test_mistakes_are_errors_and_write_nothing(
  run, folder, arguments, message, capsys
):
  name, *others = arguments.split()
  for i, argument in enumerate(others):
    flag, _, value = argument.partition('=')
    if flag in ('--add', '--fit'):
      others[i] = f'{flag}={folder}/{value}.npz'
  before = snapshot(folder)
  assert run(f'--index={folder}/{name}', *others) == 2
  out, err = capsys.readouterr()
  assert err.startswith('error: ') and message in err and not out
  assert snapshot(folder) == before
  assert not (folder / 'holiday' / 'run.lock').exists()


def test_a_whole_index_passes_its_check(run, folder, capsys):
  assert run(f'--index={folder}/short', '--check') == 0
  assert 'the index is intact: all checksums match' in capsys.readouterr().out


def test_one_command_line_makes_an_index_and_adds_to_it(run, folder, capsys):
  call = (
    f'--index={folder}/nightly', f'--add={folder}/few.npz', '--dimensions=2',
    '--whiten', f'--fit={folder}/fit.npz',
  )  # fmt: skip
  write(folder / 'fit.npz', 20)
  assert run(*call) == 0
  (folder / 'fit.npz').unlink()  # not needed any more
  assert run(*call, f'--add={folder}/a.npz') == 0
  out = capsys.readouterr().out
  assert 'nightly keeps its projection: --fit is not used\n' in out
  assert 'added 16 rows' in out and 'added 4 rows' in out
  assert run(*call[:3]) == 0


def test_an_image_is_replaced_by_one_call(run, folder, capsys):
  call = f'--index={folder}/daily', f'--add={folder}/few.npz'
  assert run(*call) == 0 and run(*call, '--remove=3.jpg') == 0
  out = capsys.readouterr().out
  assert 'added 1 row of' in out and 'removed 1\n4 embeddings' in out
  kept = store.Index(folder / 'daily')
  assert kept.removed.tolist() == [False] * 3 + [True, False]
  assert kept.row(4) == kept.row(3)


def test_removed_rows_leave_the_disk(run, folder, capsys):
  def files():
    return {p.name: p.stat().st_size for p in (folder / 'thin').iterdir()}

  def call(*arguments):
    assert run(f'--index={folder}/thin', *arguments) == 0
    return capsys.readouterr().out

  call(f'--add={folder}/a.npz')
  before = files()['embeddings.bin']
  out = call('--remove=3.jpg', '--remove=4.jpg', '--compact', '--check')
  assert 'rewrote the index without 2 removed rows' in out
  assert '18 embeddings' in out and 'is intact' in out
  assert files()['embeddings.1.bin'] == 18 / 20 * before
  assert {'embeddings.bin', 'rows.jsonl'} & {*files()} == set()
  others = [f'--remove={i}.jpg' for i in range(20) if i not in (3, 4)]
  assert 'the next --add makes it again' in call(*others, '--compact')
  out = call('--compact')
  assert 'no removed row to take off' in out and 'is empty' in out
  assert sum(files()[f'{n}.2.bin'] for n in ('embeddings', 'codes')) == 0
  assert '20 embeddings' in call(f'--add={folder}/a.npz')
