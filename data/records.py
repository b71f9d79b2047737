"""The images of a prepared split in memory, and batches of them.

The encoded images are held and read by index, so that batch k is found without
reading batches 0 to k - 1.
"""

from collections.abc import Iterator
import dataclasses
import itertools

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from apnet_jax.feed import Split
from data import decoding, pk_sampler


@dataclasses.dataclass(frozen=True)
class Records:
  """A prepared split in memory, in the order of the paths."""

  encoded: tf.Tensor  # bytes [images]
  pids: np.ndarray
  camids: np.ndarray
  paths: np.ndarray


def read(builder: tfds.core.DatasetBuilder, split: str) -> Records:
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


def _batched(
  records: Records, rows: tf.data.Dataset, batch_size: int, image_size
) -> tf.data.Dataset:
  """Decodes the images of a dataset of rows, in its order."""
  size = tuple(image_size)

  def read_row(row):
    encoded = tf.gather(records.encoded, row)
    return row, decoding.resize(decoding.decode(encoded), size)

  images = rows.map(
    read_row, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )
  return images.batch(batch_size).prefetch(4)


def train_batches(
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


def make_split(records: Records, image_size) -> Split:
  def batches(rows, batch_size):
    rows = tf.data.Dataset.from_tensor_slices(np.asarray(rows, np.int64))
    batched = _batched(records, rows, batch_size, image_size)
    return (images for _, images in batched.as_numpy_iterator())

  return Split(records.pids, records.camids, records.paths, batches)
