"""The largest batch whose train step fits into a memory, of 16 GB by default.

What the compiler says that the step takes: arguments, results that do not lie
in the arguments' place, and temporary values. Nothing is run and no array is
made, so that the memory need not be here. It is asked of the backend at hand,
for one device. What the allocator wastes is not in it. GB are 10^9 bytes.

The largest batch was compiled and fits. The next one, by K images or as many as
also divide into the parts, was compiled too and does not.
"""

import argparse
import math
import pathlib
import sys

import jax
from tqdm import tqdm

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

from apnet_jax.models.apnet import create_model, variable_shapes  # noqa: E402
from benchmarks import command, measuring, network_ours  # noqa: E402
from benchmarks.work import Work  # noqa: E402
from configs import common  # noqa: E402


class Network:
  """Tells the bytes of the step of a configuration, once a batch size.

  Attributes:
    known: what was asked, bytes by batch size.
  """

  def __init__(self, config, classes: int):
    self.known = {}
    self._work = Work(config, classes)

  def bytes(self, batch: int) -> int:
    if batch not in self.known:
      analysis = self.lower(batch).compile().memory_analysis()
      self.known[batch] = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
      )
    return self.known[batch]

  def lower(self, batch: int) -> jax.stages.Lowered:
    """The step on one device, before it is compiled."""
    return self._work.lower('train', batch)


def largest_batch(network: Network, limit: float, unit: int, first: int) -> int:
  """The largest multiple of `unit` that fits `limit` bytes; 0 if none does.

  Bytes are nearly linear in the batch: the line through the two closest known
  sizes says which one to ask next, until two neighbours enclose the limit.

  Args:
    network: has `bytes(batch)`, which grows, and `known`.
    limit: in bytes.
    unit: images that a batch is a multiple of.
    first: the size to ask first, and about half of it, next.
  """
  for batch in (first, max(unit, first // 2 // unit * unit), 2 * first):
    if len(network.known) < 2:
      network.bytes(batch)
  while True:
    known = network.known
    fits = max((b for b in known if known[b] <= limit), default=0)
    fails = min((b for b in known if known[b] > limit), default=math.inf)
    if fails - fits <= unit:
      return fits
    (a, at_a), (b, at_b) = sorted(
      known.items(), key=lambda item: abs(item[1] - limit)
    )[:2]
    slope = (at_b - at_a) / (b - a)
    guess = a + (limit - at_a) / slope if slope > 0 else math.inf
    guess = int(min(guess, 4 * max(known)) // unit) * unit
    network.bytes(min(max(guess, fits + unit), fails - unit))


def make_configs(args: argparse.Namespace) -> dict:
  """The configuration of each row of the table."""
  rows = {
    'plain': {},
    'rematerialised': {'rematerialize': True},
    f'in {args.parts} parts': {'accumulate': args.parts},
    'both': {'accumulate': args.parts, 'rematerialize': True},
  }
  configs = {}
  for row, train in rows.items():
    configs[row] = config = network_ours.make_config(args)
    config.train.update(train)
  return configs


def measure(args: argparse.Namespace) -> dict:
  """Figures by row of the table."""
  figures = {}
  rows = make_configs(args)
  for row, config in tqdm(rows.items(), unit='', leave=False):
    network = Network(config, args.classes)
    unit = math.lcm(config.train.K, config.train.accumulate)
    batch = largest_batch(network, args.gigabytes * 1e9, unit, args.batch)
    figures[row] = {
      'largest batch': batch,
      'its GB': in_gigabytes(network.known.get(batch)),
      f'GB at {args.batch}': in_gigabytes(network.bytes(args.batch)),
      'GB by batch': {
        b: in_gigabytes(bytes_) for b, bytes_ in sorted(network.known.items())
      },
    }
  return figures


def in_gigabytes(number: int | None) -> float | None:
  return None if number is None else round(number / 1e9, 3)


def format_table(figures: dict) -> str:
  columns = list(next(iter(figures.values())))[:-1]
  lines = [' ' * 16 + ''.join(f'{name:>16}' for name in columns)]
  for row, values in figures.items():
    cells = ('-' if values[c] is None else f'{values[c]:g}' for c in columns)
    lines.append(f'{row:16}' + ''.join(f'{cell:>16}' for cell in cells))
  return '\n'.join(lines)


def make_parser() -> argparse.ArgumentParser:
  parser = command.make_parser(__doc__)
  measuring.add_network(parser)
  add = parser.add_argument
  add('--gigabytes', type=float, default=16, help='that the step may take (16)')
  add('--classes', type=int, default=751, help='identities (751)')
  add('--parts', type=int, default=4, help='that a batch is accumulated in (4)')
  add(
    '--batch', type=int, default=80,
    help='a batch whose memory is told in any case (80)',
  )  # fmt: skip
  return parser


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Reads the command line; what cannot be ends the program with code 2."""
  parser = make_parser()
  args = command.parse(parser, arguments)
  if args.gigabytes <= 0:
    parser.error(f'--gigabytes={args.gigabytes}: must be more than 0.')
  if args.parts < 2:
    parser.error(f'--parts={args.parts}: must be at least 2.')
  unit = math.lcm(common.get_config().train.K, args.parts)
  if args.batch < unit or args.batch % unit:
    parser.error(f'--batch={args.batch}: must be a multiple of {unit}.')
  try:
    for config in make_configs(args).values():
      variable_shapes(
        create_model(config.model, args.classes), tuple(args.image_size)
      )
  except ValueError as error:
    parser.error(str(error))
  return args


def run(args: argparse.Namespace) -> dict:
  """Compiles, prints the table and returns the record."""
  backend = jax.default_backend()
  network = f'{measuring.describe(args)}, {args.classes} identities'
  print(f'{network}; {args.gigabytes:g} GB on {backend}')
  figures = measure(args)
  print('\n' + format_table(figures))
  return {
    'versions': {'python': sys.version.split()[0], 'jax': jax.__version__},
    'backend': backend,
    'network': network,
    'gigabytes': args.gigabytes,
    'figures': figures,
  }


def main(arguments: list[str] | None = None) -> int:
  args = parse(arguments)
  return command.finish(__file__, lambda: run(args), args.json)


if __name__ == '__main__':
  sys.exit(main())
