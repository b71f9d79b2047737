"""Tests of a split in memory, as encoded and as decoded images."""

import gc
import io
import itertools
import os
import pathlib
import re
import resource
import types

import numpy as np
from PIL import Image
import pytest

from apnet_jax.config import CHOICES
from apnet_jax.errors import UserError
from apnet_jax.parallel import processes
from apnet_jax.training import profiling
from configs import common
from data import decoding, records

IMAGE_SIZE = (32, 16)


@pytest.fixture
def config():
  config = common.get_config()
  config.data.image_size = IMAGE_SIZE
  config.train.P = 2
  config.train.K = 4
  return config


@pytest.fixture(scope='module')
def split():
  """Five images of each of three identities, in various sizes."""
  rng = np.random.default_rng(0)
  encoded = []
  for _ in range(15):
    pixels = rng.integers(0, 256, (*rng.integers(8, 64, 2), 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'JPEG')
    encoded.append(file.getvalue())
  return records.Records(
    encoded=records.to_variable(encoded),
    pids=np.repeat([3, 4, 9], 5),
    camids=np.arange(15) % 2,
    paths=np.array([f'{row:02}.jpg' for row in range(15)]),
  )


def with_cache(split, config, cache):
  config.data.cache = cache
  return records.apply_cache(split, 'train', config.data)


# Reading


class FakeBuilder:
  """A builder that returns examples like TFDS, not in the order of paths."""

  def __init__(self, count, size):
    self.count = count
    self.size = size

  def as_data_source(self, split, decoders):
    assert split == 'train' and set(decoders) == {'image'}
    return self

  def __len__(self):
    return self.count

  def __getitems__(self, rows):
    files = [os.urandom(self.size) for _ in rows]  # as they lie on the disk
    return [
      {
        'image': bytes(bytearray(file)),
        'path': b'%05d.jpg' % (self.count - row),
        'pid': row % 7,
        'camid': row % 3,
      }
      for row, file in zip(rows, files)
    ]


def test_reads_all_in_the_order_of_the_paths():
  count = records.RECORDS_PER_READ + 10
  read = records.read(FakeBuilder(count, 5), 'train')
  assert list(read.paths) == [f'{row:05}.jpg' for row in range(1, count + 1)]
  rows = count - 1 - np.arange(count)
  np.testing.assert_array_equal(read.pids, rows % 7)
  np.testing.assert_array_equal(read.camids, rows % 3)
  assert [len(image) for image in read.encoded.numpy()] == [5] * count


def test_encoded_images_are_held_as_they_are():
  images = [b'', b'\0', b'a\0\0', *(b'%d' % i for i in range(200))]
  assert list(records.to_variable(images.copy()).numpy()) == images
  assert records.to_variable([]).shape == (0,)


@pytest.mark.skipif(
  not os.path.exists('/proc/self/clear_refs'), reason='not on Linux'
)
def test_reading_holds_the_images_once():
  """Measured for the whole process, so that TensorFlow's memory counts."""
  builder = FakeBuilder(2_000, 50_000)
  gc.collect()
  pathlib.Path('/proc/self/clear_refs').write_text('5')  # forgets the peak
  before = resident('VmRSS')
  read = records.read(builder, 'train')
  size = builder.count * builder.size
  assert read.encoded.shape == (builder.count,)
  assert resident('VmHWM') - before < size * 1.5


def resident(field):
  """Returns a field of the process's memory in bytes."""
  status = pathlib.Path('/proc/self/status').read_text()
  return int(re.search(rf'{field}:\s+(\d+) kB', status)[1]) * 1024


# Batches


def test_batches_come_in_order_and_again(split):
  rows = [5, 0, 3, 3, 11, 2, 7]
  batches = records.make_split(split, IMAGE_SIZE).batches
  first = list(batches(rows, 3))
  assert [len(batch) for batch in first] == [3, 3, 1]
  for batch, again in zip(first, batches(rows, 3), strict=True):
    np.testing.assert_array_equal(batch, again)
  for row, image in zip(rows, np.concatenate(first), strict=True):
    pixels = decoding.decode(split.encoded[row])
    np.testing.assert_array_equal(image, decoding.resize(pixels, IMAGE_SIZE))


def test_decoded_images_are_the_same_bit_for_bit(split, config, monkeypatch):
  monkeypatch.setattr(records, 'IMAGES_PER_DECODING', 4)
  encoded = with_cache(split, config, 'encoded')
  decoded = with_cache(split, config, 'decoded')
  assert encoded is split
  assert decoded.encoded.shape == (0,)
  assert decoded.decoded.shape == (15, *IMAGE_SIZE, 3)
  for rows in (range(15), [5, 0, 3, 3, 11], []):
    one, other = (
      list(records.make_split(r, IMAGE_SIZE).batches(rows, 4))
      for r in (encoded, decoded)
    )
    for batch, same in zip(one, other, strict=True):
      assert batch.dtype == same.dtype == np.uint8
      np.testing.assert_array_equal(batch, same)


@pytest.mark.parametrize('first_step', [0, 3])
def test_training_batches_are_the_same_bit_for_bit(split, config, first_step):
  labels = np.repeat(np.arange(3), 5)
  one, other = (
    records.train_batches(
      with_cache(split, config, cache), labels, config, first_step
    )
    for cache in CHOICES['data.cache']
  )
  for batch, same in itertools.islice(zip(one, other), 4):
    assert batch['image'].shape == (8, *IMAGE_SIZE, 3)
    assert batch['label'].dtype == same['label'].dtype == np.int32
    for name in batch:
      np.testing.assert_array_equal(batch[name], same[name])


def test_one_pipeline_goes_on_where_another_ended(split, config, monkeypatch):
  labels = np.repeat(np.arange(3), 5)
  whole = records.train_batches(split, labels, config, 1)
  whole = list(itertools.islice(whole, 7))
  monkeypatch.setattr(records, 'BATCHES_PER_PIPELINE', 3)
  parts = records.train_batches(split, labels, config, 1)
  for batch, same in zip(whole, parts):
    for name in batch:
      np.testing.assert_array_equal(batch[name], same[name])


def test_batches_may_be_changed(split, config):
  decoded = with_cache(split, config, 'decoded')
  batches = records.make_split(decoded, IMAGE_SIZE).batches
  next(batches(range(15), 15))[:] = 0
  assert next(batches(range(15), 15)).any()


def page_faults(batches):
  """Returns how many pages the process asks for while it makes 8 batches."""
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  for _ in range(8):
    next(batches)
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_memory_is_used_again(split, config):
  """Freed memory is used for the next images, not returned to the system.

  `Dataset.from_generator` would have it returned.
  """
  config.data.image_size = (384, 192)
  config.train.P = 3
  labels = np.repeat(np.arange(3), 5)
  batches = records.train_batches(split, labels, config, 0)
  page_faults(batches)
  # Other threads have page faults, too, but not as many in each repetition.
  faults = min(page_faults(batches) for _ in range(3))
  image = 384 * 192 * 3 * 5  # as bytes, and as floats before that
  assert faults * resource.getpagesize() < 8 * 12 * image / 3


# Memory of the decoded images


def forbid_decoding(monkeypatch):
  def decode(_):
    pytest.fail('decoded')

  monkeypatch.setattr(decoding, 'decode', decode)


def test_says_how_much_it_takes(split, config, capsys, monkeypatch):
  forbid_decoding(monkeypatch)
  config.data.image_size = (1000, 500)
  with pytest.raises(pytest.fail.Exception):
    with_cache(split, config, 'decoded')
  out = capsys.readouterr().out
  assert '15 train images of 1000 x 500 take 0.02 GB decoded' in out


def test_too_large_for_the_memory(split, config, monkeypatch):
  forbid_decoding(monkeypatch)
  pages = {'SC_PAGE_SIZE': 4096, 'SC_PHYS_PAGES': 10_000}
  monkeypatch.setattr(os, 'sysconf', pages.get)
  config.data.image_size = (2000, 500)
  with pytest.raises(ValueError, match='config.data.cache') as error:
    with_cache(split, config, 'decoded')
  assert '15 train images of 2000 x 500 take 0.04 GB' in str(error.value)
  assert 'this machine has 0.04 GB of memory' in str(error.value)


def test_too_large_for_all_processes_of_a_machine(split, config, monkeypatch):
  """The images would fit into the limit if the process were alone."""
  forbid_decoding(monkeypatch)
  used = profiling.process_memory()
  monkeypatch.setattr(
    records.memory, 'available', lambda: (2 * used + 10**8, 'this job')
  )
  monkeypatch.setattr(processes, 'on_this_machine', lambda: 2)
  config.data.image_size = (2000, 1000)
  with pytest.raises(ValueError, match='config.data.cache') as error:
    with_cache(split, config, 'decoded')
  assert 'this job has' in str(error.value)
  assert 'GB of memory, which 2 processes share.' in str(error.value)
  monkeypatch.setattr(processes, 'on_this_machine', lambda: 1)
  with pytest.raises(pytest.fail.Exception, match='decoded'):
    with_cache(split, config, 'decoded')


def test_encoded_images_too_large_for_the_memory(monkeypatch):
  part = types.SimpleNamespace(num_bytes=10**9, num_examples=500)
  info = types.SimpleNamespace(splits={'query': part, 'gallery': part})
  builders = [types.SimpleNamespace(info=info)] * 2

  def check(available, sharing):
    limit = available, 'this job'
    monkeypatch.setattr(records.memory, 'available', lambda: limit)
    monkeypatch.setattr(processes, 'on_this_machine', lambda: sharing)
    records.check_encoded_fit(builders, ('train', 'query', 'gallery'))

  check(4 * 10**9, 1)
  with pytest.raises(UserError, match='of memory, which 2 processes share'):
    check(4 * 10**9, 2)
  with pytest.raises(UserError, match='smaller copies .*image_size') as error:
    check(3 * 10**9, 1)
  assert str(error.value).startswith(
    '2,000 prepared images (train, query, gallery) take 4.00 GB, and this job'
    ' has 3.00 GB of memory. '
  )


def test_names_the_caches_there_are(split, config):
  with pytest.raises(ValueError, match="config.data.cache='disk' is not one"):
    with_cache(split, config, 'disk')


def test_processes_share_each_micro_batch():
  config = common.get_config()
  config.data.image_size = IMAGE_SIZE
  config.train.update(P=2, K=4, accumulate=2)
  numbers = np.arange(15, dtype=np.uint8)[:, None, None, None]
  split = records.Records(
    records.to_variable([]),
    np.repeat([3, 4, 9], 5),
    np.zeros(15),
    np.zeros(15, str),
    numbers + np.zeros((15, *IMAGE_SIZE, 3), np.uint8),
  )
  labels = np.repeat(np.arange(3), 5)
  whole, first, second = (
    next(records.train_batches(split, labels, config, 0, i, n))['image']
    for i, n in ((0, 1), (0, 2), (1, 2))
  )
  np.testing.assert_array_equal(first, whole[[0, 1, 4, 5]])
  np.testing.assert_array_equal(second, whole[[2, 3, 6, 7]])
