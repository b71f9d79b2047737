"""Naming schemes of published data sets, and of folders that are cameras.

The doctor recognises them and prints the command that reads the images.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import itertools
import pathlib
import re
import shlex

from apnet_jax.images import images_below
from data.folder import csv_file

SAMPLE = 50  # images that tell whether a scheme is worth a full look
# Share of the images that must be named as a scheme says. Other images, as a
# figure beside them, are left out and named when the pattern is used.
MOST = 0.95


@dataclasses.dataclass(frozen=True)
class Scheme:
  """Paths of the images of a published data set.

  Attributes:
    title: name of the data set, for people.
    pattern: value of `config.data.pattern`, which matches their paths.
    folders: usual folders of the images below the one that users give.
    needs_folder: whether the images must be in one of `folders`, because the
      pattern alone would match the names of others. By default the folder that
      users give is tried, too.
    ignore_cameras: whether no person is seen by two cameras.
    other_protocol: whether published figures have other splits, queries or
      galleries than those that own images get here.
  """

  title: str
  pattern: str
  folders: tuple[str, ...] = ()
  needs_folder: bool = False
  ignore_cameras: bool = False
  other_protocol: bool = False

  def share(self, names: Iterable[str]) -> float:
    """Returns the share of these paths that the pattern matches; 0 of none."""
    found = [bool(re.search(self.pattern, name)) for name in names]
    return sum(found) / max(len(found), 1)


SCHEMES = (
  Scheme(
    'VIPeR', r'cam_(?P<camid>[ab])/(?P<pid>\d{3})_\d+\.bmp', ('VIPeR',),
    other_protocol=True,
  ),
  # Only the people 1 to 200 are in both views; in others a number stands for
  # two people, who serve as distractors.
  Scheme(
    'PRID2011, single shot',
    r'cam_(?P<camid>[ab])/person_'
    r'((?P<pid>00\d\d|01\d\d|0200)|(?P<distractor>\d{4}))\.png$',
    ('single_shot', 'prid_2011/single_shot'), other_protocol=True,
  ),
  Scheme(
    'PRID2011, multi shot',
    r'cam_(?P<camid>[ab])/person_'
    r'((?P<pid>00\d\d|01\d\d|0200)|(?P<distractor>\d{4}))/\d+\.png$',
    ('multi_shot', 'prid_2011/multi_shot'), other_protocol=True,
  ),
  Scheme(
    'iLIDS-VID', r'cam(?P<camid>\d)/person(?P<pid>\d+)/',
    ('images', 'sequences', 'i-LIDS-VID/images', 'i-LIDS-VID/sequences'),
    other_protocol=True,
  ),
  Scheme(
    'i-LIDS', r'^(?P<pid>\d{4})\d{3}\.jpg$',
    ('Persons', 'i-LIDS_Pedestrian/Persons'), needs_folder=True,
    other_protocol=True,
  ),
  # Image 0000 stands for people of the gallery who are in no probe.
  Scheme(
    'GRID',
    r'(probe|gallery)/((?P<distractor>0000)|(?P<pid>\d{4}))_(?P<camid>\d+)_',
    ('underground_reid',), other_protocol=True,
  ),
  Scheme(
    'VeRi-776',
    r'^image_(?P<split>train|query|test)/(?P<pid>\d+)_c(?P<camid>\d+)_',
    ('VeRi', 'VeRi_with_plate'),
  ),
  # A person is in a single sequence. The folders of splits share people, so
  # that splits are made by identity.
  Scheme(
    'MOT17, cropped',
    r'^((bounding_box_(train|test)|query)/)?(?P<pid>\d+)_MOT17-\d+-',
    ignore_cameras=True,
  ),
)  # fmt: skip


def recognise(base: pathlib.Path) -> tuple[Scheme, pathlib.Path] | None:
  """Finds the scheme that most images at or below a folder follow.

  Returns:
    The scheme and the folder of the images; None if there is no known scheme,
    or if a CSV file lists the images.
  """
  if csv_file.files_in(base):
    return None
  samples = {}  # paths of a few images, by folder
  for scheme in SCHEMES:
    for name in (*([] if scheme.needs_folder else ['']), *scheme.folders):
      root = base / name
      if root not in samples and root.is_dir():
        samples[root] = list(itertools.islice(_names_below(root), SAMPLE))
      if (
        scheme.share(samples.get(root, ()))
        and scheme.share(_names_below(root)) >= MOST
      ):
        return scheme, root
  return None


def _names_below(root: pathlib.Path) -> Iterator[str]:
  """Yields the paths of images below a folder, relative to the folder.

  Folders that cannot be read tell nothing here: reading the images names them.
  """
  for path in images_below(root, on_error=lambda _: None):
    yield path.relative_to(root).as_posix()


# Patterns for folders of cameras, tried in this order. The person is a folder
# below, or a number or word in the file name.
CAMERA_PATTERNS = (
  r'^(?P<camid>[^/]+)/(?P<pid>[^/]+)/',
  r'^(?P<camid>[^/]+)/[^/\d]*(?P<pid>\d+)[^/]*$',
  r'^(?P<camid>[^/]+)/(?P<pid>[^/]+)\.\w+$',
)


def suggest_for_cameras(names: Iterable[str]) -> str:
  """Returns a pattern that reads folders as cameras.

  Args:
    names: paths of the images, relative to the folder of the data set.
  """
  names = list(names)
  for pattern in CAMERA_PATTERNS:
    if all(re.search(pattern, name) for name in names):
      return pattern
  return CAMERA_PATTERNS[-1]


# Files whose names say the camera, as cam1_0.jpg, in folders of people.
FILE_CAMERA = r'(?i:(?<![a-z])cam(era)?[-_ ]?)(?P<camid>\d+)'


def suggest_for_cameras_in_files(splits: bool) -> str:
  """Returns a pattern that reads folders as people, and cameras from files.

  Args:
    splits: whether the folders of people are in folders of splits.
  """
  split = '(?P<split>train|query|gallery|test)/' if splits else ''
  return f'^{split}(?P<pid>[^/]+)/[^/]*?{FILE_CAMERA}'


# Patterns for the names of Market-1501, and for those in folders of splits.
MARKET = r'/(?P<pid>\d+)_c(?P<camid>\d+)'
MARKET_IN_SPLITS = r'(?P<split>(?i:train|query|gallery|test)).*' + MARKET


def suggest_for_market_names(names: Iterable[str]) -> str:
  """Returns a pattern that reads images in folders, named as in Market-1501.

  Args:
    names: paths of the images, relative to the folder of the data set.
  """
  splits = re.compile('^[^/]*(?i:train|query|gallery|test)[^/]*/')
  return MARKET_IN_SPLITS if all(map(splits.search, names)) else MARKET


def vehicle_id_command(base: pathlib.Path) -> str:
  """Returns the shell command that lists VehicleID in a CSV file, or ''.

  VehicleID has no labels in its paths but lists of `image identity` lines.

  Args:
    base: the folder that may hold VehicleID.
  """
  lists = base / 'train_test_split'
  test = 'test_list_800.txt'
  if not (base / 'image').is_dir() or not (lists / test).is_file():
    return ''
  parts = [
    f"""awk '{{print "image/" $1 ".jpg," $2 ",{split}"}}' {lists.name}/{name}"""
    for split, name in (('train', 'train_list.txt'), ('test', test))
  ]
  return (
    f'cd {shlex.quote(str(base))} && (echo path,pid,split; {"; ".join(parts)})'
    ' > vehicle_id.csv'
  )
