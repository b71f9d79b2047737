"""Tests of preparing: whole or not at all, once, and again after a failure."""

import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from apnet_jax import images
from apnet_jax.config import CHOICES
from configs import common
from data import datasets, decoding, listing, locking, prepare, raw, records
from tests.test_images import DAMAGED, encode, exif, noise

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path):
  """The configuration for the dummy data of own images."""
  config = common.get_config().data
  config.name = 'folder'
  config.dir = str(ROOT / 'data/folder/dummy_data')
  config.prepared_dir = str(tmp_path / 'prepared')
  return config


def make_people(folder):
  """Makes folders of three people with two images each."""
  root = folder / 'people'
  source = ROOT / 'data/market1501/dummy_data/bounding_box_train'
  for number, path in enumerate(sorted(source.iterdir())):
    person = root / 'abc'[number % 3]
    person.mkdir(parents=True, exist_ok=True)
    (person / f'{number}.jpg').write_bytes(path.read_bytes())
  return root


def left_behind(config):
  files = pathlib.Path(config.prepared_dir).rglob('*')
  return [path for path in files if path.name != '.lock']


def is_whole(prepared):
  sizes = {k: s.num_examples for k, s in prepared.builder.info.splits.items()}
  return sizes == {'train': 6, 'query': 2, 'gallery': 8}


def test_every_benchmark_is_checked_against_its_counts(config):
  for layout in datasets.LAYOUTS:
    config.name = layout.name
    config.prepared_dir += '/next'
    config.dir = str(ROOT / 'data' / layout.dataset / 'dummy_data')
    config.allow_other_counts = False
    if layout.published:
      with pytest.raises(ValueError, match=f'is not {layout.title[:5]}'):
        prepare.prepare(config)
      assert not left_behind(config)
    config.allow_other_counts = True
    assert prepare.prepare(config).builder.data_path.exists()


@pytest.mark.parametrize('again', [False, True])
def test_a_failure_leaves_nothing_and_can_be_repeated(
  config, monkeypatch, again
):
  if again:  # beside a whole one
    prepare.prepare(config)
    config.name = 'market'
    config.dir = str(ROOT / 'data/market1501/dummy_data')
    config.allow_other_counts = True
  before = left_behind(config)
  with monkeypatch.context() as patch:
    read, count = raw.RawImage.read, []

    def fail(image):
      count.append(image)
      if len(count) > 20:  # after the check, within the writing
        raise OSError(f'{image.path} has gone')
      return read(image)

    patch.setattr(raw.RawImage, 'read', fail)
    with pytest.raises(OSError, match='has gone'):
      prepare.prepare(config)
  assert left_behind(config) == before
  assert is_whole(prepare.prepare(config))


def test_a_data_set_of_the_same_images_is_left_alone(config):
  """One folder has the same fingerprint under two names."""
  config.dir = str(ROOT / 'data/market1501/dummy_data')
  config.allow_other_counts = True
  own = prepare.prepare(config)
  config.name = 'market'
  market = prepare.prepare(config)
  assert own.fingerprint == market.fingerprint
  assert is_whole(own) and is_whole(market)
  assert own.builder.data_path.exists() and market.builder.data_path.exists()


def test_what_a_killed_process_left_is_cleared(config):
  """A real process is killed, and another one meets a full disk."""
  code = """
import itertools, os, resource, signal, sys
from ml_collections import ConfigDict
from data import prepare, reid_builder
config = ConfigDict(dict(
  name='folder', dir=sys.argv[1], prepared_dir=sys.argv[2], split_seed=0,
  test_fraction=.5, allow_other_counts=False, pattern='',
  folders_are_people=False, ignore_cameras=False,
))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (600, no_limit[1]))
try:
  prepare.prepare(config)
except OSError as error:
  assert 'cannot be written to' in str(error), error
  assert os.listdir(sys.argv[2]) == ['.lock']
else:
  sys.exit('it was written')
resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
generate = reid_builder.ReidBuilder._generate_examples
def stop(self, images):
  yield from itertools.islice(generate(self, images), 2)
  os.kill(os.getpid(), signal.SIGKILL)
reid_builder.ReidBuilder._generate_examples = stop
prepare.prepare(config)
"""
  result = subprocess.run(
    [sys.executable, '-c', code, config.dir, config.prepared_dir],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert result.returncode == -9, result.stderr
  stale = [p for p in left_behind(config) if 'incomplete' in p.name]
  assert stale
  assert is_whole(prepare.prepare(config))
  assert not [p for p in left_behind(config) if 'incomplete' in p.name]


def test_one_process_prepares_at_a_time(config, capsys, monkeypatch):
  root = pathlib.Path(config.prepared_dir)
  root.mkdir()
  prepared = []
  thread = threading.Thread(
    target=lambda: prepared.append(prepare.prepare(config))
  )
  with locking.locked(root / '.lock', 'prepare'):
    thread.start()
    deadline, said = time.time() + 60, ''
    while 'Waiting for another process' not in said and time.time() < deadline:
      time.sleep(0.01)
      said += capsys.readouterr().out
    assert 'Waiting for another process' in said
    assert not left_behind(config)
    # The other process prepares the data set meanwhile.
    layout = datasets.find('folder')
    dataset = layout.read(config.dir)
    folder = root / f'reid-{dataset.fingerprint()}'
    prepare.make_builder(layout, folder, dataset).download_and_prepare()
    monkeypatch.delattr(decoding, 'check_readable')  # it is not done again
  thread.join(60)
  assert is_whole(prepared[0])


def test_says_that_there_is_no_room(config, monkeypatch):
  usage = prepare.shutil.disk_usage('/')._replace(free=20_000)
  monkeypatch.setattr(prepare.shutil, 'disk_usage', lambda _: usage)
  with pytest.raises(OSError, match='has room for 0 MB; .* needs about 0 MB'):
    prepare.prepare(config)
  assert not left_behind(config)


def test_an_image_in_two_splits_needs_room_twice(config, tmp_path, monkeypatch):
  config.dir = str(make_people(tmp_path))
  config.test_fraction = 1.0
  for path in tmp_path.rglob('*.jpg'):
    with path.open('ab') as file:
      file.truncate(10**6)
  usage = prepare.shutil.disk_usage('/')._replace(free=7 * 10**6)
  monkeypatch.setattr(prepare.shutil, 'disk_usage', lambda _: usage)
  with pytest.raises(OSError, match='room for 7 MB; .* needs about 12 MB'):
    prepare.prepare(config)


def test_splits_that_were_made_are_saved(config, tmp_path, capsys):
  root = make_people(tmp_path)
  config.dir = str(root)
  prepared = prepare.prepare(config)
  (saved,) = pathlib.Path(config.prepared_dir).glob('reid-*/splits.csv')
  out = capsys.readouterr().out
  assert f'these splits as a list: {saved}' in out
  assert 'splits made by identity, seed 0' in out
  assert 'no cameras: each query is compared with all images' in out
  images = prepared.dataset.splits
  assert len(saved.read_text().splitlines()) == 1 + sum(
    map(len, images.values())
  )


def test_the_list_of_splits_is_written_again_if_it_is_missing(config, tmp_path):
  config.update(dir=str(make_people(tmp_path)))
  prepare.prepare(config)
  (saved,) = pathlib.Path(config.prepared_dir).glob('reid-*/splits.csv')
  content = saved.read_text()
  saved.unlink()
  prepare.prepare(config)
  assert saved.read_text() == content


def test_large_splits_that_cannot_be_written(config, monkeypatch):
  """TFDS buffers these in files of its own, which raise other errors."""
  monkeypatch.setattr(shuffle, 'MAX_MEM_BUFFER_SIZE', 0)

  def fail(*_, **__):
    raise tf.errors.ResourceExhaustedError(
      None, None, 'No space left on device'
    )

  monkeypatch.setattr(shuffle._Bucket, 'add', fail)
  with pytest.raises(OSError, match='cannot be written to: No space left'):
    prepare.prepare(config)
  assert not left_behind(config)


def test_unreadable_images_are_named_once(config, tmp_path):
  """An image in query and gallery is named once."""
  root = make_people(tmp_path)
  bad = sorted(root.rglob('*.jpg'))[::3]
  for path in bad:
    path.write_bytes(b'')
  config.dir = str(root)
  with pytest.raises(ValueError, match=f'^{len(bad)} of 6 images') as error:
    prepare.prepare(config)
  assert all(str(error.value).count(str(path)) == 1 for path in bad)


def test_a_builder_reads_by_itself_too(tmp_path):
  """`tfds build --manual_dir` uses the builder in this way."""
  builder = prepare.make_builder(datasets.find('msmt17/train'), tmp_path)
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(
      manual_dir=ROOT / 'data/msmt17/dummy_data'
    )
  )
  assert builder.info.splits['train'].num_examples == 5


def test_a_builder_that_reads_by_itself_refuses_doubtful_folders(tmp_path):
  for camera in 'abc':
    path = tmp_path / 'raw' / f'cam_{camera}' / '1.jpg'
    path.parent.mkdir(parents=True)
    path.write_bytes(encode(noise(), 'JPEG'))
  builder = prepare.make_builder(datasets.find('folder'), tmp_path)
  with pytest.raises(ValueError, match='are named like cameras'):
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / 'raw')
    )


def test_an_empty_folder_of_tfds_counts_as_none(monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', '')
  assert listing.prepared_root('').name == 'tensorflow_datasets'


def test_images_are_prepared_as_they_are_read_elsewhere(
  config, tmp_path, capsys
):
  """Every orientation, every format, and EXIF that is damaged."""
  files = {f'{n}.jpg': encode(noise(), 'JPEG', exif=exif(n)) for n in range(9)}
  files |= {
    f'{form}.{form}': encode(noise(), form, exif=exif(6))
    for form in ('png', 'webp')
  }
  files['bmp.bmp'] = encode(noise(), 'BMP')
  files['damaged.jpg'] = encode(noise(), 'JPEG', exif=DAMAGED['cut off'])
  for name, content in files.items():
    for person in ('anna', 'ben', 'cem'):
      path = tmp_path / person / name
      path.parent.mkdir(exist_ok=True)
      path.write_bytes(content)
  config.update(dir=str(tmp_path), image_size=(24, 16), folders_are_people=True)
  config.prepared_dir = str(tmp_path / '.prepared')
  builder = prepare.prepare(config).builder
  warning = capsys.readouterr().err
  assert 'EXIF of 3 of 39 images cannot be parsed' in warning
  assert 'which may be on their side or upside down' in warning
  assert str(tmp_path / 'anna' / 'damaged.jpg') in warning
  read = 0
  for split in ('train', 'gallery'):
    found = records.read(builder, split)
    rows = np.arange(len(found.paths))
    for cache in CHOICES['data.cache']:
      config.cache = cache
      kept = records.apply_cache(found, split, config)
      batches = records.make_split(kept, (24, 16)).batches(rows, 50)
      paths = [tmp_path / path for path in found.paths]
      (expected,) = images.make_split(paths, (24, 16)).batches(rows, 50)
      difference = next(batches).astype(int) - expected
      assert abs(difference).max() <= 1
    read += len(rows)
  assert read == 39


def test_files_of_an_older_version_are_replaced(config, capsys):
  path = pathlib.Path(prepare.prepare(config).builder.data_path)
  assert 'anew' not in capsys.readouterr().out
  old = path.rename(path.with_name('1.0.0'))
  assert is_whole(prepare.prepare(config))
  printed = capsys.readouterr().out
  assert 'prepared anew in version 1.2.0: CMYK images' in printed
  assert path.exists() and not old.exists()
  prepare.prepare(config)
  assert 'anew' not in capsys.readouterr().out
