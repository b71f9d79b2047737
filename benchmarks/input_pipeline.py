"""Compares the input pipeline with a plain PyTorch one, in images/s.

Both decode JPEG files, resize them to the network's size, flip, pad and crop,
normalise and erase, and return batches of 20 identities with 4 images each.
Each runs in a process of its own, pinned to the same cores: first to one, then
to all. They are measured in turns, so that other programs slow both alike.
Figures are medians over the rounds. PyTorch runs with the number of workers
that is fastest.

This project writes each augmented batch over the one before. PyTorch's loader
allocates new memory for each batch, unless it collates into one buffer, which
works without workers only. Two more rows of the table measure the
reverse: this project with new memory, and PyTorch with one buffer.
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
SEED = 0  # default seed of the drawn images and of the batches
WHOLE = 'decode, resize, augment: float32 batches'
UINT8 = 'decode, resize: uint8 batches'
UINT8_TASK = 'decode, resize'
DECODE = 'decode, one by one'
TABLES = (WHOLE, UINT8, DECODE)
REFERENCE = 'PyTorch'
OURS = 'this project'


@dataclasses.dataclass(frozen=True)
class Measurement:
  """A row in a table of results, and the way to measure it.

  Attributes:
    table: title of the table.
    name: name of the row.
    process: name of the process that measures it.
    task: request to that process.
  """

  table: str
  name: str
  process: str
  task: str


MEASUREMENTS = (
  Measurement(WHOLE, REFERENCE, 'torch', 'all'),
  Measurement(
    WHOLE, 'PyTorch, batches in one buffer', 'torch', 'all, one buffer'
  ),
  Measurement(WHOLE, OURS, 'encoded', 'all'),
  Measurement(WHOLE, 'this project, new memory', 'encoded', 'all, new memory'),
  Measurement(WHOLE, 'this project, decoded cache', 'decoded', 'all'),
  Measurement(UINT8, REFERENCE, 'torch', UINT8_TASK),
  Measurement(UINT8, OURS, 'encoded', UINT8_TASK),
  Measurement(UINT8, 'this project, decoded cache', 'decoded', UINT8_TASK),
  Measurement(DECODE, REFERENCE, 'torch', 'decode'),
  Measurement(DECODE, OURS, 'encoded', 'decode'),
)


@contextlib.contextmanager
def open_processes(
  images: pathlib.Path, image_size: tuple[int, int], cores: set[int]
) -> Iterator[dict[str, command.MeasuringProcess]]:
  """Starts all measuring processes, pinned to some cores.

  Yields:
    The processes by name; they end with the context.
  """
  common = ['--images', str(images), '--image-size', *map(str, image_size)]
  commands = {'torch': ('input_torch', common)}
  for cache in ('encoded', 'decoded'):
    commands[cache] = ('input_ours', [*common, '--cache', cache])
  environment = command.environment(JAX_PLATFORMS='cpu')
  with contextlib.ExitStack() as stack:
    yield {
      name: stack.enter_context(
        command.MeasuringProcess(*each, environment, cores)
      )
      for name, each in commands.items()
    }


def measure_on(
  cores: set[int], images: pathlib.Path, args: argparse.Namespace
) -> dict:
  """Measures every row of the tables on some cores.

  Returns:
    `versions`: versions of the packages. `workers`: PyTorch's answers of all
    rounds, by number of workers. `answers`: answers of all rounds, by
    `Measurement`; PyTorch's are those with the best number of workers.
  """
  number = len(cores)
  candidates = {0, 1, number} | ({2 * number} if number > 1 else set())
  workers = {candidate: [] for candidate in sorted(candidates)}
  reference, *others = MEASUREMENTS
  answers = {row: [] for row in MEASUREMENTS}
  progress = tqdm(
    total=args.turns * (len(workers) + len(others)), unit='', leave=False
  )
  progress.set_description(f'{command.count_cores(number)}: starting')
  with (
    progress,
    open_processes(images, args.image_size, cores) as processes,
  ):

    def ask(row, **request):
      progress.set_description(f'{command.count_cores(number)}: {row.name}')
      request |= {'task': row.task, 'seconds': args.seconds}
      answer = processes[row.process].ask(**request)
      progress.update()
      return answer

    versions = {}
    for process in processes.values():
      versions |= process.ask(task='versions')
    for _ in range(args.turns):
      for candidate in workers:
        workers[candidate].append(ask(reference, workers=candidate))
      best = best_workers(workers)
      for row in others:
        # One buffer works without workers only.
        plain = row.process == 'torch' and row.task == UINT8_TASK
        answers[row].append(ask(row, **({'workers': best} if plain else {})))
  answers[reference] = workers[best_workers(workers)]
  return {'versions': versions, 'workers': workers, 'answers': answers}


def best_workers(workers: Mapping[int, list[dict]]) -> int:
  """Returns the number of PyTorch's workers with the highest median rate."""
  return max(workers, key=lambda number: _median_rate(workers[number]))


def _median_rate(answers: list[dict]) -> float:
  return statistics.median(answer['rate'] for answer in answers)


def summarize(measured: Mapping, cores: int) -> dict:
  """Returns figures by table and row: medians, and the rate of each round.

  Args:
    measured: result of `measure_on`.
    cores: number of cores.
  """
  references = {
    row.table: _median_rate(answers)
    for row, answers in measured['answers'].items()
    if row.name == REFERENCE
  }
  figures = {table: {} for table in TABLES}
  for row, answers in measured['answers'].items():
    rate = _median_rate(answers)
    figures[row.table][row.name] = {
      'images/s': round(rate),
      # Decoding one by one uses one core, however many there are.
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
  """Returns the share of each stage in the time of a batch, in per cent.

  Args:
    figures: figures of one core.
    name: row of the tables, as `REFERENCE`.
  """
  whole, uint8, decode = (
    1 / figures[table][name]['images/s'] for table in TABLES
  )
  stages = {
    'decode': decode,
    'resize and batch': uint8 - decode,
    'augment': whole - uint8,
  }
  return {stage: round(100 * time / whole) for stage, time in stages.items()}


def format_table(figures: Mapping, cores: int) -> str:
  """Formats the figures of a number of cores as a table."""
  columns = ('images/s', 'a core', 'times', 'MB')
  title = f'On {command.count_cores(cores)}'
  lines = [f'{title:34}' + ''.join(f'{column:>10}' for column in columns)]
  for table in TABLES:
    lines.append(table)
    for row in MEASUREMENTS:
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
      stages = shares(figures, name).items()
      shown = ', '.join(f'{stage} {share}%' for stage, share in stages)
      lines.append(f'Time of {name}: {shown}')
  return '\n'.join(lines)


def draw(folder: pathlib.Path, identities: int) -> pathlib.Path:
  """Draws a synthetic data set and returns the folder of its training images.

  Args:
    folder: folder to write to.
    identities: number of people in the training images.
  """
  root = folder / 'drawn'
  program = [sys.executable, '-m', 'data.synthetic.draw', str(root)]
  program += [f'--train-identities={identities}', f'--seed={SEED}']
  few = ['--test-identities=1', '--distractors=0', '--junk=0']
  subprocess.run([*program, *few], cwd=ROOT, check=True)
  return root / 'bounding_box_train'


def make_parser() -> argparse.ArgumentParser:
  parser = command.make_parser(__doc__)
  parser.add_argument(
    '--images',
    type=pathlib.Path,
    metavar='FOLDER',
    help='folder of JPEG or PNG files; without it, synthetic people, 128 x 64'
    ' pixels',
  )
  parser.add_argument(
    '--image-size',
    type=int,
    nargs=2,
    default=(384, 192),
    metavar=('HEIGHT', 'WIDTH'),
    help='size of the images in batches (384 192)',
  )
  command.add_turns(parser, 3)
  parser.add_argument(
    '--seconds',
    type=float,
    default=1.0,
    help='seconds of each measurement (1.0)',
  )
  parser.add_argument(
    '--identities', type=int, default=150, help='number of people to draw (150)'
  )
  return parser


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Reads the command line; a mistake ends the program with code 2."""
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
        f'{name} is not installed, and this benchmark measures it: pip install'
        ' torch torchvision'
      )
  return args


def run(args: argparse.Namespace, images: pathlib.Path) -> dict:
  """Runs the benchmark on one core and on all cores, and prints tables.

  Returns:
    The results for JSON.
  """
  number = len(measuring.list_images(images))
  if number < BATCH_SIZE:
    raise RuntimeError(
      f'{images} has {number} images; a batch needs {BATCH_SIZE}.'
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

    def run_on_images(args: argparse.Namespace) -> dict:
      images = args.images or draw(pathlib.Path(folder), args.identities)
      return run(args, images.resolve())

    return command.finish(__file__, run_on_images, args)


if __name__ == '__main__':
  sys.exit(main())
