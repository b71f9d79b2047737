"""Trains the networks of a table of the paper, each with several seeds.

  python -m benchmarks.ablations table2 --config=configs/market.py \\
    --override=data.dir=DIR --seeds=0,1,2 --results=runs/table2

Tables are table2 (attention pyramids), figure5 (radix), table3 (complexity),
table4 (CUHK03-NP), table5 (backbones), table6 (occlusion) and table7 (across
data sets). Any data set and configuration will do; --override changes a field
of it for all networks.

The same command goes on after any end: a run resumes from its last checkpoint,
and finished runs are not done again. Several machines share the work if they
share the results folder. `python -m benchmarks.report` makes tables of it.
"""

import argparse
from collections.abc import Sequence
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

from apnet_jax.errors import UserError  # noqa: E402
from apnet_jax.paper.tables import TABLES  # noqa: E402
from benchmarks import ablation_plan, ablation_runs  # noqa: E402
from benchmarks.ablation_runs import Results, Target  # noqa: E402


def make_parser() -> argparse.ArgumentParser:
  """Returns the parser of the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('table', choices=list(TABLES), help='table or figure of the paper')
  add(
    '--config', default='configs/market.py',
    help='configuration of all networks (%(default)s)',
  )  # fmt: skip
  add(
    '--override', action='append', default=[], metavar='FIELD=VALUE',
    help='changes a field of the configuration, as train.epochs=60; repeat it'
    ' for more',
  )  # fmt: skip
  add(
    '--seeds', default='0,1,2', help='seeds, separated by commas (%(default)s)'
  )
  add(
    '--rows', default='',
    help='networks of the table, separated by commas, as apnet_c0,apnet_c2'
    ' (all)',
  )  # fmt: skip
  add(
    '--target', action='append', default=[], metavar='DATASET=DIR',
    help='also evaluates each network on the images in DIR, as duke=DIR; repeat'
    ' it for more',
  )  # fmt: skip
  add(
    '--results', type=pathlib.Path, default=pathlib.Path('runs/ablations'),
    metavar='FOLDER', help='folder of all runs (%(default)s)',
  )  # fmt: skip
  add(
    '--dry-run', '--dry_run', action='store_true',
    help='prints the runs, and does none',
  )  # fmt: skip
  return parser


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit code."""
  parser = make_parser()
  args = parser.parse_args(arguments)
  try:
    return run_table(args)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  except ablation_runs.Interrupted as error:
    print('interrupted; the same command goes on', file=sys.stderr)
    return error.code


def run_table(args: argparse.Namespace) -> int:
  overrides = ablation_plan.absolute_folders(args.override)
  runs = ablation_plan.plan(
    TABLES[args.table], args.config, overrides, read_seeds(args.seeds)
  )
  if args.rows:
    runs = [run for run in runs if run.variant in args.rows.split(',')]
  results = Results(args.results.absolute())
  targets = [read_target(text, runs[0]) for text in args.target]
  outcomes = []
  for number, run in enumerate(runs, 1):
    print(f'{number}/{len(runs)} {run.name}', flush=True)
    outcomes.append(ablation_runs.do_run(run, targets, results))
    print(f'  {outcomes[-1]}', flush=True)
  return 2 if 'failed' in outcomes else 0


def read_seeds(text: str) -> list[int]:
  return [int(word) for word in text.split(',')]


def read_target(text: str, run) -> Target:
  dataset, _, folder = text.partition('=')
  path = pathlib.Path(folder).expanduser().absolute()
  return Target(dataset, path, run.config.data.allow_other_counts)


if __name__ == '__main__':
  sys.exit(main())
