"""What is wrong with a data set, or worth knowing, and what to do about it."""

import collections
from collections.abc import Iterable, Iterator, Mapping
import csv
import dataclasses
import os
import pathlib
import shlex

from data import datasets, raw
from data.cuhk03_np.layout import MatImage
from data.folder.layout import FolderLayout
from data.health import folders, images
from data.msmt17 import layout as msmt17

PROBLEM, NOTE = 'problem', 'note'
BATCH_IMAGES = 4  # config.train.K of configs/common.py
SMALL = (16, 32)  # width and height below which an image shows little
OTHER_FORMATS = (
  '.avif', '.bmp', '.gif', '.heic', '.jfif', '.jp2', '.ppm', '.tif', '.tiff',
  '.webp',
)  # fmt: skip
ARCHIVES = ('.zip', '.tar', '.gz', '.tgz', '.rar', '.7z')


@dataclasses.dataclass(frozen=True)
class Finding:
  """Something that a person should know.

  Attributes:
    kind: which one, for programs.
    severity: `problem` or `note`.
    message: what is the case.
    advice: what to rename, fetch, delete or call next.
    files: all that it is about, below the folder that was asked for.
    lines: what to show of them; the files or groups themselves if empty.
    groups: of identical files.
    identities: that it is about.
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
class Case:
  """What findings are made from.

  Attributes:
    base: the folder that file names are relative to.
    asked: the data set that it should be, or ''.
    reading: of one variant of the data set.
    checked: what is known of each image.
  """

  base: pathlib.Path
  asked: str
  reading: folders.Reading
  checked: Mapping[images.Target, images.Checked]

  def show(self, targets: Iterable[raw.RawImage | pathlib.Path]):
    return show(targets, self.base)

  @property
  def splits(self) -> raw.Splits:
    dataset = self.reading.dataset
    return dataset.splits if dataset else dict.fromkeys(raw.SPLITS, [])


def show(
  targets: Iterable[raw.RawImage | pathlib.Path], base: pathlib.Path
) -> tuple[str, ...]:
  """Names for people and programs, each once, in order."""
  return tuple(sorted({name_of(target, base) for target in targets}))


def name_of(target: raw.RawImage | pathlib.Path, base: pathlib.Path) -> str:
  if isinstance(target, MatImage):
    return f'{name_of(target.path, base)}: {target.name}'
  path = target.path if isinstance(target, raw.RawImage) else target
  return pathlib.Path(os.path.relpath(path, base)).as_posix()


def many(number: int, one: str, more: str = '') -> str:
  """`1 image`, `2,000 images`."""
  return f'{number:,} {one if number == 1 else more or one + "s"}'


# The layout


def no_layout(base: pathlib.Path, asked: str) -> Finding:
  """Nothing that is known."""
  wanted = datasets.find(asked or 'folder')
  advice = wanted.how_to_get
  names = [path.name for path in base.iterdir()] if base.is_dir() else []
  packed = [name for name in names if name.lower().endswith(ARCHIVES)]
  parts = (*raw.MARKET_FOLDERS.values(), *sum(msmt17.VERSIONS, ()))
  if base.resolve().name in parts:
    advice = f'if it is one part of a data set: give the folder above\n{advice}'
  elif packed:
    advice = f'unpack {", ".join(sorted(packed)[:3])}\n{advice}'
  looked = ', '.join(wanted.nested)
  return Finding(
    'no_layout', PROBLEM,
    f'{base} has none of the layouts that are read, nor has one of the folders'
    ' below it in which copies are looked for'
    + (f' ({looked})' if asked and looked else ''),
    advice,
  )  # fmt: skip


def several_datasets(
  base: pathlib.Path, root: pathlib.Path, others: list[pathlib.Path]
) -> Finding:
  names = ', '.join(show(others, base))
  return Finding(
    'several_datasets', NOTE,
    f'only {name_of(root, base)} was looked at; there are others: {names}',
    'give each of them to the doctor by itself, or say --dataset=NAME',
  )  # fmt: skip


def about_layout(case: Case) -> Iterator[Finding]:
  """Whether all of it can be read."""
  reading = case.reading
  wanted = datasets.find(case.asked) if case.asked else reading.layout
  if reading.layout.dataset != wanted.dataset:
    yield Finding(
      'other_layout', PROBLEM,
      f'--dataset={case.asked}, but {case.base} has no'
      f' {", ".join(wanted.missing(case.base))}',
      f'if it is {wanted.title}: {wanted.how_to_get}',
    )  # fmt: skip
  yield from _missing_parts(case)
  explained = [
    *_misnamed(case),
    *_empty_splits(case),
    *_wrong_identities(case),
    *_missing_files(case),
  ]
  yield from explained
  explained += reading.layout.missing(reading.root)
  if reading.error and not explained:
    yield Finding(
      'unreadable_layout', PROBLEM, reading.error,
      'mend what it says, then run the doctor again',
    )  # fmt: skip


def _missing_parts(case: Case) -> Iterator[Finding]:
  layout, root = case.reading.layout, case.reading.root
  missing = layout.missing(root)
  lists = []
  if layout.dataset == 'msmt17':
    complete = datasets.find('msmt17/trainval').missing(root)
    lists = [name for name in complete if name.endswith('.txt')]
  parts = [name for name in missing if name not in lists]
  if parts:
    yield Finding(
      'missing_parts', PROBLEM, f'{root} has no {", ".join(parts)}',
      layout.how_to_get,
    )  # fmt: skip
  if lists:
    advice = "they come with MSMT17's release: put them beside the folders"
    if not missing:
      train = folders.command(layout, root)
      advice += f'; or train without list_val.txt:\n{train}'
    yield Finding(
      'missing_lists',
      NOTE if case.asked == 'msmt17/train' and not missing else PROBLEM,
      f'{root} has no {", ".join(lists)}', advice,
    )  # fmt: skip


def _misnamed(case: Case) -> Iterator[Finding]:
  misnamed = case.reading.misnamed
  if misnamed:
    advice = (
      'rename them as <identity>_c<camera from 1>..., as'
      ' 0002_c1s1_000451_03.jpg, or delete them'
    )
    if any(path.name.startswith('._') for path in misnamed):
      root = shlex.quote(str(case.reading.root))
      advice += f"; macOS left some: find {root} -name '._*' -delete"
    yield Finding(
      'misnamed_images', PROBLEM,
      f'{many(len(misnamed), "image")} not named as Market-1501 names them,'
      ' which tells identity and camera',
      advice, case.show(misnamed),
    )  # fmt: skip


def _empty_splits(case: Case) -> Iterator[Finding]:
  reading = case.reading
  if not reading.error or reading.layout.missing(reading.root):
    return
  own = not reading.shares_layout and not reading.misnamed
  for split in raw.SPLITS if reading.dataset else ():
    if not case.splits[split] and not (own and split == 'train'):
      yield Finding(
        'empty_split', PROBLEM, f'the {split} split has no image',
        'put images there, or fetch the data set again'
        f' ({", ".join(raw.IMAGE_SUFFIXES)})',
      )  # fmt: skip


def _wrong_identities(case: Case) -> Iterator[Finding]:
  """Identities that a split may not hold."""
  splits = case.splits
  junk = [
    image
    for image in (*splits['train'], *splits['query'])
    if image.pid == raw.JUNK_PID
  ]
  if junk:
    yield Finding(
      'junk_outside_gallery', PROBLEM,
      f'{many(len(junk), "image")} of identity -1 (junk) in training or query,'
      ' which may hold none',
      'delete them, or move them to the gallery', case.show(junk),
    )  # fmt: skip
  nobody = [i for i in splits['query'] if i.pid == raw.DISTRACTOR_PID]
  if nobody:
    yield Finding(
      'distractors_in_query', PROBLEM,
      f'{many(len(nobody), "query", "queries")} of identity 0 (a distractor),'
      ' who is nobody to look for',
      'number people from 1, or move them to the gallery',
      case.show(nobody),
    )  # fmt: skip


def _missing_files(case: Case) -> Iterator[Finding]:
  """Images that a list names and nobody has; a layout's error cuts them."""
  if case.reading.dataset:
    return
  try:
    absent = list(_absent(case.reading.layout, case.reading.root))
  except (ValueError, OSError, LookupError, csv.Error):
    return  # the list is no such list, as the layout's error says
  if absent:
    lists = ', '.join(sorted({file.name for file, _ in absent}))
    yield Finding(
      'missing_files', PROBLEM,
      f'{many(len(absent), "image")} missing that {lists} names',
      'fetch them again, or take their lines out of the list',
      case.show(path for _, path in absent),
    )  # fmt: skip


def _absent(
  layout: raw.Layout, root: pathlib.Path
) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
  """Each list, with the files that it misses."""
  for file, folder, names in _listed(layout, root):
    paths = raw.PathsBelow(folder, file)
    for line, name in enumerate(names, 1):
      if paths.file(name, line) is None:
        yield file, folder / name


def _listed(layout: raw.Layout, root: pathlib.Path):
  """Lists, the folders that their paths start from, and the paths."""
  if isinstance(layout, FolderLayout):
    for file in [root] if root.is_file() else root.glob('*.[cC][sS][vV]'):
      with file.open(encoding='utf-8-sig', newline='') as lines:
        rows = list(csv.reader(lines))
      column = [name.strip().lower() for name in rows[0]].index('path')
      yield file, file.parent, [row[column].strip() for row in rows[1:] if row]
  elif isinstance(layout, msmt17.Msmt17Layout):
    for version in msmt17.VERSIONS:
      if not raw.missing_folders(root, version):
        break
    for split, lists in layout.lists.items():
      folder = root / version[split != 'train']
      for name in lists:
        lines = (root / name).read_text('utf-8-sig').splitlines()
        paths = (line.strip().rpartition(' ')[0].strip() for line in lines)
        yield root / name, folder, [path for path in paths if path]


# The counts


def about_counts(case: Case) -> Iterator[Finding]:
  """Whether it is the data set that it should be."""
  reading = case.reading
  exact, expected = reading.exact, reading.expected
  if reading.is_as_published:
    yield from _wrong_place(reading)
  elif exact:
    yield Finding(
      'other_dataset', PROBLEM,
      f'{reading.because} {expected.title}, but these are the counts of'
      f' {exact.title}',
      f'rename the folder and use it as what it is:'
      f'\n{folders.command(exact, reading.root)}'
      f'\nFor {expected.title}: {expected.how_to_get}',
    )  # fmt: skip
  elif expected:
    yield Finding(
      'other_counts', PROBLEM,
      f'{reading.because} {expected.title}, but the counts are not the'
      ' published ones: images were lost, added or changed',
      'fetch the release again; or, if these images are meant (figures on them'
      ' do not compare with published ones):\n'
      + '\n'.join(reading.commands()),
    )  # fmt: skip
  elif reading.shares_layout and reading.layout.published:
    yield Finding(
      'own_images', NOTE,
      'no published set has these counts, so no published figure compares:'
      " images of your own in Market-1501's layout",
      'train on them with configs/folder.py, or allow other counts'
      ' (config.data.allow_other_counts=True)',
    )  # fmt: skip


def _wrong_place(reading: folders.Reading) -> Iterator[Finding]:
  """Where a folder's name has to say which boxes CUHK03-NP's images have."""
  name, wanted = reading.root.resolve().name, reading.exact.variant
  if reading.shares_layout and wanted and name != wanted:
    yield Finding(
      'other_folder_name', PROBLEM,
      f'{reading.exact.title} has to lie in a folder {wanted}; this is {name}',
      f'rename it to {wanted}; config.data.dir is the folder above it',
    )  # fmt: skip


# The images


def about_images(
  base: pathlib.Path, checked: Mapping[images.Target, images.Checked]
) -> Iterator[Finding]:
  """Whether each is whole, and of a usual size."""
  mend = (
    'fetch them again, or delete them (and their lines in lists): they cannot'
    ' be prepared'
  )
  tests = (
    (
      'unreadable_images', PROBLEM, 'that cannot be read', mend, '{reason}',
      lambda x: x.kind == 'unreadable',
    ),
    (
      'truncated_images', PROBLEM, 'cut off', mend, '{reason}',
      lambda x: x.kind == 'truncated',
    ),
    (
      'small_images', NOTE, 'smaller than {} x {} pixels'.format(*SMALL),
      'look at them: so few pixels show little of a person',
      '{width} x {height}',
      lambda x: 0 < x.width < SMALL[0] or 0 < x.height < SMALL[1],
    ),
    (
      'wide_images', NOTE, 'wider than high',
      'look at them: whatever its shape, an image is made'
      ' config.data.image_size', '{width} x {height}',
      lambda x: x.width > x.height,
    ),
  )  # fmt: skip
  for kind, severity, text, advice, form, test in tests:
    said = sorted(
      (name_of(target, base), form.format(**vars(result)))
      for target, result in checked.items()
      if test(result)
    )
    if said:
      yield Finding(
        kind, severity, f'{many(len(said), "image")} {text}', advice,
        tuple(name for name, _ in said),
        tuple(f'{name}: {text}' for name, text in said),
      )  # fmt: skip


def not_checked(number: int, file: pathlib.Path) -> Finding:
  return Finding(
    'not_checked', NOTE,
    f'the {many(number, "image")} in {file.name} were not looked at one by one',
    'add --decode to read each of them',
  )  # fmt: skip


# Identities and cameras


def about_labels(case: Case) -> Iterator[Finding]:
  """Whether they can be trained on and ranked."""
  yield from _shared_identities(case)
  yield from _unmatched_queries(case)
  yield from _unknown_cameras(case)
  yield from _poor_identities(case)


def _shared_identities(case: Case) -> Iterator[Finding]:
  splits = case.splits
  test = [i for i in (*splits['query'], *splits['gallery']) if i.pid > 0]
  both = {i.pid for i in splits['train']} & {i.pid for i in test}
  if both:
    yield Finding(
      'shared_identities', PROBLEM,
      f'{many(len(both), "identity", "identities")} in both training and test:'
      ' who is tested on must not be trained on',
      'delete their images on one side; or, if they are different people, give'
      ' them different numbers',
      case.show(image for image in test if image.pid in both),
      identities=tuple(sorted(both)),
    )  # fmt: skip


def _unmatched_queries(case: Case) -> Iterator[Finding]:
  dataset, splits = case.reading.dataset, case.splits
  cameras = collections.defaultdict(set)
  for image in splits['gallery']:
    cameras[image.pid].add(image.camid)
  query = splits['query']
  unmatched = [i for i in query if not cameras[i.pid] - {i.camid}]
  if unmatched and splits['gallery']:
    own = case.reading.expected is None or case.reading.is_as_published
    cameraless = not dataset.has_cameras
    yield Finding(
      'unmatched_queries',
      NOTE if own and len(unmatched) < len(query) else PROBLEM,
      f'{len(unmatched):,} of {many(len(query), "query", "queries")} without a'
      ' match: the gallery has no other image of the identity'
      + ('' if cameraless else ' by another camera'),
      'put one there, or delete these queries; evaluation leaves them out',
      case.show(unmatched),
    )  # fmt: skip


def _unknown_cameras(case: Case) -> Iterator[Finding]:
  expected = case.reading.expected
  if not expected or case.reading.is_as_published:
    return
  cameras = max(counts.cameras for counts in expected.published.values())
  unknown = [
    image
    for split in raw.SPLITS
    for image in case.splits[split]
    if image.camid >= cameras
  ]
  if unknown:
    yield Finding(
      'unknown_cameras', PROBLEM,
      f'{many(len(unknown), "image")} of cameras that {expected.title} does not'
      f' have (it has 1 to {cameras})',
      'rename or delete them: the camera is the number after _c in a name',
      case.show(unknown),
    )  # fmt: skip


def _poor_identities(case: Case) -> Iterator[Finding]:
  """Training identities that there is little to learn from."""
  of_pid = collections.defaultdict(list)
  for image in case.splits['train']:
    of_pid[image.pid].append(image.camid)
  total = many(len(of_pid), 'training identity', 'training identities')
  few = [p for p, camids in of_pid.items() if len(camids) < BATCH_IMAGES]
  alone = [p for p, camids in of_pid.items() if len(set(camids)) == 1]
  if few:
    yield Finding(
      'few_images', NOTE,
      f'{len(few):,} of {total} with fewer than {BATCH_IMAGES} images',
      f'nothing has to be done: batches of {BATCH_IMAGES} images an identity'
      ' (config.train.K) repeat some of theirs',
      identities=tuple(sorted(few)),
    )  # fmt: skip
  if alone and case.reading.counts['train'].cameras > 1:
    yield Finding(
      'one_camera', NOTE, f'{len(alone):,} of {total} seen by one camera only',
      'nothing has to be done, but they do not teach what cameras change',
      identities=tuple(sorted(alone)),
    )  # fmt: skip
  if 0 < len(of_pid) < folders.BATCH_IDENTITIES:
    yield Finding(
      'few_identities', NOTE,
      f'{total}, fewer than the {folders.BATCH_IDENTITIES} of a batch',
      f'train with --config.train.P={len(of_pid)}, as below',
    )  # fmt: skip


# Files with the same bytes


def about_copies(case: Case) -> Iterator[Finding]:
  """Images that are there several times."""
  found = collections.defaultdict(list)
  for copies in _copies(case):
    splits = {split for split, _ in copies}
    labels = {(image.pid, image.camid) for _, image in copies}
    if len(splits) == 1:
      found['within_split'].append(copies)
    elif 'train' in splits:
      found['in_training_and_test'].append(copies)
    else:
      # One identity under one camera: evaluation rules such matches out.
      kind = 'query_in_gallery' if len(labels) == 1 else 'query_and_gallery'
      found[kind].append(copies)
    if len({pid for pid, _ in labels if pid > 0}) > 1:
      found['of_other_identities'].append(copies)
  mend = 'delete all but one of each (and their lines in lists)'
  says = {
    'in_training_and_test': (PROBLEM, 'in both training and test', mend),
    'query_and_gallery': (
      PROBLEM, 'in both query and gallery with other labels, so that a query'
      ' finds itself', mend,
    ),
    'of_other_identities': (
      PROBLEM, 'of several identities, of which one can be right', mend,
    ),
    'query_in_gallery': (
      NOTE, 'in both query and gallery with the same labels',
      'nothing has to be done: evaluation rules such matches out',
    ),
    'within_split': (NOTE, 'several times within a split', mend),
  }  # fmt: skip
  for kind, (severity, text, advice) in says.items():
    if case.reading.is_as_published:
      severity = NOTE
      advice = 'leave them: published figures are of the set as it is'
    if found[kind]:
      yield _same_bytes(case, kind, severity, found[kind], text, advice)


def _same_bytes(case, kind, severity, found, text, advice) -> Finding:
  groups = tuple(sorted(case.show(i for _, i in same) for same in found))
  files = tuple(sorted(file for group in groups for file in group))
  in_split = collections.Counter(
    split for same in found for split, _ in {(s, i.name): 0 for s, i in same}
  )
  where = ', '.join(f'{s} {in_split[s]:,}' for s in raw.SPLITS if in_split[s])
  return Finding(
    f'identical_{kind}', severity,
    f'{many(len(groups), "image")} {text}, byte for byte ({where})',
    advice, files, tuple(' = '.join(group) for group in groups), groups,
  )  # fmt: skip


def _copies(case: Case) -> Iterator[list[tuple[str, raw.RawImage]]]:
  """Images of several files with the same bytes, each with its split."""
  same = collections.defaultdict(lambda: collections.defaultdict(list))
  for split in raw.SPLITS:
    for image in case.splits[split]:
      target = images.target_of(image)
      if target in case.checked and case.checked[target].digest:
        same[case.checked[target].digest][target].append((split, image))
  for files in same.values():
    if len(files) > 1:
      yield [entry for entries in files.values() for entry in entries]


# Other files


def about_files(
  base: pathlib.Path, used: set[pathlib.Path], files: Iterable[pathlib.Path]
) -> Iterator[Finding]:
  """Those that are not images of the data set.

  Args:
    used: files of images that are, or are found under another heading.
    files: all there are.
  """
  places = {path.parent for path in used}
  unused, formats, odd = [], [], []
  for path in files:
    suffix = path.suffix.lower()
    if path in used:
      continue
    if suffix in raw.IMAGE_SUFFIXES:
      unused.append(path)
    elif suffix in OTHER_FORMATS:
      formats.append(path)
    elif path.parent in places and suffix != '.csv':
      odd.append(path)
  if formats:
    yield Finding(
      'other_formats', PROBLEM,
      f'{many(len(formats), "image")} in formats that are not read',
      'convert them to JPEG or PNG, or delete them', show(formats, base),
    )  # fmt: skip
  if unused:
    where = collections.Counter(name_of(path.parent, base) for path in unused)
    yield Finding(
      'unused_images', NOTE, f'{many(len(unused), "image")} in no split',
      'nothing has to be done, unless they are meant: they are not read',
      show(unused, base),
      tuple(f'{place}: {number:,}' for place, number in sorted(where.items())),
    )  # fmt: skip
  if odd:
    yield Finding(
      'odd_files', NOTE, f'{many(len(odd), "other file")} among the images',
      'nothing has to be done: they are not read', show(odd, base),
    )  # fmt: skip
