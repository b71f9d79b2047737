"""Lists the raw images of data sets, before they are prepared.

Nothing here needs TensorFlow: what depends on the numbers of images and
identities alone can begin before it is imported.
"""

from collections.abc import Mapping
import dataclasses
import os
import pathlib

import ml_collections
import numpy as np

from apnet_jax.errors import FieldError, UserError
from apnet_jax.parallel import processes
from apnet_jax.printing import printable
from data import datasets, pk_sampler, raw


@dataclasses.dataclass(frozen=True)
class Listing:
  """The images of a raw folder, checked as far as their names tell.

  Attributes:
    layout: the layout, with its settings, that has read the folder.
    dataset: the original images with their labels.
    as_published: whether the counts of images, identities and cameras are the
      published ones; None if none are published.
    fingerprint: hash of the original images (`raw.RawDataset.fingerprint`).
    folder: folder for the prepared files.
  """

  layout: raw.Layout
  dataset: raw.RawDataset
  as_published: bool | None
  fingerprint: str
  folder: pathlib.Path


def read(data_config: ml_collections.ConfigDict) -> Listing:
  """Lists the images of a raw folder, and prints how it was read.

  Args:
    data_config: the `data` part of a configuration.

  Raises:
    UserError: there is no such data set; its raw folder is missing, or has
      another layout or other counts; or its labels are probably wrong.
  """
  layout = datasets.find(data_config.name).configured(data_config)
  dataset = layout.read(data_config.dir)
  differences = datasets.check_counts(
    layout, dataset, data_config.allow_other_counts
  )
  fingerprint = dataset.fingerprint()
  folder = prepared_root(data_config.prepared_dir) / f'reid-{fingerprint}'
  lines = [f'{layout.name} from {dataset.root}, prepared in {folder}']
  lines += [f'  {note}' for note in dataset.notes]
  if dataset.splits_made:
    lines.append(f'  these splits as a list: {folder / "splits.csv"}')
  lines += [differences] if differences else []
  print(printable('\n'.join(lines)), flush=True)
  if dataset.doubt:
    raise dataset.doubt.error()
  as_published = not differences if layout.published else None
  return Listing(layout, dataset, as_published, fingerprint, folder)


def prepared_root(directory: str) -> pathlib.Path:
  """Returns the folder that holds all prepared data sets.

  Args:
    directory: `config.data.prepared_dir`; '' means the default folder of TFDS.
  """
  default = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  return pathlib.Path(directory or default).expanduser()


def read_to_train(config: ml_collections.ConfigDict) -> dict[str, Listing]:
  """Lists the images of all data sets of a training.

  With several processes, the first draws missing images of a drawn data set
  before the others look for them.

  Args:
    config: the whole configuration.

  Returns:
    The listing of each data set, by its full name.

  Raises:
    UserError: see `read`; or a data set has no images to train on, or two data
      sets have the same images.
  """
  parts = datasets.single_sets(config.data)
  with processes.first_before_others():
    listings = {name: read(part) for name, part in parts.items()}
  for one in listings.values():
    if not one.dataset.splits['train']:
      raise UserError(f'{one.dataset.root} has no images to train on.')
  roots = [one.dataset.root.resolve() for one in listings.values()]
  if len(set(roots)) < len(roots):
    raise FieldError(
      'data.dir', f'={config.data.dir!r}: two data sets have the same images.'
    )
  return listings


def training_size(
  listings: Mapping[str, Listing], train_config: ml_collections.ConfigDict
) -> tuple[int, int]:
  """Returns the numbers of identities and of batches in an epoch.

  Args:
    listings: the data sets, which are trained on together.
    train_config: the `train` part of a configuration.

  Raises:
    FieldError: there are fewer identities than a batch needs.
  """
  people = [
    (i, image.pid)
    for i, one in enumerate(listings.values())
    for image in one.dataset.splits['train']
  ]
  identities, labels = np.unique(people, axis=0, return_inverse=True)
  steps = pk_sampler.steps_per_epoch(labels, train_config.P, train_config.K)
  return len(identities), steps
