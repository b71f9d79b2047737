"""Weak scaling of a train step on devices of the CPU, and what exchange costs.

As many images for each device, on 1, 2 and 4 devices, which are a process each
time. They share the cores, so that images/s can at best stay what they are;
what they fall by is the price of being many. Part of it is the exchange of data
between devices, which is timed alone, with the arrays of the step:

- statistics: the averages of batch normalisation, one after the other: two of a
  layer on the way forth and two on the way back;
- features: the gathering of embeddings and labels for mining, and the way back
  of its gradient;
- gradients: their average.

`apart` is a step in which the images of a device are a group of their own
(`batch_norm_group`), in turns with the other: only running statistics are
averaged then. What it saves is the cost of statistics within a step, waiting
included, less that of these.

  python benchmarks/scaling.py --json=scaling.json
"""

import argparse
import contextlib
import pathlib
import statistics
import sys

from tqdm import tqdm

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

from benchmarks import command, measuring  # noqa: E402

EXCHANGED = ('statistics', 'features', 'gradients')


def open_side(args: argparse.Namespace, devices: int, group: int):
  side = command.Side(
    'network_ours',
    [*measuring.network_arguments(args), f'--batch-norm-group={group}'],
    command.environment(
      **command.NETWORK_ENVIRONMENT,
      JAX_PLATFORMS='cpu',
      XLA_FLAGS=f'--xla_force_host_platform_device_count={devices}',
    ),
  )
  return contextlib.closing(side)


def measure_on(devices: int, args: argparse.Namespace) -> dict:
  """Answers for so many devices.

  Returns:
    `versions`; seconds of steps by how batches are normalised, `together` and
    `apart`; and seconds of each of `EXCHANGED`.
  """
  batch = devices * args.batch
  groups = {'together': 0, 'apart': args.batch}
  with contextlib.ExitStack() as stack:
    sides = {
      name: stack.enter_context(open_side(args, devices, group))
      for name, group in groups.items()
    }
    steps = command.take_turns(sides, args.turns, part='step', batch=batch)
    side = sides['together']
    exchanges = {
      name: side.ask(part='exchange', of=name, batch=batch, seconds=1)
      for name in EXCHANGED
    }
    return {
      'versions': side.ask(part='versions'),
      **steps,
      **{name: answer['seconds'] for name, answer in exchanges.items()},
    }


def summarize(measured: dict[int, dict], batch: int) -> dict:
  """Figures by number of devices.

  Args:
    measured: answers of `measure_on` by number of devices.
    batch: images of a device.
  """
  figures = {}
  for devices, answers in measured.items():
    step = statistics.median(answers['together'])
    saved = [a - b for a, b in zip(answers['together'], answers['apart'])]
    figures[str(devices)] = row = {
      'images/s': round(devices * batch / step, 2),
      'step s': round(step, 4),
      'saved apart s': round(statistics.median(saved), 4),
      'together by apart': command.compare(
        answers['together'], answers['apart']
      ),
    }
    for name in EXCHANGED:
      row[f'{name} s'] = round(statistics.median(answers[name]), 5)
    first = next(iter(figures.values()))
    row['of the first'] = round(row['images/s'] / first['images/s'], 3)
  return figures


COLUMNS = ('images/s', 'of the first', 'step s')
SHARED = ('saved apart s', *[f'{name} s' for name in EXCHANGED])


def format_table(figures: dict) -> str:
  columns = (*COLUMNS, *SHARED)
  lines = [f'{"devices":8}' + ''.join(f'{c:>14}' for c in columns)]
  for devices, row in figures.items():
    cells = ''.join(f'{row[column]:>14}' for column in columns)
    lines.append(f'{devices:8}{cells}')
    shares = ''.join(f'{row[c] / row["step s"]:14.1%}' for c in SHARED)
    lines.append(f'{"  of a step":{8 + 14 * len(COLUMNS)}}{shares}')
  return '\n'.join(lines)


def run(args: argparse.Namespace) -> dict:
  """Measures, prints the table and returns the record."""
  network = measuring.describe(args)
  print(
    f'{command.hardware()}, which all devices share; {network}, {args.batch}'
    ' images a device',
    flush=True,
  )
  measured = {}
  with tqdm(args.devices, unit='', leave=False) as progress:
    for devices in progress:
      progress.set_description(f'{devices} devices')
      measured[devices] = measure_on(devices, args)
  figures = summarize(measured, args.batch)
  print('\n' + format_table(figures))
  versions = next(iter(measured.values()))['versions']
  return {
    'versions': {'python': sys.version.split()[0], **versions},
    'network': network,
    'images of a device': args.batch,
    'turns': args.turns,
    'figures by devices': figures,
  }


def make_parser() -> argparse.ArgumentParser:
  parser = command.make_parser(__doc__)
  measuring.add_network(parser)
  parser.set_defaults(backbone='resnet14', image_size=(128, 64))
  add = parser.add_argument
  add('--batch', type=int, default=8, help='images of a device (8)')
  add('--devices', type=int, nargs='+', default=[1, 2, 4], help='(1 2 4)')
  add('--turns', type=int, default=10, help='(10)')
  return parser


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Reads the command line; what cannot be ends the program with code 2."""
  parser = make_parser()
  args = command.parse(parser, arguments)
  if args.batch < 2:
    parser.error(f'--batch={args.batch}: must be at least 2.')
  if min(args.devices) < 1:
    parser.error(f'--devices={min(args.devices)}: must be at least 1.')
  if args.turns < 2:
    parser.error(f'--turns={args.turns}: must be at least 2.')
  return args


def main(arguments: list[str] | None = None) -> int:
  args = parse(arguments)
  return command.finish(__file__, lambda: run(args), args.json)


if __name__ == '__main__':
  sys.exit(main())
