"""Reads the user's images, from a CSV file or a folder for each identity."""

import collections
from collections.abc import Iterable, Mapping
import csv
import dataclasses
import hashlib
import pathlib
import re
from typing import Any

from apnet_jax.config import check_section
from apnet_jax.errors import UserError
from data import raw

COLUMNS = ('path', 'pid', 'camid', 'split')  # the last two are optional
# Names of splits; `test` becomes query and gallery.
SPLIT_NAMES = (*raw.SPLITS, 'test')


@dataclasses.dataclass(frozen=True)
class Entry:
  """An image before its split is decided.

  Attributes:
    name: path of the image relative to the folder of the data set.
    path: the image file.
    pid: number of the identity.
    identity: name of the identity. Random splits depend on the name, because
      the number may change when people are added.
    camid: camera, from 0; None if it is unknown.
    split: one of `SPLIT_NAMES`; None if it is not given.
  """

  name: str
  path: pathlib.Path
  pid: int
  identity: str
  camid: int | None
  split: str | None


@dataclasses.dataclass(frozen=True, eq=False)
class FolderLayout(raw.Layout):
  """Reader of the user's own images, which makes splits if none are given.

  Attributes:
    split_seed: seed of the splits that are made.
    test_fraction: approximate fraction of the identities to test on; 1 is all.
  """

  split_seed: int = 0
  test_fraction: float = 0.5

  def configured(self, data_config: Mapping[str, Any]) -> 'FolderLayout':
    check_section('data', data_config)
    return dataclasses.replace(
      self,
      split_seed=data_config['split_seed'],
      test_fraction=data_config['test_fraction'],
    )

  def missing(self, root: pathlib.Path) -> list[str]:
    return [] if _reader(root) else ['images in any layout']

  def read_root(self, root: pathlib.Path) -> raw.RawDataset:
    entries, notes = _reader(root)(root)
    return self._dataset(root, entries, notes)

  def _dataset(
    self, root: pathlib.Path, entries: list[Entry], notes
  ) -> raw.RawDataset:
    _check_split_names(root, {entry.split for entry in entries})
    made = all(entry.split is None for entry in entries)
    if made:
      entries, note = self._make_splits(root, entries)
      notes = (*notes, note)
    has_cameras = entries[0].camid is not None
    if not has_cameras:
      notes = (
        *notes,
        'no cameras: each query is compared with all images except itself',
      )
      # With a camera of its own, each image removes only itself.
      number = {n: i for i, n in enumerate(sorted({e.name for e in entries}))}
      entries = [
        dataclasses.replace(entry, camid=number[entry.name])
        for entry in entries
      ]
    return raw.RawDataset(
      root if root.is_dir() else root.parent,
      _group_by_split(root, entries, has_cameras),
      has_cameras,
      notes,
      made,
    )

  def _make_splits(
    self, root: pathlib.Path, entries: list[Entry]
  ) -> tuple[list[Entry], str]:
    """Assigns all images of an identity to the split `train` or `test`.

    Returns:
      The entries with their splits, and a note for the user on how they were
      made.

    Raises:
      UserError: an image has identity 0, or the identities are too few.
    """
    if any(entry.pid == raw.DISTRACTOR_PID for entry in entries):
      raise UserError(
        f'{root}: identity 0 means a distractor, for which no split can be'
        ' made: number people from 1.'
      )
    people = {e.identity for e in entries if e.pid != raw.JUNK_PID}
    test = _test_identities(people, self.split_seed, self.test_fraction)
    if not test or (self.test_fraction < 1 and len(people - test) < 2):
      raise UserError(
        f'{root}: {len(people)} identities are too few to make splits: at least'
        ' 3 are needed, or config.data.test_fraction=1 to evaluate only.'
      )
    note = (
      f'splits made by identity, seed {self.split_seed}:'
      f' {len(people - test)} to train on, {len(test)} to test on'
    )
    return [
      dataclasses.replace(
        entry, split='train' if entry.identity in people - test else 'test'
      )
      for entry in entries
    ], note


def _test_identities(people: set[str], seed: int, fraction: float) -> set[str]:
  """Chooses the identities to test on.

  Each identity is assigned by a hash of its name, regardless of other
  identities. A network trained before people were added was therefore not
  trained on anybody who is tested on afterwards. (The exception: with a
  fraction below 1, at least one of three or more identities is tested on, and
  at least two are trained on.)

  Args:
    people: names of all identities.
    seed: seed of the hash.
    fraction: approximate fraction of the identities to test on.

  Returns:
    Names of the identities to test on.
  """
  draws = {
    name: int(hashlib.sha256(f'{seed}/{name}'.encode()).hexdigest()[:12], 16)
    for name in people
  }
  order = sorted(people, key=draws.get)
  size = sum(value < fraction * 16**12 for value in draws.values())
  if fraction < 1:
    size = min(max(size, 1), max(len(people) - 2, 0))
  return set(order[:size])


def _group_by_split(
  root: pathlib.Path, entries: Iterable[Entry], has_cameras: bool
) -> raw.Splits:
  """Groups images by split; the split `test` becomes query and gallery."""
  splits = {split: [] for split in raw.SPLITS}
  test = []
  for entry in sorted(entries, key=lambda entry: entry.name):
    image = raw.RawImage(entry.name, entry.path, entry.pid, entry.camid)
    (test if entry.split == 'test' else splits[entry.split]).append(image)
  if test:
    splits['query'] += _choose_queries(root, test, has_cameras)
    splits['gallery'] += test
  return splits


def _choose_queries(
  root: pathlib.Path, test: list[raw.RawImage], has_cameras: bool
) -> list[raw.RawImage]:
  """Chooses the queries among the images of the split `test`.

  With cameras, the queries are the first image of each identity under each
  camera, for identities that several cameras saw. Without cameras, every image
  of a person is a query. The gallery holds all images of the split. Evaluation
  removes the query from the gallery by its identity and camera.

  Raises:
    UserError: cameras are known, but no identity is seen by two of them.
  """
  people = [image for image in test if image.pid > raw.DISTRACTOR_PID]
  if not has_cameras:
    return people
  first = {}
  for image in people:
    first.setdefault((image.pid, image.camid), image)
  cameras = collections.Counter(pid for pid, _ in first)
  if people and max(cameras.values()) == 1:
    raise UserError(
      f'{root}: none of the {len(cameras)} identities to test on is seen by two'
      ' cameras. Without camera ids, each image is compared with all others.'
    )
  return [image for image in first.values() if cameras[image.pid] > 1]


def _check_split_names(root: pathlib.Path, names: set[str | None]) -> None:
  """Raises UserError if `test` is given together with query or gallery."""
  both = sorted(names & {'query', 'gallery'})
  if 'test' in names and both:
    raise UserError(
      f'{root}: the split test, which becomes query and gallery, cannot be'
      f' given together with {" and ".join(both)}.'
    )


# Readers of the layouts


def _reader(root: pathlib.Path):
  """Chooses the function that reads a CSV file or a folder of own images.

  Returns:
    A function from `root` to the entries and notes for the user; None if `root`
    is in no known layout.
  """
  if root.is_file():
    return _read_csv if root.suffix.lower() == '.csv' else None
  if not root.is_dir():
    return None
  if list(root.glob('*.[cC][sS][vV]')):
    return _read_only_csv
  if not raw.missing_folders(root):
    return _read_market_folders
  if _folders(root):
    return _read_folders
  return None


def _read_only_csv(root: pathlib.Path):
  files = sorted(root.glob('*.[cC][sS][vV]'))
  if len(files) > 1:
    raise UserError(
      f'{root} has several CSV files: give the one that lists the images, as'
      f' config.data.dir.\n{raw.format_lines(file.name for file in files)}'
    )
  return _read_csv(files[0])


def _read_csv(file: pathlib.Path) -> tuple[list[Entry], tuple[str, ...]]:
  """Reads a CSV file with the columns path, pid, and optionally camid, split.

  Raises:
    UserError: the file is invalid; the message names the line.
  """
  listed, entries = raw.ListedFiles(file.parent, file), []
  for number, row in _rows(file):
    where = f'{file}, line {number}'
    pid = _number(row, 'pid', raw.JUNK_PID, where)
    camid = _number(row, 'camid', 0, where) if row.get('camid') else None
    split = row.get('split') or None
    if split not in (None, *SPLIT_NAMES):
      raise UserError(
        f'{where}: split {split!r} is not one of {", ".join(SPLIT_NAMES)}.'
      )
    path = listed.find(row['path'], number)
    if path:
      name = path.relative_to(file.parent).as_posix()
      entries.append(Entry(name, path, pid, str(pid), camid, split))
  raw.check_all_found([listed])
  for field in ('camid', 'split'):
    given = [getattr(entry, field) is not None for entry in entries]
    if any(given) and not all(given):
      raise UserError(
        f'{file}: {given.count(False)} of {len(given)} lines have no {field}:'
        ' either all have one or none has.'
      )
  return entries, (f'listed in {file.name}',)


def _rows(file: pathlib.Path) -> Iterable[tuple[int, dict[str, str]]]:
  """Yields the rows of a CSV file: line number, and fields by column name.

  The columns may be in any order, and their names in upper or lower case.

  Raises:
    UserError: the file is not a valid CSV file with the required columns.
  """
  try:
    # Accepts a byte-order mark and any line ends.
    with file.open(encoding='utf-8-sig', newline='') as lines:
      reader = csv.reader(lines, strict=True)
      header = [name.strip().lower() for name in next(reader, [])]
      missing = [name for name in COLUMNS[:2] if name not in header]
      if missing:
        raise UserError(
          f'{file} has no column {" and ".join(missing)}. Its first line must'
          f' name the columns {",".join(COLUMNS)}; the last two are optional.'
          f' It is: {",".join(header)[:200]}'
        )
      twice = sorted({name for name in COLUMNS if header.count(name) > 1})
      if twice:
        raise UserError(f'{file} has two columns {" and ".join(twice)}.')
      for fields in reader:
        if fields and len(fields) != len(header):
          raise UserError(
            f'{file}, line {reader.line_num}: {len(fields)} fields instead of'
            f' {len(header)}.'
          )
        if fields:
          values = (field.strip() for field in fields)
          yield reader.line_num, dict(zip(header, values))
  except UnicodeDecodeError as error:
    raise UserError(f'{file} is not a text file in UTF-8: {error}.') from error
  except csv.Error as error:
    raise UserError(f'{file}, line {reader.line_num}: {error}.') from error


def _number(row: Mapping[str, str], name: str, low: int, where: str) -> int:
  """Converts a CSV field to a whole number.

  Args:
    row: fields of a line, by column name.
    name: column of the field.
    low: smallest allowed number.
    where: file and line, for messages.

  Raises:
    UserError: the field is no whole number from `low` to `raw.MAX_ID`.
  """
  text = row[name]
  if not re.fullmatch(r'-?\d{1,10}', text, re.ASCII):
    raise UserError(f'{where}: {name} {text!r} is not a whole number.')
  if not low <= int(text) <= raw.MAX_ID:
    raise UserError(
      f'{where}: {name} {text} is not from {low} to {raw.MAX_ID}.'
    )
  return int(text)


def _read_market_folders(root: pathlib.Path):
  return [
    Entry(i.name, i.path, i.pid, str(i.pid), i.camid, split)
    for split, images in raw.read_market_folders(root).items()
    for i in images
  ], ("Market-1501's layout",)


def _folders(root: pathlib.Path) -> dict[str | None, list[pathlib.Path]]:
  """Returns the folders of identities, by split.

  If these folders are directly in `root`, without folders of splits, the only
  key is None.
  """
  found = {
    split: _image_folders(root / split)
    for split in SPLIT_NAMES
    if (root / split).is_dir()
  }
  if not any(found.values()):
    found = {None: _image_folders(root)}
  return {split: folders for split, folders in found.items() if folders}


def _image_folders(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the subfolders of a folder that hold images."""
  return sorted(
    path for path in folder.iterdir() if path.is_dir() and _images(path)
  )


def _images(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns a folder's images, except hidden files, which macOS creates."""
  images = raw.list_images(folder)
  hidden = folder.name.startswith('.')
  return [] if hidden else [i for i in images if i.name[0] != '.']


def _read_folders(root: pathlib.Path):
  """Reads images from one folder for each identity.

  The folders of identities may be inside folders of splits. If all of them are
  named by numbers, these become the pids. Otherwise, or if identity 0 occurs
  without folders of splits, pids are numbered from 1 in name order.

  Returns:
    The entries, and notes for the user.

  Raises:
    UserError: folders of splits and folders of identities are mixed up.
  """
  folders = _folders(root)
  if None in folders:
    like_splits = [f.name for f in folders[None] if f.name in SPLIT_NAMES]
    if like_splits:
      raise UserError(
        f'{root}: the folders {", ".join(like_splits)} have names of splits,'
        ' but hold images: they must hold a folder of images for each identity.'
      )
  else:
    others = {path.name for path in _image_folders(root)} - {*SPLIT_NAMES}
    if others:
      raise UserError(
        f'{root} holds folders of splits ({", ".join(folders)}) and also'
        f' folders of images: {", ".join(sorted(others)[:5])}. Move these'
        ' into a split.'
      )
  names = sorted({path.name for paths in folders.values() for path in paths})
  numbered = all(re.fullmatch(r'-1|\d{1,9}', n, re.ASCII) for n in names)
  if numbered and not (None in folders and any(int(n) == 0 for n in names)):
    numbers = {name: int(name) for name in names}
    notes = ('a folder for each identity',)
  else:  # numbers with 0, which would be a distractor, or names
    numbers = {name: i for i, name in enumerate(names, 1)}
    notes = ('a folder for each identity, numbered from 1 in name order',)
  images = [
    (split, folder, path)
    for split, paths in folders.items()
    for folder in paths
    for path in _images(folder)
  ]
  cameras = [raw.MARKET_NAME.match(path.name) for _, _, path in images]
  if all(cameras):
    notes = (*notes, "cameras from file names, in Market-1501's naming")
  return [
    Entry(
      name=path.relative_to(root).as_posix(),
      path=path,
      pid=numbers[folder.name],
      identity=folder.name,
      camid=int(camera[2]) if all(cameras) else None,
      split=split,
    )
    for (split, folder, path), camera in zip(images, cameras)
  ], notes


# Splits as a file


def write_csv(dataset: raw.RawDataset, file: pathlib.Path) -> None:
  """Writes a data set to a CSV file, from which it can be read again.

  The file is written whole or not at all.

  Args:
    dataset: the data set.
    file: the file to write. To be read, it must be in `dataset.root`, which its
      paths are relative to.
  """
  columns = list(COLUMNS)
  if not dataset.has_cameras:
    columns.remove('camid')
  part = file.with_suffix('.part')
  with part.open('w', encoding='utf-8', newline='') as lines:
    writer = csv.writer(lines)
    writer.writerow(columns)
    for split in raw.SPLITS:
      for image in dataset.splits[split]:
        row = {
          'path': image.name, 'pid': image.pid, 'camid': image.camid,
          'split': split,
        }  # fmt: skip
        writer.writerow([row[column] for column in columns])
  part.replace(file)


LAYOUT = FolderLayout(
  dataset='folder',
  title='images of your own',
  homepage='',
  how_to_get="""\
Give one of
  a CSV file, or the folder that holds it, with the columns path,pid,camid,split
    (paths from that folder; camid and split are optional);
  a folder with a folder of images for each identity;
  a folder with the folders train, query and gallery, or train and test, each
    with a folder of images for each identity;
  a folder in Market-1501's layout.
data/folder/README.md has examples.""",
)
