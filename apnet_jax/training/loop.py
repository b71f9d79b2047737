"""The training loop: steps, logs, evaluations, checkpoints, interruptions."""

from collections.abc import Callable, Mapping
import dataclasses
from functools import partial
import math
from typing import NoReturn

import jax.numpy as jnp
from tqdm import tqdm

from apnet_jax.errors import UserError
from apnet_jax.parallel import devices
from apnet_jax.training import optim, profiling
from apnet_jax.training.collapse_watch import CollapseWatch
from apnet_jax.training.not_finite import Guard
from apnet_jax.training.run import Outcome, Run, StartingPoint
from apnet_jax.training.train_step import TrainState
from apnet_jax.workdir.checkpoints import Checkpoints
from apnet_jax.workdir.interruption import Interrupted, Interruption
from apnet_jax.workdir.metric_writer import MetricWriter, NullMetricWriter


class Loop:
  """The training loop over the remaining steps of a run.

  Args:
    run: the network, training step, evaluation and data.
    start: the state to train from. The first step donates its arrays to JAX, so
      the caller must not use them afterwards.
    checkpoints: saves and restores checkpoints of the workdir.
    interruption: tells after each step whether a signal asks the run to end.
    writer: writes metrics.
    profile: profiler that traces some of the steps.
    renew_page: writes the page of the curves, after each evaluation.
  """

  def __init__(
    self,
    run: Run,
    start: StartingPoint,
    checkpoints: Checkpoints,
    interruption: Interruption,
    writer: MetricWriter | NullMetricWriter,
    profile: profiling.Profile,
    renew_page: Callable[[], None],
  ):
    self._run, self._checkpoints = run, checkpoints
    self._interruption, self._writer = interruption, writer
    self._profile, self._renew_page = profile, renew_page
    self._state, self._start = start.state, int(start.state.step)
    self._starts_with_evaluation = (
      self._start > 0 and run.evaluates(self._start) and not start.evaluated
    )
    self._timer = profiling.StepTimer(run.config.train.P * run.config.train.K)
    self._watch = CollapseWatch(run.config.train, tqdm.write)
    self._guard = Guard(
      run.config.train,
      start.not_finite,
      run.parameter_names,
      run.feed.batch_names,
      self._describe_saved,
      self._note,
    )

  def run_steps(
    self,
  ) -> tuple[TrainState, Mapping[str, float], Outcome]:
    """Trains to the end of the run, with its evaluations and checkpoints.

    Returns:
      The final state; the metrics logged last, empty if no step was left; and
      the outcome of evaluating the final state.

    Raises:
      FloatingPointError: a step is not finite, and the run must end.
      Interrupted: a signal ended the run.
    """
    run, guard = self._run, self._guard
    batches = run.feed.batches(self._start)
    lay_out = partial(
      devices.shard_batch, micro_batches=run.config.train.accumulate
    )
    metrics, outcome, unchecked, on_device = {}, None, None, None
    # The bar is shown last: whoever sees it may count on deferred signals.
    progress = partial(
      tqdm,
      total=run.total_steps,
      initial=self._start,
      desc='Training',
      unit=' steps',
    )
    with self._interruption.deferred(), progress() as self._bar:
      if self._starts_with_evaluation:
        outcome = self._evaluate_checkpoint(self._start)
      for step in range(self._start + 1, run.total_steps + 1):
        with self._profile.step(step, on_device):
          batch = lay_out(self._timer.fetch(batches))
          self._state, on_device = run.step(self._state, batch)
        # Checking the last step while this one runs keeps the device busy.
        guard.check(step - 1, unchecked)
        unchecked = on_device
        self._timer.count()
        self._bar.update()
        self._profile.end(step, on_device)
        logs, saves = run.logs(step), run.saves(step)
        stops = self._interruption.wanted(step)
        if logs or saves or stops or guard.rolls_back:
          unchecked = None
          finite = guard.check(step, on_device)
          if guard.rolls_back and not finite:
            self._roll_back(step)
        if logs:
          metrics = self._log(step, on_device)
        if saves or stops:
          self._save(step)
        if stops:
          self._stop()
        if run.evaluates(step):
          outcome = self._evaluate_checkpoint(step)
      # A run that was finished and evaluated before has no outcome yet.
      outcome = outcome or self._evaluate(run.total_steps)
    return self._state, metrics, outcome

  def _log(self, step: int, on_device: Mapping) -> dict[str, float]:
    """Writes the finite metrics of a step, and returns them.

    Args:
      step: number of the step.
      on_device: metrics that the training step returned. Scalars are logged.

    Returns:
      These metrics by name, with learning rate, epoch, memory and, except of
      the first step after a start, speed.
    """
    run = self._run
    metrics = {k: float(v) for k, v in on_device.items() if not v.ndim}
    metrics |= {
      'learning_rate': float(run.programs.learning_rate(step - 1)),
      'epoch': step / run.feed.steps_per_epoch,
      **self._timer.figures(),
      **profiling.memory(),
    }
    metrics = {k: v for k, v in metrics.items() if math.isfinite(v)}
    self._writer.write(step, {f'train/{k}': v for k, v in metrics.items()})
    self._watch.see_losses(step, metrics)
    shown = f'loss {metrics.get("loss", math.nan):.3f}'
    if 'images_per_second' in metrics:  # the first step is not timed
      shown += (
        f', {metrics["images_per_second"]:.0f} images/s, data wait'
        f' {metrics["data_wait"]:.0%}'
      )
    self._bar.set_postfix_str(shown)
    return metrics

  def _save(self, step: int) -> None:
    self._guard.check_state(step, self._state)
    with self._timer.phase('save'):
      self._checkpoints.save(step, self._state, not_finite=self._guard.count)

  def _evaluate_checkpoint(self, step: int) -> Outcome:
    """Evaluates the state, and adds the figures to its checkpoint.

    The figures are logged first. A run that is killed in between repeats the
    evaluation, and `MetricWriter` drops the record.

    Args:
      step: step of the state, which was saved or is being saved.
    """
    outcome = self._evaluate(step)
    figures = self._run.figures(outcome)
    verdict = self._run.judge(step, figures)
    logged = figures | (verdict.metrics if verdict else {})
    self._writer.write(step, {f'eval/{k}': v for k, v in logged.items()})
    for name, result in outcome.results.items():
      shown = ', '.join(
        f'{k} {100 * v:.1f}'
        for k, v in result.figures(self._run.config.eval.ap).items()
      )
      counted = f' ({result.based_on})' if result.num_skipped_queries else ''
      where = f'step {step}, {name}' if name else f'step {step}'
      self._bar.write(f'{where}: {shown}{counted}')
    if verdict:
      self._bar.write(str(verdict))
    with self._timer.phase('save'):
      self._checkpoints.add_figures(step, figures)
      self._show_curves()
    return outcome

  def _show_curves(self) -> None:
    """Renews the page of the curves; a run does not end for its page."""
    try:
      self._renew_page()
    except (OSError, UserError) as error:
      self._bar.write(f'the page of the curves was not written: {error}')

  def _evaluate(self, step: int) -> Outcome:
    """Evaluates the state after a step; a signal ends the evaluation at once.

    Raises:
      Interrupted: a signal ended the run.
    """
    try:
      with self._interruption.at_once(), self._timer.phase('evaluation'):
        outcome = self._run.evaluate(self._state)
    except Interrupted:
      self._stop()
    self._watch.see_evaluation(step, outcome.similarity)
    return outcome

  def _stop(self) -> NoReturn:
    """Waits for the save in progress, and ends the run.

    Raises:
      Interrupted: always. The message says what was saved.
    """
    saved = self._checkpoints.wait()
    if saved is None:
      what = 'nothing was saved yet'
    elif self._lacks_figures(saved):
      what = f'step {saved} is saved, but not evaluated yet'
    else:
      what = f'step {saved} is saved'
    failure = self._checkpoints.failure
    self._interruption.stop(f'{failure}; {what}' if failure else what)

  def _lacks_figures(self, step: int) -> bool:
    """Returns whether a checkpoint has no figures but is due for evaluation."""
    return self._run.evaluates(step) and not self._checkpoints.figures(step)

  def _roll_back(self, step: int) -> None:
    """Restores weights and optimiser moments of an earlier step.

    They come from the last scheduled checkpoint or, without one, from the
    initial state. The step count and the learning rate remain those of `step`.
    """
    self._checkpoints.wait()
    source = self._checkpoints.latest_scheduled_step
    if source is None:
      state, _ = self._run.initial_state()
    else:
      state = self._checkpoints.restore(source, self._state)
    # Two arrays, since a step donates each.
    here, there = (
      devices.replicate(jnp.asarray(step, state.step.dtype)) for _ in range(2)
    )
    opt_state = optim.at_step(state.opt_state, there)
    self._state = dataclasses.replace(state, step=here, opt_state=opt_state)
    self._bar.write(
      f'  weights and moments are those after {source or 0} steps'
    )

  def _note(self, step: int, record: Mapping, message: str) -> None:
    self._writer.write(step, record)
    self._bar.write(message)

  def _describe_saved(self) -> str:
    """Waits for the save in progress, and names the last checkpoint.

    Returns:
      A sentence for the user.
    """
    step = self._checkpoints.wait()
    if step is None:
      return 'No checkpoint was saved yet.'
    folder = self._checkpoints.directory / str(step)
    return f'The checkpoint after step {step} is kept: {folder}.'
