"""Reads the user's own images, and makes splits if none are given."""

import collections
from collections.abc import Iterable, Mapping
import dataclasses
import hashlib
import pathlib
import shlex
from typing import Any

from apnet_jax.config import check_section
from apnet_jax.errors import UserError
from apnet_jax.feed import IGNORE_CAMERAS
from apnet_jax.images import FORMAT_NAMES, files_below, images_below
from apnet_jax.printing import counted
from data import raw
from data.folder import csv_file, identity_folders, pattern, schemes
from data.folder.entries import Entry, Named, note_on_left_out, number


@dataclasses.dataclass(frozen=True, eq=False)
class FolderLayout(raw.Layout):
  """Reader of the user's own images, which makes splits if none are given.

  Attributes:
    split_seed: seed of the splits that are made.
    test_fraction: approximate fraction of the identities to test on; 1 is all.
    pattern: regular expression that finds labels in paths, or ''; see
      `data.folder.pattern`.
    folders_are_people: accepts folders that look like cameras as people.
  """

  split_seed: int = 0
  test_fraction: float = 0.5
  pattern: str = ''
  folders_are_people: bool = False

  def configured(self, data_config: Mapping[str, Any]) -> 'FolderLayout':
    check_section('data', data_config)
    return dataclasses.replace(
      self,
      split_seed=data_config['split_seed'],
      test_fraction=data_config['test_fraction'],
      pattern=data_config['pattern'],
      folders_are_people=data_config['folders_are_people'],
      ignore_cameras=data_config['ignore_cameras'],
    )

  def missing(self, root: pathlib.Path) -> list[str]:
    if self.pattern:
      return [] if root.is_dir() else ['folder of images']
    return [] if _form(root) else ['images in any layout']

  def more_queries(self, dataset: raw.RawDataset) -> list[raw.RawImage]:
    """Lists the test images of which only the first became a query."""
    queries = dataset.splits['query']
    chosen = {image.name for image in queries}
    gallery = dataset.splits['gallery']
    tested = {image.name for image in gallery}
    keys = {(i.pid, i.camid) for i in queries if i.name in tested}
    return [
      image
      for image in gallery
      if (image.pid, image.camid) in keys and image.name not in chosen
    ]

  def read_root(self, root: pathlib.Path) -> raw.RawDataset:
    form = PATTERN if self.pattern else _form(root)
    if form == CSV:  # the list alone says which images there are
      return self._numbered(root, *csv_file.read(_csv_file(root)))
    if form == PATTERN:
      images, notes = pattern.read(root, self.pattern)
      notes = (*notes, *_note_on_lists(root))
      dataset = self._numbered(root, images, notes)
    elif form == MARKET:
      dataset = self._dataset(root, *_read_market_folders(root))
    else:
      dataset = self._read_identity_folders(root)
    notes = (*dataset.notes, *_note_on_formats(root))
    return dataclasses.replace(dataset, notes=notes)

  def _read_identity_folders(self, root: pathlib.Path) -> raw.RawDataset:
    images, notes = identity_folders.read(root)
    doubt = None if self.folders_are_people else _find_doubt(root, images)
    try:
      dataset = self._numbered(root, images, notes)
    except UserError as error:
      if doubt:
        raise doubt.error() from error
      if schemes.vehicle_id_command(root):
        raise UserError(
          f'{root} seems to be VehicleID, whose labels stand in lists:'
          f' `python -m data.doctor {shlex.quote(str(root))}` prints a command'
          ' that makes a CSV file of them.'
        ) from error
      raise
    return dataclasses.replace(dataset, doubt=doubt)

  def _numbered(
    self, root: pathlib.Path, images: list[Named], notes: tuple[str, ...]
  ) -> raw.RawDataset:
    """Makes a data set of images with named labels."""
    entries, more_notes = number(root, images)
    dataset = self._dataset(root, entries, (*notes, *more_notes))
    return dataclasses.replace(dataset, first_camera=0)

  def _dataset(
    self, root: pathlib.Path, entries: list[Entry], notes: tuple[str, ...]
  ) -> raw.RawDataset:
    _check_split_names(root, {entry.split for entry in entries})
    made = all(entry.split is None for entry in entries)
    if made:
      entries, note = self._make_splits(root, entries)
      notes = (*notes, note)
    has_cameras = entries[0].camid is not None and not self.ignore_cameras
    dataset = raw.RawDataset(
      root if root.is_dir() else root.parent,
      _group_by_split(root, entries, has_cameras),
      has_cameras=True,
      notes=notes,
      splits_made=made,
    )
    return dataset if has_cameras else raw.without_cameras(dataset)

  def _make_splits(
    self, root: pathlib.Path, entries: list[Entry]
  ) -> tuple[list[Entry], str]:
    """Assigns all images of an identity to the split `train` or `test`.

    Returns:
      The entries with their splits, and a note for the user on how they were
      made.

    Raises:
      UserError: the identities are too few.
    """
    people = {e.identity for e in entries if e.pid > raw.DISTRACTOR_PID}
    test = _test_identities(people, self.split_seed, self.test_fraction)
    if not test or (self.test_fraction < 1 and len(people - test) < 2):
      raise UserError(
        f'{root}: to make splits, at least 3 identities are needed, not'
        f' {len(people)}; or set config.data.test_fraction=1 to evaluate only.'
      )
    train = people - test
    note = (
      f'splits made by identity, seed {self.split_seed}:'
      f' {len(train)} to train on, {len(test)} to test on'
    )
    return [
      dataclasses.replace(
        entry,
        split='train'
        if entry.pid > raw.DISTRACTOR_PID and entry.identity in train
        else 'test',
      )
      for entry in entries
    ], note


def _test_identities(people: set[str], seed: int, fraction: float) -> set[str]:
  """Chooses the identities to test on.

  Each identity is assigned by a hash of its name (or number, without leading
  zeros), regardless of other identities. A network trained before people were
  added was therefore not trained on anybody who is tested on afterwards. (The
  exception: with a fraction below 1, at least one of three or more identities
  is tested on, and at least two are trained on.)

  Args:
    people: names of all identities.
    seed: seed of the hash.
    fraction: approximate fraction of the identities to test on.

  Returns:
    Names of the identities to test on.
  """
  draws = {}
  for name in people:
    # A folder 0001 and the 1 of a CSV file are the same person.
    plain = str(int(name)) if name.isascii() and name.isdigit() else name
    digest = hashlib.sha256(f'{seed}/{plain}'.encode()).hexdigest()
    draws[name] = int(digest[:12], 16)
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
    image = raw.RawImage(entry.name, entry.path, entry.pid, entry.camid or 0)
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
      f' cameras. {IGNORE_CAMERAS}'
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


# Forms in which images may be given
CSV, MARKET, FOLDERS, PATTERN = 'csv', 'market', 'folders', 'pattern'


def _form(root: pathlib.Path) -> str | None:
  """Returns the form in which images are given; None if it is unknown."""
  if root.is_file():
    return CSV if root.suffix.lower() == '.csv' else None
  if not root.is_dir():
    return None
  if csv_file.files_in(root):
    return CSV
  if not raw.missing_folders(root):
    return MARKET
  return FOLDERS if identity_folders.are_in(root) else None


def _csv_file(root: pathlib.Path) -> pathlib.Path:
  """Returns a CSV file, or the only one in a folder.

  Raises:
    UserError: the folder has several.
  """
  if root.is_file():
    return root
  files = csv_file.files_in(root)
  if len(files) > 1:
    raise UserError(
      f'{root} has several CSV files: give the one that lists the images, as'
      f' config.data.dir.\n{raw.format_lines(file.name for file in files)}'
    )
  return files[0]


def _read_market_folders(
  root: pathlib.Path,
) -> tuple[list[Entry], tuple[str, ...]]:
  """Reads Market-1501's layout, which gives identities 0 and -1 a meaning."""
  splits = raw.read_market_folders(root)
  entries = [
    Entry(i.name, i.path, i.pid, str(i.pid), i.camid, split)
    for split, images in splits.items()
    for i in images
  ]
  all_names = {path.relative_to(root).as_posix() for path in images_below(root)}
  others = sorted(all_names - {entry.name for entry in entries})
  folders = ', '.join(raw.MARKET_FOLDERS.values())
  return entries, (
    "Market-1501's layout",
    *raw.market_notes(splits),
    *note_on_left_out(others, len(all_names), f'are not directly in {folders}'),
  )


def _note_on_lists(root: pathlib.Path) -> tuple[str, ...]:
  """Returns a note if a pattern is given where a CSV file has labels, too."""
  names = ', '.join(file.name for file in csv_file.files_in(root))
  return (f'not read, as there is a pattern: {names}',) if names else ()


def _note_on_formats(root: pathlib.Path) -> tuple[str, ...]:
  """Returns a warning if images below a folder have formats that are not read.

  People of whom there are no others would be missing without a word.
  """
  others = sorted(
    path.relative_to(root).as_posix()
    for path in files_below(root)
    if path.suffix.lower() in raw.OTHER_FORMATS
  )
  if not others:
    return ()
  return (
    f'warning: {counted(len(others), "image")} in other formats than'
    f' {FORMAT_NAMES}, to be converted, or left out as now:\n'
    + raw.format_lines(others),
  )


def _find_doubt(root: pathlib.Path, images: list[Named]) -> raw.Doubt | None:
  """Returns a doubt if folders seem not to be one person each."""
  names = [image.name for image in images]
  if reason := identity_folders.find_several_people(root, images):
    pattern = schemes.suggest_for_market_names(names)
  elif reason := identity_folders.find_cameras(images):
    pattern = schemes.suggest_for_cameras(names)
  else:
    return None
  return raw.Doubt(f'{root}: {reason}.', pattern)


LAYOUT = FolderLayout(
  dataset='folder',
  title='images of your own',
  homepage='',
  how_to_get="""\
Give one of
  a CSV file, or the folder that holds it, with the columns path,pid and
    optionally camid,split,role (paths from that folder);
  any folder, with a pattern that finds the labels in the paths
    (config.data.pattern);
  a folder with a folder of images for each identity;
  a folder with the folders train, query and gallery, or train and test,
    each with a folder of images for each identity;
  a folder in Market-1501's layout.
data/folder/README.md has examples.""",
)
