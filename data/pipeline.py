"""From a raw folder to batches of uint8 images, by TFDS and tf.data.

The encoded images of a split are held in memory and read by index, so that
batch k is found without reading batches 0 to k - 1.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import importlib
import io
import itertools
import os
import pathlib

import ml_collections
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from apnet_jax.feed import Benchmark, Feed, Split
from data import pk_sampler, reid_builder

DATASETS = ('market1501', 'synthetic')


@dataclasses.dataclass(frozen=True)
class Records:
  """A prepared split in memory, in the order of the paths."""

  encoded: tf.Tensor  # bytes [images]
  pids: np.ndarray
  camids: np.ndarray
  paths: np.ndarray


def load(config: ml_collections.ConfigDict) -> Feed:
  """Prepares the data set of a configuration if need be, and opens it.

  Raises:
    ValueError: the raw folder is missing, has another layout or holds images
      that cannot be read, or the batch does not fit the data.
  """
  if config.seed < 0:
    raise ValueError(f'config.seed={config.seed} must be at least 0.')
  builder, fingerprint = _prepare(config.data)
  benchmark = _benchmark(builder, fingerprint, config)
  train = _read(builder, 'train')
  identities, labels = np.unique(train.pids, return_inverse=True)
  P, K = config.train.P, config.train.K
  steps_per_epoch = pk_sampler.steps_per_epoch(labels, P, K)
  lines = [_count('train', train), benchmark.summary]
  few = (np.bincount(labels) < K).sum()
  if few:
    lines.append(
      f'  {few} training identities have fewer than config.train.K={K} images:'
      ' these are drawn with replacement.'
    )
  return Feed(
    query=benchmark.query,
    gallery=benchmark.gallery,
    fingerprint=fingerprint,
    summary='\n'.join(lines),
    num_classes=len(identities),
    steps_per_epoch=steps_per_epoch,
    batches=lambda step: _train_batches(train, labels, config, step),
  )


def load_benchmark(config: ml_collections.ConfigDict) -> Benchmark:
  """The same without the training images: only `config.data` is read."""
  builder, fingerprint = _prepare(config.data)
  return _benchmark(builder, fingerprint, config)


def _benchmark(
  builder: tfds.core.DatasetBuilder, fingerprint: str, config
) -> Benchmark:
  query, gallery = _read(builder, 'query'), _read(builder, 'gallery')
  special = (
    f', of these {(gallery.pids == 0).sum():,} images of identity 0 and'
    f' {(gallery.pids == -1).sum():,} junk'
  )
  return Benchmark(
    query=_split(query, config.data.image_size),
    gallery=_split(gallery, config.data.image_size),
    fingerprint=fingerprint,
    summary=f'{_count("query", query)}\n{_count("gallery", gallery)}{special}',
  )


def _count(split: str, records: Records) -> str:
  first = 0 if split == 'train' else 1  # 0 is a distractor in the gallery
  return (
    f'  {split:8}{len(records.pids):7,} images'
    f' {len(np.unique(records.pids[records.pids >= first])):6,} identities'
    f' {len(np.unique(records.camids)):3} cameras'
  )


def _builder_module(name: str):
  if name not in DATASETS:
    raise ValueError(f'config.data.name={name!r} is not one of {DATASETS}.')
  return importlib.import_module(f'data.{name}.{name}_dataset_builder')


def _prepare(config) -> tuple[tfds.core.DatasetBuilder, str]:
  """The builder of a data set, written once per content of its raw folder.

  Also returns the fingerprint of that content.
  """
  tf.config.set_visible_devices([], 'GPU')  # they are JAX's
  builder_class = _builder_module(config.name).Builder
  root = builder_class.locate(config.dir)
  fingerprint = reid_builder.fingerprint(builder_class.read_splits(root), root)
  prepared = config.prepared_dir or os.environ.get(
    'TFDS_DATA_DIR', '~/tensorflow_datasets'
  )
  prepared = pathlib.Path(prepared).expanduser() / f'reid-{fingerprint}'
  builder = builder_class(data_dir=prepared, file_format='array_record')
  print(f'{config.name} from {root}, prepared in {prepared}', flush=True)
  tfds.disable_progress_bar()  # checking the images shows one already
  with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints sizes it lacks
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(manual_dir=root)
    )
  return builder, fingerprint


def _read(builder: tfds.core.DatasetBuilder, split: str) -> Records:
  source = builder.as_data_source(
    split, decoders={'image': tfds.decode.SkipDecoding()}
  )
  examples = source.__getitems__(list(range(len(source))))
  examples = sorted(examples, key=lambda example: example['path'])
  return Records(
    encoded=tf.constant([example['image'] for example in examples]),
    pids=np.array([example['pid'] for example in examples]),
    camids=np.array([example['camid'] for example in examples]),
    paths=np.array([example['path'].decode() for example in examples]),
  )


def _decode(encoded: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
  """Bytes -> uint8 [height, width, 3], bilinear with antialias as in PIL."""
  image = reid_builder.decode(encoded)
  image = tf.image.resize(image, image_size, antialias=True)
  image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
  return tf.ensure_shape(image, (*image_size, 3))


def _batched(
  records: Records, rows: tf.data.Dataset, batch_size: int, image_size
) -> tf.data.Dataset:
  """Decodes the images of a dataset of rows, in its order."""
  size = tuple(image_size)

  def read(row):
    return row, _decode(tf.gather(records.encoded, row), size)

  images = rows.map(
    read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )
  return images.batch(batch_size).prefetch(4)


def _train_batches(
  records: Records, labels: np.ndarray, config, first_step: int
) -> Iterator[dict[str, np.ndarray]]:
  P, K, seed = config.train.P, config.train.K, config.seed
  steps = pk_sampler.steps_per_epoch(labels, P, K)

  def batches_of_rows():
    for epoch in itertools.count(first_step // steps):
      batches = pk_sampler.epoch_batches(labels, P, K, seed, epoch)
      yield from batches[max(first_step - epoch * steps, 0) :]

  rows = tf.data.Dataset.from_generator(
    batches_of_rows, output_signature=tf.TensorSpec((P * K,), tf.int64)
  ).unbatch()
  batches = _batched(records, rows, P * K, config.data.image_size)
  for rows, images in batches.as_numpy_iterator():
    yield {'image': images, 'label': labels[rows].astype(np.int32)}


def _split(records: Records, image_size) -> Split:
  def batches(rows, batch_size):
    rows = tf.data.Dataset.from_tensor_slices(np.asarray(rows, np.int64))
    batched = _batched(records, rows, batch_size, image_size)
    return (images for _, images in batched.as_numpy_iterator())

  return Split(records.pids, records.camids, records.paths, batches)
