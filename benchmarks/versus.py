"""Measures a network on this project's side and on PyTorch's, in turns."""

import argparse
import contextlib
import importlib.util
import itertools
import pathlib
import statistics
import sys

from tqdm import tqdm

from benchmarks import command, measuring

OURS, TORCH, COMPILED = 'this project', 'PyTorch', 'PyTorch, compiled'
SIDES = {
  OURS: ('network_ours', []),
  TORCH: ('network_torch', []),
  COMPILED: ('network_torch', ['--compile']),
}
# What PyTorch's side is written for.
PEER = {'attention': ['channel'], 'levels': [0, 2], 'radix': [2]}


def measure_all(part: str, sides: list[str], args: argparse.Namespace) -> dict:
  """Asks all sides in turns, each turn in a process of its own.

  A side that waits with its memory for its next turn would slow the others.

  Returns:
    `versions`; `device`; `work`, multiply-adds of an image; `ceiling`,
    multiply-adds/s of a matrix product; `bandwidth`, bytes/s of a large array;
    `bytes`, of this project's program by batch size; `answers`, of each batch
    size and side, of all turns.
  """
  batches = sorted(args.batch)
  measured = {'versions': {}, 'ceiling': 0}
  for name in sides:
    with start(name, args) as side:
      measured['versions'] |= side.ask(part='versions')
      rate = side.ask(part='ceiling')['rate']
      measured['ceiling'] = max(measured['ceiling'], rate)
      if name == OURS:
        measured['device'] = side.ask(part='device')
        measured['work'] = side.ask(part='work', of=part)['image']
        measured['bandwidth'] = side.ask(part='memory ceiling')['rate']
        measured['bytes'] = {
          batch: side.ask(part='compiled', of=part, batch=batch)['bytes']
          for batch in batches
        }
  measured['answers'] = {b: {name: [] for name in sides} for b in batches}
  plan = itertools.product(batches, range(args.turns), sides)
  with tqdm(list(plan), unit='', leave=False) as progress:
    for batch, _, name in progress:
      progress.set_description(f'Batch {batch}: {name}')
      with start(name, args) as side:
        answer = side.ask(part=part, batch=batch, seconds=args.seconds)
      measured['answers'][batch][name].append(answer)
  return measured


def start(
  name: str, args: argparse.Namespace
) -> contextlib.AbstractContextManager[command.Side]:
  module, more = SIDES[name]
  side = command.Side(
    module,
    [*measuring.network_arguments(args), *more],
    command.environment(**command.NETWORK_ENVIRONMENT),
  )
  return contextlib.closing(side)


def summarize(measured: dict) -> dict:
  """Figures of each batch size: of the sides, and the limit."""
  figures = {}
  for batch, sides in measured['answers'].items():
    rows = {name: _summarize(batch, turns) for name, turns in sides.items()}
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
    'first s': round(turns[0]['first'], 1),  # which compiles
    'peak GB': round(max(turn['memory'] for turn in turns) / 1e9, 2),
  }


COLUMNS = (
  'images/s', 'median s', 'fastest s', 'of the limit', 'times PyTorch',
  'peak GB', 'first s',
)  # fmt: skip


def format_table(figures: dict) -> str:
  lines = [f'{"batch":6}{"":20}' + ''.join(f'{c:>14}' for c in COLUMNS)]
  for batch, rows in figures.items():
    for name, row in rows.items():
      cells = ''.join(f'{row.get(column, ""):>14}' for column in COLUMNS)
      lines.append(f'{batch:6}{name:20}{cells}'.rstrip())
  return '\n'.join(lines)


def run(part: str, args: argparse.Namespace) -> dict:
  """Measures, prints the table and returns the record."""
  print(f'{command.hardware()}; {measuring.describe(args)}', flush=True)
  sides = [OURS]
  if args.peer == 'torch':
    sides += [TORCH] if args.no_compile else [TORCH, COMPILED]
  measured = measure_all(part, sides, args)
  figures = summarize(measured)
  print('\n' + format_table(figures))
  print(
    f'{2 * measured["work"] / 1e9:.1f} GFLOP an image; a matrix product ran at'
    f' {2 * measured["ceiling"] / 1e9:,.0f} GFLOP/s, and memory at'
    f' {measured["bandwidth"] / 1e9:.0f} GB/s.'
  )
  for batch, rows in figures.items():
    limit = rows['limit']
    print(
      f'Batch {batch}: products and convolutions take'
      f' {limit["products s"]} s at that speed, and the'
      f' {measured["bytes"][int(batch)] / 1e9:.0f} GB that this project reads'
      f' and writes {limit["bytes s"]} s.'
    )
  return {
    'versions': {'python': sys.version.split()[0], **measured['versions']},
    **measured['device'],
    'environment': command.NETWORK_ENVIRONMENT,
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
  parser = command.make_parser(description)
  measuring.add_network(parser)
  parser.add_argument(
    '--peer', choices=['torch', 'none'], default='torch', help='(torch)'
  )
  parser.add_argument(
    '--batch',
    type=int,
    nargs='+',
    default=batches,
    metavar='N',
    help=f'images of a step ({" ".join(map(str, batches))})',
  )
  parser.add_argument('--turns', type=int, default=3, help='(3)')
  parser.add_argument(
    '--seconds', type=float, default=10.0, help='of each turn (10)'
  )
  parser.add_argument(
    '--no-compile', action='store_true', help='without torch.compile'
  )
  return parser


def main(
  script: str,
  description: str,
  part: str,
  batches: list[int],
  arguments: list[str] | None,
) -> int:
  """What a command that compares both sides does; returns its exit code."""
  parser = make_parser(description, batches)
  args = command.parse(parser, arguments)
  if min(args.turns, args.seconds, *args.batch, *args.image_size) <= 0:
    parser.error('numbers must be greater than 0.')
  for name, written in PEER.items():
    if args.peer == 'torch' and getattr(args, name) not in written:
      parser.error(
        f'--{name}={getattr(args, name)}: the peer is written for'
        f' {" and ".join(map(str, written))}.'
      )
  if args.peer == 'torch' and importlib.util.find_spec('torch') is None:
    parser.error(
      'torch is not installed, and this measures it: pip install torch, or'
      ' --peer none'
    )
  if not pathlib.Path('/proc/self/clear_refs').exists():
    parser.error('only Linux tells the peak of a process.')
  return command.finish(script, lambda: run(part, args), args.json)
