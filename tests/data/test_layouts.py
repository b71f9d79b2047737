"""Tests of reading raw folders in all layouts, and of messages on bad ones."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import tempfile

import h5py
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import pytest
import scipy.io

from apnet_jax import images
from apnet_jax.errors import UserError
from data import datasets, raw
from tests.data import make_dummy_data

DATA = pathlib.Path(__file__).parents[2] / 'data'
MARKET, DUKE = datasets.find('market'), datasets.find('duke')
OCCLUDED = datasets.find('occluded_duke')
CUHK03, LABELED = datasets.find('cuhk03'), datasets.find('cuhk03/labeled')
MSMT17, MSMT17_TRAIN = datasets.find('msmt17'), datasets.find('msmt17/train')


@pytest.fixture
def copy(tmp_path):
  """A function that copies the dummy data of a layout, to be changed."""

  def copied(layout, below='raw'):
    source = DATA / layout.dataset / 'dummy_data'
    return pathlib.Path(shutil.copytree(source, tmp_path / below))

  return copied


def labels(dataset):
  return {
    split: [(image.pid, image.camid) for image in images]
    for split, images in dataset.splits.items()
  }


def names(dataset, split):
  return [image.name for image in dataset.splits[split]]


# Names and places


@pytest.mark.parametrize(
  ('name', 'full'),
  [
    ('market', 'market1501'),
    ('market1501', 'market1501'),
    ('duke', 'dukemtmc_reid'),
    ('cuhk03', 'cuhk03_np/detected'),
    ('cuhk03_np/labeled', 'cuhk03_np/labeled'),
    ('msmt17', 'msmt17/trainval'),
    ('msmt17/train', 'msmt17/train'),
  ],
)
def test_names(name, full):
  assert datasets.find(name).name == full


@pytest.mark.parametrize('name', ['', 'mars', 'msmt17/test', 'market/train'])
def test_other_names_are_refused(name):
  with pytest.raises(ValueError, match='is not one of market1501, duke') as e:
    datasets.find(name)
  assert repr(name) in str(e.value)


@pytest.mark.parametrize(
  ('layout', 'below'),
  [(layout, below) for layout in datasets.LAYOUTS for below in layout.nested],
  ids=lambda x: x if isinstance(x, str) else x.name,
)
def test_finds_copies_below_a_folder(layout, below, copy, tmp_path):
  root = copy(layout, below)
  assert layout.locate(tmp_path) == layout.locate(str(root)) == root


def test_one_folder_may_hold_all_of_them(copy, tmp_path):
  benchmarks = (MARKET, DUKE, OCCLUDED, CUHK03, MSMT17)
  roots = {layout: copy(layout, layout.nested[0]) for layout in benchmarks}
  for layout, root in roots.items():
    assert layout.locate(tmp_path) == root


@pytest.mark.parametrize('layout', datasets.LAYOUTS, ids=lambda x: x.name)
def test_says_what_is_missing_where(layout, tmp_path):
  (tmp_path / 'notes.txt').touch()
  with pytest.raises(ValueError) as error:
    layout.locate(tmp_path)
  message = str(error.value)
  assert f'config.data.dir={str(tmp_path)!r} does not hold' in message
  assert f'  {tmp_path} (no ' in message
  assert layout.how_to_get in message


def test_withdrawn_sets_are_not_offered():
  for layout in (DUKE, OCCLUDED):
    assert 'withdr' in layout.how_to_get


# Counts


def test_counts_of_the_paper():
  """Table I, with its mistakes (data/table1.py) corrected."""
  table = {
    layout: {
      split: (counts.images, counts.identities)
      for split, counts in layout.published.items()
    }
    for layout in datasets.LAYOUTS
  }
  assert table[MARKET]['train'] == (12_936, 751)
  assert table[DUKE]['train'] == (16_522, 702)
  assert table[OCCLUDED]['train'] == (15_618, 702)
  assert table[CUHK03]['train'] == (7_365, 767)
  assert table[MSMT17]['train'] == (32_621, 1_041)
  gallery = MARKET.published['gallery']
  assert gallery.images - gallery.distractors - gallery.junk == 13_115


def with_counts(layout, dataset, **changes):
  """Returns the layout with the data set's counts as the published ones."""
  published = dataset.counts() | changes
  return type(layout)(
    **{
      field: getattr(layout, field)
      for field in ('dataset', 'title', 'homepage', 'how_to_get')
    },
    published=published,
  )


def test_the_published_counts_are_quietly_accepted():
  dataset = MARKET.read(DATA / 'market1501' / 'dummy_data')
  layout = with_counts(MARKET, dataset)
  assert datasets.check_counts(layout, dataset, False) == ''


@pytest.mark.parametrize(
  'field', ['images', 'identities', 'cameras', 'distractors', 'junk']
)
def test_other_counts_are_an_error_unless_allowed(field):
  dataset = MARKET.read(DATA / 'market1501' / 'dummy_data')
  counts = vars(dataset.counts()['gallery'])
  other = raw.Counts(**counts | {field: counts[field] + 12_345})
  layout = with_counts(MARKET, dataset, gallery=other)
  with pytest.raises(
    ValueError, match='--config.data.allow_other_counts'
  ) as error:
    datasets.check_counts(layout, dataset, False)
  differing = [
    line for line in str(error.value).splitlines() if 'differs' in line
  ]
  (line,) = differing
  assert line.split() == [
    'gallery', field, str(counts[field]), f'{counts[field] + 12_345:,}',
    'differs',
  ]  # fmt: skip
  message = datasets.check_counts(layout, dataset, True)
  assert line in message


def test_the_counts_of_another_set_are_recognised(monkeypatch):
  """The other data set is DukeMTMC-reID in the place of Occluded-DukeMTMC."""
  dataset = DUKE.read(DATA / 'dukemtmc_reid' / 'dummy_data')
  duke = with_counts(DUKE, dataset)
  monkeypatch.setattr(datasets, 'LAYOUTS', (duke, OCCLUDED))
  with pytest.raises(ValueError) as error:
    datasets.check_counts(OCCLUDED, dataset, False)
  assert 'These are the counts of DukeMTMC-reID' in str(error.value)


def test_the_fingerprint_tells_all_that_may_change(tmp_path):
  small, large = tmp_path / 'a.jpg', tmp_path / 'b.jpg'
  small.write_bytes(b'1')
  large.write_bytes(b'22')
  image = raw.RawImage('a.jpg', small, pid=1, camid=2)
  splits = {'train': [], 'query': [image], 'gallery': [image]}
  datasets = [raw.RawDataset(tmp_path, splits)]
  for field, value in (
    ('name', 'b.jpg'), ('path', large), ('pid', 3), ('camid', 4),
  ):  # fmt: skip
    changed = dataclasses.replace(image, **{field: value})
    datasets.append(raw.RawDataset(tmp_path, splits | {'query': [changed]}))
  moved = {'train': [image], 'query': [], 'gallery': [image]}
  datasets.append(raw.RawDataset(tmp_path, moved))
  assert len({dataset.fingerprint() for dataset in datasets}) == 6


def test_files_that_cannot_be_looked_up_are_all_named(tmp_path):
  files = []
  for name in ('a.jpg', 'b.jpg', 'c.jpg'):
    files.append(raw.RawImage(name, tmp_path / name, pid=1, camid=2))
  files[0].path.touch()
  files[1].path.symlink_to(tmp_path / 'nowhere')
  splits = {'train': files, 'query': files[:1], 'gallery': []}
  with pytest.raises(UserError) as error:
    raw.RawDataset(tmp_path, splits).fingerprint()
  assert str(error.value) == (
    '2 of 3 images cannot be read:\n'
    f'  {files[1].path}: No such file or directory\n'
    f'  {files[2].path}: No such file or directory'
  )


HIDDEN = (
  '._0001_c1s1.jpg', '.DS_Store', '.0002_c1.png', 'Thumbs.db', 'desktop.ini',
  '._people.csv', '.cache/1.jpg', '__MACOSX/0001_c1s1.jpg',
)  # fmt: skip


@pytest.mark.parametrize(
  'layout',
  [MARKET, OCCLUDED, CUHK03, MSMT17, datasets.find('folder')],
  ids=lambda layout: layout.name,
)
def test_hidden_files_are_nothing_in_any_layout(layout, copy):
  root = copy(layout)
  expected = layout.read(root)
  for folder in [p for p in (root, *root.rglob('*')) if p.is_dir()]:
    for name in HIDDEN:
      (folder / name).parent.mkdir(exist_ok=True)
      (folder / name).touch()
  assert layout.read(root) == expected


def test_hidden_files_are_nobody_in_folders_of_identities(tmp_path):
  layout = datasets.find('folder')
  for i in range(12):
    path = tmp_path / f'train/person{i // 4}/{i}.jpg'
    path.parent.mkdir(exist_ok=True, parents=True)
    path.touch()
  (tmp_path / 'train').rename(tmp_path / 'test')
  expected = layout.read(tmp_path)
  for name in HIDDEN:
    for folder in ('.', 'test', 'test/person1'):
      (tmp_path / folder / name).parent.mkdir(exist_ok=True)
      (tmp_path / folder / name).touch()
  assert layout.read(tmp_path) == expected


def test_own_images_may_be_any_number():
  dataset = datasets.find('folder').read(DATA / 'folder' / 'dummy_data')
  assert datasets.check_counts(datasets.find('folder'), dataset, False) == ''


# CUHK03-NP


def test_all_forms_of_cuhk03_are_the_same(copy):
  root = copy(CUHK03)
  release = CUHK03.read(root)
  folder = root / 'images_detected'
  folder.mkdir()
  for split in release.splits.values():
    for image in split:
      (folder / image.name.split('/')[1]).write_bytes(image.read())
  (root / 'cuhk03_release').rename(root / 'elsewhere')
  extracted = CUHK03.read(root)
  assert labels(extracted) == labels(release)
  assert [i.read() for i in extracted.splits['gallery']] == [
    i.read() for i in release.splits['gallery']
  ]
  for split, name in raw.MARKET_FOLDERS.items():
    target = root / 'detected' / name
    target.mkdir(parents=True)
    for number, image in enumerate(release.splits[split]):
      name = f'{image.pid:04d}_c{image.camid + 1}_{number}.png'
      (target / name).write_bytes(image.read())
  made = CUHK03.read(root)
  for split in raw.SPLITS:
    assert sorted(labels(made)[split]) == sorted(labels(release)[split])
  assert all(name.startswith('detected/') for name in names(made, 'query'))


def test_images_of_the_release_are_those_that_went_in():
  source = MARKET.read(DATA / 'market1501' / 'dummy_data')
  by_place = {}
  for split, places in make_dummy_data.CUHK03.items():
    for image, place in zip(source.splits[split], places, strict=True):
      by_place['{}_{:03d}_{}_{:02d}.png'.format(*place)] = image
  for layout in (CUHK03, LABELED):
    for split in layout.read(DATA / 'cuhk03_np' / 'dummy_data').splits.values():
      for image in split:
        original = by_place[image.name.split('/')[1]]
        with Image.open(original.path) as opened:
          expected = np.asarray(opened)
        found = decoded(image)
        np.testing.assert_array_equal(found, expected)
        assert image.camid == (0 if '_1_' in image.name[-9:] else 1)


def decoded(image):
  with tempfile.NamedTemporaryFile(suffix='.png') as file:
    file.write(image.read())
    file.flush()
    with Image.open(file.name) as opened:
      return np.asarray(opened)


def config_of(root):
  file = root / CUHK03.config_file
  return file, {
    name: value
    for name, value in scipy.io.loadmat(file).items()
    if not name.startswith('__')
  }


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'query_idx': None}, 'is not the split of the new protocol'),
    (
      {'query_idx': np.array([[99.0]])},
      'query_idx goes up to 99, but there are only 16',
    ),
    ({'query_idx': np.array([[0.0]])}, 'are not whole numbers from 1'),
    ({'query_idx': np.array([[1.5]])}, 'are not whole numbers from 1'),
    ({'labels': np.full((16, 1), np.nan)}, 'are not whole numbers from 1'),
    ({'query_idx': np.zeros((0, 1))}, 'the query split is empty'),
    ({'labels': np.ones((3, 1))}, '3 labels and 16 file names'),
    (
      {'filelist': np.array([['cat.png']] * 16, object)},
      'of which 16 are not like 1_001_1_01.png',
    ),
  ],
)
def test_a_split_of_the_wrong_kind(copy, change, message):
  root = copy(CUHK03)
  file, content = config_of(root)
  content |= change
  scipy.io.savemat(file, {k: v for k, v in content.items() if v is not None})
  with pytest.raises(ValueError, match=message):
    CUHK03.read(root)


@pytest.mark.parametrize('file', ['release', 'config'])
@pytest.mark.parametrize('kind', ['text', 'the other', 'other HDF5', 'cut off'])
def test_a_mat_file_of_the_wrong_kind(copy, file, kind):
  root = copy(CUHK03)
  release, config = (
    root / 'cuhk03_release/cuhk-03.mat',
    root / CUHK03.config_file,
  )
  path, other = (release, config) if file == 'release' else (config, release)
  if kind == 'text':
    path.write_text('not a .mat file')
  elif kind == 'the other':
    shutil.copy(other, path)
  elif kind == 'cut off':
    path.write_bytes(path.read_bytes()[:400])
  else:
    with h5py.File(path, 'w') as opened:
      opened['detected'] = opened['labeled'] = np.zeros((1, 5))
  with pytest.raises(ValueError) as error:
    CUHK03.read(root)
  assert str(error.value).startswith(f'{path} is not the ')


def test_a_split_without_its_images(copy):
  root = copy(CUHK03)
  shutil.rmtree(root / 'cuhk03_release')
  (root / 'images_detected').mkdir()
  with pytest.raises(ValueError, match='16 images of the split are not in'):
    CUHK03.read(root)


def test_an_image_that_the_release_lacks(copy):
  root = copy(CUHK03)
  file, content = config_of(root)
  content['filelist'][0, 0] = np.array(['5_002_2_10.png'])
  scipy.io.savemat(file, content)
  dataset = CUHK03.read(root)
  bad = [
    i for i in dataset.splits['train'] if i.name.endswith('5_002_2_10.png')
  ]
  with pytest.raises(OSError, match='is not a colour image'):
    bad[0].read()


def test_a_split_that_grows_is_not_inflated(copy):
  """A small file that zlib inflates a thousandfold is refused."""
  root = copy(CUHK03)
  file, content = config_of(root)
  content['labels'] = np.ones((2**23 + 1, 1))  # just more than 64 MiB
  scipy.io.savemat(file, content, do_compression=True)
  assert file.stat().st_size < 2**17
  with pytest.raises(ValueError, match='would take more than 67,108,864 bytes'):
    CUHK03.read(root)


def test_an_image_of_the_release_that_is_too_large(copy, monkeypatch):
  monkeypatch.setattr(images, 'MAX_PIXELS', 100)
  image = CUHK03.read(copy(CUHK03)).splits['train'][0]
  with pytest.raises(OSError, match='pixels are more than 100'):
    image.read()


# MSMT17


@pytest.mark.parametrize('version', ['', 'MSMT17_V1', 'MSMT17_V2', 'msmt17'])
@pytest.mark.parametrize('blurred', [False, True])
def test_all_forms_of_msmt17_are_the_same(copy, tmp_path, version, blurred):
  expected = MSMT17.read(DATA / 'msmt17' / 'dummy_data')
  root = copy(MSMT17, f'raw/{version}')
  if blurred:
    (root / 'train').rename(root / 'mask_train_v2')
    (root / 'test').rename(root / 'mask_test_v2')
  found = MSMT17.read(tmp_path / 'raw')
  assert labels(found) == labels(expected)
  assert found.release == ('MSMT17_V2' if blurred else 'MSMT17_V1')
  folder = 'mask_test_v2' if blurred else 'test'
  assert all(name.startswith(f'{folder}/') for name in names(found, 'query'))


def test_version_1_of_msmt17_comes_before_version_2(copy, tmp_path):
  copy(MSMT17, 'raw/MSMT17_V2')
  copy(MSMT17, 'raw/MSMT17_V1')
  found = MSMT17.read(tmp_path / 'raw')
  assert found.root.name == found.release == 'MSMT17_V1'


def test_msmt17_trains_on_one_list_or_both():
  root = DATA / 'msmt17' / 'dummy_data'
  both, one = MSMT17.read(root), MSMT17_TRAIN.read(root)
  assert len(both.splits['train']) == len(one.splits['train']) + 1
  assert both.splits['gallery'] == one.splits['gallery']
  assert both.fingerprint() != one.fingerprint()


def test_msmt17_without_the_second_list_can_be_trained_on(copy):
  root = copy(MSMT17)
  (root / 'list_val.txt').unlink()
  assert len(MSMT17_TRAIN.read(root).splits['train']) == 5
  with pytest.raises(ValueError, match=r'\(no list_val.txt\)'):
    MSMT17.read(root)


def test_msmt17_names_all_missing_lists(copy):
  root = copy(MSMT17)
  for file in root.glob('list_*.txt'):
    file.unlink()
  missing = 'list_train.txt, list_val.txt, list_query.txt, list_gallery.txt'
  with pytest.raises(ValueError, match=missing):
    MSMT17.read(root)


def test_lists_may_come_from_windows(copy):
  root = copy(MSMT17)
  expected = MSMT17.read(root)
  for file in root.glob('list_*.txt'):
    lines = file.read_text().splitlines()
    file.write_bytes('\ufeff'.encode() + '\r\n'.join([*lines, '']).encode())
  assert labels(MSMT17.read(root)) == labels(expected)


NAME = '0000/0000_000_02_0303morning_0000_0.jpg'


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    (f'{NAME} x', r'line 2: .* is not <folder>/<identity>_<number>'),
    (NAME, r'line 2: .* is not <folder>/<identity>_<number>'),
    ('0000/0000.jpg 0', r'line 2: .* is not <folder>/<identity>_<number>'),
    (NAME.replace('_02_', '_16_') + ' 0', 'camera 16 of .* 1 to 15'),
    (NAME.replace('_02_', '_00_') + ' 0', 'camera 0 of .* 1 to 15'),
    ('0000/0000_009_02_a.jpg 0', r'1 images that .*\n  0000/0000_009_02_a.jpg'),
    ('../test/0000_000_02_a.jpg 0', 'line 2: the path .* is not one below'),
    ('/etc/0000_000_02_a.jpg 0', 'line 2: the path .* is not one below'),
    (f'{NAME} 0', r'1 images are twice in the query split:\n  test/0000/0'),
    ('\N{GREEK SMALL LETTER PI}', 'line 2: .* is not <folder>'),
  ],
)
def test_a_list_with_a_bad_line(copy, line, message):
  root = copy(MSMT17)
  file = root / 'list_query.txt'
  first = file.read_text().splitlines()[0]
  assert first.startswith(NAME)
  file.write_text(f'{first}\n{line}\n', encoding='utf-8')
  with pytest.raises(ValueError, match=message):
    MSMT17.read(root)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'list_query.txt is empty'),
    (b'\n\n', 'list_query.txt is empty'),
    (b'\xff\xfe0\x000\x00', 'list_query.txt is not a text file in UTF-8'),
  ],
)
def test_a_list_of_the_wrong_kind(copy, content, message):
  root = copy(MSMT17)
  (root / 'list_query.txt').write_bytes(content)
  with pytest.raises(ValueError, match=message):
    MSMT17.read(root)


def test_an_identity_of_the_test_half_cannot_be_trained_on(copy):
  root = copy(MSMT17)
  file = root / 'list_train.txt'
  file.write_text(file.read_text().replace('.jpg 0\n', '.jpg 1041\n'))
  with pytest.raises(ValueError, match='line 1: identity 1041 is not one of'):
    MSMT17.read(root)


# Cameras and identities


def test_cameras_that_a_set_does_not_have_are_told(copy):
  root = copy(MARKET)
  path = sorted((root / 'query').iterdir())[0]
  path.rename(path.with_name('0003_c7s1_000001_00.jpg'))
  dataset = MARKET.read(root)
  with pytest.raises(ValueError, match='0003_c7s1_000001_00.jpg: camera 7'):
    datasets.check_counts(MARKET, dataset, False)
  assert 'camera 7' in datasets.check_counts(MARKET, dataset, True)


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('99999999999_c1.jpg', 'has identity 99999999999 and camera 0, which are'),
    ('0003_c99999999999.jpg', 'has identity 3 and camera 99999999998, which'),
    (b'0003_c1_\xff.jpg', r'0003_c1_.udcff.jpg. is not a name in UTF-8'),
  ],
)
def test_names_that_cannot_be_stored(copy, name, message):
  root = copy(MARKET)
  path = sorted((root / 'query').iterdir())[0]
  path.rename(path.with_name(os.fsdecode(name)))
  with pytest.raises(ValueError, match=message):
    MARKET.read(root)


# Paths in lists

LIST = pathlib.Path('list.txt')


@pytest.mark.parametrize(
  'path',
  ['', '.', '..', '../a.jpg', 'b/../../a.jpg', '/a.jpg', 'C:/a.jpg', 'b\\a.jpg',
   '\\\\host\\a.jpg', 'a\0.jpg', 'b/..'],
)  # fmt: skip
def test_paths_that_leave_the_folder_are_refused(tmp_path, path):
  (tmp_path / 'a.jpg').touch()
  (tmp_path / 'folder' / 'b').mkdir(parents=True)
  with pytest.raises(ValueError, match='is not one below'):
    raw.ListedFiles(tmp_path / 'folder', LIST).find(path, 1)


@pytest.mark.parametrize('path', ['a' * 300 + '.jpg', 'a' * 300 + '/b.jpg'])
def test_names_that_are_too_long_do_not_exist(tmp_path, path):
  assert raw.ListedFiles(tmp_path, LIST).find(path, 1) is None


def test_links_that_leave_the_folder_are_refused(tmp_path):
  (tmp_path / 'outside').mkdir()
  (tmp_path / 'outside' / 'a.jpg').touch()
  folder = tmp_path / 'folder'
  folder.mkdir()
  (folder / 'a.jpg').symlink_to(tmp_path / 'outside' / 'a.jpg')
  (folder / 'b').symlink_to(tmp_path / 'outside')
  (folder / 'c.jpg').touch()
  (folder / 'd.jpg').symlink_to(folder / 'c.jpg')
  paths = raw.ListedFiles(folder, LIST)
  for path in ('a.jpg', 'b/a.jpg'):
    with pytest.raises(ValueError, match='is a link that leads out of'):
      paths.find(path, 1)
  assert paths.find('d.jpg', 1) == folder / 'd.jpg'
  assert paths.find('c.jpg', 1) == folder / 'c.jpg'
  assert paths.find('e.jpg', 1) is None
  assert paths.find('f/e.jpg', 1) is None


@given(
  st.text(max_size=30)
  | st.lists(
    st.sampled_from(['', '.', '..', 'a.jpg', 'b', 'out']), max_size=5
  ).map('/'.join)
)
def test_any_path_is_below_or_refused(path):
  with tempfile.TemporaryDirectory() as directory:
    folder = pathlib.Path(directory) / 'folder'
    (folder / 'b').mkdir(parents=True)
    (folder / 'b' / 'a.jpg').touch()
    (folder.parent / 'a.jpg').touch()
    (folder / 'out').symlink_to(folder.parent)
    with contextlib.suppress(ValueError):
      found = raw.ListedFiles(folder, LIST).find(path, 1)
      assert found is None or found.resolve().is_relative_to(folder.resolve())
