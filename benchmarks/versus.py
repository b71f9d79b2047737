"""Compares the speed of a network in this project and in PyTorch."""

import argparse
import functools
import importlib.util
import itertools
import statistics
import sys

from tqdm import tqdm

from benchmarks import command, measuring

OURS, TORCH, COMPILED = 'this project', 'PyTorch', 'PyTorch, compiled'
# Module and arguments of the process of each implementation.
IMPLEMENTATIONS = {
  OURS: ('network_ours', []),
  TORCH: ('network_torch', []),
  COMPILED: ('network_torch', ['--compile']),
}
# Settings that the network in PyTorch can have.
PYTORCH_SETTINGS = {
  'backbone': ['resnet50', 'resnet14'],
  'attention': ['channel'],
  'levels': [0, 2],
  'radix': [2],
}


def measure_all(
  program: str, names: list[str], args: argparse.Namespace
) -> dict:
  """Measures implementations in turns, in a new process each time.

  A process that keeps its memory until its next turn would slow the others. All
  use the same device.

  Args:
    program: 'train' or 'embed'.
    names: names in `IMPLEMENTATIONS`.
    args: values of the flags.

  Returns:
    `versions`: versions of the packages. `device`: number and kind of devices.
    `work`: multiply-adds of an image. `ceiling`: multiply-adds/s of a matrix
    product. `bandwidth`: bytes/s of a large array. `bytes`: bytes that this
    project's program reads and writes, by batch size. `answers`: answers of all
    rounds, by batch size and implementation.
  """
  batches = sorted(args.batch)
  measured = {'versions': {}, 'ceiling': 0}
  for name in names:
    with start(name, args) as process:
      measured['versions'] |= process.ask(task='versions')
      rate = process.ask(task='product rate')['rate']
      measured['ceiling'] = max(measured['ceiling'], rate)
      if name == OURS:
        measured['device'] = process.ask(task='device')
        work = process.ask(task='work', program=program)
        measured['work'] = work['image']
        measured['bandwidth'] = process.ask(task='memory rate')['rate']
        measured['bytes'] = {
          batch: process.ask(task='compiled', program=program, batch=batch)[
            'bytes'
          ]
          for batch in batches
        }
  measured['answers'] = {b: {name: [] for name in names} for b in batches}
  plan = itertools.product(batches, range(args.turns), names)
  with tqdm(list(plan), unit='', leave=False) as progress:
    for batch, _, name in progress:
      progress.set_description(f'Batch {batch}: {name}')
      with start(name, args) as process:
        answer = process.ask(task=program, batch=batch, seconds=args.seconds)
      measured['answers'][batch][name].append(answer)
  return measured


def start(name: str, args: argparse.Namespace) -> command.MeasuringProcess:
  """Starts the measuring process of an implementation.

  Args:
    name: a name in `IMPLEMENTATIONS`.
    args: values of the flags.
  """
  module, more = IMPLEMENTATIONS[name]
  return command.MeasuringProcess(
    module,
    [*measuring.network_arguments(args), *more],
    command.environment(**command.network_environment()),
  )


def summarize(measured: dict) -> dict:
  """Computes the figures of each implementation, and the limit of the speed.

  Args:
    measured: result of `measure_all`.

  Returns:
    Figures by batch size and implementation; `limit` is the speed limit.
  """
  figures = {}
  for batch, answers in measured['answers'].items():
    rows = {name: _summarize(batch, turns) for name, turns in answers.items()}
    limit = measured['ceiling'] / measured['work']
    others = [row['images/s'] for name, row in rows.items() if name != OURS]
    for row in rows.values():
      row['of the limit'] = round(row['images/s'] / limit, 3)
    if others:
      ours = rows[OURS]['images/s']
      rows[OURS]['times PyTorch'] = round(ours / max(others), 3)
    figures[str(batch)] = rows | {
      'limit': {
        'images/s': round(limit, 2),
        'products s': round(batch / limit, 4),
        'bytes s': round(measured['bytes'][batch] / measured['bandwidth'], 4),
      }
    }
  return figures


def _summarize(batch: int, turns: list[dict]) -> dict:
  seconds = [second for turn in turns for second in turn['seconds']]
  return {
    'images/s': round(batch / statistics.median(seconds), 2),
    'median s': round(statistics.median(seconds), 4),
    'fastest s': round(min(seconds), 4),
    'steps': len(seconds),
    'first s': round(turns[0]['first'], 1),  # includes compilation
    'peak GB': round(max(turn['memory'] for turn in turns) / 1e9, 2),
  }


COLUMNS = (
  'images/s', 'median s', 'fastest s', 'of the limit', 'times PyTorch',
  'peak GB', 'first s',
)  # fmt: skip


def format_table(figures: dict) -> str:
  """Formats the figures as a table."""
  lines = [f'{"batch":6}{"":20}' + ''.join(f'{c:>14}' for c in COLUMNS)]
  for batch, rows in figures.items():
    for name, row in rows.items():
      cells = ''.join(f'{row.get(column, ""):>14}' for column in COLUMNS)
      lines.append(f'{batch:6}{name:20}{cells}'.rstrip())
  return '\n'.join(lines)


def run(program: str, args: argparse.Namespace) -> dict:
  """Runs the benchmark of a program, and prints the table.

  Args:
    program: 'train' or 'embed'.
    args: values of the flags.

  Returns:
    The results for JSON.
  """
  print(f'{command.hardware()}; {measuring.describe(args)}', flush=True)
  names = [OURS]
  if args.peer == 'torch':
    names += [TORCH] if args.no_compile else [TORCH, COMPILED]
  measured = measure_all(program, names, args)
  figures = summarize(measured)
  print('\n' + format_table(figures))
  print(
    f'{2 * measured["work"] / 1e9:.1f} GFLOP per image. A large matrix product'
    f' reached {2 * measured["ceiling"] / 1e9:,.0f} GFLOP/s, memory'
    f' {measured["bandwidth"] / 1e9:.0f} GB/s.'
  )
  for batch, rows in figures.items():
    limit = rows['limit']
    print(
      f'Batch {batch}: at these rates, products and convolutions take'
      f' {limit["products s"]} s, and the'
      f' {measured["bytes"][int(batch)] / 1e9:.0f} GB that this project reads'
      f' and writes take {limit["bytes s"]} s.'
    )
  return {
    'versions': {'python': sys.version.split()[0], **measured['versions']},
    **measured['device'],
    'environment': command.network_environment(),
    'network': measuring.describe(args),
    'turns': args.turns,
    'seconds of a turn': args.seconds,
    'multiply-adds of an image': measured['work'],
    'multiply-adds/s of a product': round(measured['ceiling']),
    'bytes of this project': measured['bytes'],
    'bytes/s of memory': round(measured['bandwidth']),
    'figures by batch': figures,
  }


def make_parser(
  description: str, batches: list[int]
) -> argparse.ArgumentParser:
  """Returns the parser of a benchmark that compares with PyTorch.

  Args:
    description: text of --help.
    batches: default batch sizes.
  """
  parser = command.make_parser(description)
  measuring.add_network(parser)
  parser.add_argument(
    '--peer',
    choices=['torch', 'none'],
    default='torch',
    help='implementation to compare with (torch)',
  )
  parser.add_argument(
    '--batch',
    type=int,
    nargs='+',
    default=batches,
    metavar='N',
    help=f'batch sizes ({" ".join(map(str, batches))})',
  )
  command.add_turns(parser, 3)
  parser.add_argument(
    '--seconds',
    type=float,
    default=10.0,
    help='seconds of each measurement (10)',
  )
  parser.add_argument(
    '--no-compile', action='store_true', help='without torch.compile'
  )
  return parser


def check_pytorch(
  parser: argparse.ArgumentParser, args: argparse.Namespace, otherwise: str = ''
) -> None:
  """Ends the program with code 2 if PyTorch cannot be compared with.

  Args:
    parser: parser of the flags.
    args: values of the flags, with those of the network.
    otherwise: what the user can do without PyTorch, as ', or use --flag'.
  """
  for name, allowed in PYTORCH_SETTINGS.items():
    if getattr(args, name) not in allowed:
      parser.error(
        f'--{name}={getattr(args, name)}: the network in PyTorch allows only'
        f' {" and ".join(map(str, allowed))}{otherwise}.'
      )
  if importlib.util.find_spec('torch') is None:
    parser.error(
      'torch is not installed, and this benchmark measures it: pip install'
      f' torch{otherwise}.'
    )


def main(
  script: str,
  description: str,
  program: str,
  batches: list[int],
  arguments: list[str] | None,
) -> int:
  """Runs a comparison and returns the exit code.

  Args:
    script: file of the benchmark.
    description: text of --help.
    program: 'train' or 'embed'.
    batches: default batch sizes.
    arguments: command line; None for that of this process.
  """
  parser = make_parser(description, batches)
  args = command.parse(parser, arguments)
  if min(args.turns, args.seconds, *args.batch, *args.image_size) <= 0:
    parser.error('numbers must be greater than 0.')
  if args.peer == 'torch':
    check_pytorch(parser, args, ', or use --peer none')
  command.check_peak_memory(parser)
  return command.finish(script, functools.partial(run, program), args)
