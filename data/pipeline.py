"""From a raw folder to batches of uint8 images, by TFDS and tf.data.

The encoded images of a split are held in memory (about 80 MB for Market-1501)
and read by index, so that batch k is found without reading batches 0 to k - 1.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import importlib
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
  benchmark, train = _open(config)
  identities, labels = np.unique(train.pids, return_inverse=True)
  P, K = config.train.P, config.train.K
  if config.seed < 0:
    raise ValueError(f'config.seed={config.seed} must be at least 0.')
  summary = benchmark.summary
  few = (np.bincount(labels) < K).sum()
  if few:
    summary += (
      f'\n  {few} training identities have fewer than config.train.K={K}'
      ' images: these are drawn with replacement.'
    )
  return Feed(
    query=benchmark.query,
    gallery=benchmark.gallery,
    fingerprint=benchmark.fingerprint,
    summary=summary,
    num_classes=len(identities),
    steps_per_epoch=pk_sampler.steps_per_epoch(labels, P, K),
    batches=lambda step: _train_batches(train, labels, config, step),
  )


def load_benchmark(config: ml_collections.ConfigDict) -> Benchmark:
  """The same without the training set: only `config.data` is read."""
  return _open(config)[0]


def _open(config) -> tuple[Benchmark, Records]:
  """The query and gallery, and the training images."""
  tf.config.set_visible_devices([], 'GPU')
  module = _builder_module(config.data.name)
  root = module.Builder.locate(config.data.dir)
  raw = module.Builder.read_splits(root)
  fingerprint = reid_builder.fingerprint(raw, root)
  builder = _prepare(module.Builder, root, fingerprint, config.data)
  records = {split: _read(builder, split) for split in reid_builder.SPLITS}
  benchmark = Benchmark(
    query=_split(records['query'], config.data.image_size),
    gallery=_split(records['gallery'], config.data.image_size),
    fingerprint=fingerprint,
    summary=f'{config.data.name} from {root}\n' + _summary(records),
  )
  return benchmark, records['train']


def _builder_module(name: str):
  if name not in DATASETS:
    raise ValueError(f'config.data.name={name!r} is not one of {DATASETS}.')
  return importlib.import_module(f'data.{name}.{name}_dataset_builder')


def _prepare(builder_class, root: pathlib.Path, fingerprint: str, config):
  """Writes the data set once per raw folder content."""
  prepared = config.prepared_dir or os.environ.get(
    'TFDS_DATA_DIR', '~/tensorflow_datasets'
  )
  builder = builder_class(
    data_dir=pathlib.Path(prepared).expanduser() / f'reid-{fingerprint}',
    file_format='array_record',
  )
  tfds.disable_progress_bar()  # checking the images shows one already
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(manual_dir=root)
  )
  return builder


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


def _summary(records: Mapping[str, Records]) -> str:
  lines = []
  for split, r in records.items():
    line = (
      f'  {split:8}{len(r.pids):7,} images'
      f' {len(np.unique(r.pids[r.pids > 0])):6,} identities'
      f' {len(np.unique(r.camids)):3} cameras'
    )
    if split == 'gallery':
      line += (
        f', of these {(r.pids == 0).sum():,} images of identity 0 and'
        f' {(r.pids == -1).sum():,} junk'
      )
    lines.append(line)
  return '\n'.join(lines)


def _decode(encoded: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
  """Bytes -> uint8 [height, width, 3], bilinear with antialias as in PIL."""
  image = reid_builder.decode(encoded)
  image = tf.image.resize(image, image_size, antialias=True)
  image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
  return tf.ensure_shape(image, (*image_size, 3))


def _batched(
  records: Records, indices: tf.data.Dataset, batch_size: int, image_size
) -> tf.data.Dataset:
  """Decodes the images of a dataset of indices, in its order."""
  size = tuple(image_size)
  images = indices.map(
    lambda i: _decode(tf.gather(records.encoded, i), size),
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )
  return images.batch(batch_size).prefetch(4)


def _train_batches(
  records: Records, labels: np.ndarray, config, first_step: int
) -> Iterator[dict[str, np.ndarray]]:
  P, K, seed = config.train.P, config.train.K, config.seed
  steps = pk_sampler.steps_per_epoch(labels, P, K)

  def batches_of_indices(first_step):
    for epoch in itertools.count(first_step // steps):
      batches = pk_sampler.epoch_batches(labels, P, K, seed, epoch)
      yield from batches[max(first_step - epoch * steps, 0) :]

  indices = tf.data.Dataset.from_generator(
    lambda: batches_of_indices(first_step),
    output_signature=tf.TensorSpec((P * K,), tf.int64),
  ).unbatch()
  images = _batched(records, indices, P * K, config.data.image_size)
  for batch, rows in zip(
    images.as_numpy_iterator(), batches_of_indices(first_step)
  ):
    yield {'image': batch, 'label': labels[rows].astype(np.int32)}


def _split(records: Records, image_size) -> Split:
  def batches(rows, batch_size):
    rows = tf.data.Dataset.from_tensor_slices(np.asarray(rows, np.int64))
    return _batched(records, rows, batch_size, image_size).as_numpy_iterator()

  return Split(records.pids, records.camids, records.paths, batches)
