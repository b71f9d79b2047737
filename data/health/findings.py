"""Findings about a raw data set: problems and notes, each with advice."""

import collections
from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import os
import pathlib
import shlex

from apnet_jax.config import get_config
from apnet_jax.images import FORMAT_NAMES
from apnet_jax.printing import counted
from data import datasets, raw
from data.cuhk03_np.layout import MatImage
from data.folder import schemes
from data.health import folders, images
from data.msmt17 import layout as msmt17

PROBLEM, NOTE = 'problem', 'note'
BATCH_IMAGES = get_config().train.K
SMALL = (16, 32)  # smallest width and height without a note
ARCHIVES = ('.zip', '.tar', '.gz', '.tgz', '.rar', '.7z')


@dataclasses.dataclass(frozen=True)
class Finding:
  """A problem of a data set, or a note about it.

  Attributes:
    kind: identifier of the kind of finding, for programs.
    severity: `problem` or `note`.
    message: description of the fact.
    advice: what to rename, download, delete or run.
    files: all files concerned, relative to the examined folder.
    lines: text to print for the files; empty to print the files themselves.
    groups: the files, grouped by identical content.
    identities: all identities concerned.
  """

  kind: str
  severity: str
  message: str
  advice: str
  files: tuple[str, ...] = ()
  lines: tuple[str, ...] = ()
  groups: tuple[tuple[str, ...], ...] = ()
  identities: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Facts:
  """One variant of a data set as found on disk, from which findings derive.

  Attributes:
    base: folder that file names are relative to.
    name: name of the data set that the folder should hold, or ''.
    found: the variant, as read from its folder.
    checks: result of checking each image file.
  """

  base: pathlib.Path
  name: str
  found: folders.FoundDataset
  checks: Mapping[images.Source, images.ImageCheck]

  def names(self, files: Iterable[raw.RawImage | pathlib.Path]):
    """Returns the names of files; see `file_names`."""
    return file_names(files, self.base)

  @property
  def splits(self) -> raw.Splits:
    """Images of each split; empty if they cannot be read."""
    return self.found.splits


def file_names(
  files: Iterable[raw.RawImage | pathlib.Path], base: pathlib.Path
) -> tuple[str, ...]:
  """Returns the names of files relative to `base`, sorted, each once."""
  return tuple(sorted({file_name(file, base) for file in files}))


def file_name(file: raw.RawImage | pathlib.Path, base: pathlib.Path) -> str:
  """Returns the name of a file relative to `base`."""
  if isinstance(file, MatImage):
    return f'{file_name(file.path, base)}: {file.name}'
  path = file.path if isinstance(file, raw.RawImage) else file
  return pathlib.Path(os.path.relpath(path, base)).as_posix()


# The layout


def no_layout(base: pathlib.Path, name: str) -> Finding:
  """Returns the finding that a folder has no known layout.

  Args:
    base: the folder.
    name: name of the data set that the folder should hold, or ''.
  """
  wanted = datasets.find(name or 'folder')
  advice = wanted.how_to_get
  names = [path.name for path in base.iterdir()] if base.is_dir() else []
  packed = [name for name in names if name.lower().endswith(ARCHIVES)]
  inner = (*raw.MARKET_FOLDERS.values(), *sum(msmt17.VERSIONS, ()))
  if base.resolve().name in inner:
    advice = f'if this is a part of a data set, give the folder above\n{advice}'
  elif packed:
    advice = f'unpack {", ".join(sorted(packed)[:3])}\n{advice}'
  looked = ', '.join(wanted.nested)
  return Finding(
    'no_layout', PROBLEM,
    f'{base} has no known layout, and neither has one of the usual folders'
    ' below it' + (f' ({looked})' if name and looked else ''),
    advice,
  )  # fmt: skip


def several_datasets(
  base: pathlib.Path, root: pathlib.Path, others: list[pathlib.Path]
) -> Finding:
  """Returns the finding that only the first of several data sets was read.

  Args:
    base: folder that file names are relative to.
    root: folder of the data set that was read.
    others: folders of the other data sets.
  """
  names = ', '.join(file_names(others, base))
  return Finding(
    'several_datasets', NOTE,
    f'only {file_name(root, base)} was examined; there are other data sets:'
    f' {names}',
    'give each of these folders to the doctor, or set --dataset=NAME',
  )  # fmt: skip


def layout_findings(facts: Facts) -> Iterator[Finding]:
  """Yields findings about missing, misnamed or misplaced files."""
  found = facts.found
  wanted = datasets.find(facts.name) if facts.name else found.layout
  if found.layout.dataset != wanted.dataset:
    yield Finding(
      'other_layout', PROBLEM,
      f'--dataset={facts.name}, but {facts.base} has no'
      f' {", ".join(wanted.missing(facts.base))}',
      f'if it is {wanted.title}: {wanted.how_to_get}',
    )  # fmt: skip
  yield from _missing_parts(facts)
  yield from _other_protocol(found)
  yield from _list_beside_names(found)
  explained = [
    *_misnamed(facts),
    *_empty_splits(facts),
    *_wrong_identities(facts),
    *_missing_files(facts),
    *_folders_in_doubt(facts),
  ]
  yield from explained
  incomplete = found.layout.missing(found.root)
  if found.error and not explained and not incomplete:
    advice = 'correct this, then run the doctor again'
    if command := schemes.vehicle_id_command(facts.base):
      advice = (
        f'this seems to be VehicleID: list it in a CSV file\n{command}\n'
        'Its published protocol, one random image of each vehicle as the'
        ' gallery and the others as queries, is not followed: figures are not'
        ' comparable with published ones.'
        ' --config.eval.single_gallery_shot gives such a CMC, and mAP stays'
        ' that of the whole gallery'
      )
    yield Finding('unreadable_layout', PROBLEM, found.error, advice)


def _other_protocol(found: folders.FoundDataset) -> Iterator[Finding]:
  for scheme in schemes.SCHEMES:
    is_it = getattr(found.layout, 'pattern', '') == scheme.pattern
    if is_it and scheme.other_protocol:
      yield Finding(
        'other_protocol', NOTE,
        f'the names of {scheme.title} are known, its published protocol is not:'
        ' splits, queries and gallery are those of own images',
        'nothing has to be done, but figures are not comparable with published'
        ' ones',
      )  # fmt: skip


def _list_beside_names(found: folders.FoundDataset) -> Iterator[Finding]:
  """Yields a finding if own images have labels in names and in a CSV file."""
  if found.lists:
    again = shlex.quote(str(found.lists[0]))
    yield Finding(
      'list_beside_names', PROBLEM,
      f'{counted(len(found.lists), "CSV file")} beside folders named as in'
      ' Market-1501: training on own images would read the labels from such a'
      ' file, not from the names of the images as here',
      'if it lists the images, examine it:\n'
      f'python -m data.doctor {again}\n'
      'Otherwise move it away',
      file_names(found.lists, found.root),
    )  # fmt: skip


def _missing_parts(facts: Facts) -> Iterator[Finding]:
  layout, root = facts.found.layout, facts.found.root
  missing = layout.missing(root)
  lists = []
  if isinstance(layout, msmt17.Msmt17Layout):
    complete = datasets.find('msmt17/trainval')
    all_lists = sum(complete.lists.values(), ())
    lists = [name for name in complete.missing(root) if name in all_lists]
  others = [name for name in missing if name not in lists]
  if others:
    yield Finding(
      'missing_parts', PROBLEM, f'{root} has no {", ".join(others)}',
      layout.how_to_get,
    )  # fmt: skip
  if lists:
    advice = "they are part of MSMT17's release: put them beside the folders"
    if not missing:
      train = folders.train_command(layout, root)
      advice += f'; or train without list_val.txt:\n{train}'
    yield Finding(
      'missing_lists',
      NOTE if facts.name == 'msmt17/train' and not missing else PROBLEM,
      f'{root} has no {", ".join(lists)}', advice,
    )  # fmt: skip


def _misnamed(facts: Facts) -> Iterator[Finding]:
  misnamed = facts.found.misnamed
  if misnamed:
    advice = (
      'rename them as <identity>_c<camera from 1>..., as'
      ' 0002_c1s1_000451_03.jpg, or delete them'
    )
    yield Finding(
      'misnamed_images', PROBLEM,
      f'{counted(len(misnamed), "image")} not named with identity and camera'
      ' as in Market-1501',
      advice, facts.names(misnamed),
    )  # fmt: skip


def _empty_splits(facts: Facts) -> Iterator[Finding]:
  found = facts.found
  if not found.error or found.layout.missing(found.root):
    return
  own = not found.shares_layout and not found.misnamed
  for split in raw.SPLITS if found.images else ():
    if not facts.splits[split] and not (own and split == 'train'):
      yield Finding(
        'empty_split', PROBLEM, f'the {split} split has no image',
        'put images there, or download the data set again'
        f' ({", ".join(raw.IMAGE_SUFFIXES)})',
      )  # fmt: skip


def _wrong_identities(facts: Facts) -> Iterator[Finding]:
  """Yields findings about junk and distractors in splits without them."""
  splits = facts.splits
  junk = [
    image
    for image in (*splits['train'], *splits['query'])
    if image.pid == raw.JUNK_PID
  ]
  if junk:
    yield Finding(
      'junk_outside_gallery', PROBLEM,
      f'{counted(len(junk), "image")} of identity -1 (junk) in training or'
      ' query, where it is not allowed',
      'delete them, or move them to the gallery', facts.names(junk),
    )  # fmt: skip
  distractors = [i for i in splits['query'] if i.pid == raw.DISTRACTOR_PID]
  if distractors:
    yield Finding(
      'distractors_in_query', PROBLEM,
      f'{counted(len(distractors), "query", "queries")} of identity 0, which'
      ' means a distractor and cannot be searched for',
      'number people from 1, move them to the gallery, or give a pattern, which'
      ' gives 0 no meaning (--pattern)',
      facts.names(distractors),
    )  # fmt: skip


def _folders_in_doubt(facts: Facts) -> Iterator[Finding]:
  """Yields a finding if folders are probably not one person each."""
  doubt = facts.found.doubt
  if doubt:
    root = shlex.quote(str(facts.found.root))
    pattern = shlex.quote(doubt.pattern)
    yield Finding(
      'folders_in_doubt', PROBLEM,
      f'{doubt.reason} As it is, each folder would be one person',
      'if they are not, say by a pattern where a path has the camera and the'
      ' person:\n'
      f'python -m data.doctor {root} --pattern={pattern}\n'
      'If each folder is one person: --config.data.folders_are_people (eval.py'
      ' and this command: --folders_are_people)',
    )  # fmt: skip


def _missing_files(facts: Facts) -> Iterator[Finding]:
  """Yields a finding if listed files do not exist."""
  missing = facts.found.missing_files
  if missing:
    lists = ', '.join(sorted({file.name for file in missing}))
    files = [path for paths in missing.values() for path in paths]
    yield Finding(
      'missing_files', PROBLEM,
      f'{counted(len(files), "image")} missing, listed in {lists}',
      'download them again, or remove their lines from the list',
      facts.names(files),
    )  # fmt: skip


# The counts


def count_findings(facts: Facts) -> Iterator[Finding]:
  """Yields a finding if counts differ from those of the expected data set."""
  found = facts.found
  exact, expected = found.exact, found.expected
  if found.is_as_published:
    yield from _wrong_folder_name(found)
  elif exact:
    yield Finding(
      'other_dataset', PROBLEM,
      f'{found.because} {expected.title}, but these are the counts of'
      f' {exact.title}',
      f'rename the folder and use it as {exact.title}:'
      f'\n{folders.train_command(exact, found.root)}'
      f'\nFor {expected.title}: {expected.how_to_get}',
    )  # fmt: skip
  elif expected:
    yield Finding(
      'other_counts', PROBLEM,
      f'{found.because} {expected.title}, but the counts are not the'
      ' published ones: images were lost, added or changed',
      'download the release again; or, if you want these images (figures on'
      ' them are not comparable with published ones):\n'
      + '\n'.join(found.train_commands()),
    )  # fmt: skip
  elif found.shares_layout and found.layout.published:
    yield Finding(
      'own_images', NOTE,
      "these are images of your own in Market-1501's layout: no published data"
      ' set has these counts, so that no published figure is comparable',
      'train on them with configs/folder.py, or allow other counts'
      ' (config.data.allow_other_counts=True)',
    )  # fmt: skip


def _wrong_folder_name(found: folders.FoundDataset) -> Iterator[Finding]:
  """Yields a finding if a CUHK03-NP folder is not named after its variant."""
  name, wanted = found.root.resolve().name, found.exact.variant
  if found.shares_layout and wanted and name != wanted:
    yield Finding(
      'other_folder_name', PROBLEM,
      f'{found.exact.title} must be in a folder {wanted}, not {name}',
      f'rename it to {wanted}; config.data.dir is the folder above it',
    )  # fmt: skip


# The images


def image_findings(
  base: pathlib.Path, checks: Mapping[images.Source, images.ImageCheck]
) -> Iterator[Finding]:
  """Yields findings about images that are broken or have an unusual size.

  Args:
    base: folder that file names are relative to.
    checks: result of checking each image file.
  """
  repair = (
    'download them again, or delete them (and their lines in lists): they'
    ' cannot be prepared'
  )
  tests = (
    (
      'unreadable_images', PROBLEM, 'that cannot be read', repair, '{reason}',
      lambda x: x.fault == 'unreadable',
    ),
    (
      'truncated_images', PROBLEM, 'cut off', repair, '{reason}',
      lambda x: x.fault == 'truncated',
    ),
    (
      'small_images', NOTE, 'smaller than {} x {} pixels'.format(*SMALL),
      'look at them: so few pixels hardly show a person',
      '{width} x {height}',
      lambda x: 0 < x.width < SMALL[0] or 0 < x.height < SMALL[1],
    ),
    (
      'wide_images', NOTE, 'wider than high',
      'look at them: they are distorted when they are resized to'
      ' config.data.image_size', '{width} x {height}',
      lambda x: x.width > x.height,
    ),
    (
      'turned_images', NOTE, 'turned upright by the EXIF orientation',
      'nothing has to be done: they are read as other programs show them',
      '{width} x {height}', lambda x: x.turned,
    ),
    (
      'damaged_exif', NOTE, 'with EXIF that cannot be parsed',
      'look at them: they are read as they are stored, which may be on their'
      ' side or upside down',
      '{exif_fault}', lambda x: x.exif_fault,
    ),
  )  # fmt: skip
  for kind, severity, text, advice, form, test in tests:
    rows = sorted(
      (file_name(source, base), form.format(**vars(check)))
      for source, check in checks.items()
      if test(check)
    )
    if rows:
      yield Finding(
        kind, severity, f'{counted(len(rows), "image")} {text}', advice,
        tuple(name for name, _ in rows),
        tuple(f'{name}: {text}' for name, text in rows),
      )  # fmt: skip


def not_checked(number: int, file: pathlib.Path) -> Finding:
  """Returns the finding that images inside a .mat file were not checked."""
  return Finding(
    'not_checked', NOTE,
    f'the {counted(number, "image")} in {file.name} were not checked',
    'add --decode to check each of them',
  )  # fmt: skip


# Identities and cameras


def label_findings(facts: Facts) -> Iterator[Finding]:
  """Yields findings about harmful or unusual identities and cameras."""
  yield from _shared_identities(facts)
  yield from _unmatched_queries(facts)
  yield from _unknown_cameras(facts)
  yield from _poor_identities(facts)


def _shared_identities(facts: Facts) -> Iterator[Finding]:
  splits = facts.splits
  test = [i for i in (*splits['query'], *splits['gallery']) if i.pid > 0]
  both = {i.pid for i in splits['train']} & {i.pid for i in test}
  if both:
    yield Finding(
      'shared_identities', PROBLEM,
      f'{counted(len(both), "identity", "identities")} in both training and'
      ' test: nobody in the test splits may be trained on',
      'delete their images in training or in test; or, if they are different'
      ' people, give them different numbers',
      facts.names(image for image in test if image.pid in both),
      identities=tuple(sorted(both)),
    )  # fmt: skip


def _unmatched_queries(facts: Facts) -> Iterator[Finding]:
  splits = facts.splits
  cameras = collections.defaultdict(set)
  for image in splits['gallery']:
    cameras[image.pid].add(image.camid)
  query = splits['query']
  unmatched = [i for i in query if not cameras[i.pid] - {i.camid}]
  if unmatched and splits['gallery']:
    none_left = len(unmatched) == len(query)
    advice = 'add one, or delete these queries; evaluation leaves them out'
    if none_left:
      advice = 'add some: evaluation needs a query with a match'
    if none_left and facts.found.images.has_cameras:
      advice += (
        '. Or compare each query with all other images, whatever their cameras:'
        ' --config.data.ignore_cameras (eval.py and this command:'
        ' --ignore_cameras)'
      )
    own = facts.found.expected is None or facts.found.is_as_published
    has_cameras = facts.found.images.has_cameras
    yield Finding(
      'unmatched_queries',
      NOTE if own and not none_left else PROBLEM,
      f'{len(unmatched):,} of {counted(len(query), "query", "queries")}'
      ' without a match: the gallery has no other image of the identity'
      + (' by another camera' if has_cameras else ''),
      advice,
      facts.names(unmatched),
    )  # fmt: skip


def _unknown_cameras(facts: Facts) -> Iterator[Finding]:
  expected = facts.found.expected
  if not expected or facts.found.is_as_published or facts.found.ignore_cameras:
    return
  unknown = datasets.unknown_cameras(expected, facts.splits)
  if unknown:
    yield Finding(
      'unknown_cameras', PROBLEM,
      f'{counted(len(unknown), "image")} of cameras that {expected.title} does'
      f' not have (it has 1 to {datasets.published_cameras(expected)})',
      'rename or delete them: the camera is the number after _c in a name',
      facts.names(unknown),
    )  # fmt: skip


def _poor_identities(facts: Facts) -> Iterator[Finding]:
  """Yields findings about too few training identities, images or cameras."""
  camids_of = collections.defaultdict(list)
  for image in facts.splits['train']:
    camids_of[image.pid].append(image.camid)
  total = counted(len(camids_of), 'training identity', 'training identities')
  few = [p for p, camids in camids_of.items() if len(camids) < BATCH_IMAGES]
  single = [p for p, camids in camids_of.items() if len(camids) == 1]
  one_camera = [p for p, camids in camids_of.items() if len(set(camids)) == 1]
  if camids_of and len(single) == len(camids_of):
    yield Finding(
      'single_images', PROBLEM,
      f'{total}, each with one image: {raw.TWO_IMAGES}',
      'add images, or check how identities are read: the lines above say so',
      identities=tuple(sorted(single)),
    )  # fmt: skip
  elif few:
    yield Finding(
      'few_images', NOTE,
      f'{len(few):,} of {total} with fewer than {BATCH_IMAGES} images'
      + (f', {len(single):,} of them with one image only' if single else ''),
      f'nothing has to be done: in batches of {BATCH_IMAGES} images of each'
      ' identity (config.train.K), some of theirs are repeated',
      identities=tuple(sorted(few)),
    )  # fmt: skip
  has_cameras = one_camera and facts.found.images.has_cameras
  if has_cameras and facts.found.counts['train'].cameras > 1:
    yield Finding(
      'one_camera', NOTE,
      f'{len(one_camera):,} of {total} seen by one camera only',
      'nothing has to be done, but the network cannot learn from them how a'
      ' person differs between cameras',
      identities=tuple(sorted(one_camera)),
    )  # fmt: skip
  if 0 < len(camids_of) < folders.LEAST_IDENTITIES:
    yield Finding(
      'one_identity', PROBLEM,
      f'{total}: two people are needed to train',
      'add images of other people to training; or leave training out, to'
      ' evaluate only',
      identities=tuple(camids_of),
    )  # fmt: skip
  elif 0 < len(camids_of) < folders.BATCH_IDENTITIES:
    yield Finding(
      'few_identities', NOTE,
      f'{total}, fewer than the {folders.BATCH_IDENTITIES} of a batch',
      f'train with --config.train.P={len(camids_of)}, as below',
    )  # fmt: skip


# Files with the same bytes


def duplicate_findings(facts: Facts) -> Iterator[Finding]:
  """Yields findings about images whose files are identical."""
  by_kind = collections.defaultdict(list)
  for copies in _duplicates(facts):
    splits = {split for split, _ in copies}
    labels = {(image.pid, image.camid) for _, image in copies}
    pids = {pid for pid, _ in labels}
    if len(splits) == 1:
      by_kind['within_split'].append(copies)
    elif 'train' in splits:
      by_kind['in_training_and_test'].append(copies)
    elif len(pids) == 1 and not facts.found.images.has_cameras:
      by_kind['under_two_names'].append(copies)
    else:
      # Evaluation ignores matches of one identity under one camera.
      kind = 'query_in_gallery' if len(labels) == 1 else 'query_and_gallery'
      by_kind[kind].append(copies)
    if sum(pid > 0 for pid in pids) > 1:
      by_kind['of_other_identities'].append(copies)
  repair = 'delete all but one of each (and their lines in lists)'
  texts = {
    'in_training_and_test': (PROBLEM, 'in both training and test', repair),
    'query_and_gallery': (
      PROBLEM, 'in both query and gallery with different labels, so that a'
      ' query finds itself', repair,
    ),
    # Without cameras, each name has one of its own.
    'under_two_names': (
      PROBLEM, 'stored twice under other names, so that a query finds its own'
      ' copy', repair,
    ),
    'of_other_identities': (
      PROBLEM, 'of several identities, of which only one can be right', repair,
    ),
    'query_in_gallery': (
      NOTE, 'in both query and gallery with the same labels',
      'nothing has to be done: evaluation ignores such matches',
    ),
    'within_split': (NOTE, 'several times within a split', repair),
  }  # fmt: skip
  for kind, (severity, text, advice) in texts.items():
    if facts.found.is_as_published:
      severity = NOTE
      advice = 'keep them: published figures include them'
    if by_kind[kind]:
      yield _duplicate_finding(
        facts, kind, severity, by_kind[kind], text, advice
      )


def _duplicate_finding(facts, kind, severity, copies, text, advice) -> Finding:
  groups = tuple(sorted(facts.names(i for _, i in same) for same in copies))
  files = tuple(sorted(file for group in groups for file in group))
  in_split = collections.Counter(
    split for same in copies for split, _ in {(s, i.name): 0 for s, i in same}
  )
  where = ', '.join(f'{s} {in_split[s]:,}' for s in raw.SPLITS if in_split[s])
  return Finding(
    f'identical_{kind}', severity,
    f'{counted(len(groups), "image")} {text}, byte for byte ({where})',
    advice, files, tuple(' = '.join(group) for group in groups), groups,
  )  # fmt: skip


def _duplicates(facts: Facts) -> Iterator[list[tuple[str, raw.RawImage]]]:
  """Yields groups of images with identical files, as (split, image) pairs.

  Junk does no harm: it is not ranked.
  """
  same = collections.defaultdict(lambda: collections.defaultdict(list))
  for split in raw.SPLITS:
    for image in facts.splits[split]:
      source = images.source_of(image)
      check = facts.checks.get(source)
      if check and check.digest and image.pid != raw.JUNK_PID:
        same[check.digest][source].append((split, image))
  for files in same.values():
    if len(files) > 1:
      yield [entry for entries in files.values() for entry in entries]


# Other files


def unreadable_folders(base: pathlib.Path, errors: list[OSError]) -> Finding:
  """Returns the finding that folders of the data set cannot be read.

  Args:
    base: folder that file names are relative to.
    errors: error of the system for each of these folders.
  """
  rows = sorted(
    (file_name(pathlib.Path(error.filename), base), error.strerror)
    for error in errors
  )
  return Finding(
    'unreadable_folders', PROBLEM,
    f'{counted(len(rows), "folder")} that cannot be read',
    'make them readable (chmod), or move them away: nobody knows how many'
    ' images they hold',
    tuple(name for name, _ in rows),
    tuple(f'{name}: {reason}' for name, reason in rows),
  )  # fmt: skip


def hidden_files(base: pathlib.Path, files: list[pathlib.Path]) -> Finding:
  """Returns the finding that files of the system lie among those of the user.

  Args:
    base: folder that file names are relative to.
    files: hidden files, files in hidden folders, and files of the system.
  """
  return Finding(
    'hidden_files', NOTE,
    f'{counted(len(files), "file")} hidden or left by macOS or Windows, as'
    ' ._0001.jpg or Thumbs.db',
    'nothing has to be done: they are skipped', file_names(files, base),
  )  # fmt: skip


def other_file_findings(
  base: pathlib.Path,
  used: set[pathlib.Path],
  files: Iterable[pathlib.Path],
  complete: bool,
) -> Iterator[Finding]:
  """Yields findings about files that are not images of the data set.

  Args:
    base: folder that file names are relative to.
    used: images of the data set, and files that other findings name.
    files: all files in and below the folder of the data set, except hidden
      ones.
    complete: whether a list or the published counts say that no image of the
      data set is among them.
  """
  image_folders = {path.parent for path in used}
  unused, formats, odd = [], [], []
  for path in files:
    suffix = path.suffix.lower()
    if path in used:
      continue
    if suffix in raw.IMAGE_SUFFIXES:
      unused.append(path)
    elif suffix in raw.OTHER_FORMATS:
      formats.append(path)
    elif path.parent in image_folders and suffix != '.csv':
      odd.append(path)
  if formats:
    yield Finding(
      'other_formats', NOTE if complete else PROBLEM,
      f'{counted(len(formats), "image")} in formats that cannot be read',
      'nothing has to be done: they are not part of the data set'
      if complete
      else f'convert them to {FORMAT_NAMES}, or delete them',
      file_names(formats, base),
    )  # fmt: skip
  if unused:
    where = collections.Counter(file_name(path.parent, base) for path in unused)
    yield Finding(
      'unused_images', NOTE, f'{counted(len(unused), "image")} in no split',
      'they are not used; add them to a split if they should be',
      file_names(unused, base),
      tuple(f'{name}: {number:,}' for name, number in sorted(where.items())),
    )  # fmt: skip
  if odd:
    yield Finding(
      'odd_files', NOTE, f'{counted(len(odd), "other file")} among the images',
      'nothing has to be done: they are ignored', file_names(odd, base),
    )  # fmt: skip
