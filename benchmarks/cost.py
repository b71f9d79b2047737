"""How the cost of a train step grows, one thing varied at a time.

From a base, which flags change: image size, batch, level, radix, backbone; and
for the spatial attention (APNet-S) image size and level. Each point is a
process of its own: images/s of the median step, seconds of the first one,
multiply-adds counted from the traced step, and those of them that the pyramid
has (counted with and without it).

What the pyramid costs is too little for that: `pyramid` keeps the base and
its level 0 alive together, and steps take turns. A second process of level 0
says how far from 1 such a ratio is where there is no difference.

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
PYRAMID = 'pyramid'  # what is measured in turns


@dataclasses.dataclass(frozen=True)
class Sweep:
  """What is varied, and what else is not as in the base."""

  field: str
  values: tuple
  fixed: dict = dataclasses.field(default_factory=dict)


def make_sweeps(args: argparse.Namespace) -> dict[str, Sweep]:
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


SWEEPS = (
  'size', 'batch', 'level', 'radix', 'backbone', 'spatial-size',
  'spatial-level',
)  # fmt: skip


def point(args: argparse.Namespace, **changes) -> argparse.Namespace:
  """The base with some changes; without levels every attention is the same."""
  settings = {name: getattr(args, name) for name in measuring.NETWORK}
  settings |= {'batch': args.batch, **changes}
  settings['image_size'] = tuple(settings['image_size'])
  if not settings['levels']:
    settings |= {'attention': args.attention, 'radix': args.radix}
  return argparse.Namespace(**settings)


def open_side(settings: argparse.Namespace):
  side = command.Side(
    'network_ours',
    measuring.network_arguments(settings),
    command.environment(**command.NETWORK_ENVIRONMENT),
  )
  return contextlib.closing(side)


def measure_point(settings: argparse.Namespace, seconds: float) -> dict | None:
  """The answers of a process of its own; None if it ended, and said why."""
  batch = settings.batch
  try:
    with open_side(settings) as side:
      answer = side.ask(part='train', batch=batch, seconds=seconds)
      return answer | side.ask(part='work', of='train', batch=batch)
  except RuntimeError as error:
    tqdm.write(f'{measuring.describe(settings)}: {error}', file=sys.stderr)
    return None


def measure_sweeps(args: argparse.Namespace) -> dict:
  """Answers by sweep and value; what two sweeps share is measured once."""
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
  """Figures by sweep and value; None where a process ended."""
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
    # Of the map that the first pyramid sees.
    'positions': height // 4 * (width // 4),
  }


def _compare_sizes(base: dict, spatial: dict) -> None:
  """How much longer a step takes with the spatial attention."""
  for size, row in spatial.items():
    if row and base[size]:
      more = row['median s'] - base[size]['median s']
      row['s beyond the base'] = round(more, 4)


def fit_square(rows: dict) -> dict | None:
  """a and b of a P + b P^2, the pyramid's multiply-adds at P positions.

  Weighted so that it is the relative differences whose squares are least.
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
  """Figures of the base by those of its level 0, timed and counted."""
  without = point(args, levels=0)
  settings = {'with': point(args), 'without': without, 'again': without}
  with contextlib.ExitStack() as stack:
    sides = {
      name: stack.enter_context(open_side(values))
      for name, values in settings.items()
    }
    seconds = command.take_turns(
      sides, args.turns, part='step', batch=args.batch
    )
    compiled = {
      name: sides[name].ask(part='compiled', of='train', batch=args.batch)
      for name in ('with', 'without')
    }
    work = sides['with'].ask(part='work', of='train', batch=args.batch)
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
  """Multiply-adds are those of a step, by image."""
  heads = ''.join(f'{head:>16}' for head, _ in COLUMNS)
  lines = [f'{"":16}{heads}']
  for sweep, rows in figures.items():
    lines.append(sweep)
    for value, row in rows.items():
      cells = [form.format(row[key]) if row else '-' for key, form in COLUMNS]
      lines.append(f'  {value:14}' + ''.join(f'{cell:>16}' for cell in cells))
  return '\n'.join(lines)


def format_pyramid(figures: dict) -> str:
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
  """Measures, prints tables, draws the picture, returns the record."""
  base = f'{measuring.describe(args)}, batch {args.batch}'
  print(f'{command.hardware()}; base: {base}', flush=True)
  with open_side(point(args)) as side:
    facts = {'versions': side.ask(part='versions'), **side.ask(part='device')}
  record = {**facts, 'base': base, 'seconds of a point': args.seconds}
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


def read_size(text: str) -> tuple[int, int]:
  height, _, width = text.partition('x')
  if not (height.isdigit() and width.isdigit() and int(height) * int(width)):
    raise argparse.ArgumentTypeError(f'{text!r} is not HEIGHTxWIDTH')
  return int(height), int(width)


def make_parser() -> argparse.ArgumentParser:
  parser = command.make_parser(__doc__)
  measuring.add_network(parser)
  add = parser.add_argument
  add('--batch', type=int, default=8, help='images of a step of the base (8)')
  add(
    '--only', nargs='+', choices=[PYRAMID, *SWEEPS], metavar='WHAT',
    default=[PYRAMID, *SWEEPS],
    help=f'some of {", ".join([PYRAMID, *SWEEPS])} (all)',
  )  # fmt: skip
  add(
    '--sizes', type=read_size, nargs='+', metavar='HEIGHTxWIDTH',
    default=[(128, 64), (256, 128), (384, 192)],
    help='(128x64 256x128 384x192)',
  )  # fmt: skip
  add('--batches', type=int, nargs='+', default=[2, 4, 8], help='(2 4 8)')
  add('--radices', type=int, nargs='+', default=[2, 4], help='(2 4)')
  add(
    '--backbones', nargs='+', default=BACKBONES,
    help=f'({" ".join(BACKBONES)})',
  )  # fmt: skip
  add(
    '--spatial-size', type=read_size, default=(256, 128),
    metavar='HEIGHTxWIDTH', help='of spatial-level (256x128)',
  )  # fmt: skip
  add('--turns', type=int, default=15, help='of the pyramid (15)')
  add(
    '--seconds', type=float, default=2.0,
    help='of the steps of a point, of which there are 3 or more (2)',
  )  # fmt: skip
  add(
    '--plot', type=pathlib.Path, metavar='FILE.png', help='draws the sweeps'
  )  # fmt: skip
  return parser


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Reads the command line; what cannot be ends the program with code 2."""
  parser = make_parser()
  args = command.parse(parser, arguments)
  for name in ('batch', 'batches', 'radices', 'image_size'):
    value = getattr(args, name)
    if min(value if isinstance(value, (list, tuple)) else [value]) < 1:
      flag = '--' + name.replace('_', '-')
      parser.error(f'{flag}={value}: must be at least 1.')
  if args.turns < 2:
    parser.error(f'--turns={args.turns}: must be at least 2.')
  if PYRAMID in args.only and not args.levels:
    parser.error('--levels=0: the base has no pyramid to measure.')
  if args.plot is not None and not args.plot.parent.is_dir():
    parser.error(f'--plot={args.plot}: no such folder.')
  if not pathlib.Path('/proc/self/clear_refs').exists():
    parser.error('only Linux tells the peak of a process.')
  return args


def main(arguments: list[str] | None = None) -> int:
  args = parse(arguments)
  return command.finish(__file__, lambda: run(args), args.json)


if __name__ == '__main__':
  sys.exit(main())
