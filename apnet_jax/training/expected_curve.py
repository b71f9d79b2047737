"""The expected mAP by epoch: finished runs that a new run is compared with.

A record holds the mAP by epoch of several runs of one recipe, which differ in
their seeds. A further run of the recipe is compared with it at each evaluation.
MLPerf Training checks submissions by such records, the reference convergence
points (github.com/mlcommons/logging, `rcp_checker`). There, a t-test compares
the epochs that two sets of runs need to reach a quality. Here, a single run is
compared while it trains: its mAP must not lie below the one-sided prediction
limit of Student's t for one more run.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Any

import ml_collections
import numpy as np
from scipy import special

from apnet_jax.errors import UserError
from apnet_jax.retrieval.card import step_of
from apnet_jax.training import recipe
from apnet_jax.workdir import json_files, metric_reader, run_files

LEAST_RUNS = 3  # with two, the limit is 39 standard deviations away
# Share of the runs of a recipe that lie above the limit at an evaluation.
CONFIDENCE = 0.99
# Lower bound of the standard deviation. Few seeds may agree by chance, and
# other hardware rounds differently.
LEAST_DEVIATION = 0.01


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The comparison of a run with the record at one evaluation.

  Attributes:
    epoch: epoch of the evaluation.
    mAP: mAP of the run, from 0 to 1.
    mean: mean mAP of the recorded runs.
    least: mAP below which a run of the recipe is not expected.
    runs: number of recorded runs.
  """

  epoch: float
  mAP: float
  mean: float
  least: float
  runs: int

  @property
  def is_below(self) -> bool:
    """True if the mAP of the run is below `least`."""
    return self.mAP < self.least

  @property
  def metrics(self) -> dict[str, float]:
    """Metrics for the log, by name."""
    return {'mAP_expected': self.mean, 'mAP_least': self.least}

  def __str__(self) -> str:
    """A sentence for the user."""
    found = f'epoch {self.epoch:g}: mAP {100 * self.mAP:.1f} is'
    mean, least = f'{100 * self.mean:.1f}', f'{100 * self.least:.1f}'
    if self.is_below:
      return (
        f'warning: {found} below the lower limit {least}, which'
        f' {CONFIDENCE:.0%} of such runs reach (mean of the {self.runs}'
        f' recorded runs: {mean}). Check whether the data, the code or the'
        ' machine has changed.'
      )
    return (
      f'{found} as expected ({self.runs} recorded runs: mean {mean}, lower'
      f' limit {least})'
    )


@dataclasses.dataclass(frozen=True)
class ExpectedCurve:
  """A record: the mAP by epoch of finished runs of one recipe.

  Attributes:
    recipe: the fields that change the result, without the seed; see `recipe`.
    num_classes: number of identities that the runs were trained on.
    epochs: float [epochs], epochs of the evaluations.
    mAP: float [runs, epochs], from 0 to 1.
  """

  recipe: Mapping[str, Any]
  num_classes: int
  epochs: np.ndarray
  mAP: np.ndarray

  def differences(
    self,
    config: ml_collections.ConfigDict,
    num_classes: int,
    run: Mapping | None = None,
  ) -> list[str]:
    """Returns where a run is of another recipe, as 'train.epochs 2, not 4'.

    Args:
      config: the whole configuration of the run.
      num_classes: number of identities that the run is trained on.
      run: the content of run.json, if the run has begun.
    """
    default = recipe.default_fields()
    ours = default | _fields_without_seed(config, run)
    theirs = {**default, **self.recipe}
    # A record of an earlier version may hold fields that do not count.
    unused = recipe.unused_fields(config)
    found = [
      f'{name} {value!r}, not {theirs.get(name)!r}'
      for name, value in ours.items()
      if value != theirs.get(name)
      and recipe.changes_result(name)
      and name not in unused
    ]
    if num_classes != self.num_classes:
      found.append(f'{num_classes:,} identities, not {self.num_classes:,}')
    return found

  def band(self, epoch: float) -> tuple[float, float] | None:
    """Returns the mean and the lower limit of the mAP at an epoch.

    The limit is mean - t s sqrt(1 + 1/n) for n recorded runs with the standard
    deviation s, where t is the quantile `CONFIDENCE` of Student's t with n - 1
    degrees of freedom: the lower end of the prediction interval for one more
    run, if errors are normal.

    Returns:
      Both from 0 to 1; None if the record has no evaluation at this epoch.
    """
    column = np.flatnonzero(np.isclose(self.epochs, epoch, atol=1e-3))
    if not len(column):
      return None
    recorded, runs = self.mAP[:, column[0]], len(self.mAP)
    deviation = max(float(recorded.std(ddof=1)), LEAST_DEVIATION)
    t = float(special.stdtrit(runs - 1, CONFIDENCE))
    mean = float(recorded.mean())
    return mean, mean - t * deviation * (1 + 1 / runs) ** 0.5

  def judge(self, epoch: float, mAP: float) -> Verdict | None:
    """Compares a run with the record at an epoch.

    Args:
      epoch: epoch of the evaluation.
      mAP: mAP of the run, from 0 to 1.

    Returns:
      The comparison; None if the record has no evaluation at this epoch.
    """
    band = self.band(epoch)
    return band and Verdict(epoch, mAP, *band, len(self.mAP))


def _fields_without_seed(
  config: ml_collections.ConfigDict, run: Mapping | None
) -> dict[str, Any]:
  """Returns the fields that change the result of a run, without the seed."""
  fields = recipe.relevant_fields(config, run)
  return {name: value for name, value in fields.items() if name != 'seed'}


def read(path: str | os.PathLike) -> ExpectedCurve:
  """Reads a record that `make_record` made.

  Args:
    path: the file; `~` is the home folder.

  Raises:
    UserError: the file cannot be read, or is no such record.
  """
  content = json_files.read_fields(pathlib.Path(path).expanduser())
  with run_files.naming_damaged_file(path):
    found = ExpectedCurve(
      dict(content['recipe']),
      int(content['num_classes']),
      np.array(content['epochs'], np.float64),
      np.array([run['mAP'] for run in content['runs']], np.float64),
    )
    if found.mAP.shape != (len(found.mAP), len(found.epochs)):
      raise UserError('the runs do not have a mAP at each epoch')
    if len(found.mAP) < LEAST_RUNS or not np.isfinite(found.mAP).all():
      raise UserError(f'it holds no mAP of at least {LEAST_RUNS} runs')
  return found


def make_record(workdirs: Sequence[str | os.PathLike]) -> dict[str, Any]:
  """Makes a record of finished runs, ready for JSON.

  Args:
    workdirs: workdirs of runs that differ in their seeds alone.

  Raises:
    UserError: there are fewer than three runs, a run is not finished, or the
      runs differ in more than their seeds.
  """
  if len(workdirs) < LEAST_RUNS:
    raise UserError(
      f'a record needs at least {LEAST_RUNS} runs with different seeds, not'
      f' {len(workdirs)}: the band comes from their spread.'
    )
  runs = [_read_run(workdir) for workdir in workdirs]
  first = runs[0]
  for workdir, run in zip(workdirs, runs):
    for field in ('recipe', 'num_classes', 'fingerprint', 'epochs'):
      if run[field] != first[field]:
        raise UserError(
          f'{workdir} and {workdirs[0]} cannot stand in one record: their'
          f' {_WORDS[field]} differ: {_different(run[field], first[field])}.'
        )
  seeds = [run['seed'] for run in runs]
  if len(set(seeds)) < len(seeds):
    raise UserError(f'the seeds {seeds} of the runs are not all different.')
  return {
    **{name: first[name] for name in first if name not in ('seed', 'mAP')},
    'runs': [{'seed': run['seed'], 'mAP': run['mAP']} for run in runs],
  }


_WORDS = {
  'recipe': 'configurations',
  'num_classes': 'numbers of identities',
  'fingerprint': 'images',
  'epochs': 'epochs of evaluation',
}


def _different(ours, theirs) -> str:
  """Returns two values as text, of dicts only the entries that differ."""
  if isinstance(ours, dict):
    ours, theirs = (
      {k: v for k, v in one.items() if k not in other or other[k] != v}
      for one, other in ((ours, theirs), (theirs, ours))
    )
  return f'{ours} and {theirs}'


def _step_of(result: Mapping) -> int | None:
  """Returns the step of a run's result: a card, or cards of several sets."""
  steps = map(step_of, (result, *result.values()))
  return next((step for step in steps if step is not None), None)


def _read_run(workdir: str | os.PathLike) -> dict[str, Any]:
  """Reads what a record holds of one finished run."""
  config = run_files.load_full_config(workdir)
  run = run_files.load_run(workdir)
  card = run_files.read_file(workdir, run_files.RESULT_FILE)
  if card is None:
    raise UserError(
      f'{workdir} has no {run_files.RESULT_FILE}: the run is not finished.'
    )
  step, last = _step_of(card), run_files.last_step(workdir) or 0
  if step is not None and step < last:  # the run was extended since
    raise UserError(
      f'{workdir}/{run_files.RESULT_FILE} is that of step {step}, and the run'
      f' has done {last} by now: it is not finished.'
    )
  points = list(
    metric_reader.curve(metric_reader.read_metrics(workdir), 'eval/mAP')
  )
  return {
    'recipe': _fields_without_seed(config, run),
    'num_classes': run['num_classes'],
    'fingerprint': run['fingerprint'],
    'devices': run.get('devices'),
    'versions': run.get('versions'),
    'epochs': [epoch for epoch, _ in points],
    'seed': config.seed,
    'mAP': [round(value, 6) for _, value in points],
  }


def of_run(
  config: ml_collections.ConfigDict,
  num_classes: int,
  run: Mapping | None = None,
) -> tuple[ExpectedCurve | None, str]:
  """Reads the record that a run is compared with while it trains.

  Args:
    config: the whole configuration of the run.
    num_classes: number of identities that the run is trained on.
    run: the content of run.json, if the run has begun.

  Returns:
    The record, None if `config.eval.expected_curve` names none or one of
    another recipe; and a sentence for the user, '' without a record.

  Raises:
    UserError: the file cannot be read, or is no such record.
  """
  path = config.eval.expected_curve
  if not path:
    return None, ''
  expected = read(path)
  if different := expected.differences(config, num_classes, run):
    more = f' and {len(different) - 3} more' if len(different) > 3 else ''
    return None, (
      f'The mAP is not compared with {path}, because the runs recorded there'
      f' have another recipe: {"; ".join(different[:3])}{more}.'
    )
  runs = len(expected.mAP)
  return expected, (
    f'Each evaluation compares its mAP with the {runs} runs recorded in {path}.'
  )


def judge_run(
  workdir: str | os.PathLike, expected: ExpectedCurve
) -> Iterator[Verdict]:
  """Yields the comparison of a run with a record, at each evaluation so far.

  Raises:
    UserError: the run is of another recipe, or a file of it is damaged.
  """
  config = run_files.load_full_config(workdir)
  run = run_files.load_run(workdir)
  if different := expected.differences(config, run['num_classes'], run):
    raise UserError(
      f'{workdir} is not a run of the recorded recipe: {"; ".join(different)}.'
    )
  records = metric_reader.read_metrics(workdir)
  for epoch, value in metric_reader.curve(records, 'eval/mAP'):
    if verdict := expected.judge(epoch, value):
      yield verdict
