"""Reads folders of images: one folder for each identity."""

import collections
from collections.abc import Iterable, Mapping, Sequence
import pathlib
import re
import shlex

from apnet_jax.errors import UserError
from apnet_jax.images import images_below, is_hidden, is_image
from data import raw
from data.folder import schemes
from data.folder.entries import SPLIT_NAMES, Named, note_on_left_out

# Names of folders that are cameras rather than people.
CAMERA_NAME = re.compile(
  r'(cam|camera|view)s?([-_ ].+|\d{1,3}|[a-z])?|c[-_ ]?\d{1,3}', re.IGNORECASE
)
# Names of files that say a camera but no person.
CAMERA_AND_NUMBERS = re.compile(
  r'[\d_ -]*cam(era)?[\d_ -]+\.\w+$', re.IGNORECASE
)
# Names of folders that are splits rather than people, in lower case.
LIKE_SPLITS = (*SPLIT_NAMES, 'training', 'testing', 'validation')
FEW_NUMBERS = 10  # as many files may be numbered alike in folders of people

# Images by split and identity; the only split is None if there are no splits.
People = Mapping[str | None, Mapping[str, list[pathlib.Path]]]
# Images by their folder, whose path is that from the root, in parts.
ByFolder = Mapping[tuple[str, ...], list[pathlib.Path]]


def are_in(root: pathlib.Path) -> bool:
  """Returns whether a folder seems to hold folders of identities.

  They may be in folders of splits. A folder that cannot be read counts as one,
  so that `read` names it.
  """
  splits = (root / split for split in SPLIT_NAMES)
  parents = [root, *(folder for folder in splits if folder.is_dir())]
  return any(map(_has_folder_of_images, parents))


def _has_folder_of_images(parent: pathlib.Path) -> bool:
  try:
    return any(
      path.is_dir() and not is_hidden(path.name) and _has_image(path)
      for path in parent.iterdir()
    )
  except OSError:
    return True


def _has_image(folder: pathlib.Path) -> bool:
  return any(is_image(path) and not path.is_dir() for path in folder.iterdir())


def read(root: pathlib.Path) -> tuple[list[Named], tuple[str, ...]]:
  """Reads images from one folder for each identity.

  The folders of identities may be inside folders of splits.

  Returns:
    The images, and notes for the user, which count and name the images below
    the folder that are elsewhere.

  Raises:
    UserError: folders of splits and folders of identities are mixed up, there
      are no images, or a folder cannot be read.
  """
  found = _images_by_folder(root)
  people = _people(found)
  _check_splits(root, found, people)
  images = [
    (split, identity, path)
    for split, named in people.items()
    for identity, paths in named.items()
    for path in paths
  ]
  if not images:
    raise UserError(f'{root} has no folder with images for each identity.')
  cameras = [raw.MARKET_NAME.match(path.name) for _, _, path in images]
  notes = ('a folder for each identity', *_note_on_others(root, found, people))
  if all(cameras):
    notes = (*notes, "cameras from file names, in Market-1501's naming")
  elif any(cameras):
    others = sorted(
      path.relative_to(root).as_posix()
      for (_, _, path), camera in zip(images, cameras)
      if not camera
    )
    notes = (*notes, _no_cameras(others, len(images)))
  else:
    notes = (*notes, *_note_on_file_cameras(people, images))
  return [
    Named(
      name=path.relative_to(root).as_posix(),
      path=path,
      identity=identity,
      camera=str(int(camera[2])) if all(cameras) else None,
      split=split,
    )
    for (split, identity, path), camera in zip(images, cameras)
  ], notes


def _no_cameras(others: list[str], total: int) -> str:
  """Returns a note that the names of some images give no camera.

  Args:
    others: these names.
    total: number of all images.
  """
  named = total - len(others)
  return (
    f'{"warning: " if 2 * named > total else ""}{named:,} of {total:,} names'
    ' begin as in Market-1501; these do not, so that no cameras are read:\n'
    + raw.format_lines(others)
  )


def _note_on_file_cameras(
  people: People, images: Iterable[tuple[str | None, str, pathlib.Path]]
) -> tuple[str, ...]:
  """Returns a note if all files say one of several cameras, as cam1_2.jpg.

  Args:
    people: the images by split and identity.
    images: split, identity and path of each image.
  """
  found = [re.search(schemes.FILE_CAMERA, path.name) for *_, path in images]
  named = {match['camid'] for match in found if match}
  if not all(found) or len(named) < 2:
    return ()
  pattern = schemes.suggest_for_cameras_in_files(None not in people)
  return (
    'the names of files say a camera, which is not read. To read it, set\n'
    f'  --config.data.pattern={shlex.quote(pattern)}\n'
    '  (eval.py and the doctor: --pattern)',
  )


def _images_by_folder(root: pathlib.Path) -> ByFolder:
  """Returns all images in and below a folder; raises UserError if it cannot."""
  by_parent = {}
  for path in images_below(root):
    by_parent.setdefault(path.parent, []).append(path)
  return {
    parent.relative_to(root).parts: paths for parent, paths in by_parent.items()
  }


def _people(found: ByFolder) -> People:
  """Returns the images in folders of identities, by split and identity."""
  people = {
    split: {
      parts[1]: paths
      for parts, paths in found.items()
      if len(parts) == 2 and parts[0] == split
    }
    for split in SPLIT_NAMES
  }
  if not any(people.values()):
    people = {None: {p[0]: paths for p, paths in found.items() if len(p) == 1}}
  return {split: named for split, named in people.items() if named}


def _check_splits(root: pathlib.Path, found: ByFolder, people: People) -> None:
  """Raises UserError if folders of splits and of identities are mixed up."""
  if None in people:
    like_splits = [n for n in people[None] if n.lower() in LIKE_SPLITS]
    if like_splits:
      raise UserError(
        f'{root}: the folders {", ".join(like_splits)} have names of splits,'
        ' but hold images: they must hold a folder of images for each identity.'
        ' Or say by a pattern where a path has the labels (eval.py and the'
        ' doctor: --pattern), as\n'
        f'--config.data.pattern={shlex.quote(schemes.MARKET_IN_SPLITS)}'
      )
    return
  others = {parts[0] for parts in found if len(parts) == 1} - {*SPLIT_NAMES}
  if others:
    raise UserError(
      f'{root} holds folders of splits ({", ".join(people)}) and also'
      f' folders of images: {", ".join(sorted(others)[:5])}. Move these'
      ' into a split.'
    )


def _note_on_others(
  root: pathlib.Path, found: ByFolder, people: People
) -> tuple[str, ...]:
  """Returns a note if images are in other folders than those of identities."""
  depth = 1 if None in people else 2
  others = sorted(
    path.relative_to(root).as_posix()
    for parts, paths in found.items()
    if len(parts) != depth or (depth == 2 and parts[0] not in people)
    for path in paths
  )
  where = '' if None in people else f' in {", ".join(people)}'
  total = sum(map(len, found.values()))
  return note_on_left_out(
    others, total, f'are not directly in the folder of an identity{where}'
  )


def find_several_people(root: pathlib.Path, images: Sequence[Named]) -> str:
  """Returns the reason why folders seem to hold several people each, or ''.

  They do if all files are named as in Market-1501, and the names in a folder
  have several identities.

  Args:
    root: the folder that holds all images.
    images: the result of `read`.
  """
  named = [raw.MARKET_NAME.match(image.path.name) for image in images]
  if not all(named):
    return ''
  people = {}  # numbers in the names of files, by folder
  for image, match in zip(images, named):
    people.setdefault(image.path.parent, set()).add(int(match[1]))
  mixed = [folder for folder, pids in people.items() if len(pids) > 1]
  if not mixed:
    return ''
  first = min(mixed)
  return (
    f'{len(mixed)} of {len(people)} folders hold several people by the names of'
    " their files, in Market-1501's naming, as"
    f' {first.relative_to(root).as_posix()} does'
    f' ({_shown(map(str, people[first]))})'
  )


def find_cameras(images: Sequence[Named]) -> str:
  """Returns the reason why folders seem to be cameras instead of people, or ''.

  They are if most have names of cameras; or if most of their files have the
  same names as files in other folders, and there are more of these names than
  folders. Folders of people may hold a few files of the same numbers, as 1.jpg
  and 2.jpg, or any of names of a camera and numbers, as cam1_2.jpg.

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
  shared = {
    name
    for name, number in times.items()
    if number > 1 and not CAMERA_AND_NUMBERS.match(name)
  }
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
