"""Prepares data sets: checks the images and writes them into few large files.

The files are in a folder `reid-<fingerprint>`, named after a hash of the images
(`raw.RawDataset.fingerprint`). The same images are therefore prepared only
once, by each version of the builder; a later version replaces the files. An
interrupted preparation starts anew at the next run.
"""

import collections
import contextlib
import dataclasses
import importlib
import io
import os
import pathlib
import re
import shutil

from array_record.python import array_record_data_source
import ml_collections
import tensorflow as tf
import tensorflow_datasets as tfds

from apnet_jax import cli
from apnet_jax.errors import UserError, first_line
from apnet_jax.printing import counted
from data import listing, locking, raw
from data.folder import csv_file
from data.listing import Listing

# Bytes that a record takes beside its image, estimated from above.
BYTES_PER_RECORD = 1_000


@dataclasses.dataclass(frozen=True)
class Prepared(Listing):
  """A prepared data set.

  Attributes:
    builder: TFDS builder that reads the prepared files.
  """

  builder: tfds.core.DatasetBuilder


def prepare(config: ml_collections.ConfigDict) -> Prepared:
  """Reads a folder of original images, and prepares them at first use.

  Args:
    config: the `data` part of a configuration.

  Raises:
    UserError: see `listing.read` and `prepare_listed`.
    OSError: the prepared files cannot be written.
  """
  return prepare_listed(listing.read(config))


def prepare_listed(listed: Listing) -> Prepared:
  """Prepares the images of a raw folder at first use.

  Raises:
    UserError: images cannot be read, or the prepared files are damaged.
    OSError: the prepared files cannot be written.
  """
  tf.config.set_visible_devices([], 'GPU')  # JAX uses them
  layout, dataset, folder = listed.layout, listed.dataset, listed.folder
  builder = _open(layout, folder, dataset)
  if not builder.data_path.exists():
    if _older_versions(builder):
      print(
        f'  prepared anew in version {builder.version}:'
        f' {builder.RELEASE_NOTES[str(builder.version)]}',
        flush=True,
      )
    _write(builder, dataset, folder)
    builder = make_builder(layout, folder)  # reads the metadata just written
  else:
    _warn_of_changes(builder, dataset)
  splits = folder / 'splits.csv'
  if dataset.splits_made and not splits.exists():
    csv_file.write(dataset, splits)
  return Prepared(**vars(listed), builder=builder)


def _open(
  layout: raw.Layout, folder: pathlib.Path, dataset: raw.RawDataset
) -> tfds.core.DatasetBuilder:
  """Returns the TFDS builder of a data set, and checks its prepared files.

  Args:
    layout: layout of the data set.
    folder: folder of the prepared files; they need not exist.
    dataset: the original images.

  Raises:
    UserError: prepared files are damaged, or hold other images than `dataset`.
  """
  builder = read_builder(layout, folder, dataset)
  found = {k: s.num_examples for k, s in builder.info.splits.items()}
  images = {k: len(split) for k, split in dataset.splits.items() if split}
  if builder.data_path.exists() and found != images:
    damage = f'its dataset_info.json lists {found} images, not {images}'
    raise _damage_error(builder.data_path, damage)
  return builder


def _warn_of_changes(
  builder: tfds.core.DatasetBuilder, dataset: raw.RawDataset
) -> None:
  """Prints a warning if original images are younger than the prepared ones.

  Their names and sizes are the same. A file whose EXIF orientation is corrected
  in place keeps its size. (So does a copy, which may have a new date only.)
  """
  path = pathlib.Path(builder.data_path)
  written = (path / 'dataset_info.json').stat().st_mtime  # the last file
  changed = dataset.changed_since(written)
  if changed:
    shown = ', '.join(changed[:3]) + (', ...' if len(changed) > 3 else '')
    cli.warn(
      f'{counted(len(changed), "image")} of a later date than the prepared'
      f' files ({shown}): if the content has changed, delete {path} to prepare'
      ' all again.'
    )


def _older_versions(builder: tfds.core.DatasetBuilder) -> list[pathlib.Path]:
  """Returns the folders of this data set that older builders prepared.

  Preparing replaces them.
  """
  versions = pathlib.Path(builder.data_path).parent
  return [
    path
    for path in versions.glob('*')
    if re.fullmatch(r'\d+\.\d+\.\d+', path.name)
  ]


def read_builder(
  layout: raw.Layout,
  folder: pathlib.Path,
  dataset: raw.RawDataset | None = None,
) -> tfds.core.DatasetBuilder:
  """Returns the TFDS builder of a data set, after reading its metadata.

  For the arguments see `make_builder`. The prepared files need not exist.

  Raises:
    UserError: the metadata are damaged.
  """
  try:
    builder = make_builder(layout, folder, dataset)
    _ = [split.num_examples for split in builder.info.splits.values()]
  except Exception as error:  # protobuf raises all kinds for damaged files
    damage = f'its dataset_info.json cannot be read: {first_line(error)}'
    raise _damage_error(folder / layout.dataset, damage) from error
  return builder


def make_builder(
  layout: raw.Layout,
  folder: pathlib.Path,
  dataset: raw.RawDataset | None = None,
) -> tfds.core.DatasetBuilder:
  """Returns the TFDS builder of a data set.

  Args:
    layout: layout of the data set.
    folder: folder that the builder writes to and reads from.
    dataset: images to prepare; None if they are only read.
  """
  name = layout.dataset
  module = importlib.import_module(f'data.{name}.{name}_dataset_builder')
  return module.Builder(
    dataset=dataset,
    data_dir=folder,
    config=layout.variant or None,
    file_format='array_record',
  )


def damage_error(
  builder: tfds.core.DatasetBuilder, split: str, error: Exception
) -> UserError:
  """Returns the error to raise when a prepared split cannot be read."""
  if split not in builder.info.splits:
    damage = f'its dataset_info.json lists no {split} split'
    return _damage_error(builder.data_path, damage)
  files = [pathlib.Path(f) for f in builder.info.splits[split].filepaths]
  found = [f'{file} is missing' for file in files if not file.is_file()]
  found += [f'{file} is damaged' for file in files if not _is_whole(file)]
  damage = found[0] if found else f'its {split} split cannot be read'
  return _damage_error(builder.data_path, f'{damage}: {first_line(error)}')


def _damage_error(folder: os.PathLike, damage: str) -> UserError:
  return UserError(
    f'the prepared data set {folder} is damaged: {damage}.\nDelete this folder:'
    ' it is made again from the raw images.'
  )


def _is_whole(file: pathlib.Path) -> bool:
  try:
    with array_record_data_source.ArrayRecordDataSource([file]) as records:
      for _ in records:
        pass
  except Exception:  # ArrayRecord raises all kinds
    return False
  return True


def _write(
  builder: tfds.core.DatasetBuilder,
  dataset: raw.RawDataset,
  folder: pathlib.Path,
) -> None:
  root = folder.parent
  root.mkdir(parents=True, exist_ok=True)
  with locking.locked(root / '.lock', f'prepare in {root}'):
    if builder.data_path.exists():  # written by another process meanwhile
      return
    _remove_unfinished(builder, folder)
    _check_disk_space(dataset, root)
    tfds.disable_progress_bar()  # there is already one for the images' check
    try:
      with contextlib.redirect_stdout(io.StringIO()):  # TFDS warns about sizes
        builder.download_and_prepare(
          download_config=tfds.download.DownloadConfig(manual_dir=dataset.root)
        )
    except BaseException as error:
      _remove_unfinished(builder, folder)
      # ArrayRecord raises RuntimeError for everything; only its message says
      # that a file could not be written. TFDS buffers large splits in files of
      # its own, whose errors are those of TensorFlow.
      cannot_write = isinstance(error, RuntimeError) and 'write()' in str(error)
      if cannot_write or isinstance(error, tf.errors.OpError):
        raise OSError(f'{root} cannot be written to: {error}') from error
      raise


def _remove_unfinished(
  builder: tfds.core.DatasetBuilder, folder: pathlib.Path
) -> None:
  """Removes the files that an interrupted preparation has left in `folder`.

  Files of other data sets are kept.
  """
  for name in (builder.name, 'downloads'):
    shutil.rmtree(folder / name, ignore_errors=True)
  with contextlib.suppress(OSError):  # it holds another data set
    folder.rmdir()


def _check_disk_space(dataset: raw.RawDataset, folder: pathlib.Path) -> None:
  images = dataset.images
  # An image in both query and gallery is stored twice; other images may share
  # a file.
  copies = {}
  times = collections.Counter((image.path, image.name) for image in images)
  for (file, _), number in times.items():
    copies[file] = max(copies.get(file, 0), number)
  needed = sum(number * file.stat().st_size for file, number in copies.items())
  needed += BYTES_PER_RECORD * len(images)
  free = shutil.disk_usage(folder).free
  if needed > free:
    raise OSError(
      f'{folder} has room for {free / 1e6:,.0f} MB; preparing the data set'
      f' needs about {needed / 1e6:,.0f} MB. Set config.data.prepared_dir to a'
      ' folder on another disk.'
    )
