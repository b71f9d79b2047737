import fcntl
import functools
import os
import pathlib

import numpy as np
from PIL import Image
import pytest

from apnet_jax import cli
from apnet_jax.commands import embed
from apnet_jax.errors import UserError
from apnet_jax.inference import embedding_files, embedding_job, rows
from apnet_jax.inference.embedder import Embedder
from tests.commands.running import in_this_process


@pytest.fixture(scope='module')
def embedder(workdir):
  return Embedder.load(workdir)


@pytest.fixture
def source(tmp_path, monkeypatch):
  """Seven images, the fourth of which cannot be read, in parts of two."""
  monkeypatch.setattr(embedding_job, 'PART', 2)
  rng = np.random.default_rng(0)
  for i in range(7):
    pixels = rng.integers(0, 256, (20, 10, 3), np.uint8)
    Image.fromarray(pixels // (i + 1)).save(tmp_path / f'{i}.png')
  (tmp_path / '3.png').write_bytes(b'')
  return rows.find([str(tmp_path)])


def read(path):
  with embedding_files.reading(path) as file:
    return file.info, file.columns, np.concatenate(list(file.blocks))


def test_a_folder_becomes_a_file(embedder, source, tmp_path):
  path = tmp_path / 'out' / 'a.npz'
  outcome = embedding_job.embed_into(path, embedder, source)
  assert (outcome.rows, outcome.resumed) == (6, 0)
  assert [*path.parent.iterdir()] == [path]
  info, columns, embeddings = read(path)
  kept = [p for p in source.columns['path'] if '3.png' not in p]
  assert columns['path'].tolist() == kept
  assert info['fingerprint'] == embedder.fingerprint
  assert info['settings'] == embedder.settings
  assert info['threshold'] == embedder.threshold
  assert info['unreadable'] == outcome.errors and len(outcome.errors) == 1
  assert '3.png cannot be read' in outcome.errors[0]
  np.testing.assert_allclose(embeddings, embedder(kept), atol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)


def test_a_file_holds_some_of_many_messages(
  embedder, source, tmp_path, monkeypatch
):
  monkeypatch.setattr(embedding_job, 'KEPT_ERRORS', 1)
  (tmp_path / '5.png').write_bytes(b'')
  outcome = embedding_job.embed_into(tmp_path / 'a.npz', embedder, source)
  info = read(tmp_path / 'a.npz')[0]
  assert info['unreadable'] == outcome.errors[:1]
  assert info['unreadable_count'] == len(outcome.errors) == 2


def test_a_file_of_other_content_is_replaced_and_described(
  embedder, source, tmp_path
):
  path = tmp_path / 'a.npz'
  path.write_bytes(b'mine')
  assert embedding_job.embed_into(path, embedder, source).replaced == (
    'not a file of embeddings'
  )
  assert not embedding_job.embed_into(path, embedder, source).replaced
  others = rows.ImageRows({'path': source.columns['path'][:2]})
  found = embedding_job.embed_into(path, embedder, others)
  assert (found.rows, found.replaced) == (2, '6 embeddings')
  another = killed_after(embedder, 9)
  type(another).fingerprint = 'another'
  found = embedding_job.embed_into(path, another, others)
  assert found.replaced == '2 embeddings'


def killed_after(embedder, parts):
  """Returns an embedder that is interrupted after this many parts."""
  calls = iter(range(parts))

  class Killed:
    fingerprint, settings = embedder.fingerprint, embedder.settings
    dimensions, threshold = embedder.dimensions, embedder.threshold

    def __call__(self, *args, **kwargs):
      if next(calls, None) is None:
        raise KeyboardInterrupt
      return embedder(*args, **kwargs)

  return Killed()


def test_a_killed_job_goes_on(embedder, source, tmp_path):
  embed_into = functools.partial(embedding_job.embed_into, dtype='float16')
  whole, path = tmp_path / 'whole.npz', tmp_path / 'a.npz'
  embed_into(whole, embedder, source)
  with pytest.raises(KeyboardInterrupt):
    embed_into(path, killed_after(embedder, 3), source)
  assert not path.exists()
  with pytest.raises(UserError, match='with another dtype'):
    embedding_job.embed_into(path, embedder, source)
  others = rows.ImageRows({'path': source.columns['path'][1:]})
  with pytest.raises(UserError, match='with another images'):
    embed_into(path, embedder, others)
  shifted = rows.ImageRows(source.columns)
  shifted.first_frame = 1
  with pytest.raises(UserError, match='with another first_frame'):
    embed_into(path, embedder, shifted)
  outcome = embed_into(path, killed_after(embedder, 1), source)
  assert (outcome.rows, outcome.resumed) == (6, 6)
  assert path.read_bytes() == whole.read_bytes()
  assert read(path)[2].dtype == np.float16


def test_parts_with_images_that_have_changed_are_embedded_again(
  embedder, source, tmp_path
):
  path, changed = tmp_path / 'a.npz', tmp_path / '0.png'
  with pytest.raises(KeyboardInterrupt):
    embedding_job.embed_into(path, killed_after(embedder, 3), source)
  changed.write_bytes((tmp_path / '6.png').read_bytes())
  (tmp_path / '4.png').unlink()
  outcome = embedding_job.embed_into(path, embedder, source)
  assert (outcome.rows, outcome.resumed, len(outcome.errors)) == (5, 2, 2)
  expected = embedder([str(changed), str(tmp_path / '1.png')])
  np.testing.assert_allclose(read(path)[2][:2], expected, atol=1e-5)


def test_the_state_of_a_file_is_its_size_and_time(tmp_path):
  image = tmp_path / 'a.png'
  image.write_bytes(b'1')
  paths = np.array([str(image)] * 2 + ['nowhere', '\0'])
  states = embedding_job._file_states(paths)
  assert states[1:].tolist() == [[-1, -1]] * 2 and states[0, 0] == 1
  image.write_bytes(b'2')  # of the same size
  os.utime(image, ns=(0, 0))
  assert embedding_job._file_states(paths)[0].tolist() == [1, 0]


def test_parts_without_a_job_are_not_those_of_the_next(
  embedder, source, tmp_path
):
  path, folder = tmp_path / 'a.npz', tmp_path / 'a.npz.parts'
  with pytest.raises(KeyboardInterrupt):
    embedding_job.embed_into(path, killed_after(embedder, 2), source)
  (folder / 'job.json').unlink()
  (folder / '000000.npz').write_bytes(b'of another network')
  assert embedding_job.embed_into(path, embedder, source).resumed == 0


def test_a_kill_while_parts_are_removed_leaves_no_job(
  embedder, source, tmp_path, monkeypatch
):
  path, unlink = tmp_path / 'a.npz', pathlib.Path.unlink

  def killed(file, missing_ok=False):
    if file.suffix == '.npz':
      raise KeyboardInterrupt
    unlink(file, missing_ok)

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(pathlib.Path, 'unlink', killed)
    embedding_job.embed_into(path, embedder, source)
  left = [file.name for file in (tmp_path / 'a.npz.parts').iterdir()]
  assert '000000.npz' in left and 'job.json' not in left
  another = rows.ImageRows({'path': source.columns['path'][:2]})
  assert embedding_job.embed_into(path, embedder, another).rows == 2
  assert not (tmp_path / 'a.npz.parts').exists()


def test_a_second_writer_is_refused(embedder, source, tmp_path):
  folder = tmp_path / 'a.npz.parts'
  folder.mkdir()
  with (folder / 'run.lock').open('w') as held:
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(UserError, match='--output=.*a.npz.parts is in use'):
      embedding_job.embed_into(tmp_path / 'a.npz', embedder, source)
  assert [file.name for file in folder.iterdir()] == ['run.lock']


def test_a_damaged_part_is_named(embedder, source, tmp_path):
  path = tmp_path / 'a.npz'
  with pytest.raises(KeyboardInterrupt):
    embedding_job.embed_into(path, killed_after(embedder, 1), source)
  (tmp_path / 'a.npz.parts' / '000000.npz').write_bytes(b'PK')
  with pytest.raises(UserError, match='000000.npz is damaged: delete it'):
    embedding_job.embed_into(path, embedder, source)


def test_images_that_must_be_read(embedder, source, tmp_path):
  path = tmp_path / 'a.npz'
  with pytest.raises(UserError, match='3.png cannot be read'):
    embedding_job.embed_into(path, embedder, source, strict=True)
  bad = rows.find([str(tmp_path / '3.png')])
  with pytest.raises(UserError, match='none of 1 images.*3.png'):
    embedding_job.embed_into(tmp_path / 'b.npz', embedder, bad)
  assert not path.exists() and not (tmp_path / 'b.npz').exists()


def test_strict_embeds_parts_with_errors_again(embedder, source, tmp_path):
  path = tmp_path / 'a.npz'
  with pytest.raises(KeyboardInterrupt):
    embedding_job.embed_into(path, killed_after(embedder, 3), source)
  strictly = functools.partial(
    embedding_job.embed_into, path, embedder, source, strict=True
  )
  with pytest.raises(UserError, match='3.png cannot be read'):
    strictly()
  (tmp_path / '3.png').write_bytes((tmp_path / '2.png').read_bytes())
  outcome = strictly()
  assert (outcome.rows, outcome.resumed, outcome.errors) == (7, 4, [])


def test_a_name_that_is_not_utf8_is_said_before_anything_is_embedded(
  embedder, tmp_path
):
  pytest.importorskip('pyarrow')
  names = ['a.jpg', os.fsdecode(b'\xe9.jpg')]
  source = rows.ImageRows({'path': np.array(names), 'track': np.arange(2)})
  path = tmp_path / 'a.parquet'
  message = r"a.parquet: path '\\udce9.jpg' is not UTF-8.*Write an .npz"
  with pytest.raises(UserError, match=message):
    embedding_job.embed_into(path, killed_after(embedder, 0), source)
  assert not list(tmp_path.iterdir())


def test_the_home_folder_in_flags_is_expanded(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('HOME', str(tmp_path))
  with in_this_process(embed.command) as run:
    assert run('--ckpt=~/run', '--output=~/a.txt') == 2
  assert f'--output={tmp_path}/a.txt must end in' in capsys.readouterr().err
  for kept in ('~/a', '--init_from=~/a', '--config.data.dir=~/a', '--x=a~/b'):
    assert cli._expand_home(kept) == kept


def test_flags_that_do_not_fit(tmp_path):
  for arguments, message in [
    (([], 'a.mp4', None, 0), '--video and --boxes need each other'),
    (([], None, 'a.csv', 0), '--video and --boxes need each other'),
    ((['a.jpg'], 'a.mp4', 'a.csv', 0), 'so are images: a.jpg'),
    (([], None, None, None), 'no image is given'),
    ((['a.jpg'], None, None, 0), '--first_frame needs --video'),
  ]:
    with pytest.raises(UserError, match=message):
      embed.find_rows(*arguments)
