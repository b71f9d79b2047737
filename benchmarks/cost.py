"""Measures how the cost of a training step grows, one setting at a time.

Starting from a base configuration, which flags change, sweeps vary the image
size, batch size, level, radix and backbone; and, with the spatial attention
(APNet-S), the image size and level. Each point of a sweep is measured in a
process of its own: images/s of the median step, seconds of the first step,
multiply-adds of the traced step, and the share of the pyramid in them (the
difference to a network without it).

The pyramid's share of the time is too small to be seen in separate processes.
`pyramid` therefore times steps of the base and of its level 0 in turns. A
second process of level 0 shows how far such a ratio is from 1 by chance.

  python benchmarks/cost.py --json=cost.json --plot=cost.png
  python benchmarks/cost.py --only pyramid --turns 40
"""

import argparse
import contextlib
import dataclasses
import pathlib
import statistics
import sys

import numpy as np
from tqdm import tqdm

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

from benchmarks import command, cost_plot, measuring  # noqa: E402

LEVELS = (0, 1, 2, 3)
BACKBONES = ('resnet14', 'resnet50', 'resnet101', 'densenet169', 'inception_v3')
SPATIAL = {'attention': 'spatial'}
PYRAMID = 'pyramid'  # see `measure_pyramid`


@dataclasses.dataclass(frozen=True)
class Sweep:
  """A series of measurements in which one setting takes several values.

  Attributes:
    field: name of the setting.
    values: its values.
    fixed: other settings that differ from the base.
  """

  field: str
  values: tuple
  fixed: dict = dataclasses.field(default_factory=dict)


def make_sweeps(args: argparse.Namespace) -> dict[str, Sweep]:
  """Returns all sweeps by name, for the values of the flags."""
  at_size = {'image_size': tuple(args.spatial_size)}
  return {
    'size': Sweep('image_size', tuple(args.sizes)),
    'batch': Sweep('batch', tuple(args.batches)),
    'level': Sweep('levels', LEVELS),
    'radix': Sweep('radix', tuple(args.radices)),
    'backbone': Sweep('backbone', tuple(args.backbones)),
    'spatial-size': Sweep('image_size', tuple(args.sizes), SPATIAL),
    'spatial-level': Sweep('levels', LEVELS, SPATIAL | at_size),
  }


SWEEPS = tuple(cost_plot.TITLES)


def point(args: argparse.Namespace, **changes) -> argparse.Namespace:
  """Returns the settings of a measurement: the base with some changes.

  Without pyramid levels, attention and radix have no effect and keep their base
  values.

  Args:
    args: values of the flags, which hold the base settings.
    **changes: settings that differ from the base.
  """
  settings = {name: getattr(args, name) for name in measuring.NETWORK}
  settings |= {'batch': args.batch, **changes}
  settings['image_size'] = tuple(settings['image_size'])
  if not settings['levels']:
    settings |= {'attention': args.attention, 'radix': args.radix}
  return argparse.Namespace(**settings)


def open_process(settings: argparse.Namespace) -> command.MeasuringProcess:
  """Starts a process that measures the network with some settings."""
  return command.MeasuringProcess(
    'network_ours',
    measuring.network_arguments(settings),
    command.environment(**command.network_environment()),
  )


def measure_point(settings: argparse.Namespace, seconds: float) -> dict | None:
  """Measures a training step with some settings, in a process of its own.

  Args:
    settings: result of `point`.
    seconds: time to run steps for.

  Returns:
    The answers of the process; None if the process failed.
  """
  batch = settings.batch
  try:
    with open_process(settings) as process:
      answer = process.ask(task='train', batch=batch, seconds=seconds)
      return answer | process.ask(task='work', program='train', batch=batch)
  except RuntimeError as error:
    tqdm.write(f'{measuring.describe(settings)}: {error}', file=sys.stderr)
    return None


def measure_sweeps(args: argparse.Namespace) -> dict:
  """Measures the sweeps in `args.only`; settings that recur are measured once.

  Returns:
    Pairs of settings and result of `measure_point`, by sweep and value.
  """
  points = {
    name: {
      value: point(args, **sweep.fixed, **{sweep.field: value})
      for value in sweep.values
    }
    for name, sweep in make_sweeps(args).items()
    if name in args.only
  }
  distinct = []
  for settings in (s for values in points.values() for s in values.values()):
    if settings not in distinct:
      distinct.append(settings)
  answers = []
  with tqdm(distinct, unit=' points', leave=False) as progress:
    for settings in progress:
      progress.set_description(measuring.describe(settings))
      answers.append(measure_point(settings, args.seconds))
  return {
    name: {
      value: (settings, answers[distinct.index(settings)])
      for value, settings in values.items()
    }
    for name, values in points.items()
  }


def summarize(measured: dict) -> dict:
  """Computes the figures of all sweeps.

  Args:
    measured: result of `measure_sweeps`.

  Returns:
    Figures by sweep and value; None where a process failed.
  """
  figures = {
    name: {
      label(value): answer and _figures(settings, answer)
      for value, (settings, answer) in values.items()
    }
    for name, values in measured.items()
  }
  if 'size' in figures and 'spatial-size' in figures:
    _compare_sizes(figures['size'], figures['spatial-size'])
  return figures


def label(value) -> str:
  """Returns the name of a value, as 384x192 for an image size."""
  return 'x'.join(map(str, value)) if isinstance(value, tuple) else str(value)


def _figures(settings: argparse.Namespace, answer: dict) -> dict:
  median = statistics.median(answer['seconds'])
  height, width = settings.image_size
  return {
    'images/s': round(settings.batch / median, 3),
    'median s': round(median, 4),
    'fastest s': round(min(answer['seconds']), 4),
    'steps': len(answer['seconds']),
    'first s': round(answer['first'], 2),
    'peak GB': round(answer['memory'] / 1e9, 2),
    'multiply-adds': answer['image'],
    'of the pyramid': answer['pyramid'],
    # Positions of the feature map that the first pyramid sees.
    'positions': height // 4 * (width // 4),
  }


def _compare_sizes(base: dict, spatial: dict) -> None:
  """Adds the extra seconds of a step with spatial attention to `spatial`.

  Args:
    base: figures of the base configuration, by image size.
    spatial: figures with spatial attention, by image size.
  """
  for size, row in spatial.items():
    if row and base[size]:
      more = row['median s'] - base[size]['median s']
      row['s beyond the base'] = round(more, 4)


def fit_square(rows: dict) -> dict | None:
  """Fits a P + b P^2 to the pyramid's multiply-adds at P positions.

  A position is an element of the feature map that the first pyramid sees.

  The fit minimises the squares of relative differences.

  Args:
    rows: figures by value of a sweep.

  Returns:
    a, b, the largest relative difference, and the share of b P^2 at the largest
    P; None if fewer than two points are known.
  """
  known = [row for row in rows.values() if row and row['of the pyramid']]
  if len(known) < 2:
    return None
  positions = np.array([row['positions'] for row in known], float)
  work = np.array([row['of the pyramid'] for row in known])
  powers = np.stack([positions, positions**2], 1)
  (a, b), *_ = np.linalg.lstsq(powers / work[:, None], np.ones(len(known)))
  off = abs(powers @ (a, b) / work - 1).max()
  a, b, last = float(a), float(b), int(positions.max())
  return {
    'a': float(f'{a:.4g}'),
    'b': float(f'{b:.4g}'),
    'largest difference': round(float(off), 4),
    'positions': last,
    'share of the square there': round(b * last / (a + b * last), 3),
  }


def measure_pyramid(args: argparse.Namespace) -> dict:
  """Compares the training step with that of the network without pyramids.

  Returns:
    Ratios of their measured times (`step`), of their multiply-adds, and of the
    operations and bytes that the compiler counts.
  """
  without = point(args, levels=0)
  settings = {'with': point(args), 'without': without, 'again': without}
  with contextlib.ExitStack() as stack:
    processes = {
      name: stack.enter_context(open_process(values))
      for name, values in settings.items()
    }
    seconds = command.time_in_turns(
      processes, args.turns, task='step', batch=args.batch
    )
    train = {'program': 'train', 'batch': args.batch}
    compiled = {
      name: processes[name].ask(task='compiled', **train)
      for name in ('with', 'without')
    }
    work = processes['with'].ask(task='work', **train)
  return {
    'turns': args.turns,
    'step': command.compare(seconds['with'], seconds['without']),
    'no difference': command.compare(seconds['again'], seconds['without']),
    'median s': {
      name: round(statistics.median(values), 4)
      for name, values in seconds.items()
    },
    'multiply-adds': {
      'ratio': round(work['image'] / (work['image'] - work['pyramid']), 6)
    },
    **{
      name: {'ratio': round(compiled['with'][key] / value, 4)}
      for key, name in (('flops', 'operations'), ('bytes', 'bytes'))
      if (value := compiled['without'][key])
    },
  }


COLUMNS = (
  ('images/s', '{:.2f}'),
  ('median s', '{:.3f}'),
  ('first s', '{:.1f}'),
  ('peak GB', '{:.2f}'),
  ('multiply-adds', '{:.3e}'),
  ('of the pyramid', '{:.3e}'),
)


def format_table(figures: dict) -> str:
  """Formats the figures as a table; multiply-adds are per image."""
  heads = ''.join(f'{head:>16}' for head, _ in COLUMNS)
  lines = [f'{"":16}{heads}']
  for sweep, rows in figures.items():
    lines.append(sweep)
    for value, row in rows.items():
      cells = [form.format(row[key]) if row else '-' for key, form in COLUMNS]
      lines.append(f'  {value:14}' + ''.join(f'{cell:>16}' for cell in cells))
  return '\n'.join(lines)


def format_pyramid(figures: dict) -> str:
  """Formats the result of `measure_pyramid` as a table."""
  lines = [f'{"with the pyramid : without":28}{"median":>10}{"quartiles":>20}']
  for name in ('step', 'no difference', 'multiply-adds', 'operations', 'bytes'):
    row = figures.get(name)
    if row:
      line = f'  {name:26}{row["ratio"]:10.4f}'
      if 'lower quartile' in row:
        span = f'{row["lower quartile"]:.4f} to {row["upper quartile"]:.4f}'
        line += f'{span:>20}'
      lines.append(line)
  return '\n'.join(lines)


def run(args: argparse.Namespace) -> dict:
  """Runs the benchmark: prints tables, draws plots and returns the results."""
  base = f'{measuring.describe(args)}, batch {args.batch}'
  print(f'{command.hardware()}; base: {base}', flush=True)
  with open_process(point(args)) as process:
    versions = process.ask(task='versions')
    device = process.ask(task='device')
  record = {
    'versions': versions, **device, 'base': base,
    'seconds of a point': args.seconds,
  }  # fmt: skip
  if PYRAMID in args.only:
    record[PYRAMID] = measure_pyramid(args)
    print('\n' + format_pyramid(record[PYRAMID]), flush=True)
  record['figures'] = summarize(measure_sweeps(args))
  print('\n' + format_table(record['figures']))
  square = fit_square(record['figures'].get('spatial-size', {}))
  if square:
    record['the pyramid of APNet-S'] = square
    print(
      'Multiply-adds of the pyramid of APNet-S at P positions:'
      ' {a:g} P + {b:g} P^2, up to {largest difference:.1%}; the square is'
      ' {share of the square there:.0%} at {positions:,}.'.format(**square)
    )
  if args.plot is not None:
    cost_plot.draw(record['figures'], base).savefig(args.plot, dpi=110)
  return record


def read_image_size(text: str) -> tuple[int, int]:
  """Parses HEIGHTxWIDTH into the height and width of an image."""
  height, _, width = text.partition('x')
  if not (height.isdigit() and width.isdigit() and int(height) * int(width)):
    raise argparse.ArgumentTypeError(f'{text!r} is not HEIGHTxWIDTH')
  return int(height), int(width)


def make_parser() -> argparse.ArgumentParser:
  parser = command.make_parser(__doc__)
  measuring.add_network(parser)
  add = parser.add_argument
  add('--batch', type=int, default=8, help='batch size of the base (8)')
  add(
    '--only', nargs='+', choices=[PYRAMID, *SWEEPS], metavar='WHAT',
    default=[PYRAMID, *SWEEPS],
    help=f'what to measure: {", ".join([PYRAMID, *SWEEPS])} (all)',
  )  # fmt: skip
  add(
    '--sizes', type=read_image_size, nargs='+', metavar='HEIGHTxWIDTH',
    default=[(128, 64), (256, 128), (384, 192)],
    help='image sizes of the sweeps (128x64 256x128 384x192)',
  )  # fmt: skip
  add(
    '--batches', type=int, nargs='+', default=[2, 4, 8],
    help='batch sizes of the sweep (2 4 8)',
  )  # fmt: skip
  add(
    '--radices', type=int, nargs='+', default=[2, 4],
    help='radices of the sweep (2 4)',
  )  # fmt: skip
  add(
    '--backbones', nargs='+', default=BACKBONES,
    help=f'backbones of the sweep ({" ".join(BACKBONES)})',
  )  # fmt: skip
  add(
    '--spatial-size', type=read_image_size, default=(256, 128),
    metavar='HEIGHTxWIDTH', help='image size of spatial-level (256x128)',
  )  # fmt: skip
  command.add_turns(parser, 15, 'a step of each network of `pyramid`')
  add(
    '--seconds', type=float, default=2.0,
    help='seconds for the steps of a point, at least 3 steps (2)',
  )  # fmt: skip
  add(
    '--plot', type=pathlib.Path, metavar='FILE.png',
    help='file for plots of the sweeps',
  )  # fmt: skip
  return parser


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Reads the command line; a mistake ends the program with code 2."""
  parser = make_parser()
  args = command.parse(parser, arguments)
  command.check_at_least(
    parser, args, batch=1, batches=1, radices=1, image_size=1, turns=2
  )
  if PYRAMID in args.only and not args.levels:
    parser.error('--levels=0: the base has no pyramid to measure.')
  if PYRAMID in args.only and args.attention == 'none':
    parser.error('--attention=none: the base has no pyramid to measure.')
  if args.plot is not None:
    _check_plot(parser, args)
  command.check_peak_memory(parser)
  return args


def _check_plot(
  parser: argparse.ArgumentParser, args: argparse.Namespace
) -> None:
  """Ends the program, before it measures for long, if it could not draw."""
  if not args.plot.parent.is_dir():
    parser.error(f'--plot={args.plot}: no such folder.')
  formats = cost_plot.formats()
  if args.plot.suffix.removeprefix('.') not in formats:
    parser.error(f'--plot={args.plot}: end it in one of {", ".join(formats)}.')
  if set(args.only) == {PYRAMID}:
    parser.error(f'--plot={args.plot}: --only={PYRAMID} has no sweep to draw.')


def main(arguments: list[str] | None = None) -> int:
  return command.finish(__file__, run, parse(arguments))


if __name__ == '__main__':
  sys.exit(main())
