"""Reads folders of images: one folder for each identity."""

import collections
from collections.abc import Iterable, Mapping, Sequence
import pathlib
import re

from apnet_jax.errors import UserError
from apnet_jax.images import is_hidden
from data import raw
from data.folder.entries import SPLIT_NAMES, Named

# Names of folders that are cameras rather than people.
CAMERA_NAME = re.compile(
  r'(cam|camera|view)s?([-_ ].+|\d{1,3}|[a-z])?|c[-_ ]?\d{1,3}', re.IGNORECASE
)
FEW_NUMBERS = 10  # as many files may be numbered alike in folders of people

# Folders of images, by split; the only key is None if there are no splits.
Folders = Mapping[str | None, list[pathlib.Path]]


def find(root: pathlib.Path) -> Folders:
  """Returns the folders of identities in a folder, by split.

  Args:
    root: a folder that holds the folders of identities, or folders of splits
      which hold these.
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
  """Returns the subfolders of a folder that hold images, if not hidden."""
  return sorted(
    path
    for path in folder.iterdir()
    if path.is_dir() and not is_hidden(path.name) and raw.list_images(path)
  )


def read(root: pathlib.Path) -> tuple[list[Named], tuple[str, ...]]:
  """Reads images from one folder for each identity.

  The folders of identities may be inside folders of splits.

  Returns:
    The images, and notes for the user.

  Raises:
    UserError: folders of splits and folders of identities are mixed up.
  """
  folders = find(root)
  _check_splits(root, folders)
  images = [
    (split, folder, path)
    for split, paths in folders.items()
    for folder in paths
    for path in raw.list_images(folder)
  ]
  cameras = [raw.MARKET_NAME.match(path.name) for _, _, path in images]
  notes = ('a folder for each identity',)
  if all(cameras):
    notes = (*notes, "cameras from file names, in Market-1501's naming")
  return [
    Named(
      name=path.relative_to(root).as_posix(),
      path=path,
      identity=folder.name,
      camera=str(int(camera[2])) if all(cameras) else None,
      split=split,
    )
    for (split, folder, path), camera in zip(images, cameras)
  ], notes


def _check_splits(root: pathlib.Path, folders: Folders) -> None:
  """Raises UserError if folders of splits and of identities are mixed up."""
  if None in folders:
    like_splits = [f.name for f in folders[None] if f.name in SPLIT_NAMES]
    if like_splits:
      raise UserError(
        f'{root}: the folders {", ".join(like_splits)} have names of splits,'
        ' but hold images: they must hold a folder of images for each identity.'
      )
    return
  others = {path.name for path in _image_folders(root)} - {*SPLIT_NAMES}
  if others:
    raise UserError(
      f'{root} holds folders of splits ({", ".join(folders)}) and also'
      f' folders of images: {", ".join(sorted(others)[:5])}. Move these'
      ' into a split.'
    )


def find_cameras(images: Sequence[Named]) -> str:
  """Returns the reason why folders seem to be cameras instead of people, or ''.

  They are if most have names of cameras; or if most of their files have the
  same names as files in other folders, and there are more of these names than
  folders. Folders of people may hold a few files of the same numbers, as 1.jpg
  and 2.jpg.

  Args:
    images: the result of `read`.
  """
  folders = {}  # names of files, by folder
  for image in images:
    folders.setdefault(image.identity, set()).add(image.path.name)
  cameras = [name for name in folders if CAMERA_NAME.fullmatch(name)]
  if len(cameras) > 1 and len(cameras) > len(folders) / 2:
    return f'the folders {_shown(cameras)} are named like cameras'
  times = collections.Counter(n for names in folders.values() for n in names)
  shared = {name for name, number in times.items() if number > 1}
  numbers = all(pathlib.Path(name).stem.isdecimal() for name in shared)
  few = max(len(folders), FEW_NUMBERS if numbers else 0)
  if len(shared) > max(few, len(times) / 2):
    return (
      f'the {len(folders)} folders {_shown(folders)} share {len(shared)} names'
      ' of files, as folders of cameras do'
    )
  return ''


def _shown(names: Iterable[str]) -> str:
  """Returns the first three names, in order, for a message."""
  names = sorted(names)
  return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
