"""Measures weak scaling and data exchange of a training step on CPU devices.

Each device gets the same number of images, on 1, 2 and 4 devices of one
process. The devices share the cores, so images/s can at best stay constant; any
drop is the overhead of several devices. Part of it is the exchange of data
between devices. Each exchange is timed alone, with the arrays of the step:

- statistics: averages of batch normalisation, one after the other; two per
  layer in the forward pass and two in the backward pass;
- features: gathering of embeddings and labels for mining, and the backward pass
  of the gathering;
- gradients: their average.

In a step named `apart`, the images of a device form a group of batch statistics
(`batch_norm_group`), so devices exchange only running statistics. Both steps
are timed in turns. The difference of their times is the cost of exchanging
batch statistics, including waiting, less that of running statistics.

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

EXCHANGES = ('statistics', 'features', 'gradients')


def open_process(
  args: argparse.Namespace, devices: int, group: int
) -> command.MeasuringProcess:
  """Starts a process that measures on a number of CPU devices.

  Args:
    args: values of the flags.
    devices: number of devices.
    group: images in a group of batch statistics,
      `config.model.batch_norm_group`; 0 for all images.
  """
  return command.MeasuringProcess(
    'network_ours',
    [*measuring.network_arguments(args), f'--batch-norm-group={group}'],
    command.environment(
      **command.NETWORK_ENVIRONMENT,
      JAX_PLATFORMS='cpu',
      XLA_FLAGS=f'--xla_force_host_platform_device_count={devices}',
    ),
  )


def measure_on(devices: int, args: argparse.Namespace) -> dict:
  """Measures training steps and data exchanges on a number of devices.

  Returns:
    `versions`: versions of the packages. `together` and `apart`: seconds of
    each step with batch statistics of all images, and of each device's own.
    `statistics`, `features` and `gradients`: seconds of each exchange.
  """
  batch = devices * args.batch
  groups = {'together': 0, 'apart': args.batch}
  with contextlib.ExitStack() as stack:
    processes = {
      name: stack.enter_context(open_process(args, devices, group))
      for name, group in groups.items()
    }
    steps = command.time_in_turns(
      processes, args.turns, task='step', batch=batch
    )
    process = processes['together']
    exchanges = {
      name: process.ask(task='exchange', exchange=name, batch=batch, seconds=1)
      for name in EXCHANGES
    }
    return {
      'versions': process.ask(task='versions'),
      **steps,
      **{name: answer['seconds'] for name, answer in exchanges.items()},
    }


def summarize(measured: dict[int, dict], batch: int) -> dict:
  """Returns figures by number of devices.

  Args:
    measured: results of `measure_on` by number of devices.
    batch: number of images per device.
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
    for name in EXCHANGES:
      row[f'{name} s'] = round(statistics.median(answers[name]), 5)
    first = next(iter(figures.values()))
    row['of the first'] = round(row['images/s'] / first['images/s'], 3)
  return figures


COLUMNS = ('images/s', 'of the first', 'step s')
SHARED = ('saved apart s', *[f'{name} s' for name in EXCHANGES])


def format_table(figures: dict) -> str:
  """Formats the figures as a table; shares of a step follow each row."""
  columns = (*COLUMNS, *SHARED)
  lines = [f'{"devices":8}' + ''.join(f'{c:>14}' for c in columns)]
  for devices, row in figures.items():
    cells = ''.join(f'{row[column]:>14}' for column in columns)
    lines.append(f'{devices:8}{cells}')
    shares = ''.join(f'{row[c] / row["step s"]:14.1%}' for c in SHARED)
    lines.append(f'{"  of a step":{8 + 14 * len(COLUMNS)}}{shares}')
  return '\n'.join(lines)


def run(args: argparse.Namespace) -> dict:
  """Runs the benchmark: prints the table and returns the results for JSON."""
  network = measuring.describe(args)
  print(
    f'{command.hardware()}, which all devices share; {network}, {args.batch}'
    ' images per device',
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
  add('--batch', type=int, default=8, help='images per device (8)')
  add(
    '--devices', type=int, nargs='+', default=[1, 2, 4],
    help='numbers of devices (1 2 4)',
  )  # fmt: skip
  command.add_turns(parser, 10, 'each step')
  return parser


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Reads the command line; a mistake ends the program with code 2."""
  parser = make_parser()
  args = command.parse(parser, arguments)
  command.check_at_least(
    parser, args, batch=2, devices=1, turns=2, image_size=1
  )
  return args


def main(arguments: list[str] | None = None) -> int:
  return command.finish(__file__, run, parse(arguments))


if __name__ == '__main__':
  sys.exit(main())
