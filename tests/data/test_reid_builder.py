"""Tests of the messages about every kind of wrong raw images."""

import pathlib
import re
import shutil
import tempfile

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
import pytest

from data import pipeline, raw
from data.market1501.layout import LAYOUT as MARKET

NAMES = st.builds(
  '{}_c{}s{}_{:06d}_{:02d}{}'.format,
  st.just('-1') | st.integers(0, 9999).map('{:04d}'.format),
  st.integers(1, 15),
  st.integers(1, 6),
  st.integers(0, 999_999),
  st.integers(0, 99),
  st.sampled_from(['.jpg', '.jpg.jpg', '.JPG', '.jpeg', '.png']),
)


@pytest.fixture
def copied(drawn, tmp_path):
  """A raw folder that a test may change."""
  return shutil.copytree(drawn, tmp_path / 'raw')


@pytest.fixture
def config(copied, tmp_path, make_config):
  return make_config(copied, tmp_path / 'prepared')


def some_image(root, folder='query'):
  return sorted((root / folder).iterdir())[1]


# File names


def make_folders(root):
  """Makes Market-1501's folders with an image in query and gallery each."""
  for folder in raw.MARKET_FOLDERS.values():
    (root / folder).mkdir()
    if folder != 'bounding_box_train':
      (root / folder / '0001_c1s1_000001_01.jpg').touch()


@given(st.sets(NAMES, min_size=1, max_size=20))
def test_reads_market_names(names):
  with tempfile.TemporaryDirectory() as directory:
    folder = pathlib.Path(directory)
    make_folders(folder)
    for name in names:
      (folder / 'bounding_box_train' / name).touch()
    images = raw.read_market_folders(folder)['train']
  assert [image.path.name for image in images] == sorted(names)
  for image in images:
    pid, rest = image.path.name.split('_c')
    assert image.pid == int(pid)
    assert image.camid == int(rest.split('s')[0]) - 1


@given(
  st.from_regex(r'[-\w .]{1,20}', fullmatch=True).filter(
    lambda name: not re.match(r'(-1|\d+)_c\d|\.', name)
  )
)
def test_refuses_other_names(stem):
  with tempfile.TemporaryDirectory() as directory:
    folder = pathlib.Path(directory)
    make_folders(folder)
    train = folder / 'bounding_box_train'
    (train / '0001_c1s1_000001_01.jpg').touch()
    (train / f'{stem}.jpg').touch()
    with pytest.raises(ValueError) as error:
      raw.read_market_folders(folder)
  assert f'{stem}.jpg is not named as Market-1501' in str(error.value)


@pytest.mark.parametrize(
  'name',
  ['0001.jpg', '0001_c0s1_000001_01.jpg', '-2_c1s1_000001_01.jpg', 'a_c1.jpg'],
)
def test_names_a_misnamed_file(copied, config, name):
  some_image(copied).rename(copied / 'query' / name)
  with pytest.raises(ValueError, match=re.escape(name)) as error:
    pipeline.load(config)
  assert '0002_c1s1_000451_03.jpg' in str(error.value)


def test_ignores_files_that_are_no_images(copied, config):
  for name in ('Thumbs.db', 'readme.txt'):
    (copied / 'query' / name).touch()
  assert all(p.endswith('.jpg') for p in pipeline.load(config).query.paths)


@pytest.mark.parametrize('folder', ['bounding_box_train', 'query'])
def test_refuses_junk_outside_the_gallery(copied, config, folder):
  path = some_image(copied, folder)
  path.rename(path.with_name('-1_c1s1_000001_00.jpg'))
  with pytest.raises(ValueError, match='-1_c1s1_000001_00.jpg is junk'):
    pipeline.load(config)


# Folders


def test_says_that_a_folder_is_missing(copied, config):
  config.data.dir = str(copied / 'nowhere')
  with pytest.raises(ValueError) as error:
    pipeline.load(config)
  message = str(error.value)
  assert f"config.data.dir='{config.data.dir}'" in message
  assert f'{config.data.dir} (no such folder)' in message


def test_says_where_it_looked_and_how_to_get_the_data(copied, config):
  shutil.rmtree(copied / 'query')
  (copied / MARKET.nested[0]).mkdir()
  with pytest.raises(ValueError) as error:
    pipeline.load(config)
  message = str(error.value)
  every = ', '.join(raw.MARKET_FOLDERS.values())
  assert f'  {copied} (no query)\n' in message
  assert f'  {copied / MARKET.nested[0]} (no {every})\n' in message
  for name in MARKET.nested[1:]:
    assert f'  {copied / name} (no such folder)' in message
  assert MARKET.how_to_get in message


@pytest.mark.parametrize('name', MARKET.nested)
def test_finds_the_folder_from_its_parent(copied, name):
  parent = copied.parent / 'parent'
  root = parent / name
  root.parent.mkdir(parents=True)
  copied.rename(root)
  assert MARKET.locate(str(parent)) == root
  assert MARKET.locate(str(root)) == root


def test_expands_the_home_folder(copied, monkeypatch):
  monkeypatch.setenv('HOME', str(copied.parent))
  assert MARKET.locate('~/raw') == copied


@pytest.mark.parametrize('folder', raw.MARKET_FOLDERS.values())
def test_says_that_a_folder_holds_no_images(copied, config, folder):
  shutil.rmtree(copied / folder)
  (copied / folder).mkdir()
  with pytest.raises(ValueError, match=f'{folder} holds no images'):
    pipeline.load(config)


# Images


def test_names_every_image_that_cannot_be_read(copied, config, tmp_path):
  unreadable = some_image(copied, 'bounding_box_train')
  contents = unreadable.read_bytes()
  unreadable.write_bytes(b'not an image at all')
  truncated = some_image(copied, 'query')
  truncated.write_bytes(truncated.read_bytes()[:900])
  empty = some_image(copied, 'bounding_box_test')
  empty.write_bytes(b'')
  with pytest.raises(ValueError, match='3 of [0-9]+ images') as error:
    pipeline.load(config)
  for path in (unreadable, truncated, empty):
    assert re.search(f'  {re.escape(str(path))}: .+', str(error.value))
  # A repaired folder is prepared as if nothing had happened.
  unreadable.write_bytes(contents)
  truncated.unlink()
  empty.unlink()
  assert pipeline.load(config).num_classes == 5


def test_checks_as_the_pipeline_decodes(copied, config):
  """Pillow reads some of these images without their ends, TensorFlow none."""
  paths = list(copied.rglob('*.jpg'))
  for path in paths:
    path.write_bytes(path.read_bytes()[:-2])
  with pytest.raises(ValueError, match=f'^{len(paths)} of {len(paths)} images'):
    pipeline.load(config)


def test_shows_ten_images_that_cannot_be_read(copied, config):
  paths = sorted((copied / 'bounding_box_train').iterdir())[:12]
  for path in paths:
    path.write_bytes(b'')
  with pytest.raises(ValueError, match='12 of ') as error:
    pipeline.load(config)
  assert str(paths[9]) in str(error.value)
  assert str(paths[10]) not in str(error.value)


def test_refuses_other_formats_under_a_known_suffix(copied, config):
  path = some_image(copied)
  Image.new('RGB', (64, 128)).save(path, format='TIFF')
  with pytest.raises(ValueError, match=f'{path.name}: not a JPEG, PNG, BMP or'):
    pipeline.load(config)


# The configuration


def test_names_the_data_sets_there_are(config):
  config.data.name = 'mars'
  with pytest.raises(ValueError, match="config.data.name='mars'") as error:
    pipeline.load(config)
  assert 'market1501' in str(error.value)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('train.P', 6, 'config.train.P=6 identities in a batch.* only 5'),
    ('train.P', 0, 'config.train.P=0'),
    ('train.K', 0, 'config.train.K=0'),
    ('seed', -1, 'config.seed=-1'),
    ('data.cache', 'raw', "config.data.cache='raw' is not one of"),
  ],
)
def test_names_a_field_that_does_not_fit(config, field, value, message):
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=message):
    pipeline.load(config)
