"""Trains the networks of a table of the paper, or recipes, with several seeds.

  python -m benchmarks.ablations table2 --config=configs/market.py \\
    --override=data.dir=DIR --seeds=0,1,2 --results=runs/table2

Tables are table2 (attention pyramids), figure5 (radix), table3 (complexity,
which only counts), table4 (CUHK03-NP), table5 (backbones), table6 (occlusion)
and table7 (across data sets); and recipes, which trains one network by recipes
of other work. Any data set and configuration will do; --override changes a
field of it for all rows.

The same command goes on after any end: a run resumes from its last checkpoint,
and finished runs are not done again. A run that stands in two tables is done
once. Several machines share the work if they share the results folder.
`python -m benchmarks.report` makes tables of its file results.jsonl.

Exit codes: 2, a mistake of the user or a run that failed; 130 and 143, a
signal, after a checkpoint.
"""

import argparse
from collections.abc import Sequence
import contextlib
import dataclasses
import io
import pathlib
import shlex
import sys

import ml_collections

from apnet_jax.commands import complexity
from apnet_jax.errors import UserError, naming_flags
from apnet_jax.models.network_fields import NETWORK_FIELDS
from apnet_jax.paper.tables import TABLES, Table, first_name
from apnet_jax.paper.variants import APNET_C2
from apnet_jax.workdir import run_files
from apnet_jax.workdir.json_files import write_json
from benchmarks import ablation_plan, ablation_runs
from benchmarks.ablation_plan import Run
from benchmarks.ablation_runs import Results, Target

COUNTS_FILE = 'complexity.json'


def make_parser() -> argparse.ArgumentParser:
  """Returns the parser of the command line."""
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.ablations',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('table', choices=list(TABLES), help='table of the paper, or recipes')
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
    '--rows', default='', metavar='NAMES',
    help='rows of the table, separated by commas, as apnet_c0,apnet_c2 or ema'
    ' (all)',
  )  # fmt: skip
  add(
    '--target', action='append', default=[], metavar='DATASET=DIR',
    help='also evaluates each network on the images in DIR, as duke=DIR; repeat'
    ' it for more',
  )  # fmt: skip
  add(
    '--results', type=_read_folder, default='runs/ablations',
    metavar='FOLDER', help='folder of all runs (%(default)s)',
  )  # fmt: skip
  add(
    '--dry-run', '--dry_run', action='store_true',
    help='prints the runs and how far they are, and does none',
  )  # fmt: skip
  add(
    '--device', default='',
    help='with --dry-run: also compiles each network for this device, as h100'
    ' or v5e:2x4, and prints its memory and the hours by its roofline',
  )  # fmt: skip
  return parser


def _read_folder(text: str) -> pathlib.Path:
  return pathlib.Path(text).expanduser().absolute()


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit code."""
  args = make_parser().parse_args(arguments)
  try:
    if TABLES[args.table].counted:
      return count(args)
    return dry_run(args) if args.dry_run else train(args)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  except KeyboardInterrupt as error:  # also `Interrupted`, with its code
    print(
      'interrupted; the same command continues where it stopped',
      file=sys.stderr,
    )
    return getattr(error, 'code', 130)


def runs_of(args: argparse.Namespace) -> list[Run]:
  """Returns the runs that the command line asks for.

  Raises:
    UserError: the configuration is not valid, a value has a wrong form, or two
      rows are the same training.
  """
  if args.device and not args.dry_run:
    raise UserError('--device needs --dry-run.')
  name = _config_of(args).data.name
  runs = ablation_plan.plan(
    chosen_rows(TABLES[args.table], args.rows),
    args.config,
    ablation_plan.absolute_folders(args.override, name),
    read_seeds(args.seeds),
  )
  check_rows(runs)
  return runs


def check_rows(runs: Sequence[Run]) -> None:
  """Checks that no two rows are the same training under two names.

  A row leaves fields alone that have the paper's value by default. With
  model.radix=4 for all rows, that of radix 2 would have radix 4.

  Raises:
    UserError: two rows are the same training.
  """
  names: dict[str, str] = {}
  for run in runs:
    other = names.setdefault(run.hash, run.variant)
    if other != run.variant:
      raise UserError(
        f'the rows {other} and {run.variant} would be the same training: the'
        ' configuration or an --override gives all rows what only one of the'
        ' two has. Leave that out.'
      )


def _config_of(args: argparse.Namespace) -> ml_collections.ConfigDict:
  """Returns the configuration that all rows share.

  Raises:
    UserError: see `ablation_plan.read_config`.
  """
  overrides = [f'--config.{override}' for override in args.override]
  try:
    return ablation_plan.read_config([f'--config={args.config}', *overrides])
  except UserError as error:  # it names the flags of train.py
    text = str(error).replace('--config.', '--override=')
    raise UserError(text) from error


def chosen_rows(table: Table, names: str) -> Table:
  """Returns a table with some of its rows.

  Args:
    table: the table.
    names: names of rows, separated by commas; '' for all.

  Raises:
    UserError: the table has no such row.
  """
  wanted = [name.strip() for name in names.split(',') if name.strip()]
  known = [row.name for row in table.rows]
  if unknown := [name for name in wanted if name not in known]:
    raise UserError(
      f'--rows={names}: {", ".join(unknown)} not in {", ".join(known)}.'
    )
  rows = (row for row in table.rows if not wanted or row.name in wanted)
  return dataclasses.replace(table, rows=tuple(rows))


def read_seeds(text: str) -> list[int]:
  """Parses numbers that commas separate, and keeps each once.

  Raises:
    UserError: they have another form.
  """
  try:
    seeds = [int(word) for word in text.split(',')]
  except ValueError:
    seeds = []
  if not seeds or min(seeds) < 0:
    raise UserError(f'--seeds={text}: give numbers from 0, as 0,1,2.')
  return list(dict.fromkeys(seeds))


def read_targets(texts: Sequence[str], allow_other_counts: bool):
  """Parses the values of --target.

  Args:
    texts: the values, as 'duke=DIR'.
    allow_other_counts: `config.data.allow_other_counts` of the training, which
      is also that of the targets.

  Raises:
    UserError: a value has another form, its data set or its folder is missing,
      or two folders have the same name.
  """
  targets = []
  for text in texts:
    dataset, equals, folder = text.partition('=')
    path = _read_folder(folder)
    if not dataset or not equals or not path.is_dir():
      raise UserError(
        f'--target={text}: give a data set and the folder of its images, as'
        ' duke=DIR.'
      )
    targets.append(Target(dataset, path, allow_other_counts))
  labels = [target.label for target in targets]
  if len(set(labels)) < len(labels):
    raise UserError(
      '--target: two folders have the same name, which tells their results'
      ' apart.'
    )
  with naming_flags({'data.name': '--target'}):
    for target in targets:
      _ = target.full_name
  return targets


def train(args: argparse.Namespace) -> int:
  """Does all runs that no other process works on."""
  runs, results = runs_of(args), Results(args.results)
  data = runs[0].config.data
  targets = read_targets(args.target, data.allow_other_counts)
  if TABLES[args.table].across and not targets:
    raise UserError(
      f'{args.table} evaluates networks on other images: give --target.'
    )
  check_images(runs[0], targets, results)
  outcomes = []
  for number, run in enumerate(runs, 1):
    print(f'{number}/{len(runs)} {run.name}', flush=True)
    outcomes.append(ablation_runs.do_run(run, targets, results))
    note = {'failed': f': {results.workdir(run) / ablation_runs.LOG_FILE}'}
    print(f'  {outcomes[-1]}{note.get(outcomes[-1], "")}', flush=True)
  if 'claimed' in outcomes:
    print('Other processes work on the claimed runs.')
  return 2 if 'failed' in outcomes else 0


def check_images(run: Run, targets: Sequence[Target], results: Results) -> None:
  """Checks that the results of a recipe are those of the present images.

  Args:
    run: a run of the recipe.
    targets: other images that the networks are evaluated on.
    results: the results.

  Raises:
    UserError: they are of others, or the images cannot be listed.
  """
  lines = [line for line in results.read() if line['recipe'] == run.recipe]
  if ',' not in run.config.data.name:  # else, each run's workdir tells
    now = _fingerprint(run.config)
    for line in lines:
      before = line['card']['checkpoint']['trained_on']['fingerprint']
      if before != now:
        raise UserError(
          f'--results={results.folder} has runs that were trained on other'
          f' images ({before}, now {now}): give another folder.'
        )
  for target in targets:
    now = _fingerprint(target.configure(run.config))
    for line in filter(target.is_of, lines):
      before = line['card']['fingerprint']
      if before != now:
        raise UserError(
          f'--results={results.folder} has results on other images in a folder'
          f' {target.label} ({before}, now {now}): rename the folder of'
          ' --target, or give another results folder.'
        )


def _fingerprint(config: ml_collections.ConfigDict) -> str:
  """Returns the fingerprint of the images of a configuration."""
  from data import listing

  with contextlib.redirect_stdout(io.StringIO()):
    return listing.read(config.data).fingerprint


def dry_run(args: argparse.Namespace) -> int:
  """Prints the runs, how far they are, and what a device would need."""
  runs, results = runs_of(args), Results(args.results)
  data = runs[0].config.data
  targets = read_targets(args.target, data.allow_other_counts)
  common = set.intersection(*(set(run.words) for run in runs))
  words = [word for word in runs[0].words if word in common]
  print(f'All runs: {ablation_runs.shown(["python", "train.py", *words])}')
  for run in runs:
    own = [word for word in run.words if word not in common]
    print(f'\n{run.name}: {progress(run, targets, results)}')
    print(f'  {" ".join(own)}')
  if args.device:
    print_costs(runs, args.device)
  return 0


def progress(run: Run, targets: Sequence[Target], results: Results) -> str:
  """Returns how far a run is: to do, a step, being done, or done."""
  if not results.missing(run, targets):
    return 'done'
  workdir = results.workdir(run)
  if ablation_runs.is_claimed(workdir):
    return 'being done'
  step = run_files.last_step(workdir)
  return 'to do' if step is None else f'stopped after step {step}'


def print_costs(runs: Sequence[Run], device: str) -> None:
  """Prints the memory and the hours of all runs on a device, by its roofline.

  Each network is compiled once for all its seeds.
  """
  from benchmarks import ablation_cost

  compile_for = ablation_cost.compiler(device)
  costs = {}
  print(f'\nOn {device}, each run:')
  for run in runs:
    if run.variant not in costs:
      costs[run.variant] = compile_for(run.config)
      print(f'  {run.variant:24}{costs[run.variant]}', flush=True)
  hours = ablation_cost.total_hours([costs[run.variant] for run in runs])
  least = ablation_cost.say_least(all(cost.least for cost in costs.values()))
  print(
    f'  {len(runs)} runs take {least} {hours:.1f} h of training steps, by the'
    ' roofline. Evaluation, start-up and input come on top.'
  )


def count(args: argparse.Namespace) -> int:
  """Counts the operations of the networks of a table."""
  config = _config_of(args)
  check_counted(args, config.model)
  rows = chosen_rows(TABLES[args.table], args.rows).rows
  if args.dry_run:
    print(*(f'{first_name(row.variant)}: counted' for row in rows), sep='\n')
    return 0
  counts = [complexity.measure(row.variant, config.model) for row in rows]
  print(complexity.format_table(counts))
  write_json(
    args.results / COUNTS_FILE,
    {
      'command': _count_command(args),
      'commit': ablation_runs.commit(),
      'networks': counts,
    },
  )
  return 0


def check_counted(
  args: argparse.Namespace, model: ml_collections.ConfigDict
) -> None:
  """Checks that no flag is given that counting would ignore.

  Raises:
    UserError: a device or a target is given, or a field of the network.
  """
  ignored = [f'--{name}' for name in ('device', 'target') if vars(args)[name]]
  ignored += [
    f'config.model.{name}'
    for name in NETWORK_FIELDS
    if model[name] != APNET_C2[name]
  ]
  if ignored:
    raise UserError(
      f"{args.table} counts the paper's networks, on which"
      f' {", ".join(ignored)} would have no effect: leave that out.'
    )


def _count_command(args: argparse.Namespace) -> str:
  """Returns the command that counts the same, without folders."""
  words = [
    f'--override={override}'
    for override in args.override
    if override.startswith('model.')
  ]
  words += [f'--rows={args.rows}'] * bool(args.rows)
  return shlex.join(
    ['python', '-m', 'benchmarks.ablations', args.table, *words]
  )


if __name__ == '__main__':
  sys.exit(main())
