"""Examines a folder of images: which data set it is, and what is wrong with it.

Compares the counts of images, identities and cameras with the published ones.
Finds files that are broken, cut off, misnamed or duplicated, identities in both
training and test, queries without a match, and listed files that do not exist;
and gives advice on each. No file is changed.
"""

import argparse
from collections.abc import Iterator, Mapping
import dataclasses
import json
import os
import pathlib
import shlex
import sys
import textwrap
from typing import Any

from apnet_jax.errors import UserError, naming_flags
from apnet_jax.images import files_below
from apnet_jax.printing import counted, printable
from data import datasets, raw
from data.cuhk03_np.layout import MatImage
from data.folder.pattern import compile_pattern
from data.health import findings, folders, images, samples
from data.health.findings import Finding

EPILOG = """\
PATH is the raw folder; or a folder that holds it under a usual name, as
datasets/ may hold Market-1501-v15.09.15; or a CSV file that lists own images.

examples:
  python -m data.doctor datasets/market1501
  python -m data.doctor datasets --dataset=msmt17/train
  python -m data.doctor photos --decode --samples=/tmp/photos.png
  python -m data.doctor photos/people.csv --json=- | jq .findings
  python -m data.doctor photos --folders_are_people
  python -m data.doctor photos --pattern='cam(?P<camid>\\d)/(?P<pid>\\w+)/'

exit codes:
  0  healthy, perhaps with notes
  1  problems, which should be solved before training
  2  the command is wrong

Counts that differ from the published ones are a problem if the data set should
be a published one: by --dataset; by the folder's name (Market-1501, duke,
Occluded_Duke, ...); by a layout that no other data set has (CUHK03-NP, MSMT17);
or because all numbers of images are within 5% of the published ones. Otherwise
they are a note: the images are your own. Identical files are a problem if they
distort figures or labels, but not in a data set with the published counts, as
published figures include them. Queries without a match are a problem if no
query has a match, or if the data set should be a published one.

Each file is read once, and its header and its end are checked; only --decode
finds damage between the two. A file without its end is a problem even if other
programs show it: TensorFlow, which reads the images for training, refuses it.
"""

# The configurations start from random weights and fit no CPU.
BY_DEVICE = """\
On a GPU, add
  --config.model.pretrained=hf://timm/resnet50.tv_in1k
On a CPU, add
  --config.model.backbone=resnet14 --config.data.image_size='(128,64)'"""


@dataclasses.dataclass(frozen=True)
class Report:
  """The result of examining a folder of images.

  Attributes:
    path: folder or file that was examined.
    name: name of the data set that the user expects (--dataset), or ''.
    datasets: the data set that was found, once for each of its variants.
    findings: all findings, problems first.
    checks: result of checking each image file.
    decoded: whether the images were decoded in full.
    settings: values of `folders.SETTINGS` that the user gave, as --pattern.
  """

  path: pathlib.Path
  name: str
  datasets: list[folders.FoundDataset]
  findings: list[Finding]
  checks: dict[images.Source, images.ImageCheck]
  decoded: bool
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def with_severity(self, severity: str) -> list[Finding]:
    """Returns the findings of a severity, `problem` or `note`."""
    return [one for one in self.findings if one.severity == severity]

  @property
  def healthy(self) -> bool:
    """Returns whether no problem was found."""
    return not self.with_severity(findings.PROBLEM)

  def verdict(self) -> str:
    """Returns a line of text that names the data set and its folder."""
    what = '; '.join(dict.fromkeys(one.describe() for one in self.datasets))
    root = self.datasets[0].root if self.datasets else self.path
    return f'{what or "No known data set"}: {root}'

  def sizes(self) -> dict[str, dict[str, float]]:
    """Returns minimum, median and maximum of image widths and heights.

    Lengths are in pixels. The result is empty if no image has a known size.
    """
    known = [x for x in self.checks.values() if x.width]
    return {
      name: images.summarize(getattr(x, name) for x in known)
      for name in ('width', 'height')
      if known
    }

  @property
  def only_tests(self) -> bool:
    """Returns whether no problem was found, but no image to train on either."""
    return self.healthy and all(one.only_tests for one in self.datasets)

  def next_commands(self) -> list[str]:
    """Returns shell commands to run next.

    They train, or evaluate if there is nothing to train on, or examine again.
    """
    if self.only_tests:
      return [self.datasets[0].eval_command()]
    if self.healthy:
      return [c for one in self.datasets for c in one.train_commands()]
    again = ['python -m data.doctor', shlex.quote(str(self.path))]
    again += [f'--dataset={self.name}'] if self.name else []
    again += folders.setting_flags(self.settings)
    again += ['--decode'] if self.decoded else []
    return [' '.join(again)]


# Examination


def examine(
  path: pathlib.Path, name: str = '', decode: bool = False, **settings: Any
) -> Report:
  """Examines the images and all other files in and below a folder.

  Args:
    path: a folder, or a CSV file.
    name: name of the data set that the folder should hold, or ''.
    decode: whether to decode every image in full.
    **settings: values of `folders.SETTINGS`; others have their defaults.

  Raises:
    UserError: there is no data set of this name.
    OSError: the folder cannot be read. (One below it is a finding.)
  """
  base = _base_folder(path)
  found, other_folders = folders.find_datasets(path, name, **settings)
  folder = found[0].folder if found else base
  closed: list[OSError] = []
  files = list(files_below(folder, on_error=closed.append))
  sources = dict.fromkeys(
    images.source_of(image)
    for dataset in found
    for image in _images(dataset)
    if decode or not isinstance(image, MatImage)
  )
  # A list may name a hidden file, which is then an image like others.
  known = {*files, *sources}
  everything = files_below(folder, hidden=True, on_error=lambda _: None)
  hidden = [file for file in everything if file not in known]
  if not found or any(dataset.error for dataset in found):
    # Which images belong to the data set is unknown, so that all are checked.
    sources |= dict.fromkeys(
      file for file in files if file.suffix.lower() in raw.IMAGE_SUFFIXES
    )
  checks = images.check_images(sources, decode)
  facts = [findings.Facts(base, name, dataset, checks) for dataset in found]
  results = [
    *_dataset_findings(facts),
    *_file_findings(base, facts, files, checks),
  ]
  if closed:
    results.append(findings.unreadable_folders(base, closed))
  if hidden:
    results.append(findings.hidden_files(base, hidden))
  if not found:
    results.append(findings.no_layout(path, name))
  if other_folders:
    results.append(
      findings.several_datasets(base, found[0].root, other_folders)
    )
  results.sort(key=lambda finding: finding.severity != findings.PROBLEM)
  return Report(path, name, found, results, checks, decode, settings)


def _base_folder(path: pathlib.Path) -> pathlib.Path:
  """Returns the examined folder, or the folder of an examined file."""
  return path if path.is_dir() else path.parent


def _images(dataset: folders.FoundDataset) -> Iterator[raw.RawImage]:
  for split in raw.SPLITS:
    yield from dataset.splits[split]


def _dataset_findings(all_facts: list[findings.Facts]) -> Iterator[Finding]:
  """Yields findings about the data set as a whole, or about a variant.

  Args:
    all_facts: facts about each variant of the data set.
  """
  seen = set()
  for facts in all_facts:
    results = [
      *findings.layout_findings(facts),
      *findings.count_findings(facts),
    ]
    names = {image.name for image in _images(facts.found)}
    # The images of msmt17/train are a part of those of msmt17/trainval.
    if not names <= seen:
      results += findings.label_findings(facts)
      results += findings.duplicate_findings(facts)
    seen |= names
    variant = f'{facts.found.layout.name}: ' if len(all_facts) > 1 else ''
    for finding in results:
      yield dataclasses.replace(finding, message=variant + finding.message)


def _file_findings(
  base: pathlib.Path,
  all_facts: list[findings.Facts],
  files: list[pathlib.Path],
  checks: dict[images.Source, images.ImageCheck],
) -> Iterator[Finding]:
  """Yields findings about files, once for all variants of the data set.

  Args:
    base: folder that file names are relative to.
    all_facts: facts about each variant of the data set.
    files: all files in and below the folder of the data set, except hidden
      ones.
    checks: result of checking each image file.
  """
  yield from findings.image_findings(base, checks)
  listed = [image for facts in all_facts for image in _images(facts.found)]
  inside = [image for image in listed if isinstance(image, MatImage)]
  if inside and inside[0] not in checks:
    yield findings.not_checked(len(inside), inside[0].path)
  used = {image.path for image in listed if not isinstance(image, MatImage)}
  used |= {path for facts in all_facts for path in facts.found.misnamed}
  used |= {path for facts in all_facts for path in facts.found.more_queries()}
  if not all_facts or not all(facts.found.images for facts in all_facts):
    used |= {*checks}  # which images are used is unknown
  complete = bool(all_facts) and all(
    facts.found.is_listed or facts.found.is_as_published for facts in all_facts
  )
  yield from findings.other_file_findings(base, used, files, complete)


# Output


def to_json(report: Report) -> dict[str, Any]:
  """Converts a report to a dictionary to be written as JSON.

  File names are relative to the examined folder.
  """
  return {
    'path': str(report.path),
    'verdict': report.verdict(),
    'healthy': report.healthy,
    'datasets': [
      _dataset_to_json(dataset, _base_folder(report.path))
      for dataset in report.datasets
    ],
    'images': {
      'checked': len(report.checks),
      'decoded': report.decoded,
      **report.sizes(),
    },
    'findings': [dataclasses.asdict(finding) for finding in report.findings],
    'next': report.next_commands(),
  }


def _dataset_to_json(
  dataset: folders.FoundDataset, base: pathlib.Path
) -> dict[str, Any]:
  def counts(by_split):
    if not by_split:
      return None
    return {k: dataclasses.asdict(v) for k, v in by_split.items()}

  return {
    'layout': dataset.layout.name,
    'root': findings.file_name(dataset.root, base),
    'is': dataset.exact.name if dataset.exact else None,
    'expected': dataset.expected.name if dataset.expected else None,
    'because': dataset.because,
    'as_published': dataset.is_as_published,
    'counts': counts(dataset.counts),
    'published': counts(dataset.published),
    'notes': list(dataset.images.notes) if dataset.images else [],
    'has_cameras': dataset.images.has_cameras if dataset.images else None,
    'error': dataset.error,
  }


def to_text(report: Report) -> str:
  """Returns the report as text for people."""
  lines = [report.verdict()]
  for dataset in report.datasets:
    lines += _counts_lines(dataset, len(report.datasets) > 1)
  action = 'decoded' if report.decoded else 'checked'
  lines += ['', f'{counted(len(report.checks), "image")} {action}']
  for name, values in report.sizes().items():
    text = '{min} to {max}, median {median:g}'
    if values['min'] == values['max']:
      text = '{min}'
    lines.append(f'  {name:8}{text.format(**values)}')
  for severity in (findings.PROBLEM, findings.NOTE):
    results = report.with_severity(severity)
    if results:
      lines += ['', f'{counted(len(results), severity)}:']
    for number, finding in enumerate(results, 1):
      lines += _finding_lines(number, finding)
  if report.healthy:
    lines += ['', 'Healthy. Next:']
  else:
    lines += ['', 'Solve the problems, then examine the folder again:']
  lines += [f'  {line}' for line in report.next_commands()]
  if report.only_tests:
    lines.append(
      'WORKDIR is that of a training: here are no images to train on.'
    )
  elif report.healthy and 'configs/synthetic.py' not in lines[-1]:  # for a CPU
    lines.append(BY_DEVICE)
  return printable('\n'.join(lines))


def _counts_lines(dataset: folders.FoundDataset, name: bool) -> list[str]:
  lines = [f'{dataset.layout.name}:'] if name else []
  if not dataset.images:
    return lines
  if dataset.published:
    lines.append(datasets.counts_table(dataset.counts, dataset.published))
  else:
    for split, counts in dataset.counts.items():
      numbers = [f'{counts.images:9,} images{counts.identities:8,} people']
      for field in ('camera', 'distractor'):
        if number := getattr(counts, f'{field}s'):
          numbers.append(counted(number, field))
      if counts.junk:
        numbers.append(f'{counts.junk:,} junk')
      lines.append(f'  {split:8}{", ".join(numbers)}')
  return lines + [f'  {note}' for note in dataset.images.notes]


def _finding_lines(number: int, finding: Finding) -> list[str]:
  files = finding.lines or finding.files or tuple(map(str, finding.identities))
  if finding.identities and not finding.files:
    files = (', '.join(files[:20]) + (', ...' if len(files) > 20 else ''),)
  lines = [*_wrap(finding.message, f'{number:3}. ', 5)]
  if files:
    lines.append(textwrap.indent(raw.format_lines(files), ' ' * 3))
  return lines + _wrap(finding.advice, '     -> ', 8)


def _wrap(text: str, first: str, indent: int) -> list[str]:
  """Wraps text at 80 columns, except lines that are commands.

  Args:
    text: one or more lines.
    first: text before the first line.
    indent: indent of all other lines, in spaces.
  """
  lines = []
  for line in text.split('\n'):
    if line.startswith(('python ', 'cd ')):
      lines.append(f'{" " * indent}{line}')
    else:
      lines += textwrap.wrap(
        line, 80, break_long_words=False, break_on_hyphens=False,
        initial_indent=' ' * indent if lines else first,
        subsequent_indent=' ' * indent,
      )  # fmt: skip
  return lines


# Command line


class Parser(argparse.ArgumentParser):
  """An argument parser that prints a usage error as one line."""

  def error(self, message: str):
    self.exit(2, f'{self.prog}: {printable(message)}\n')


def make_parser() -> Parser:
  """Returns the parser of the command line."""
  parser = Parser(
    prog='python -m data.doctor',
    description=__doc__,
    epilog=EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    'path', metavar='PATH', type=pathlib.Path, help='folder or CSV file'
  )
  names = [layout.name for layout in datasets.LAYOUTS]
  parser.add_argument(
    '--dataset', metavar='NAME', default='',
    help='the data set that PATH should be: '
    + ', '.join([*datasets.SHORT_NAMES, *names]),
  )  # fmt: skip
  parser.add_argument(
    '--pattern', metavar='REGEX', default='',
    help='for own images: a regular expression that finds identity, camera and'
    ' split in their paths, by groups named pid, camid and split',
  )  # fmt: skip
  parser.add_argument(
    '--folders_are_people', action='store_true',
    help='for own images: each folder is one person, although the folders look'
    ' like cameras',
  )  # fmt: skip
  parser.add_argument(
    '--ignore_cameras', action='store_true',
    help='compare each query with all images except itself, whatever their'
    ' cameras',
  )  # fmt: skip
  parser.add_argument(
    '--decode', action='store_true', help='decode every image in full'
  )
  parser.add_argument(
    '--json', metavar='FILE', help='write the report as JSON; - for stdout'
  )
  parser.add_argument(
    '--samples', metavar='FILE.png', type=pathlib.Path,
    help='draw a picture with some images of each split',
  )  # fmt: skip
  parser.add_argument(
    '--seed', type=int, default=0, help='seed of the choice for --samples'
  )
  return parser


def check_options(options: argparse.Namespace) -> None:
  """Raises UserError if the command's options are invalid or contradictory."""
  path, picture = options.path, options.samples
  if not path.exists():
    raise UserError(f'{path} does not exist')
  if not path.is_dir() and path.suffix.lower() != '.csv':
    raise UserError(f'{path} is neither a folder nor a CSV file')
  with naming_flags({'data.name': '--dataset', 'data.pattern': '--pattern'}):
    if options.dataset:
      datasets.find(options.dataset)
    if options.pattern:
      compile_pattern(options.pattern)
  if options.dataset and options.pattern:
    raise UserError('--pattern is for own images: leave out --dataset')
  if picture and picture.suffix.lower() != '.png':
    raise UserError(f'--samples={picture} does not end in .png')
  if picture and path.resolve() in picture.resolve().parents:
    raise UserError(
      f'--samples={picture} is in {path}, where it would count as an image'
    )
  for flag, file in (('json', options.json), ('samples', picture)):
    if file and not pathlib.Path(file).absolute().parent.is_dir():
      raise UserError(f'--{flag}={file} is in a folder that does not exist')


def draw_samples(report: Report, file: pathlib.Path, seed: int) -> None:
  """Writes a picture of randomly chosen images of each split.

  If several variants of the data set were found, the first with images is
  drawn. If none has images, no file is written.
  """
  for dataset in report.datasets:
    if any(_images(dataset)):
      samples.draw(dataset.images, seed).save(file)
      return
  text = f'{file} is not written: there are no images'
  print(printable(text), file=sys.stderr)


def print_unless_closed(text: str) -> None:
  """Prints text, unless the reader has closed the pipe, as `head` does."""
  try:
    print(text, flush=True)
  except BrokenPipeError:  # keeps Python from writing again when it exits
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_json(report: Report, file: str) -> None:
  """Writes the report as JSON to a file, or to stdout for '-'."""
  text = json.dumps(to_json(report), indent=2)
  if file == '-':
    print_unless_closed(text)
  else:
    pathlib.Path(file).write_text(f'{text}\n')


def main(arguments: list[str] | None = None) -> int:
  """Runs the command, and returns its exit code."""
  parser = make_parser()
  options = parser.parse_args(arguments)
  options.path = options.path.expanduser()
  try:
    check_options(options)
  except UserError as error:
    parser.error(str(error))
  try:
    settings = {name: getattr(options, name) for name in folders.SETTINGS}
    report = examine(options.path, options.dataset, options.decode, **settings)
    if options.samples:
      draw_samples(report, options.samples, options.seed)
    if options.json:
      write_json(report, options.json)
  except OSError as error:
    parser.error(str(error))
  if options.json != '-':
    print_unless_closed(to_text(report))
  return 0 if report.healthy else 1


if __name__ == '__main__':
  sys.stdout.reconfigure(errors='backslashreplace')  # for any encoding
  sys.exit(main())
