"""Trains a run from its configuration to its result card."""

from collections.abc import Mapping
import dataclasses
from functools import partial
import os
import pathlib
import time

import ml_collections

from apnet_jax.errors import UserError
from apnet_jax.feed import Feed
from apnet_jax.parallel import devices, processes
from apnet_jax.retrieval import card, evaluation
from apnet_jax.retrieval.metrics import describe_queries, few_queries_warning
from apnet_jax.training import pretrained, profiling, recipe
from apnet_jax.training.checks import check, check_steps
from apnet_jax.training.loop import Loop
from apnet_jax.training.programs import Programs
from apnet_jax.training.run import Run
from apnet_jax.training.train_step import TrainState
from apnet_jax.workdir import json_files, lock, run_files
from apnet_jax.workdir.checkpoints import Checkpoints
from apnet_jax.workdir.interruption import Interruption
from apnet_jax.workdir.metric_writer import open_writer

# Seconds within which a shared disk shows new files. A client of NFS remembers
# for up to 60 (acdirmax) that a folder was not there.
SHARED_WITHIN = 90


@dataclasses.dataclass(frozen=True)
class Summary:
  """The outcome of a run.

  Attributes:
    state: state after the last step.
    metrics: metrics logged last; empty if no step was left to train.
    card: the result card of the final state; for several data sets, their
      cards by name.
  """

  state: TrainState
  metrics: Mapping[str, float]
  card: Mapping


def train(
  config: ml_collections.ConfigDict,
  feed: Feed,
  workdir: str | os.PathLike,
  profile_steps: tuple[int, int] | None = None,
  programs: Programs | None = None,
  weights: pretrained.Weights | None = None,
) -> Summary:
  """Trains a network, or resumes its training, and evaluates the network.

  SIGTERM and SIGINT end the run after a checkpoint of the current step.

  Args:
    config: the whole configuration; see `apnet_jax.get_config`.
    feed: data to train and evaluate on.
    workdir: folder for checkpoints and logs; made if needed.
    profile_steps: the first and the last step to trace with the profiler, into
      the workdir; None for no trace.
    programs: programs of this run, if they were made before the data were
      prepared.
    weights: the result of `checks.check`, if it was called before the data were
      prepared. Without weights, the configuration is checked here.

  Raises:
    UserError: the configuration does not fit the data, the devices or the
      workdir; or the workdir belongs to another run, has done more steps than
      the configuration asks for, or cannot be written to.
    FloatingPointError: a loss or a gradient is not finite, and
      `config.train.not_finite` says to stop.
    OSError: the last checkpoint could not be saved.
    Interrupted: a signal ended the run.
  """
  if weights is None:
    weights = check(config, workdir)
  skipped = {
    name: evaluation.check_benchmark(one) for name, one in feed.by_set.items()
  }
  with lock.held(workdir), Interruption() as interruption:
    check_steps(config, feed.steps_per_epoch, workdir)
    claim(workdir, config, feed, weights)
    print(feed.summary)
    for name, benchmark in feed.by_set.items():
      _print_queries(name, len(benchmark.query.pids), skipped[name])
      if warning := card.dropped_warning(config.eval, benchmark):
        print(warning)
    run = Run(config, feed, programs, run_files.load_run(workdir), weights)
    with Checkpoints(workdir, is_scheduled=run.saves) as checkpoints:
      run.programs.compile_ahead(checkpoints.latest_step)
      start = run.starting_point(checkpoints)
      print('\n'.join([run.describe(start.state), *start.notes]), flush=True)
      done = int(start.state.step)
      profile = profiling.Profile(profile_steps, workdir, done, run.total_steps)
      with profile, open_writer(workdir, done, start.evaluated) as writer:
        loop = Loop(
          run, start, checkpoints, interruption, writer, profile,
          partial(_renew_page, workdir),
        )  # fmt: skip
        state, metrics, outcome = loop.run_steps()
      checkpoint = card.checkpoint_entry(
        int(state.step), 'last', config, run_files.load_run(workdir)
      )
      cards = run.cards(outcome, checkpoint)
      content = cards if feed.benchmarks else cards['']
      if processes.is_first():
        json_files.write_json(
          pathlib.Path(workdir, run_files.RESULT_FILE), content
        )
    print(run.closing_table(outcome))
    if text := profile.describe():
      print(text)
  return Summary(state, metrics, content)


def _renew_page(workdir: str | os.PathLike) -> None:
  """Writes the page of a run's curves; only process 0 does."""
  if processes.is_first():
    from apnet_jax.visualize import training_page  # not needed to start

    training_page.renew(workdir)


def _print_queries(name: str, queries: int, skipped: int) -> None:
  """Prints how many queries of a data set count, if that needs saying.

  Args:
    name: name of the data set, or '' if there is only one.
    queries: number of queries.
    skipped: number of queries without a true match.
  """
  start = f'{name}: ' if name else ''
  if skipped:
    print(
      f'  {start}{describe_queries(queries - skipped, skipped)} have a true'
      ' match; the others are skipped'
    )
  if warning := few_queries_warning(queries - skipped):
    print(f'{start}{warning}')


def claim(
  workdir: str | os.PathLike,
  config: ml_collections.ConfigDict,
  feed: Feed,
  weights: pretrained.Weights | None,
) -> None:
  """Claims the workdir for this run, and checks that all processes see it.

  Process 0 claims the workdir, by writing config.json and run.json.

  Args:
    workdir: workdir of the run.
    config: the whole configuration.
    feed: data to train and evaluate on.
    weights: see `run_facts`.

  Raises:
    UserError: the workdir belongs to another run, or is not shared.
  """
  if processes.is_first():
    run_files.claim_workdir(workdir, config, run_facts(feed, config, weights))
  processes.wait_for_all()
  until = time.monotonic() + SHARED_WITHIN
  while not pathlib.Path(workdir, run_files.CONFIG_FILE).exists():
    if time.monotonic() > until:
      raise UserError(
        f'--workdir={workdir}: {processes.this_process()} does not see what'
        ' process 0 wrote there. It must lie on a file system that all share.'
      )
    time.sleep(1)


def run_facts(
  feed: Feed,
  config: ml_collections.ConfigDict,
  weights: pretrained.Weights | None = None,
) -> dict:
  """Returns the content of run.json.

  Args:
    feed: data to train and evaluate on.
    config: the whole configuration.
    weights: the initial weights. None if they are random, or if the run resumes
      and does not need them again.

  Returns:
    The origin of the initial weights, with the recipe of the run that they come
    from; facts about the data set, the devices, and the versions of the
    software.
  """
  source = '' if weights is None else config.model.pretrained
  return {
    'started_from': pretrained.started_from(source, weights),
    recipe.SOURCE_RECIPE: recipe.of_source(source),
    'num_classes': feed.num_classes,
    'fingerprint': feed.fingerprint,
    **({'release': feed.release} if feed.release else {}),
    'devices': devices.describe(),
    'versions': card.versions(),
  }
