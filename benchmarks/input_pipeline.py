"""Images/s of the input pipeline and of a plain PyTorch one, side by side.

Both decode JPEG files, resize them to the network's size, flip, pad and crop,
normalise and erase, and give batches of 20 identities with 4 images each. Each
side is a process of its own, pinned to the same cores: to one, then to all.
The sides take turns, so that what else the machine does hits both; figures are
medians over the turns. PyTorch has the number of workers that is its best.

This project's augmentation writes each batch over the one before. PyTorch's
loader takes new memory for each, unless it collates into one buffer, which it
can without workers only. Rows say how either side does with the other's habit.
"""

import argparse
from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from tqdm import tqdm

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

from benchmarks import command, measuring  # noqa: E402

BATCH_SIZE = 80
SEED = 0  # of the drawn images and of the batches: the default of both
WHOLE = 'decode, resize, augment: float32 batches'
UINT8 = 'decode, resize: uint8 batches'
UINT8_PART = 'decode, resize'
DECODE = 'decode, one by one'
TABLES = (WHOLE, UINT8, DECODE)
REFERENCE = 'PyTorch'
OURS = 'this project'


@dataclasses.dataclass(frozen=True)
class Row:
  """One thing to measure: `part` is what is asked of the side."""

  table: str
  name: str
  side: str
  part: str


ROWS = (
  Row(WHOLE, REFERENCE, 'torch', 'all'),
  Row(WHOLE, 'PyTorch, batches in one buffer', 'torch', 'all, one buffer'),
  Row(WHOLE, OURS, 'encoded', 'all'),
  Row(WHOLE, 'this project, new memory', 'encoded', 'all, new memory'),
  Row(WHOLE, 'this project, decoded cache', 'decoded', 'all'),
  Row(UINT8, REFERENCE, 'torch', UINT8_PART),
  Row(UINT8, OURS, 'encoded', UINT8_PART),
  Row(UINT8, 'this project, decoded cache', 'decoded', UINT8_PART),
  Row(DECODE, REFERENCE, 'torch', 'decode'),
  Row(DECODE, OURS, 'encoded', 'decode'),
)


@contextlib.contextmanager
def open_sides(
  images: pathlib.Path, image_size: tuple[int, int], cores: set[int]
) -> Iterator[dict[str, command.Side]]:
  """Starts all sides on these cores; they wait for requests."""
  common = ['--images', str(images), '--image-size', *map(str, image_size)]
  sides = {}
  try:
    sides['torch'] = command.Side(
      'input_torch', common, command.environment(JAX_PLATFORMS='cpu'), cores
    )
    for cache in ('encoded', 'decoded'):
      sides[cache] = command.Side(
        'input_ours',
        [*common, '--cache', cache],
        command.environment(JAX_PLATFORMS='cpu'),
        cores,
      )
    yield sides
  finally:
    for side in sides.values():
      side.close()


def measure_on(
  cores: set[int], images: pathlib.Path, args: argparse.Namespace
) -> dict:
  """All rows on these cores.

  Returns:
    `versions`; `workers`, PyTorch's answers in all turns by number of workers;
    and `rows`, the answers in all turns for each of `ROWS`: PyTorch's are those
    with the best number of workers.
  """
  number = len(cores)
  candidates = {0, 1, number} | ({2 * number} if number > 1 else set())
  workers = {candidate: [] for candidate in sorted(candidates)}
  reference, *others = ROWS
  rows = {row: [] for row in ROWS}
  progress = tqdm(
    total=args.turns * (len(workers) + len(others)), unit='', leave=False
  )
  progress.set_description(f'{command.count_cores(number)}: starting')
  with progress, open_sides(images, args.image_size, cores) as sides:

    def ask(row, **request):
      progress.set_description(f'{command.count_cores(number)}: {row.name}')
      request |= {'part': row.part, 'seconds': args.seconds}
      answer = sides[row.side].ask(**request)
      progress.update()
      return answer

    versions = {}
    for side in sides.values():
      versions |= side.ask(part='versions')
    for _ in range(args.turns):
      for candidate, answers in workers.items():
        answers.append(ask(reference, workers=candidate))
      best = best_workers(workers)
      for row in others:
        # Without workers is how PyTorch can use one buffer.
        plain = row.side == 'torch' and row.part == UINT8_PART
        rows[row].append(ask(row, **({'workers': best} if plain else {})))
  rows[reference] = workers[best_workers(workers)]
  return {'versions': versions, 'workers': workers, 'rows': rows}


def best_workers(workers: Mapping[int, list[dict]]) -> int:
  return max(workers, key=lambda number: _median_rate(workers[number]))


def _median_rate(answers: list[dict]) -> float:
  return statistics.median(answer['rate'] for answer in answers)


def summarize(measured: Mapping, cores: int) -> dict:
  """Figures of `measure_on`, by table and row: medians, and all the turns."""
  rows = measured['rows']
  references = {
    row.table: _median_rate(rows[row]) for row in rows if row.name == REFERENCE
  }
  figures = {table: {} for table in TABLES}
  for row, answers in rows.items():
    rate = _median_rate(answers)
    figures[row.table][row.name] = {
      'images/s': round(rate),
      # Decoding one by one takes one core, however many there are.
      'a core': round(rate / (1 if row.table == DECODE else cores)),
      'times': round(rate / references[row.table], 2),
      'MB': _median_megabytes(answers),
      'turns': [round(answer['rate']) for answer in answers],
    }
  figures['PyTorch by workers'] = {
    str(number): round(_median_rate(answers))
    for number, answers in measured['workers'].items()
  }
  return figures


def _median_megabytes(answers: list[dict]) -> int | None:
  memory = [answer['memory'] for answer in answers]
  return None if None in memory else round(statistics.median(memory) / 1e6)


def shares(figures: Mapping, name: str) -> dict[str, int]:
  """Per cent of the time of a batch that each part takes, on one core."""
  whole, uint8, decode = (
    1 / figures[table][name]['images/s'] for table in TABLES
  )
  parts = {
    'decode': decode,
    'resize and batch': uint8 - decode,
    'augment': whole - uint8,
  }
  return {part: round(100 * time / whole) for part, time in parts.items()}


def format_table(figures: Mapping, cores: int) -> str:
  """What is printed of the figures for some number of cores."""
  columns = ('images/s', 'a core', 'times', 'MB')
  title = f'On {command.count_cores(cores)}'
  lines = [f'{title:34}' + ''.join(f'{column:>10}' for column in columns)]
  for table in TABLES:
    lines.append(table)
    for row in ROWS:
      if row.table == table:
        values = figures[table][row.name]
        cells = [
          '-' if values[c] is None else f'{values[c]:,}' for c in columns
        ]
        lines.append(f'  {row.name:32}' + ''.join(f'{c:>10}' for c in cells))
  workers = figures['PyTorch by workers']
  best = max(workers, key=workers.get)
  tried = ', '.join(workers)
  lines.append(f'Workers of PyTorch: {best}, the best of {tried}')
  if cores == 1:
    for name in (REFERENCE, OURS):
      parts = ', '.join(f'{p} {s}%' for p, s in shares(figures, name).items())
      lines.append(f'Time of {name}: {parts}')
  return '\n'.join(lines)


def draw(folder: pathlib.Path, identities: int) -> pathlib.Path:
  """Draws people and returns the folder of the training images."""
  root = folder / 'drawn'
  command = [sys.executable, '-m', 'data.synthetic.draw', str(root)]
  command += [f'--train-identities={identities}', f'--seed={SEED}']
  few = ['--test-identities=1', '--distractors=0', '--junk=0']
  subprocess.run([*command, *few], cwd=ROOT, check=True)
  return root / 'bounding_box_train'


def make_parser() -> argparse.ArgumentParser:
  parser = command.make_parser(__doc__)
  parser.add_argument(
    '--images',
    type=pathlib.Path,
    metavar='FOLDER',
    help='JPEG or PNG files; without it, drawn people of 128 x 64 pixels',
  )
  parser.add_argument(
    '--image-size',
    type=int,
    nargs=2,
    default=(384, 192),
    metavar=('HEIGHT', 'WIDTH'),
    help='of the batches (384 192)',
  )
  parser.add_argument('--turns', type=int, default=3, help='(3)')
  parser.add_argument(
    '--seconds', type=float, default=1.0, help='of each measurement (1.0)'
  )
  parser.add_argument(
    '--identities', type=int, default=150, help='people to draw (150)'
  )
  return parser


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Reads the command line; what cannot be ends the program with code 2."""
  parser = make_parser()
  args = command.parse(parser, arguments)
  if min(args.turns, args.seconds, args.identities, *args.image_size) <= 0:
    parser.error('numbers must be greater than 0.')
  if not hasattr(os, 'sched_setaffinity'):
    parser.error('only Linux can pin processes to cores.')
  if args.images is not None and not args.images.is_dir():
    parser.error(f'--images={args.images}: no such folder.')
  for name in ('torch', 'torchvision'):
    if importlib.util.find_spec(name) is None:
      parser.error(
        f'{name} is not installed, and this measures it: pip install torch'
        ' torchvision'
      )
  return args


def run(args: argparse.Namespace, images: pathlib.Path) -> dict:
  """Measures on one core and on all, prints tables, returns the record."""
  number = len(measuring.list_images(images))
  if number < BATCH_SIZE:
    raise RuntimeError(
      f'{images} holds {number} images; a batch takes {BATCH_SIZE}.'
    )
  height, width = args.image_size
  print(f'{command.hardware()}; {number:,} images to {height} x {width}')
  cores = sorted(os.sched_getaffinity(0))
  figures = {}
  for some in dict.fromkeys((tuple(cores[-1:]), tuple(cores))):
    measured = measure_on(set(some), images, args)
    figures[str(len(some))] = summarize(measured, len(some))
    print('\n' + format_table(figures[str(len(some))], len(some)), flush=True)
  return {
    'seed': SEED,
    'versions': {'python': sys.version.split()[0], **measured['versions']},
    'images': 'drawn, 128 x 64' if args.images is None else 'own',
    'number of images': number,
    'image size': list(args.image_size),
    'batch size': BATCH_SIZE,
    'turns': args.turns,
    'seconds of a measurement': args.seconds,
    'figures by number of cores': figures,
  }


def main(arguments: list[str] | None = None) -> int:
  args = parse(arguments)
  with tempfile.TemporaryDirectory() as folder:

    def run_on_images() -> dict:
      drawn = args.images is None
      images = draw(pathlib.Path(folder), args.identities) if drawn else None
      return run(args, (images or args.images).resolve())

    return command.finish(__file__, run_on_images, args.json)


if __name__ == '__main__':
  sys.exit(main())
