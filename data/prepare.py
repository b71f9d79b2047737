"""Prepared data sets: a raw folder's images, checked and in few large files.

A set is written once for each content of its raw folder, into
`reid-<fingerprint>`, whole or not at all.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import fcntl
import importlib
import io
import os
import pathlib
import shutil

from array_record.python import array_record_data_source
import ml_collections
import tensorflow as tf
import tensorflow_datasets as tfds

from apnet_jax.errors import UserError
from data import datasets, raw
from data.folder.layout import write_csv

# What a record needs beside its image.
BYTES_PER_RECORD = 1_000


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A data set that can be read by index.

  Attributes:
    builder: its TFDS builder.
    dataset: the raw images.
    as_published: whether their counts are; None if none are published.
    fingerprint: identifies names, sizes and labels of the raw images.
  """

  builder: tfds.core.DatasetBuilder
  dataset: raw.RawDataset
  as_published: bool | None
  fingerprint: str


def prepare(config: ml_collections.ConfigDict) -> Prepared:
  """Reads the raw folder of `config.data` and prepares it if need be.

  Raises:
    UserError: there is no such data set, its raw folder is missing or has
      another layout or other counts, or holds images that cannot be read; or
      what was prepared of it is damaged.
    OSError: there is no room for it.
  """
  tf.config.set_visible_devices([], 'GPU')  # they are JAX's
  layout = datasets.find(config.name).configured(config)
  dataset = layout.read(config.dir)
  unusual = datasets.check_counts(layout, dataset, config.allow_other_counts)
  fingerprint = dataset.fingerprint()
  folder = prepared_root(config.prepared_dir) / f'reid-{fingerprint}'
  lines = [f'{layout.name} from {dataset.root}, prepared in {folder}']
  lines += [f'  {note}' for note in dataset.notes]
  if dataset.splits_made:
    lines.append(f'  these splits as a list: {folder / "splits.csv"}')
  print('\n'.join([*lines, unusual] if unusual else lines), flush=True)
  builder = _open(layout, folder, dataset)
  if not builder.data_path.exists():
    _write(builder, dataset, folder)
    builder = make_builder(layout, folder)  # one that knows what was written
  splits = folder / 'splits.csv'
  if dataset.splits_made and not splits.exists():
    write_csv(dataset, splits)
  as_published = not unusual if layout.published else None
  return Prepared(builder, dataset, as_published, fingerprint)


def prepared_root(directory: str) -> pathlib.Path:
  """Where prepared sets lie: `config.data.prepared_dir`, or TFDS's place."""
  default = os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
  return pathlib.Path(directory or default).expanduser()


def _open(
  layout: raw.Layout, folder: pathlib.Path, dataset: raw.RawDataset
) -> tfds.core.DatasetBuilder:
  """Its builder; UserError if something else was prepared than the images."""
  try:
    builder = make_builder(layout, folder, dataset)
    found = {k: s.num_examples for k, s in builder.info.splits.items()}
  except Exception as error:  # protobuf's, of a damaged file
    what = f'its dataset_info.json cannot be read: {_first_line(error)}'
    raise _damaged(folder / layout.dataset, what) from error
  images = {k: len(split) for k, split in dataset.splits.items() if split}
  if builder.data_path.exists() and found != images:
    what = f'its dataset_info.json tells of {found} images, not {images}'
    raise _damaged(builder.data_path, what)
  return builder


def make_builder(
  layout: raw.Layout,
  folder: pathlib.Path,
  dataset: raw.RawDataset | None = None,
) -> tfds.core.DatasetBuilder:
  """The builder of a layout, which writes to or reads from `folder`."""
  name = layout.dataset
  module = importlib.import_module(f'data.{name}.{name}_dataset_builder')
  return module.Builder(
    dataset=dataset,
    data_dir=folder,
    config=layout.variant or None,
    file_format='array_record',
  )


def damaged(
  builder: tfds.core.DatasetBuilder, split: str, error: Exception
) -> UserError:
  """What to raise where a split of a prepared data set cannot be read."""
  files = [pathlib.Path(f) for f in builder.info.splits[split].filepaths]
  found = [f'{file} is missing' for file in files if not file.is_file()]
  found += [f'{file} is damaged' for file in files if not _is_whole(file)]
  what = found[0] if found else f'its {split} split cannot be read'
  return _damaged(builder.data_path, f'{what}: {_first_line(error)}')


def _damaged(folder: os.PathLike, what: str) -> UserError:
  return UserError(
    f'the prepared data set {folder} is damaged: {what}.\nDelete this folder:'
    ' it is made anew of the raw images.'
  )


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [''])[0][:200] or type(error).__name__


def _is_whole(file: pathlib.Path) -> bool:
  try:
    with array_record_data_source.ArrayRecordDataSource([file]) as records:
      for _ in records:
        pass
  except Exception:  # of whatever kind
    return False
  return True


def _write(
  builder: tfds.core.DatasetBuilder,
  dataset: raw.RawDataset,
  folder: pathlib.Path,
) -> None:
  root = folder.parent
  root.mkdir(parents=True, exist_ok=True)
  with _alone(root):
    if builder.data_path.exists():  # another process was faster
      return
    _clear(builder, folder)  # what an interrupted process left behind
    _check_room(dataset, root)
    tfds.disable_progress_bar()  # checking the images shows one already
    try:
      with contextlib.redirect_stdout(io.StringIO()):  # TFDS misses its sizes
        builder.download_and_prepare(
          download_config=tfds.download.DownloadConfig(manual_dir=dataset.root)
        )
    except BaseException as error:
      _clear(builder, folder)
      # Of ArrayRecord, and of TFDS's own files, which large splits need.
      of_writer = isinstance(error, RuntimeError) and 'write()' in str(error)
      if of_writer or isinstance(error, tf.errors.OpError):
        raise OSError(f'{root} cannot be written to: {error}') from error
      raise


def _clear(builder: tfds.core.DatasetBuilder, folder: pathlib.Path) -> None:
  """Removes what is half-written. TFDS gives its name to what is whole."""
  for name in (builder.name, 'downloads'):
    shutil.rmtree(folder / name, ignore_errors=True)
  with contextlib.suppress(OSError):  # it holds another data set
    folder.rmdir()


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
  """Lets one process at a time prepare data sets in a folder."""
  with (folder / '.lock').open('w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(f'Waiting for another process to prepare in {folder}', flush=True)
      fcntl.flock(lock, fcntl.LOCK_EX)
    yield


def _check_room(dataset: raw.RawDataset, folder: pathlib.Path) -> None:
  images = [i for split in dataset.splits.values() for i in split]
  files = {image.path for image in images}
  needed = sum(file.stat().st_size for file in files)
  needed += BYTES_PER_RECORD * len(images)
  free = shutil.disk_usage(folder).free
  if needed > free:
    raise OSError(
      f'{folder} has room for {free / 1e6:,.0f} MB; preparing the data set'
      f' needs about {needed / 1e6:,.0f} MB. config.data.prepared_dir names'
      ' another place.'
    )
