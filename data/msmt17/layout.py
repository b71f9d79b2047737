"""The layout of MSMT17: folders of images, and lists with their identities."""

import dataclasses
import pathlib
import re

from apnet_jax.errors import UserError
from data import raw

# Folders of training and test images in MSMT17_V1, and in MSMT17_V2, which has
# blurred faces.
VERSIONS = (('train', 'test'), ('mask_train_v2', 'mask_test_v2'))
CAMERAS = 15
# Both halves number their identities from 0. This number is added to those of
# the test half, because identity 0 would be a distractor there.
TRAIN_IDENTITIES = 1_041
DIGITS = re.compile('[0-9]{1,9}')


@dataclasses.dataclass(frozen=True, eq=False)
class Msmt17Layout(raw.Layout):
  """The layout of MSMT17: folders of images, and lists with their identities.

  The attribute `variant` chooses the training images: those of list_train.txt
  and list_val.txt for `trainval`, those of list_train.txt alone for `train`.
  """

  @property
  def lists(self) -> dict[str, tuple[str, ...]]:
    """Names of the text files that list the images of each split."""
    train = ('list_train.txt',)
    if self.variant == 'trainval':
      train += ('list_val.txt',)
    return {
      'train': train,
      'query': ('list_query.txt',),
      'gallery': ('list_gallery.txt',),
    }

  def missing(self, root: pathlib.Path) -> list[str]:
    files = [name for names in self.lists.values() for name in names]
    lacking = [name for name in files if not (root / name).is_file()]
    if self.version(root) is None:
      lacking.insert(0, ' or '.join(map(' and '.join, VERSIONS)))
    return lacking

  def version(self, root: pathlib.Path) -> int | None:
    """Returns 1 for MSMT17_V1, 2 for MSMT17_V2, None if folders are missing."""
    for number, folders in enumerate(VERSIONS, 1):
      if not raw.missing_folders(root, folders):
        return number
    return None

  def read_root(self, root: pathlib.Path) -> raw.RawDataset:
    version = self.version(root)
    train, test = VERSIONS[version - 1]
    splits, all_listed = {}, []
    for split, lists in self.lists.items():
      folder = root / (train if split == 'train' else test)
      splits[split] = []
      for name in lists:
        listed = raw.ListedFiles(folder, root / name)
        splits[split] += _read_list(root, listed, split == 'train')
        all_listed.append(listed)
      splits[split].sort(key=lambda image: image.name)
    raw.check_all_found(all_listed)
    release = f'MSMT17_V{version}'
    return raw.RawDataset(
      root,
      splits,
      notes=(f'{release}: images of {train} and {test}',),
      release=release,
    )


def _read_list(
  root: pathlib.Path, listed: raw.ListedFiles, train: bool
) -> list[raw.RawImage]:
  """Reads a list of lines like `0000/0000_000_01_0303morning_0008_0.jpg 0`.

  Args:
    root: folder that the names of images are relative to.
    listed: the list and the folder of its images; records missing files.
    train: whether the list belongs to the training split.

  Raises:
    UserError: a line has another form; the message names the list and the line.
  """
  images, file = [], listed.list_file
  for number, line in enumerate(_lines(file), 1):
    if not line.strip():
      continue
    relative, pid, camera = _parse(line.strip(), f'{file}, line {number}')
    if train and pid >= TRAIN_IDENTITIES:
      raise UserError(
        f'{file}, line {number}: identity {pid} is not one of the'
        f' {TRAIN_IDENTITIES:,} to train on, 0 to {TRAIN_IDENTITIES - 1}.'
      )
    path = listed.find(relative, number)
    if path:
      name = path.relative_to(root).as_posix()
      pid += 0 if train else TRAIN_IDENTITIES
      images.append(raw.RawImage(name, path, pid, camera - 1))
  return images


def _parse(line: str, where: str) -> tuple[str, int, int]:
  """Returns the image path, identity and camera (from 1) in a line of a list.

  Args:
    line: the line.
    where: file and number of the line, for messages.

  Raises:
    UserError: the line has another form, or there is no such camera.
  """
  relative, _, pid = line.rpartition(' ')
  fields = pathlib.PurePosixPath(relative).name.split('_')
  numbers = [pid, *fields[2:3]]
  if len(fields) < 4 or not all(map(DIGITS.fullmatch, numbers)):
    raise UserError(
      f'{where}: {line[:80]!r} is not <folder>/<identity>_<number>_<camera>_'
      '<time>...jpg <identity>.'
    )
  camera = int(fields[2])
  if not 1 <= camera <= CAMERAS:
    raise UserError(
      f'{where}: camera {camera} of {relative} is not one of 1 to {CAMERAS}.'
    )
  return relative.strip(), int(pid), camera


def _lines(file: pathlib.Path) -> list[str]:
  try:
    return file.read_text(encoding='utf-8-sig').splitlines()
  except UnicodeDecodeError as error:
    raise UserError(f'{file} is not a text file in UTF-8.') from error


def _layout(variant: str, train: raw.Counts) -> Msmt17Layout:
  return Msmt17Layout(
    dataset='msmt17',
    variant=variant,
    title='MSMT17',
    homepage='https://www.pkuvmc.com/dataset.html',
    how_to_get="""\
Request MSMT17 on the page of its authors
(https://www.pkuvmc.com/dataset.html) and unpack it. Then set --config.data.dir
to the folder that holds the images (train and test, or mask_train_v2 and
mask_test_v2) and, beside them, list_train.txt, list_val.txt, list_query.txt and
list_gallery.txt; or to its parent. Copies often lack the lists, which are part
of the release.""",
    nested=(
      'MSMT17_V1', 'MSMT17_V2', 'msmt17/MSMT17_V1', 'msmt17/MSMT17_V2',
      'msmt17', 'MSMT17',
    ),
    published={
      'train': train,
      'query': raw.Counts(11_659, 3_060, 15),
      'gallery': raw.Counts(82_161, 3_060, 15),
    },
  )  # fmt: skip


# Wei et al., CVPR 2018. Table I of the APNet paper includes list_val.txt.
LAYOUTS = (
  _layout('trainval', raw.Counts(32_621, 1_041, 15)),
  _layout('train', raw.Counts(30_248, 1_041, 15)),
)
