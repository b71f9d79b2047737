import sys
import zipfile

import numpy as np
import pytest

from apnet_jax.errors import UserError
from apnet_jax.inference import embedding_files

RNG = np.random.default_rng(0)
EMBEDDINGS = RNG.normal(size=(7, 5)).astype(np.float32)
COLUMNS = {
  'path': np.array([f'é{i}.jpg' for i in range(7)]),
  'x1': np.arange(7.0),
  'track': np.arange(7),
}
INFO = {'fingerprint': 'abc', 'unreadable': ['x']}


def write(path, dtype='float32', embeddings=EMBEDDINGS, info=INFO):
  blocks = [embeddings[:3], embeddings[3:]]
  embedding_files.write(path, info, COLUMNS, blocks, embeddings.shape, dtype)


@pytest.mark.parametrize('suffix', embedding_files.SUFFIXES)
@pytest.mark.parametrize('dtype', embedding_files.DTYPES)
def test_what_is_written_is_read(suffix, dtype, tmp_path, monkeypatch):
  monkeypatch.setattr(embedding_files, 'BLOCK', 2)
  path = tmp_path / 'new' / f'a{suffix}'
  write(path, dtype)
  assert [p.name for p in path.parent.iterdir()] == [path.name]
  with embedding_files.reading(path) as file:
    assert file.info == INFO and file.dimensions == 5
    for name, column in COLUMNS.items():
      np.testing.assert_array_equal(file.columns[name], column)
    blocks = list(file.blocks)
  assert max(map(len, blocks)) <= 2 and blocks[0].dtype == dtype
  np.testing.assert_array_equal(
    np.concatenate(blocks), EMBEDDINGS.astype(dtype)
  )


def test_other_programs_read_the_files(tmp_path):
  write(tmp_path / 'a.npz')
  with np.load(tmp_path / 'a.npz') as arrays:
    np.testing.assert_array_equal(arrays['embedding'], EMBEDDINGS)
    np.testing.assert_array_equal(arrays['path'], COLUMNS['path'])
  parquet = pytest.importorskip('pyarrow.parquet')
  write(tmp_path / 'a.parquet')
  table = parquet.read_table(tmp_path / 'a.parquet')
  np.testing.assert_allclose(table['embedding'].to_pylist(), EMBEDDINGS)
  assert table['track'].to_pylist() == [*range(7)]


def test_npz_files_hold_names_that_are_not_utf8(tmp_path):
  columns = COLUMNS | {'path': np.array([f'\udce9{i}.jpg' for i in range(7)])}
  embedding_files.check_texts('a.npz', columns)
  embedding_files.write(
    tmp_path / 'a.npz', INFO, columns, [EMBEDDINGS], (7, 5), 'float32'
  )
  with embedding_files.reading(tmp_path / 'a.npz') as file:
    np.testing.assert_array_equal(file.columns['path'], columns['path'])
  embedding_files.check_texts('a.parquet', COLUMNS)
  with pytest.raises(UserError, match='udce90.jpg. is not UTF-8'):
    embedding_files.check_texts('a.parquet', columns)


@pytest.mark.parametrize('suffix', embedding_files.SUFFIXES)
def test_a_damaged_file_is_named(suffix, tmp_path):
  path = tmp_path / f'a{suffix}'
  write(path)
  whole = path.read_bytes()

  def read():
    with embedding_files.reading(path) as file:
      return list(file.blocks)

  for length in (0, 10, len(whole) // 2, len(whole) - 1):
    path.write_bytes(whole[:length])
    with pytest.raises(UserError, match='cannot be read as a file of embedd'):
      read()
  write(path, info={})
  with pytest.raises(UserError, match='does not name its network'):
    read()
  for value in (np.nan, -np.inf):
    write(path, embeddings=np.where(EMBEDDINGS == EMBEDDINGS[4, 2], value, 0))
    with pytest.raises(UserError, match='not finite'):
      read()
  place = whole.index(EMBEDDINGS[4, 1:4].tobytes())
  path.write_bytes(whole[:place] + b'\0' + whole[place + 1 :])
  with pytest.raises(UserError, match='cannot be read as a file of embedd'):
    read()
  path.unlink()
  with pytest.raises(UserError, match='of embeddings: it does not exist'):
    read()
  path.mkdir()
  with pytest.raises(UserError, match='of embeddings: it is not a file'):
    read()


def save(file, longer=b'', **arrays):
  """Writes an .npz file as another program might; `longer` follows `path`."""
  whole = {
    'path': COLUMNS['path'], 'embedding': EMBEDDINGS,
    'info': np.array('{"fingerprint": "abc"}'), **arrays,
  }  # fmt: skip
  with zipfile.ZipFile(file, 'w') as archive:
    for name, array in whole.items():
      with archive.open(f'{name}.npy', 'w') as member:
        np.save(member, array)
        member.write(longer if name == 'path' else b'')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'longer': b'x'}, 'its column path is longer than it says'),
    ({'pid': np.arange(6)}, 'its columns have different lengths'),
    ({'embedding': np.asfortranarray(EMBEDDINGS)}, 'are not float .* by rows'),
    ({'embedding': EMBEDDINGS.astype(int)}, 'are not float'),
    ({'embedding': EMBEDDINGS[:6]}, 'it is cut off'),
    ({'path': COLUMNS['path'][:6]}, 'it is cut off'),
  ],
)
def test_files_of_other_programs_are_examined(change, message, tmp_path):
  save(tmp_path / 'a.npz')
  with embedding_files.reading(tmp_path / 'a.npz') as file:
    np.testing.assert_array_equal(np.concatenate([*file.blocks]), EMBEDDINGS)
  save(tmp_path / 'a.npz', **change)
  with pytest.raises(UserError, match=f'a.npz cannot be read.*{message}'):
    with embedding_files.reading(tmp_path / 'a.npz') as file:
      list(file.blocks)


def test_a_file_that_cannot_be_written(tmp_path, monkeypatch):
  with pytest.raises(UserError, match='=a.csv must end in .npz or .parquet.'):
    embedding_files.check_name('a.csv')

  def fail():
    yield EMBEDDINGS
    raise OSError('No space left on device')

  with pytest.raises(OSError, match='No space'):
    embedding_files.write(
      tmp_path / 'a.npz', INFO, COLUMNS, fail(), (7, 5), 'float32'
    )
  assert not list(tmp_path.iterdir())
  monkeypatch.setitem(sys.modules, 'pyarrow.parquet', None)
  with pytest.raises(UserError, match=r"pip install '.\[parquet\]'"):
    embedding_files.check_name('a.parquet')
