"""Tests of the pipeline from a raw folder to batches."""

import dataclasses
import itertools
import os
import re
import shutil

import numpy as np
from PIL import Image
import pytest

from apnet_jax.errors import FieldError
from data import decoding, pipeline, pk_sampler, prepare, records

FOLDERS = {
  'train': 'bounding_box_train',
  'query': 'query',
  'gallery': 'bounding_box_test',
}


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  return tmp_path_factory.mktemp('prepared')


@pytest.fixture(scope='module')
def config(drawn, prepared, make_config):
  return make_config(drawn, prepared)


@pytest.fixture(scope='module')
def feed(config):
  return pipeline.load(config)


@pytest.fixture
def copied(drawn, tmp_path):
  """A raw folder that a test may change."""
  return shutil.copytree(drawn, tmp_path / 'raw')


def paths_of(root, split):
  return sorted((root / FOLDERS[split]).iterdir())


def resized(path, image_size):
  """Returns an image resized by Pillow: uint8 [height, width, 3]."""
  height, width = image_size
  with Image.open(path) as image:
    image = image.convert('RGB')
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def all_images(split, batch_size=7):
  return np.concatenate(
    list(split.batches(np.arange(len(split.pids)), batch_size))
  )


# Training batches


def test_training_batches_are_what_a_feed_promises(feed, config):
  shape = (config.train.P * config.train.K, *config.data.image_size, 3)
  for batch in itertools.islice(feed.batches(0), 3):
    assert batch['image'].shape == shape
    assert batch['image'].dtype == np.uint8
    assert batch['label'].shape == shape[:1]
    assert batch['label'].dtype == np.int32


def test_batch_k_does_not_depend_on_the_start(feed):
  steps = feed.steps_per_epoch
  assert steps > 2
  count = 2 * steps + 2  # across two epochs' ends
  whole = list(itertools.islice(feed.batches(0), count))
  for start in (1, steps - 1, steps, steps + 1, 2 * steps):
    tail = itertools.islice(feed.batches(start), count - start)
    for batch, again in zip(whole[start:], tail, strict=True):
      np.testing.assert_array_equal(batch['image'], again['image'])
      np.testing.assert_array_equal(batch['label'], again['label'])
  labels = np.array([batch['label'] for batch in whole])
  assert (labels[:steps] != labels[steps : 2 * steps]).any()


def test_hosts_read_their_parts_of_each_batch(feed, config, monkeypatch):
  whole = list(itertools.islice(feed.batches(1), 3))
  monkeypatch.setattr(pipeline.jax, 'process_count', lambda: 2)
  shards = []
  for index in range(2):
    monkeypatch.setattr(pipeline.jax, 'process_index', lambda i=index: i)
    shards.append(list(itertools.islice(feed.batches(1), 3)))
  for batch, *of_processes in zip(whole, *shards, strict=True):
    for name in ('image', 'label'):
      joined = np.concatenate([shard[name] for shard in of_processes])
      np.testing.assert_array_equal(joined, batch[name])


def test_seed_changes_the_batches(feed, config):
  other = config.copy_and_resolve_references()
  other.seed = 1
  batches = [
    np.array([b['image'] for b in itertools.islice(f.batches(0), 3)])
    for f in (feed, pipeline.load(other))
  ]
  assert (batches[0] != batches[1]).any()


def test_labels_are_those_of_the_images(feed, config, drawn):
  """Images are recognised by comparing them with all files, read by Pillow."""
  paths = paths_of(drawn, 'train')
  files = np.array([resized(p, config.data.image_size) for p in paths], int)
  pids = [int(path.name[:4]) for path in paths]
  label_of = {pid: i for i, pid in enumerate(sorted(set(pids)))}
  seen = set()
  for batch in itertools.islice(feed.batches(0), feed.steps_per_epoch):
    for image, label in zip(batch['image'], batch['label'], strict=True):
      distances = np.abs(files - image).mean((1, 2, 3))
      assert distances.min() < 1
      assert label == label_of[pids[distances.argmin()]]
      seen.add(int(label))
  assert seen == set(range(feed.num_classes)) == set(range(5))


def test_batches_are_those_of_the_sampler(feed, config, drawn):
  pids = np.array([int(path.name[:4]) for path in paths_of(drawn, 'train')])
  P, K, seed = config.train.P, config.train.K, config.seed
  assert feed.steps_per_epoch == pk_sampler.steps_per_epoch(pids, P, K)
  step = feed.steps_per_epoch + 1
  rows = pk_sampler.epoch_batches(pids, P, K, seed, epoch=1)[1]
  np.testing.assert_array_equal(
    next(feed.batches(step))['label'],
    np.unique(pids, return_inverse=True)[1][rows],
  )


def test_a_batch_can_be_named(feed, config, drawn):
  """Each image is the one that Pillow reads from the file of this name."""
  step = feed.steps_per_epoch + 1
  names = feed.batch_names(step)
  batch = next(feed.batches(step))
  for image, name in zip(batch['image'], names, strict=True):
    file = resized(drawn / name, config.data.image_size)
    assert np.abs(image - file.astype(int)).mean() < 1


def test_labels_are_contiguous_where_identities_are_not(
  copied, tmp_path, make_config
):
  for path in paths_of(copied, 'train'):
    pid = int(path.name[:4])
    path.rename(path.with_name(f'{pid * 300:04d}{path.name[4:]}'))
  feed = pipeline.load(make_config(copied, tmp_path / 'prepared'))
  assert feed.num_classes == 5
  batches = itertools.islice(feed.batches(0), feed.steps_per_epoch)
  assert {int(label) for b in batches for label in b['label']} == set(range(5))


# Queries and gallery


@pytest.mark.parametrize('image_size', [(32, 16), (100, 90), (300, 40)])
def test_images_are_those_of_pil(config, drawn, image_size):
  """Sizes that are smaller, larger, and larger in one direction only."""
  config = config.copy_and_resolve_references()
  config.data.image_size = image_size
  images = all_images(pipeline.load(config).query).astype(int)
  expected = [resized(p, image_size) for p in paths_of(drawn, 'query')]
  difference = np.abs(images - np.array(expected))
  assert difference.mean() < 0.3
  assert difference.max() <= 2


@pytest.mark.parametrize('mode', ['L', 'RGB', 'RGBA', 'P', 'CMYK'])
def test_decodes_every_kind_of_image(
  copied, tmp_path, make_config, drawn, mode
):
  path = paths_of(copied, 'query')[0]
  with Image.open(path) as image:
    image = image.convert('RGB').convert(mode)
  path.unlink()
  path = path.with_suffix('.JPG' if mode == 'CMYK' else '.png')
  image.save(path)
  config = make_config(copied, tmp_path / 'prepared')
  feed = pipeline.load(config)
  image = next(feed.query.batches([0], 1))[0]
  difference = np.abs(image - resized(path, config.data.image_size).astype(int))
  assert difference.mean() < 1


@pytest.mark.parametrize('split', ['query', 'gallery'])
def test_splits_are_the_files_in_order(feed, drawn, split):
  paths = paths_of(drawn, split)
  names = [re.match(r'(-?\d+)_c(\d)', path.name) for path in paths]
  found = getattr(feed, split)
  assert list(found.paths) == [f'{p.parent.name}/{p.name}' for p in paths]
  np.testing.assert_array_equal(found.pids, [int(n[1]) for n in names])
  np.testing.assert_array_equal(found.camids, [int(n[2]) - 1 for n in names])
  assert found.pids.dtype.kind == found.camids.dtype.kind == 'i'


def test_gallery_keeps_distractors_and_junk(feed):
  pids = feed.gallery.pids
  assert ((pids == 0).sum(), (pids == -1).sum()) == (3, 2)
  assert set(feed.query.pids) == set(pids[pids > 0]) == {6, 7, 8}


def test_rows_come_in_the_order_asked_for(feed, config):
  images = all_images(feed.gallery)
  assert len(images) == len(feed.gallery.pids)
  rows = [5, 0, 3, 3, 11, 2, 7]
  batches = list(feed.gallery.batches(rows, 3))
  assert [len(batch) for batch in batches] == [3, 3, 1]
  assert all(batch.dtype == np.uint8 for batch in batches)
  np.testing.assert_array_equal(np.concatenate(batches), images[rows])
  assert not list(feed.gallery.batches([], 3))


def test_a_benchmark_is_a_feed_without_training(feed, config):
  benchmark = pipeline.open_benchmark(prepare.prepare(config.data), config)
  assert benchmark.fingerprint == feed.fingerprint
  assert benchmark.summary in feed.summary
  assert benchmark.names_are_images and feed.names_are_images
  assert (benchmark.as_published, benchmark.has_cameras) == (False, True)
  assert (feed.as_published, feed.has_cameras) == (False, True)
  assert benchmark.first_camera == feed.first_camera == 1
  for split in ('query', 'gallery'):
    one, other = getattr(benchmark, split), getattr(feed, split)
    np.testing.assert_array_equal(one.paths, other.paths)
    np.testing.assert_array_equal(all_images(one), all_images(other))


def test_multi_query_averages_the_images_of_gt_bbox(
  copied, prepared, make_config
):
  config = make_config(copied, prepared)
  config.eval.multi_query = True
  images = prepare.prepare(config.data)
  with pytest.raises(FieldError, match='multi_query=True .*gt_bbox, which hol'):
    pipeline.open_benchmark(images, config)
  first, *others = paths_of(copied, 'query')
  folder = copied / 'gt_bbox'
  folder.mkdir()
  again = first.name.replace('_00.', '_01.')
  assert again != first.name
  for source, name in ((first, first.name), (others[-1], again)):
    shutil.copy(source, folder / name)
  stranger = paths_of(copied, 'train')[0]
  shutil.copy(stranger, folder / stranger.name)

  benchmark = pipeline.open_benchmark(images, config)
  query = benchmark.query
  assert list(query.paths) == [f'query/{p.name}' for p in (first, *others)]
  owners = query.averaged.owners
  assert np.bincount(owners).tolist() == [2] + [1] * len(others)
  averaged = query.averaged.images
  mine = np.flatnonzero(owners == 0)
  assert set(averaged.paths[mine]) == {
    f'gt_bbox/{again}', f'query/{first.name}',
  }  # fmt: skip
  found = all_images(averaged)[list(averaged.paths).index(f'gt_bbox/{again}')]
  np.testing.assert_array_equal(found, all_images(query)[-1])
  assert f'multi-query: {len(owners)} images averaged' in benchmark.summary
  (folder / 'portrait.jpg').touch()
  with pytest.raises(ValueError, match='portrait.jpg is not named as Market'):
    pipeline.open_benchmark(images, config)


def test_multi_query_of_own_images_averages_all_tested_ones(
  tmp_path, make_config
):
  names = [f'{who}_{c}_{i}.webp' for who in 'ab' for c in '01' for i in '012']
  for seed, name in enumerate(names):
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / name, lossless=True)
  config = make_config(tmp_path, tmp_path / '.prepared')
  config.data.update(
    name='folder', test_fraction=1.0, pattern=r'(?P<pid>.)_(?P<camid>.)'
  )
  config.eval.multi_query = True
  benchmark = pipeline.open_benchmark(prepare.prepare(config.data), config)
  assert benchmark.first_camera == 0  # of camera 0 in the names
  query = benchmark.query
  assert list(query.paths) == [
    f'{who}_{c}_0.webp' for who in 'ab' for c in '01'
  ]
  assert list(query.averaged.images.paths) == names
  assert query.averaged.owners.tolist() == np.repeat(range(4), 3).tolist()
  np.testing.assert_array_equal(all_images(query.averaged.images)[-1], pixels)


def test_multi_query_of_single_images_is_said(config, drawn):
  config = config.copy_and_resolve_references()
  config.data.name, config.eval.multi_query = 'dukemtmc_reid', True
  images = prepare.prepare(config.data)
  summary = pipeline.open_benchmark(images, config).summary
  assert 'the figures are those of single queries' in summary
  nowhere = dataclasses.replace(images.dataset, has_cameras=False)
  images = dataclasses.replace(images, dataset=nowhere)
  with pytest.raises(FieldError, match='multi_query=True .*cameras are unkn'):
    pipeline.open_benchmark(images, config)


# Preparing


def test_prepares_once_in_the_folder_named(feed, config, prepared, monkeypatch):
  (folder,) = prepared.glob('reid-*')
  assert folder.name == f'reid-{feed.fingerprint}'
  assert (folder / 'market1501').is_dir()

  def prepare(*_):
    pytest.fail('prepared again')

  monkeypatch.setattr(decoding, 'check_readable', prepare)
  again = pipeline.load(config)
  assert again.fingerprint == feed.fingerprint
  np.testing.assert_array_equal(all_images(again.query), all_images(feed.query))


def test_prepares_in_the_folder_of_tfds(
  copied, tmp_path, make_config, monkeypatch
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))
  feed = pipeline.load(make_config(copied, prepared=''))
  (folder,) = (tmp_path / 'tfds').glob('reid-*')
  assert folder.name == f'reid-{feed.fingerprint}'


def test_moving_the_raw_folder_changes_nothing(
  feed, copied, prepared, make_config, monkeypatch
):
  monkeypatch.delattr(decoding, 'check_readable')
  moved = pipeline.load(make_config(copied, prepared))
  assert moved.fingerprint == feed.fingerprint


def test_other_raw_images_are_prepared_anew(
  feed, copied, tmp_path, make_config
):
  prepared = tmp_path / 'prepared'
  config = make_config(copied, prepared)
  path = paths_of(copied, 'query')[0]
  Image.new('RGB', (64, 128), (200, 10, 10)).save(path)
  replaced = pipeline.load(config)
  colour = next(replaced.query.batches([0], 1)).mean((0, 1, 2))
  np.testing.assert_allclose(colour, (200, 10, 10), atol=3)
  shutil.copy(path, path.with_name('0006_c6s9_000001_01.jpg'))
  added = pipeline.load(config)
  assert len(added.query.pids) == len(feed.query.pids) + 1
  fingerprints = {f.fingerprint for f in (feed, replaced, added)}
  assert len(fingerprints) == 3
  assert len(list(prepared.glob('reid-*'))) == 2


def test_other_bmp_images_of_the_same_size_are_prepared_anew(
  tmp_path, make_config
):
  """All BMP files of one width and height have the same size."""
  config = make_config(tmp_path / 'raw', tmp_path / 'prepared')
  config.data.name = 'folder'
  config.data.folders_are_people = True
  for person in range(3):
    for i in range(4):
      path = tmp_path / f'raw/{person}/{i}.bmp'
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.new('RGB', (16, 32), (60, 60, 60)).save(path)
  first = pipeline.load(config)
  assert not first.has_cameras
  dates = path.stat().st_mtime - 100, path.stat().st_mtime - 100
  for path in tmp_path.glob('raw/*/*.bmp'):
    Image.new('RGB', (16, 32), (200, 10, 10)).save(path)
    os.utime(path, dates)  # those of older crops
  masked = pipeline.load(config)
  assert masked.fingerprint != first.fingerprint
  colour = next(masked.query.batches([0], 1)).mean((0, 1, 2))
  np.testing.assert_allclose(colour, (200, 10, 10))


def test_warns_of_images_that_changed_and_kept_their_size(
  copied, tmp_path, make_config, capsys
):
  config = make_config(copied, tmp_path / 'prepared')
  feed = pipeline.load(config)
  assert 'later date' not in capsys.readouterr().err
  path = paths_of(copied, 'query')[0]
  path.write_bytes(path.read_bytes())
  date = path.stat().st_mtime + 100  # the prepared files are just as young
  os.utime(path, (date, date))
  assert pipeline.load(config).fingerprint == feed.fingerprint
  (info,) = (tmp_path / 'prepared').rglob('dataset_info.json')
  assert capsys.readouterr().err == (
    f'warning: 1 image of a later date than the prepared files'
    f' (query/{path.name}): if the content has changed, delete {info.parent}'
    ' to prepare all again.\n'
  )


def test_a_renamed_image_has_another_label(feed, copied, tmp_path, make_config):
  path = paths_of(copied, 'gallery')[-1]
  path.rename(path.with_name(f'0007{path.name[4:]}'))
  renamed = pipeline.load(make_config(copied, tmp_path / 'prepared'))
  assert renamed.fingerprint != feed.fingerprint
  assert (renamed.gallery.pids == 7).sum() == (feed.gallery.pids == 7).sum() + 1


def test_memory_is_checked_before_images_are_read(feed, config, monkeypatch):
  monkeypatch.setattr(records.memory, 'available', lambda: (1_000, 'this job'))
  monkeypatch.delattr(records, 'read_several')
  with pytest.raises(ValueError, match=r'\(train, query, gallery\) take 0.00'):
    pipeline.load(config)
  own = prepare.prepare(config.data)
  with pytest.raises(ValueError, match=r'\(query, gallery\) take 0.00 GB'):
    pipeline.open_benchmark(own, config)


def test_a_wrong_field_is_said_before_images_are_prepared(config, monkeypatch):
  wrong = config.copy_and_resolve_references()
  wrong.eval.max_rank = 0
  monkeypatch.delattr(pipeline, 'prepare_listed')
  with pytest.raises(FieldError, match='config.eval.max_rank=0 must be at le'):
    pipeline.load(wrong)


# The summary


def test_summary_counts(feed, drawn):
  for split in FOLDERS:
    images = len(paths_of(drawn, split))
    people = 5 if split == 'train' else 3
    line = rf'  {split} +{images} images +{people} identities +\d cameras'
    assert re.search(line, feed.summary)
  assert '3 distractors and 2 junk' in feed.summary
  assert 'with replacement' not in feed.summary


def test_summary_warns_of_people_in_training_and_query(
  copied, tmp_path, make_config
):
  queries = {int(path.name[:4]) for path in paths_of(copied, 'query')}
  path = paths_of(copied, 'train')[0]
  path.rename(path.with_name(f'{min(queries):04}{path.name[4:]}'))
  summary = pipeline.load(make_config(copied, tmp_path / 'prepared')).summary
  assert '  warning: 1 identity in both training and query: if th' in summary


def test_counts_identities_with_one_image():
  (note,) = pipeline._few_images(np.array([1, 3, 4, 1, 2]), K=4)
  assert '4 training identities have fewer than config.train.K=4' in note
  assert '2 of them have one image' in note
  assert pipeline._few_images(np.array([4, 5]), K=4) == []
  with pytest.raises(ValueError, match='each of the 3 training identities has'):
    pipeline._few_images(np.array([1, 1, 1]), K=4)


def test_summary_tells_of_identities_with_few_images(config, drawn):
  counts = np.bincount([int(p.name[:4]) for p in paths_of(drawn, 'train')])[1:]
  config = config.copy_and_resolve_references()
  config.train.K = int(np.sort(counts)[1]) + 1
  few = (counts < config.train.K).sum()
  assert (
    f'{few} training identities have fewer than config.train.K={config.train.K}'
    in pipeline.load(config).summary
  )
