"""Prepared splits in memory, and batches of their images.

Images are read by index, so that batch k is found without reading batches 0 to
k - 1.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import math

import ml_collections
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tqdm import tqdm

from apnet_jax.config import check_section
from apnet_jax.errors import FieldError, UserError
from apnet_jax.feed import Split
from apnet_jax.parallel import processes
from apnet_jax.parallel.batch_layout import shard_positions
from apnet_jax.training import profiling
from data import bad_images, decoding, encoding, memory, pk_sampler, raw
from data.prepare import damage_error

RECORDS_PER_READ = 64
IMAGES_PER_DECODING = 64
BATCHES_PER_PIPELINE = 1000


@dataclasses.dataclass(frozen=True)
class Records:
  """A split of a prepared data set in memory, sorted by path.

  Of several data sets, one follows the other.

  Attributes:
    encoded: bytes [images], JPEG or PNG files; empty if `decoded` is given.
    pids: int [images], identities.
    camids: int [images], cameras, from 0.
    paths: str [images], names of the images.
    decoded: uint8 [images, height, width, 3], resized images; or None.
    replacements: rows of images that were found unreadable, and the rows of the
      images that replace them.
  """

  encoded: tf.Variable
  pids: np.ndarray
  camids: np.ndarray
  paths: np.ndarray
  decoded: np.ndarray | None = None
  replacements: dict[int, int] = dataclasses.field(default_factory=dict)


def check_encoded_fit(
  builders: Iterable[tfds.core.DatasetBuilder], splits: Sequence[str]
) -> None:
  """Checks that the encoded images of several splits fit into memory.

  Args:
    builders: TFDS builders of prepared data sets.
    splits: names of the splits that are going to be read.

  Raises:
    UserError: the images do not fit.
  """
  found = [
    builder.info.splits[split]
    for builder in builders
    for split in splits
    if split in builder.info.splits
  ]
  needed = sum(split.num_bytes for split in found)
  if shortage := memory.shortage(needed, processes.on_this_machine()):
    raise UserError(
      f'{sum(split.num_examples for split in found):,} prepared images'
      f' ({", ".join(splits)}) take {needed / 1e9:.2f} GB, and {shortage}. Make'
      ' smaller copies of the images: config.data.image_size is all that a'
      ' network sees of them. (Images that have to be turned, BMP and WebP are'
      ' prepared as PNG, which may take several times the space.)'
    )


def read(builder: tfds.core.DatasetBuilder, split: str) -> Records:
  """Reads a split into memory, which takes little more than its encoded images.

  Raises:
    UserError: a prepared file is missing or damaged; the message names the
      file.
  """
  return read_several({'': builder}, split)


def read_several(
  builders: Mapping[str, tfds.core.DatasetBuilder], split: str
) -> Records:
  """Reads a split of several data sets into memory, one set after the other.

  Identities of different sets stay different: those of a set are numbered
  after all identities of the sets before it.

  Args:
    builders: TFDS builder of each data set, by name. The names become folders
      in the names of images; '' adds none.
    split: name of the split.

  Raises:
    UserError: a prepared file is missing or damaged; the message names the
      file.
  """
  examples, first_pid = [], 0
  for name, builder in builders.items():
    try:
      own = _read_examples(builder, split)
    except Exception as error:  # TFDS, ArrayRecord and protobuf raise all kinds
      raise damage_error(builder, split, error) from error
    own.sort(key=lambda example: example['path'])
    for example in own:
      example['path'] = '/'.join(filter(None, (name, example['path'].decode())))
      example['pid'] += first_pid
    first_pid = 1 + max((example['pid'] for example in own), default=-1)
    examples += own
  encoded = to_variable([example.pop('image') for example in examples])
  return Records(
    encoded=encoded,
    pids=np.array([example['pid'] for example in examples]),
    camids=np.array([example['camid'] for example in examples]),
    paths=np.array([example['path'] for example in examples]),
  )


def from_files(images: Sequence[raw.RawImage]) -> Records:
  """Reads image files that are not prepared, in the order of their names.

  Raises:
    UserError: images cannot be read; the message names them.
  """
  images = sorted(images, key=lambda image: image.name)
  decoding.check_readable(images)
  return Records(
    encoded=to_variable(
      [encoding.to_stored(image.read()).encoded for image in images]
    ),
    pids=np.array([image.pid for image in images]),
    camids=np.array([image.camid for image in images]),
    paths=np.array([image.name for image in images]),
  )


def _read_examples(builder: tfds.core.DatasetBuilder, split: str) -> list[dict]:
  source = builder.as_data_source(
    split, decoders={'image': tfds.decode.SkipDecoding()}
  )
  examples = []
  for start in range(0, len(source), RECORDS_PER_READ):
    rows = range(start, min(start + RECORDS_PER_READ, len(source)))
    examples += source.__getitems__(list(rows))
  if any(None in example.values() for example in examples):
    raise ValueError('a record is empty')  # the file was cut off
  return examples


def to_variable(images: list[bytes]) -> tf.Variable:
  """Moves encoded images to a variable for tf.data, and empties the list.

  A few images are moved at a time, so that only these are in memory twice.
  """
  variable = tf.Variable(tf.fill([len(images)], ''), trainable=False)
  while images:
    rows = range(max(len(images) - RECORDS_PER_READ, 0), len(images))
    some = tf.constant(images[rows.start :])
    variable.scatter_update(tf.IndexedSlices(some, tf.constant(rows)))
    del images[rows.start :]
  return variable


def apply_cache(
  records: Records, split: str, data_config: ml_collections.ConfigDict
) -> Records:
  """Decodes the images of a split if `config.data.cache` is 'decoded'.

  Args:
    records: the split, as read.
    split: name of the split, for messages.
    data_config: the `data` part of a configuration.

  Returns:
    For 'encoded', the same records. For 'decoded', records with all images
    decoded and resized, and without the encoded ones.

  Raises:
    UserError: the value of the field is not allowed, the memory is too small,
      or more images are unreadable than `config.data.bad_images`.
  """
  check_section('data', data_config)
  if data_config.cache == 'encoded':
    return records
  count = len(records.pids)
  height, width = data_config.image_size
  _check_decoded_fit(split, count, height, width)
  starts = range(0, count, IMAGES_PER_DECODING)
  rows = [np.arange(i, min(i + IMAGES_PER_DECODING, count)) for i in starts]
  batches = _replacing_batches(records, rows, data_config)
  decoded = np.empty((count, height, width, 3), np.uint8)
  progress = tqdm(
    total=count, desc=f'Decoding {split}', unit=' images', leave=False
  )
  with progress:
    for start, (_, images) in zip(starts, batches):
      decoded[start : start + len(images)] = images
      progress.update(len(images))
  return dataclasses.replace(records, encoded=to_variable([]), decoded=decoded)


def _check_decoded_fit(split: str, count: int, height: int, width: int) -> None:
  """Raises UserError if the decoded images of a split do not fit into memory.

  Otherwise their size is printed. Each process of the run holds all images, so
  that those on one machine share its memory.
  """
  needed = math.prod((count, height, width, 3))
  used = profiling.process_memory()
  size = (
    f'{count:,} {split} images of {height} x {width} take'
    f' {needed / 1e9:.2f} GB decoded'
  )
  if shortage := memory.shortage(used + needed, processes.on_this_machine()):
    raise FieldError(
      'data.cache',
      f"='decoded': {size}, and this process already uses {used / 1e9:.2f} GB;"
      f" {shortage}. The value 'encoded' takes less.",
    )
  print(f'{size} (config.data.cache)', flush=True)


def train_batches(
  records: Records,
  labels: np.ndarray,
  config,
  first_step: int,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields training batches without end, beginning with number `first_step`.

  A batch has `image` and `label`; see `Feed.batches`.

  Args:
    records: the training split.
    labels: int [images], training labels.
    config: the whole configuration.
    first_step: number of the first batch, from 0.
    process_index: number of this process, which reads its shard of each batch.
    process_count: number of processes.

  Raises:
    UserError: more images are unreadable than `config.data.bad_images`, or the
      batch does not divide among the processes.
  """
  P, K, seed = config.train.P, config.train.K, config.seed
  steps = pk_sampler.steps_per_epoch(labels, P, K)
  positions = shard_positions(P * K, process_count, config.train.accumulate)

  def rows_of_batches():
    for epoch in itertools.count(first_step // steps):
      batches = pk_sampler.epoch_batches(labels, P, K, seed, epoch)
      yield from batches[
        max(first_step - epoch * steps, 0) :, positions[process_index]
      ]

  rows_of_batches = rows_of_batches()
  while True:
    # `Dataset.from_generator` would need no such pieces. But it makes the C
    # library return freed memory at once (M_TRIM_THRESHOLD), and the process
    # then spends its time on page faults.
    some = list(itertools.islice(rows_of_batches, BATCHES_PER_PIPELINE))
    for rows, images in _replacing_batches(records, some, config.data):
      yield {'image': images, 'label': labels[rows].astype(np.int32)}


def _replacing_batches(
  records: Records,
  batches: Sequence[np.ndarray],
  data_config: ml_collections.ConfigDict,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields the indices and images of each batch, unreadable images replaced.

  Args:
    records: the training split.
    batches: indices of images, by batch; all but the last have the same size.
    data_config: the `data` part of a configuration.
  """
  done = 0
  while done < len(batches):
    rows = [
      bad_images.apply_replacements(records, batch) for batch in batches[done:]
    ]
    images = _batches(
      records, np.concatenate(rows), len(rows[0]), data_config.image_size
    )
    try:
      for batch in rows:
        yield batch, next(images)
        done += 1
    except tf.errors.InvalidArgumentError as error:
      bad_images.replace_unreadable(
        records, batch, data_config.bad_images, error
      )


def names(records: Records, labels: np.ndarray, config, step: int) -> list[str]:
  """Returns the paths of the images in a batch, for all processes together.

  In the place of an image that this process has replaced, its replacement is
  named.

  Args:
    records: the training split.
    labels: int [images], training labels.
    config: the whole configuration.
    step: number of the batch, from 0.
  """
  P, K, seed = config.train.P, config.train.K, config.seed
  epoch, batch = divmod(step, pk_sampler.steps_per_epoch(labels, P, K))
  rows = pk_sampler.epoch_batches(labels, P, K, seed, epoch)[batch]
  return records.paths[bad_images.apply_replacements(records, rows)].tolist()


def make_split(records: Records, image_size: tuple[int, int]) -> Split:
  """Converts records to a `Split`, the form that evaluation reads."""

  def batches(rows, batch_size):
    rows = np.asarray(rows, np.int64)
    try:
      for images in _batches(records, rows, batch_size, image_size):
        yield images
        rows = rows[batch_size:]
    except tf.errors.InvalidArgumentError as error:
      raise bad_images.evaluation_error(
        records, rows[:batch_size], error
      ) from error

  return Split(records.pids, records.camids, records.paths, batches)


def _batches(
  records: Records,
  rows: np.ndarray,
  batch_size: int,
  image_size: tuple[int, int],
) -> Iterator[np.ndarray]:
  """Returns an iterator over batches of images, in the order of `rows`.

  Args:
    records: a split.
    rows: int [n], indices of images in the split.
    batch_size: number of images in a batch; the last may have fewer.
    image_size: height and width of the images.

  Returns:
    An iterator over arrays, uint8 [batch, height, width, 3].
  """
  if records.decoded is not None:
    starts = range(0, len(rows), batch_size)
    return (records.decoded[rows[i : i + batch_size]] for i in starts)

  @tf.autograph.experimental.do_not_convert  # has no Python to convert
  def read(row):
    encoded = tf.gather(records.encoded, row)
    return decoding.resize(decoding.decode(encoded), image_size)

  images = tf.data.Dataset.from_tensor_slices(rows).map(
    read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )
  return images.batch(batch_size).prefetch(4).as_numpy_iterator()
