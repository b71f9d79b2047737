"""Tests of images and files that are damaged after preparing."""

import dataclasses
import itertools
import re

import numpy as np
import pytest

from apnet_jax.config import CHOICES
from configs import common
from data import pipeline, records
from tests.data.test_decoding import encode, make_image

PIDS = np.array([3, 3, 3, 4, 4, 9, 9, 9, 9, 7])
LABELS = np.unique(PIDS, return_inverse=True)[1]
HEADER_BYTES = 40  # an image cut off here cannot be decoded


@pytest.fixture(scope='module')
def whole():
  images = [encode(make_image(32, 16, seed), 'PNG') for seed in range(10)]
  return make_records(images)


def make_records(images):
  return records.Records(
    encoded=records.to_variable(list(images)),
    pids=PIDS,
    camids=np.zeros(10, int),
    paths=np.array([f'{row}.png' for row in range(10)]),
  )


def damage(whole, *rows):
  images = whole.encoded.numpy().tolist()
  for row in rows:
    images[row] = images[row][:HEADER_BYTES]
  return make_records(images)


def config(bad_images, cache='encoded'):
  config = common.get_config()
  config.data.update(image_size=(32, 16), bad_images=bad_images, cache=cache)
  config.train.update(P=2, K=2)
  return config


def batches(split, config, first=0, count=8, **process):
  split = records.apply_cache(split, 'train', config.data)
  found = records.train_batches(split, LABELS, config, first, **process)
  return list(itertools.islice(found, count))


def pixels(whole):
  rows = np.arange(10)
  return next(records.make_split(whole, (32, 16)).batches(rows, 10))


@pytest.mark.parametrize('cache', CHOICES['data.cache'])
def test_others_of_the_identity_stand_in(whole, cache, capsys):
  """Replacements keep the position; all other images are unchanged."""
  settings = config(2, cache)
  replacements = {1: 2, 8: 5}  # the next row of the identity, cyclically
  images = pixels(whole)
  row_of = {image.tobytes(): row for row, image in enumerate(images)}
  found = batches(damage(whole, 1, 8), settings)
  for ours, theirs in zip(found, batches(whole, settings)):
    rows = [row_of[image.tobytes()] for image in theirs['image']]
    rows = [replacements.get(row, row) for row in rows]
    np.testing.assert_array_equal(ours['image'], images[rows])
    np.testing.assert_array_equal(ours['label'], theirs['label'])
  out = capsys.readouterr().out
  for row, other in replacements.items():
    assert out.count(f'training image {row}.png cannot be read') == 1
    assert f'config.data.bad_images=2); {other}.png is used in its place' in out


def test_a_label_is_that_of_the_image(whole):
  """The next image replaces an identity's only image, with its own label."""
  images = pixels(whole)
  label_of = {im.tobytes(): label for im, label in zip(images, LABELS)}
  found = batches(damage(whole, 9), config(1), count=20)
  labels = np.concatenate([batch['label'] for batch in found])
  shown = [im.tobytes() for batch in found for im in batch['image']]
  assert labels.tolist() == [label_of[image] for image in shown]
  assert LABELS[9] not in labels


def test_a_batch_is_named_by_what_stands_in(whole):
  split, settings = damage(whole, 1), config(1)
  assert any('1.png' in named(split, settings, step) for step in range(8))
  found = batches(split, settings)
  images = [image.tobytes() for image in pixels(whole)]
  for step, batch in enumerate(found):
    rows = [images.index(image.tobytes()) for image in batch['image']]
    assert named(split, settings, step) == [f'{row}.png' for row in rows]


def named(split, config, step):
  return records.names(split, LABELS, config, step)


def test_neither_the_start_nor_the_process_matters(whole):
  settings = config(3)
  split = damage(whole, 1, 6, 7)
  found = batches(split, settings)
  later = batches(damage(whole, 1, 6, 7), settings, first=5, count=3)
  halves = [
    batches(damage(whole, 1, 6, 7), settings, process_index=i, process_count=2)
    for i in range(2)
  ]
  for name in ('image', 'label'):
    for ours, theirs in zip(later, found[5:]):
      np.testing.assert_array_equal(ours[name], theirs[name])
    for a, b, both in zip(*halves, found):
      np.testing.assert_array_equal(np.r_[a[name], b[name]], both[name])


@pytest.mark.parametrize('cache', CHOICES['data.cache'])
def test_one_more_than_may_be_borne_is_an_error(whole, cache, capsys):
  for limit, rows in ((0, [4]), (1, [1, 4, 6])):
    with pytest.raises(ValueError) as error:
      batches(damage(whole, *rows), config(limit, cache), count=20)
    named = int(re.search(r'training image (\d)\.png', str(error.value))[1])
    assert named in rows
    assert f'config.data.bad_images={limit} allows' in str(error.value)
    assert 'Delete the prepared data set' in str(error.value)
    assert capsys.readouterr().out.count('is used in its place') == limit


def test_nothing_is_left_to_stand_in(whole):
  with pytest.raises(ValueError, match='no training image can be read'):
    batches(damage(whole, *range(10)), config(10))


def test_evaluation_bears_none(whole):
  split = records.make_split(damage(whole, 6), (32, 16))
  found = split.batches(np.array([0, 1, 2, 6, 3]), 2)
  assert len(next(found)) == 2
  with pytest.raises(
    ValueError, match='the image 6.png cannot be read, and fig'
  ):
    next(found)


def test_a_bomb_is_not_decoded(whole):
  """The header claims 4 TB, which must not be allocated."""
  images = whole.encoded.numpy().tolist()
  images[1] = images[1][:16] + (2**20).to_bytes(4, 'big') * 2 + images[1][24:]
  assert batches(make_records(images), config(1))


@dataclasses.dataclass
class Files:
  """The files of a prepared data set, by the beginnings of their names."""

  folder: object

  def __getitem__(self, beginning):
    (file,) = self.folder.rglob(f'{beginning}*')
    return file


@pytest.mark.parametrize(
  ('file', 'damaged', 'message'),
  [
    ('market1501-train', lambda b: None, 'train.* is missing'),
    ('market1501-train', lambda b: b'', 'train.* is damaged'),
    ('market1501-query', lambda b: b[: len(b) // 2], 'query.* is damaged'),
    ('market1501-gallery', lambda b: flip(b, 200), 'gallery.* is damaged'),
    ('dataset_info', lambda b: None, 'dataset_info.json lists {} images'),
    ('dataset_info', lambda b: b[:90], 'dataset_info.json cannot be read'),
    ('dataset_info', lambda b: b.replace(b'train', b'brain'), 'lists'),
  ],
)
def test_a_damaged_prepared_file_is_named(prepared, file, damaged, message):
  settings, files = prepared
  path = files[file]
  content = path.read_bytes()
  bad = damaged(content)
  try:
    path.unlink()
    if bad is not None:
      path.write_bytes(bad)
    with pytest.raises(ValueError, match=message) as error:
      pipeline.load(settings)
    assert 'Delete this folder: it is made again' in str(error.value)
    assert str(files.folder) in str(error.value)
  finally:
    path.write_bytes(content)


def flip(content, at):
  return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.fixture(scope='module')
def prepared(drawn, make_config, tmp_path_factory):
  folder = tmp_path_factory.mktemp('damaged')
  settings = make_config(drawn, folder)
  pipeline.load(settings)
  return settings, Files(folder)
