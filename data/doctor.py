"""Looks at a folder of images: which data set it is, and what is wrong with it.

Counts images, identities and cameras beside the published figures; finds files
that are broken, cut off, misnamed or there twice, identities in both training
and test, queries without a match, lists without images; and says of each what
to do about it. Nothing is changed.
"""

import argparse
from collections.abc import Iterator
import dataclasses
import json
import os
import pathlib
import shlex
import sys
import textwrap
from typing import Any

from apnet_jax.errors import UserError, naming_flags
from apnet_jax.printing import printable
from data import datasets, raw
from data.cuhk03_np.layout import MatImage
from data.health import findings, folders, images, samples

EPILOG = """\
PATH is the raw folder, or one that holds it under a usual name (as datasets/
holds Market-1501-v15.09.15), or a CSV file that lists images of your own.

examples:
  python -m data.doctor datasets/market1501
  python -m data.doctor datasets --dataset=msmt17/train
  python -m data.doctor photos --decode --samples=/tmp/photos.png
  python -m data.doctor photos/people.csv --json=- | jq .findings

exit codes:
  0  healthy, perhaps with notes
  1  problems, which should be mended before training
  2  the command is wrong

Other counts than the published ones are a problem where it is claimed that they
are those: by --dataset; by the folder's name (Market-1501, duke, Occluded_Duke,
...); by a layout that one data set alone has (CUHK03-NP, MSMT17); or by numbers
of images within 5% of them. Elsewhere they are a note: the images are your own.
Files with the same bytes are a problem where they spoil figures or labels, but
not in a set with the published counts: figures are of the set as it is. Queries
without a match are a problem if they are all, or the set is a published one.

Each file is read once, and its header and end are looked at; what is broken
between the two is seen with --decode only. A file without its end is a problem
even if other programs show it: TensorFlow, which reads the images, refuses it.
"""


@dataclasses.dataclass(frozen=True)
class Report:
  """What the doctor says.

  Attributes:
    path: what was asked for.
    asked: the name of the data set that it should be, or ''.
    readings: what it is: one for each variant of a data set.
    found: problems first.
    checked: what is known of each image.
    decoded: whether images were decoded.
  """

  path: pathlib.Path
  asked: str
  readings: list[folders.Reading]
  found: list[findings.Finding]
  checked: dict[images.Target, images.Checked]
  decoded: bool

  def of(self, severity: str) -> list[findings.Finding]:
    return [finding for finding in self.found if finding.severity == severity]

  @property
  def healthy(self) -> bool:
    return not self.of(findings.PROBLEM)

  def verdict(self) -> str:
    """What it is, in a line."""
    what = '; '.join(dict.fromkeys(r.what() for r in self.readings))
    root = self.readings[0].root if self.readings else self.path
    return f'{what or "No data set that is known"}: {root}'

  def sizes(self) -> dict[str, dict[str, float]]:
    """Least, median and greatest width and height; empty without images."""
    known = [x for x in self.checked.values() if x.width]
    return {
      name: images.range_of(getattr(x, name) for x in known)
      for name in ('width', 'height')
      if known
    }

  def commands(self) -> list[str]:
    """What to do next."""
    if self.healthy:
      return [c for reading in self.readings for c in reading.commands()]
    again = ['python -m data.doctor', shlex.quote(str(self.path))]
    again += [f'--dataset={self.asked}'] if self.asked else []
    again += ['--decode'] if self.decoded else []
    return [' '.join(again)]


# Looking


def examine(
  path: pathlib.Path, asked: str = '', decode: bool = False
) -> Report:
  """Looks at everything in or below a folder.

  Args:
    path: a folder, or a CSV file.
    asked: the name of the data set that it should be, or ''.
    decode: whether to decode every image.

  Raises:
    UserError: there is no data set of that name.
    OSError: a folder cannot be read.
  """
  base = _folder(path)
  readings, others = folders.find(path, asked)
  files = _files_below(readings[0].folder if readings else base)
  targets = dict.fromkeys(
    images.target_of(image)
    for reading in readings
    for image in _images(reading)
    if decode or not isinstance(image, MatImage)
  )
  if not readings or any(reading.error for reading in readings):
    targets |= dict.fromkeys(  # whatever they are images of
      file for file in files if file.suffix.lower() in raw.IMAGE_SUFFIXES
    )
  checked = images.check_all(targets, decode)
  cases = [findings.Case(base, asked, r, checked) for r in readings]
  found = [*_of_variants(cases), *_of_files(base, cases, files, checked)]
  if not readings:
    found.append(findings.no_layout(path, asked))
  if others:
    found.append(findings.several_datasets(base, readings[0].root, others))
  found.sort(key=lambda finding: finding.severity != findings.PROBLEM)
  return Report(path, asked, readings, found, checked, decode)


def _folder(path: pathlib.Path) -> pathlib.Path:
  """What file names are relative to."""
  return path if path.is_dir() else path.parent


def _images(reading: folders.Reading) -> Iterator[raw.RawImage]:
  if reading.dataset:
    for split in raw.SPLITS:
      yield from reading.dataset.splits[split]


def _files_below(folder: pathlib.Path) -> list[pathlib.Path]:
  return [
    pathlib.Path(place, name)
    for place, _, names in os.walk(folder)
    for name in names
  ]


def _of_variants(cases: list[findings.Case]) -> Iterator[findings.Finding]:
  """What concerns the data set, or one of its variants."""
  seen = set()
  for case in cases:
    found = [*findings.about_layout(case), *findings.about_counts(case)]
    names = {image.name for image in _images(case.reading)}
    if not names <= seen:  # as those of msmt17/train are, after trainval
      found += [*findings.about_labels(case), *findings.about_copies(case)]
    seen |= names
    name = f'{case.reading.layout.name}: ' if len(cases) > 1 else ''
    for finding in found:
      yield dataclasses.replace(finding, message=name + finding.message)


def _of_files(
  base: pathlib.Path,
  cases: list[findings.Case],
  files: list[pathlib.Path],
  checked: dict[images.Target, images.Checked],
) -> Iterator[findings.Finding]:
  """What concerns files, whichever variant they are of."""
  yield from findings.about_images(base, checked)
  inside = [
    image
    for case in cases
    for image in _images(case.reading)
    if isinstance(image, MatImage)
  ]
  if inside and inside[0] not in checked:
    yield findings.not_checked(len(inside), inside[0].path)
  used = {
    image.path
    for case in cases
    for image in _images(case.reading)
    if not isinstance(image, MatImage)
  }
  used |= {path for case in cases for path in case.reading.misnamed}
  if not all(case.reading.dataset for case in cases) or not cases:
    used |= {*checked}  # nobody knows which are used
  yield from findings.about_files(base, used, files)


# Telling


def to_json(report: Report) -> dict[str, Any]:
  """Everything, for programs; files are relative to the folder asked for."""
  return {
    'path': str(report.path),
    'verdict': report.verdict(),
    'healthy': report.healthy,
    'datasets': [
      _reading_to_json(reading, _folder(report.path))
      for reading in report.readings
    ],
    'images': {
      'checked': len(report.checked),
      'decoded': report.decoded,
      **report.sizes(),
    },
    'findings': [dataclasses.asdict(finding) for finding in report.found],
    'next': report.commands(),
  }


def _reading_to_json(
  reading: folders.Reading, base: pathlib.Path
) -> dict[str, Any]:
  def counts(of):
    return {k: dataclasses.asdict(v) for k, v in of.items()} if of else None

  dataset = reading.dataset
  return {
    'layout': reading.layout.name,
    'root': findings.name_of(reading.root, base),
    'is': reading.exact.name if reading.exact else None,
    'expected': reading.expected.name if reading.expected else None,
    'because': reading.because,
    'as_published': reading.is_as_published,
    'counts': counts(reading.counts),
    'published': counts(reading.published),
    'notes': list(dataset.notes) if dataset else [],
    'has_cameras': dataset.has_cameras if dataset else None,
    'error': reading.error,
  }


def to_text(report: Report) -> str:
  """A page for people."""
  lines = [report.verdict()]
  for reading in report.readings:
    lines += _counts_lines(reading, len(report.readings) > 1)
  how = 'decoded' if report.decoded else 'looked at'
  lines += ['', f'{findings.many(len(report.checked), "image")} {how}']
  for name, values in report.sizes().items():
    text = '{min} to {max}, median {median:g}'
    if values['min'] == values['max']:
      text = '{min}'
    lines.append(f'  {name:8}{text.format(**values)}')
  for severity in (findings.PROBLEM, findings.NOTE):
    found = report.of(severity)
    if found:
      lines += ['', f'{findings.many(len(found), severity)}:']
    for number, finding in enumerate(found, 1):
      lines += _finding_lines(number, finding)
  if report.healthy:
    lines += ['', 'Healthy. Next:']
  else:
    lines += ['', 'Mend the problems, then look again:']
  lines += [f'  {line}' for line in report.commands()]
  return printable('\n'.join(lines))


def _counts_lines(reading: folders.Reading, name: bool) -> list[str]:
  lines = [f'{reading.layout.name}:'] if name else []
  if reading.dataset and reading.published:
    lines.append(datasets.counts_table(reading.counts, reading.published))
  elif reading.dataset:
    for split, counts in reading.counts.items():
      parts = [f'{counts.images:9,} images{counts.identities:8,} people']
      for field in ('camera', 'distractor'):
        if number := getattr(counts, f'{field}s'):
          parts.append(findings.many(number, field))
      if counts.junk:
        parts.append(f'{counts.junk:,} junk')
      lines.append(f'  {split:8}{", ".join(parts)}')
  if reading.dataset:
    lines += [f'  {note}' for note in reading.dataset.notes]
  return lines


def _finding_lines(number: int, finding: findings.Finding) -> list[str]:
  files = finding.lines or finding.files or tuple(map(str, finding.identities))
  if finding.identities and not finding.files:
    files = (', '.join(files[:20]) + (', ...' if len(files) > 20 else ''),)
  lines = [*_wrap(finding.message, f'{number:3}. ', 5)]
  if files:
    lines.append(textwrap.indent(raw.shorten(files), ' ' * 3))
  return lines + _wrap(finding.advice, '     -> ', 8)


def _wrap(text: str, first: str, indent: int) -> list[str]:
  """Lines of at most 80 columns; commands stay whole."""
  lines = []
  for line in text.split('\n'):
    if line.startswith('python '):
      lines.append(f'{" " * indent}{line}')
    else:
      lines += textwrap.wrap(
        line, 80, break_long_words=False, break_on_hyphens=False,
        initial_indent=' ' * indent if lines else first,
        subsequent_indent=' ' * indent,
      )  # fmt: skip
  return lines


# The command


class Parser(argparse.ArgumentParser):
  """Says in a line what is wrong with a command."""

  def error(self, message: str):
    self.exit(2, f'{self.prog}: {message}\n')


def make_parser() -> Parser:
  parser = Parser(
    prog='python -m data.doctor',
    description=__doc__,
    epilog=EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('path', metavar='PATH', type=pathlib.Path)
  names = [layout.name for layout in datasets.LAYOUTS]
  parser.add_argument(
    '--dataset', metavar='NAME', default='',
    help='what PATH should be: '
    + ', '.join([*datasets.SHORT_NAMES, *names]),
  )  # fmt: skip
  parser.add_argument(
    '--decode', action='store_true', help='decode every image in full'
  )
  parser.add_argument(
    '--json', metavar='FILE', help='write all that was found; - for stdout'
  )
  parser.add_argument(
    '--samples', metavar='FILE.png', type=pathlib.Path,
    help='draw some images of each split',
  )  # fmt: skip
  parser.add_argument(
    '--seed', type=int, default=0, help='of the choice of --samples'
  )
  return parser


def check_options(options: argparse.Namespace) -> None:
  """Raises UserError for what cannot be done, before anything is."""
  path, picture = options.path, options.samples
  if not path.exists():
    raise UserError(f'there is no {path}')
  if not path.is_dir() and path.suffix.lower() != '.csv':
    raise UserError(f'{path} is neither a folder nor a CSV file')
  if options.dataset:
    with naming_flags({'data.name': '--dataset'}):
      datasets.find(options.dataset)
  if picture and picture.suffix.lower() != '.png':
    raise UserError(f'--samples={picture} does not end in .png')
  if picture and path.resolve() in picture.resolve().parents:
    raise UserError(
      f'--samples={picture} lies in {path}, where it would be an image more'
    )
  for flag, file in (('json', options.json), ('samples', picture)):
    if file and not pathlib.Path(file).absolute().parent.is_dir():
      raise UserError(f'--{flag}={file} lies in a folder that does not exist')


def draw_samples(report: Report, file: pathlib.Path, seed: int) -> None:
  """Draws the first variant that has images, if there is one."""
  for reading in report.readings:
    if any(_images(reading)):
      dataset = reading.dataset
      samples.draw(dataset, reading.first_camera, seed).save(file)
      return
  print(f'{file} is not drawn: there are no images', file=sys.stderr)


def tell(text: str) -> None:
  """Prints, also to someone who stops reading, as `head` does."""
  try:
    print(text, flush=True)
  except BrokenPipeError:  # so that Python does not try again at its end
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_json(report: Report, file: str) -> None:
  text = json.dumps(to_json(report), indent=2)
  if file == '-':
    tell(text)
  else:
    pathlib.Path(file).write_text(f'{text}\n')


def main(arguments: list[str] | None = None) -> int:
  """Returns the exit code."""
  parser = make_parser()
  options = parser.parse_args(arguments)
  options.path = options.path.expanduser()
  try:
    check_options(options)
  except UserError as error:
    parser.error(str(error))
  try:
    report = examine(options.path, options.dataset, options.decode)
    if options.samples:
      draw_samples(report, options.samples, options.seed)
    if options.json:
      write_json(report, options.json)
  except OSError as error:
    parser.error(str(error))
  if options.json != '-':
    tell(to_text(report))
  return 0 if report.healthy else 1


if __name__ == '__main__':
  sys.stdout.reconfigure(errors='backslashreplace')  # whatever it can show
  sys.exit(main())
