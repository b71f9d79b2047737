"""Finds the largest batch whose training step fits into memory (16 GB).

The memory of a step is the compiler's figure for one device of the present
backend: arguments, results that do not reuse the arguments' memory, and
temporary values, without the waste of the allocator. Steps are compiled, but
not run, so the machine need not have that memory. GB are 10^9 bytes.

Batches are multiples of K images that also divide into the micro-batches. The
largest batch was compiled and fits; the next larger one was compiled and does
not.
"""

import argparse
import math
import pathlib
import sys

import jax
from tqdm import tqdm

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

from apnet_jax.accelerators.traced_programs import TracedPrograms  # noqa: E402
from apnet_jax.errors import UserError  # noqa: E402
from apnet_jax.models.apnet import create_model, variable_shapes  # noqa: E402
from benchmarks import command, measuring, network_ours  # noqa: E402
from configs import common  # noqa: E402


class Network:
  """The memory of a training step on one device, by batch size.

  Args:
    config: the whole configuration.
    classes: number of identities.

  Attributes:
    known: bytes of the batch sizes that were compiled.
  """

  def __init__(self, config, classes: int):
    self.known = {}
    self._programs = TracedPrograms.of(config, classes)

  def bytes(self, batch: int) -> int:
    """Returns the memory of a step in bytes; compiles a new batch size."""
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
    """Returns the training step for one device, before compilation."""
    return self._programs.lower('train', batch)


def largest_batch(network: Network, limit: float, unit: int, first: int) -> int:
  """Returns the largest multiple of `unit` that fits; 0 if none does.

  Memory is nearly linear in the batch size. The line through the two known
  sizes closest to the limit predicts which size to compile next, until two
  neighbouring sizes enclose the limit.

  Args:
    network: has `known` and `bytes(batch)`, which increases with the batch.
    limit: memory in bytes.
    unit: the batch is a multiple of this number.
    first: batch to compile first; about half of it comes second.
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
  """Returns the configuration of each row of the table, by name of the row."""
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
  """Finds the largest batches; returns figures by row of the table."""
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
  """Converts bytes to GB, rounded to three decimals; None stays None."""
  return None if number is None else round(number / 1e9, 3)


def format_table(figures: dict) -> str:
  """Formats the figures as a table."""
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
  add('--gigabytes', type=float, default=16, help='memory for the step (16)')
  add('--classes', type=int, default=751, help='number of identities (751)')
  add(
    '--parts', type=int, default=4,
    help='micro-batches of a batch, config.train.accumulate (4)',
  )  # fmt: skip
  add(
    '--batch', type=int, default=80,
    help='a batch whose memory is reported, too (80)',
  )  # fmt: skip
  return parser


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Reads the command line; a mistake ends the program with code 2."""
  parser = make_parser()
  args = command.parse(parser, arguments)
  if args.gigabytes <= 0:
    parser.error(f'--gigabytes={args.gigabytes}: must be more than 0.')
  command.check_at_least(parser, args, parts=2, classes=1, image_size=1)
  unit = math.lcm(common.get_config().train.K, args.parts)
  if args.batch < unit or args.batch % unit:
    parser.error(f'--batch={args.batch}: must be a multiple of {unit}.')
  try:
    for config in make_configs(args).values():
      variable_shapes(
        create_model(config.model, args.classes), tuple(args.image_size)
      )
  except UserError as error:
    parser.error(str(error))
  return args


def run(args: argparse.Namespace) -> dict:
  """Runs the benchmark: prints the table and returns the results for JSON."""
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
  return command.finish(__file__, run, parse(arguments))


if __name__ == '__main__':
  sys.exit(main())
