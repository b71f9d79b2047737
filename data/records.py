"""The images of a prepared split in memory, and batches of them.

Images are held and read by index, so that batch k is found without reading
batches 0 to k - 1.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import math
import os

import ml_collections
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tqdm import tqdm

from apnet_jax.config import check_section
from apnet_jax.errors import UserError
from apnet_jax.feed import Split
from apnet_jax.parallel.batch_layout import shard_positions
from apnet_jax.training import profiling
from data import bad_images, decoding, pk_sampler
from data.prepare import damaged

READ_AT_ONCE = 64  # records
DECODED_AT_ONCE = 64  # images
BATCHES_OF_A_PIPELINE = 1000


@dataclasses.dataclass(frozen=True)
class Records:
  """A prepared split in memory, in the order of the paths.

  Attributes:
    encoded: bytes [images], JPEG or PNG files; empty if `decoded` is there.
    pids: int [images].
    camids: int [images].
    paths: str [images].
    decoded: uint8 [images, height, width, 3], or None.
    bad: rows of images that were found unreadable, and of those in their place.
  """

  encoded: tf.Variable
  pids: np.ndarray
  camids: np.ndarray
  paths: np.ndarray
  decoded: np.ndarray | None = None
  bad: dict[int, int] = dataclasses.field(default_factory=dict)


def read(builder: tfds.core.DatasetBuilder, split: str) -> Records:
  """Reads a split. Little more than its encoded images is held at any time.

  Raises:
    UserError: a prepared file is missing or damaged; names it.
  """
  try:
    examples = _examples(builder, split)
  except Exception as error:  # TFDS, ArrayRecord and protobuf raise all kinds
    raise damaged(builder, split, error) from error
  examples.sort(key=lambda example: example['path'])
  encoded = hold([example.pop('image') for example in examples])
  return Records(
    encoded=encoded,
    pids=np.array([example['pid'] for example in examples]),
    camids=np.array([example['camid'] for example in examples]),
    paths=np.array([example['path'].decode() for example in examples]),
  )


def _examples(builder: tfds.core.DatasetBuilder, split: str) -> list[dict]:
  source = builder.as_data_source(
    split, decoders={'image': tfds.decode.SkipDecoding()}
  )
  examples = []
  for start in range(0, len(source), READ_AT_ONCE):
    rows = range(start, min(start + READ_AT_ONCE, len(source)))
    examples += source.__getitems__(list(rows))
  if any(None in example.values() for example in examples):
    raise UserError('a record is empty')  # of a file that was cut off
  return examples


def hold(images: list[bytes]) -> tf.Variable:
  """Moves encoded images to where tf.data finds them; empties the list.

  A few at a time, so that none but these few are held twice.
  """
  held = tf.Variable(tf.fill([len(images)], ''), trainable=False)
  while images:
    rows = range(max(len(images) - READ_AT_ONCE, 0), len(images))
    some = tf.constant(images[rows.start :])
    held.scatter_update(tf.IndexedSlices(some, tf.constant(rows)))
    del images[rows.start :]
  return held


def cached(
  records: Records, split: str, config: ml_collections.ConfigDict
) -> Records:
  """What `config.data.cache` wants to be held of the images of a split.

  Args:
    records: as read.
    split: its name, for people.
    config: the `data` part of a configuration.

  Returns:
    The same records; or, for 'decoded', with all images decoded and resized,
    and without the encoded ones.

  Raises:
    UserError: there is no such cache, too little memory for it, or more images
      are unreadable than `config.data.bad_images`.
  """
  check_section('data', config)
  if config.cache == 'encoded':
    return records
  count = len(records.pids)
  height, width = config.image_size
  _check_memory(split, count, height, width)
  starts = range(0, count, DECODED_AT_ONCE)
  rows = [np.arange(i, min(i + DECODED_AT_ONCE, count)) for i in starts]
  batches = _bearing(records, rows, config)
  decoded = np.empty((count, height, width, 3), np.uint8)
  progress = tqdm(
    total=count, desc=f'Decoding {split}', unit=' images', leave=False
  )
  with progress:
    for start, (_, images) in zip(starts, batches):
      decoded[start : start + len(images)] = images
      progress.update(len(images))
  return dataclasses.replace(records, encoded=hold([]), decoded=decoded)


def _check_memory(split: str, count: int, height: int, width: int) -> None:
  """Says what a decoded split takes; UserError if it does not fit."""
  needed = math.prod((count, height, width, 3))
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  held = profiling.process_memory()
  takes = (
    f'{count:,} {split} images of {height} x {width} take'
    f' {needed / 1e9:.2f} GB decoded'
  )
  if held + needed > memory:
    raise UserError(
      f"config.data.cache='decoded': {takes}, beside the {held / 1e9:.2f} GB"
      f' of this process; this machine has {memory / 1e9:.2f} GB of memory.'
      " 'encoded' takes less."
    )
  print(f'{takes} (config.data.cache)', flush=True)


def train_batches(
  records: Records,
  labels: np.ndarray,
  config,
  first_step: int,
  process: int = 0,
  processes: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields batches `first_step`, `first_step` + 1, ...; see `Feed.batches`.

  Args:
    records: the training split.
    labels: int [images], training labels.
    config: the whole configuration.
    first_step: the first batch, from 0.
    process: number of this process, which reads its shard of every batch.
    processes: number of processes.

  Raises:
    UserError: more images are unreadable than `config.data.bad_images`, or the
      batch does not divide among the processes.
  """
  P, K, seed = config.train.P, config.train.K, config.seed
  steps = pk_sampler.steps_per_epoch(labels, P, K)
  positions = shard_positions(P * K, processes, config.train.accumulate)

  def rows_of_batches():
    for epoch in itertools.count(first_step // steps):
      batches = pk_sampler.epoch_batches(labels, P, K, seed, epoch)
      yield from batches[
        max(first_step - epoch * steps, 0) :, positions[process]
      ]

  rows_of_batches = rows_of_batches()
  while True:
    # Not `Dataset.from_generator`, which would take them all: it tells the C
    # library to give memory back at once (M_TRIM_THRESHOLD), and the whole
    # process spends its time on page faults.
    some = list(itertools.islice(rows_of_batches, BATCHES_OF_A_PIPELINE))
    for rows, images in _bearing(records, some, config.data):
      yield {'image': images, 'label': labels[rows].astype(np.int32)}


def _bearing(
  records: Records,
  batches: Sequence[np.ndarray],
  config: ml_collections.ConfigDict,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields the rows that make each batch, and their images.

  These are the `batches` asked for, but for what was found unreadable. All but
  the last have the same size.
  """
  done = 0
  while done < len(batches):
    rows = [bad_images.replaced(records, batch) for batch in batches[done:]]
    images = _batches(
      records, np.concatenate(rows), len(rows[0]), config.image_size
    )
    try:
      for some in rows:
        yield some, next(images)
        done += 1
    except tf.errors.InvalidArgumentError as error:
      bad_images.bear(records, some, config.bad_images, error)


def names(records: Records, labels: np.ndarray, config, step: int) -> list[str]:
  """Names of the images of batch `step`, whole, in their order."""
  P, K, seed = config.train.P, config.train.K, config.seed
  epoch, batch = divmod(step, pk_sampler.steps_per_epoch(labels, P, K))
  rows = pk_sampler.epoch_batches(labels, P, K, seed, epoch)[batch]
  return records.paths[rows].tolist()


def make_split(records: Records, image_size: tuple[int, int]) -> Split:
  def batches(rows, batch_size):
    rows = np.asarray(rows, np.int64)
    try:
      for images in _batches(records, rows, batch_size, image_size):
        yield images
        rows = rows[batch_size:]
    except tf.errors.InvalidArgumentError as error:
      raise bad_images.refuse(records, rows[:batch_size], error) from error

  return Split(records.pids, records.camids, records.paths, batches)


def _batches(
  records: Records,
  rows: np.ndarray,
  batch_size: int,
  image_size: tuple[int, int],
) -> Iterator[np.ndarray]:
  """Images of these rows, in their order; the last batch may be smaller."""
  if records.decoded is not None:
    starts = range(0, len(rows), batch_size)
    return (records.decoded[rows[i : i + batch_size]] for i in starts)

  def read(row):
    encoded = tf.gather(records.encoded, row)
    return decoding.resize(decoding.decode(encoded), image_size)

  images = tf.data.Dataset.from_tensor_slices(rows).map(
    read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )
  return images.batch(batch_size).prefetch(4).as_numpy_iterator()
