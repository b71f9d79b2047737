"""Opens data sets as sources of uint8 image batches, with TFDS and tf.data."""

from collections.abc import Mapping

import jax
import ml_collections
import numpy as np

from apnet_jax.config import check
from apnet_jax.errors import UserError
from apnet_jax.feed import Benchmark, Feed, Split
from apnet_jax.parallel import processes
from apnet_jax.printing import counted
from apnet_jax.retrieval import multi_query
from data import listing, pk_sampler, raw, records
from data.listing import Listing
from data.prepare import Prepared, prepare_listed


def load(
  config: ml_collections.ConfigDict,
  listings: Mapping[str, Listing] | None = None,
) -> Feed:
  """Opens the data sets of a configuration, for training and evaluation.

  At first use, a data set is prepared: its images are checked and written into
  few large files.

  Args:
    config: the whole configuration.
    listings: the result of `listing.read_to_train`, if the raw folders have
      been listed before.

  Raises:
    UserError: a raw folder is missing, has another layout or holds images that
      cannot be read; or the data set is too small for the batch, or too large
      for the memory.
    OSError: the prepared files cannot be written.
  """
  check(config)  # preparing takes minutes
  if listings is None:
    listings = listing.read_to_train(config)
  with processes.first_before_others():
    prepared = {name: prepare_listed(one) for name, one in listings.items()}
  builders = [one.builder for one in prepared.values()]
  records.check_encoded_fit(builders, raw.SPLITS)
  benchmarks = {
    name: open_benchmark(one, config) for name, one in prepared.items()
  }
  train = _read_train(prepared, config)
  identities, labels = np.unique(train.pids, return_inverse=True)
  first = next(iter(benchmarks.values()))
  return Feed(
    query=first.query,
    gallery=first.gallery,
    fingerprint='+'.join(one.fingerprint for one in benchmarks.values()),
    summary=_format_summary(prepared, benchmarks, labels, config),
    as_published=first.as_published,
    has_cameras=first.has_cameras,
    release='+'.join(one.release for one in benchmarks.values() if one.release),
    names_are_images=True,
    first_camera=first.first_camera,
    num_classes=len(identities),
    steps_per_epoch=pk_sampler.steps_per_epoch(
      labels, config.train.P, config.train.K
    ),
    batches=lambda step: records.train_batches(
      train, labels, config, step, jax.process_index(), jax.process_count()
    ),
    batch_names=lambda step: records.names(train, labels, config, step),
    benchmarks=benchmarks if len(benchmarks) > 1 else {},
  )


def _read_train(
  prepared: Mapping[str, Prepared], config: ml_collections.ConfigDict
) -> records.Records:
  """Reads the training splits of one or several data sets into memory."""
  builders = {
    name if len(prepared) > 1 else '': one.builder
    for name, one in prepared.items()
  }
  train = records.read_several(builders, 'train')
  return records.apply_cache(train, 'train', config.data)


def _format_summary(
  prepared: Mapping[str, Prepared],
  benchmarks: Mapping[str, Benchmark],
  labels: np.ndarray,
  config: ml_collections.ConfigDict,
) -> str:
  """Returns the numbers of images, identities and cameras, as text."""
  lines = []
  for name, one in prepared.items():
    lines += [name] if len(prepared) > 1 else []
    lines += [_format_counts('train', one), benchmarks[name].summary]
    own = {image.pid for image in one.dataset.splits['train']}
    both = len(np.intersect1d(list(own), benchmarks[name].query.pids))
    if both:
      lines.append(
        f'  warning: {counted(both, "identity", "identities")} in both training'
        ' and query: if they are the same people, figures are too high.'
      )
  if len(prepared) > 1:
    lines.append(
      f'trained on together: {len(labels):,} images of'
      f' {labels.max() + 1:,} identities, kept apart by data set'
    )
  return '\n'.join([*lines, *_few_images(np.bincount(labels), config.train.K)])


def open_benchmark(
  prepared: Prepared, config: ml_collections.ConfigDict
) -> Benchmark:
  """Opens the query and gallery splits of a prepared data set.

  Raises:
    UserError: a prepared file is missing or damaged; the images do not fit into
      memory; or images for `config.eval.multi_query` are missing or cannot be
      read.
  """
  records.check_encoded_fit([prepared.builder], ('query', 'gallery'))
  query, gallery = (
    records.make_split(
      records.read(prepared.builder, split), config.data.image_size
    )
    for split in ('query', 'gallery')
  )
  lines = [_format_counts(split, prepared) for split in ('query', 'gallery')]
  if config.eval.multi_query:
    query, note = _average_queries(query, prepared, config)
    lines.append(note)
  return Benchmark(
    query=query,
    gallery=gallery,
    fingerprint=prepared.fingerprint,
    summary='\n'.join(lines),
    as_published=prepared.as_published,
    has_cameras=prepared.dataset.has_cameras,
    release=prepared.dataset.release,
    names_are_images=True,
    first_camera=prepared.dataset.first_camera,
  )


def _few_images(counts: np.ndarray, K: int) -> list[str]:
  """Returns a note on training identities with fewer than K images.

  Args:
    counts: int [identities], number of images of each identity.
    K: number of images of an identity in a batch.

  Raises:
    UserError: each identity has a single image. Two different images of a
      person are then never compared, so that nothing can be learned.
  """
  if counts.max() < 2:
    raise UserError(
      f'each of the {len(counts)} training identities has one image only:'
      f' {raw.TWO_IMAGES}. Add some, or check the identities with python -m'
      ' data.doctor.'
    )
  few, single = (counts < K).sum(), (counts == 1).sum()
  if not few:
    return []
  note = (
    f'  {few} training identities have fewer than'
    f' config.train.K={K} images: some of their images are'
    ' repeated in a batch.'
  )
  if single:
    note += (
      f'\n  {single} of them have one image: its positives are copies of it.'
    )
  return [note]


def _average_queries(
  query: Split, prepared: Prepared, config: ml_collections.ConfigDict
) -> tuple[Split, str]:
  """Makes a query of all images of an identity and camera, for multi-query.

  Returns:
    The queries, and a line for the user on their number.

  Raises:
    UserError: cameras are unknown, or images are missing or cannot be read.
  """
  dataset = prepared.dataset
  own = dataset.splits['query']
  keys = {(image.pid, image.camid) for image in own}
  more = [
    image
    for image in prepared.layout.more_queries(dataset)
    if (image.pid, image.camid) in keys
  ]
  images = query
  if more:
    images = records.make_split(
      records.from_files([*own, *more]), config.data.image_size
    )
  grouped = multi_query.group(query, images)
  averaged, queries = len(grouped.averaged.owners), len(grouped.pids)
  note = f'  multi-query: {averaged:,} images averaged into {queries:,} queries'
  if averaged == queries:
    note += '. Each has one image, so the figures are those of single queries.'
  return grouped, note


def _format_counts(split: str, prepared: Prepared) -> str:
  """Formats a split's numbers of images, identities and cameras as a line."""
  counts = prepared.dataset.counts()[split]
  cameras = f'{counts.cameras:3} cameras' if counts.cameras else 'no cameras'
  line = (
    f'  {split:8}{counts.images:7,} images {counts.identities:6,} identities'
    f' {cameras}'
  )
  if split == 'gallery':
    line += (
      f', of these {counts.distractors:,} distractors and {counts.junk:,} junk'
    )
  return line
