"""The training run: steps, evaluations, checkpoints and logs."""

from collections.abc import Callable, Mapping
import dataclasses
from functools import partial
import math
import os
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax
from tqdm import tqdm

from apnet_jax import (
  checkpoint,
  lock,
  not_finite,
  observe,
  optim,
  parallel,
  pretrained,
)
from apnet_jax.feed import Feed
from apnet_jax.interruption import Interruption
from apnet_jax.logs import open_writer
from apnet_jax.models.apnet import (
  create_model,
  parameter_names,
  variable_shapes,
)
from apnet_jax.models.layers import check_batch_norm_group
from apnet_jax.retrieval import card, evaluation
from apnet_jax.retrieval.embed import embed_pixels, make_embed
from apnet_jax.retrieval.metrics import RetrievalResult
from apnet_jax.train_step import TrainState, create_state, train_step


@dataclasses.dataclass(frozen=True)
class Summary:
  """What a run came to.

  Attributes:
    state: after the last step.
    metrics: those last logged; empty if no step was left to train.
    card: the result card of the final state.
  """

  state: TrainState
  metrics: Mapping[str, float]
  card: Mapping


def train(
  config: ml_collections.ConfigDict,
  feed: Feed,
  workdir: str | os.PathLike,
  profile_steps: tuple[int, int] | None = None,
) -> Summary:
  """Trains the run of a workdir, or goes on with it, and evaluates it.

  SIGTERM and SIGINT end it, after a checkpoint of the step it is at.

  Args:
    config: the whole configuration; see `configs/common.py`.
    feed: what to train and evaluate on.
    workdir: gets checkpoints and logs; made if need be.
    profile_steps: the first and the last step to trace into it.

  Raises:
    ValueError: the configuration does not fit the data, the devices or the
      workdir; or the workdir is another run's, or cannot be written to.
    FloatingPointError: a loss or a gradient is not finite, and the run may not
      go on (`config.train.not_finite`).
    OSError: the last checkpoint could not be saved.
    Interrupted: a signal ended it.
  """
  check(config, workdir)
  skipped = evaluation.check_benchmark(feed)
  with lock.held(workdir), Interruption() as interruption:
    _claim(workdir, config, feed)
    print(feed.summary)
    if skipped:
      print(f'  {skipped} queries have no true match and are skipped')
    run = Run(config, feed)
    print(run.describe(), flush=True)
    with checkpoint.Checkpoints(workdir, is_regular=run.saves) as checkpoints:
      loop = Loop(run, workdir, checkpoints, interruption, profile_steps)
      with loop:
        state, metrics, result = loop.run_steps()
      chosen = card.chosen(
        int(state.step), 'last', config, checkpoint.load_run(workdir)
      )
      result_card = card.result_card(result, config, feed, chosen)
      if parallel.is_first():
        checkpoint.write_json(workdir, 'result.json', result_card)
    print(run.closing_table(result))
    if profile := loop.profile.describe():
      print(profile)
  return Summary(state, metrics, result_card)


class Run:
  """What a configuration and a data set make: model, step and evaluation."""

  def __init__(self, config: ml_collections.ConfigDict, feed: Feed):
    self.config, self.feed = config, feed
    self.total_steps = (
      config.train.steps or config.train.epochs * feed.steps_per_epoch
    )
    schedule = optim.learning_rate_schedule(config.train, feed.steps_per_epoch)
    self.learning_rate = jax.jit(schedule)  # one program instead of six
    self.model, optimizer, self.step = make_step(
      config, feed.num_classes, schedule
    )
    self.embed = make_embed(self.model, config.eval)
    self.make_state = lambda: parallel.replicate(
      create_state(
        self.model, optimizer, tuple(config.data.image_size), config.seed
      )
    )
    self.initial_state = self.make_state()
    parameters = jax.tree.leaves(self.initial_state.params)
    self.num_parameters = sum(p.size for p in parameters)

  def first_state(self) -> TrainState:
    """The state before the first step, as often as it is asked for."""
    state, self.initial_state = self.initial_state, None  # steps donate it
    state = self.make_state() if state is None else state
    if self.config.model.pretrained:
      state = start_from(self.config.model, state)
    return state

  def describe(self) -> str:
    config = self.config
    return (
      f'{config.model.backbone}, attention {config.model.attention}, level'
      f' {config.model.levels}, radix {config.model.radix}:'
      f' {self.num_parameters:,} parameters on {devices()}\n'
      f'{self.total_steps:,} steps of {config.train.P} x {config.train.K}'
      f' images, {self.feed.steps_per_epoch} an epoch{describe_parts(config)}'
    )

  def is_due(self, step: int, every_epochs: int) -> bool:
    """Whether what is done every so many epochs, and at the end, is due."""
    every = every_epochs * self.feed.steps_per_epoch
    return step == self.total_steps or (every > 0 and step % every == 0)

  def evaluates(self, step: int) -> bool:
    return self.is_due(step, self.config.train.eval_every_epochs)

  def saves(self, step: int) -> bool:
    """Whether a checkpoint is due; there is one for each evaluation."""
    every = self.config.train.checkpoint_every_epochs
    return self.evaluates(step) or self.is_due(step, every)

  def evaluate(self, state: TrainState) -> RetrievalResult:
    variables = {'params': state.params, 'batch_stats': state.batch_stats}
    return evaluation.evaluate(
      self.embed, variables, self.feed, self.config.eval
    ).result

  def parameter_names(self) -> tuple[list[str], list[str]]:
    """In the order of their use, and in that of the tree of parameters."""
    size = tuple(self.config.data.image_size)
    names = parameter_names(self.model, size)
    return names, sorted(names, key=lambda name: name.split('/'))

  def figures(self, result: RetrievalResult) -> dict[str, float]:
    return result.figures(self.config.eval.ap)

  def closing_table(self, result: RetrievalResult) -> str:
    rows = {'trained network': self.figures(result)}
    if self.config.eval.pixel_baseline:
      pixels = evaluation.evaluate(
        embed_pixels, {}, self.feed, self.config.eval
      ).result
      rows = {'raw pixels': self.figures(pixels), **rows}
    return card.format_table(rows)


def make_step(
  config: ml_collections.ConfigDict, num_classes: int, schedule: optax.Schedule
) -> tuple[nn.Module, optax.GradientTransformation, Callable]:
  """The model and the optimiser of a configuration, and their step.

  Args:
    config: the whole configuration.
    num_classes: identities of the classifier.
    schedule: the learning rate of a step.

  Returns:
    Both, and `step(state, batch) -> state, metrics` on all devices.
  """
  model = create_model(
    config.model, num_classes, parallel.AXIS, config.train.rematerialize
  )
  optimizer = optim.create_optimizer(config.train, schedule)
  step = partial(
    train_step,
    model=model,
    optimizer=optimizer,
    config=config,
    axis_name=parallel.AXIS,
  )
  return model, optimizer, parallel.pmap_step(step)


def describe_parts(config: ml_collections.ConfigDict) -> str:
  """How a batch is accumulated, and whether its statistics allow it."""
  parts, group = config.train.accumulate, config.model.batch_norm_group
  if parts == 1:
    return ''
  images = config.train.P * config.train.K // parts
  fits = 0 < group <= images
  return f'\neach batch in {parts} parts of {images} images, ' + (
    'with the losses of the whole batch in one'
    if fits
    else f'whose batch statistics are of each part: the losses are those of'
    f' config.model.batch_norm_group={images}, not of {group}'
  )


def start_from(
  config: ml_collections.ConfigDict, state: TrainState
) -> TrainState:
  """A state with the weights of `config.model.pretrained`, and says so."""
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  imported = pretrained.import_pretrained(variables, config)
  print(f'Starting from the weights {config.pretrained}')
  for note in imported.notes:
    print(f'  {note}')
  return state.replace(**parallel.replicate(imported.variables))


def _claim(
  workdir: str | os.PathLike, config: ml_collections.ConfigDict, feed: Feed
) -> None:
  """Process 0 claims the workdir; the others must see it.

  Raises:
    ValueError: the workdir belongs to another run, or is not shared.
  """
  if parallel.is_first():
    checkpoint.claim_workdir(workdir, config, facts(feed, config, workdir))
  parallel.wait_for_all()
  if not (pathlib.Path(workdir) / 'config.json').exists():
    raise ValueError(
      f'--workdir={workdir}: {parallel.this_process()} does not see what'
      ' process 0 wrote there. It must lie on a file system that all share.'
    )


def facts(
  feed: Feed, config: ml_collections.ConfigDict, workdir: str | os.PathLike
) -> dict:
  """What run.json says of a run."""
  # One that goes on does not need again what it started from.
  begun = checkpoint.is_begun(workdir)
  source = '' if begun else config.model.pretrained
  return {
    'started_from': pretrained.started_from(source),
    'num_classes': feed.num_classes,
    'fingerprint': feed.fingerprint,
    'devices': devices(),
    'versions': card.versions(),
  }


def devices() -> str:
  found = f'{jax.device_count()} x {jax.devices()[0].device_kind}'
  processes = jax.process_count()
  return found if processes == 1 else f'{found} in {processes} processes'


def check(
  config: ml_collections.ConfigDict, workdir: str | os.PathLike
) -> None:
  """Checks what no other part does, before anything is made.

  Args:
    config: the whole configuration.
    workdir: of the run; if it is begun, pre-trained weights are not needed.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  at_least = {
    'train.P': 2,  # a triplet needs two identities
    'train.K': 2,  # and two images of one
    'train.accumulate': 1,
    'train.epochs': 1,
    'train.steps': 0,
    'train.log_every_steps': 1,
    'train.eval_every_epochs': 0,
    'train.checkpoint_every_epochs': 0,
    'train.warmup_epochs': 0,
    'augment.pad': 0,
    'data.bad_images': 0,
  }
  for name, low in at_least.items():
    section, field = name.split('.')
    if config[section][field] < low:
      raise ValueError(
        f'config.{name}={config[section][field]} must be at least {low}.'
      )
  for field in ('flip', 'erase'):
    if not 0 <= config.augment[field] <= 1:
      raise ValueError(
        f'config.augment.{field}={config.augment[field]} is not a probability.'
      )
  not_finite.check_policy(config.train)
  evaluation.check_rules(config.eval)
  size = tuple(config.data.image_size)
  if len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
    raise ValueError(
      f'config.data.image_size={size} is not a height and a width in pixels.'
    )
  parallel.check_processes()
  images, devices = config.train.P * config.train.K, jax.device_count()
  parts = config.train.accumulate
  if images % (parts * devices):
    into = f' into config.train.accumulate={parts} parts, each'
    raise ValueError(
      f'a batch of config.train.P={config.train.P} times'
      f' config.train.K={config.train.K} = {images} images does not divide'
      f'{into if parts > 1 else ""} among {devices} devices.'
    )
  check_batch_norm_group(
    config.model.batch_norm_group, images // parts, devices
  )
  shapes = variable_shapes(create_model(config.model, num_classes=1), size)
  if config.model.pretrained and not checkpoint.is_begun(workdir):
    try:
      pretrained.import_pretrained(shapes, config.model)
    except ValueError as error:
      raise ValueError(
        f'config.model.pretrained={config.model.pretrained!r}: {error}'
      ) from error


class Loop:
  """The steps that are left of a run, and all that happens between them.

  Args:
    run: what to do.
    workdir: for the logs.
    checkpoints: of the workdir; the last one that is whole is gone on from.
    interruption: tells whether to end early.
    profile_steps: the first and the last step to trace.
  """

  def __init__(
    self,
    run: Run,
    workdir: str | os.PathLike,
    checkpoints: checkpoint.Checkpoints,
    interruption: Interruption,
    profile_steps: tuple[int, int] | None = None,
  ):
    self._run, self._checkpoints = run, checkpoints
    self._interruption = interruption
    count = 0
    if checkpoints.latest_step is None:
      self._state = run.first_state()
    else:
      self._state, run.initial_state = run.initial_state, None
      self._state, count = checkpoints.restore_latest(self._state)
      print(
        f'Going on after step {int(self._state.step)} of {workdir}.', flush=True
      )
    self._start = int(self._state.step)
    self.profile = observe.Profile(
      profile_steps, workdir, self._start, run.total_steps
    )
    self._writer = open_writer(workdir, self._start)
    self._timer = observe.StepTimer(run.config.train.P * run.config.train.K)
    self._guard = not_finite.Guard(
      run.config.train,
      count,
      run.parameter_names,
      run.feed.batch_names,
      self._what_is_kept,
      self._note,
    )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.profile.close()
    self._writer.close()

  def run_steps(
    self,
  ) -> tuple[TrainState, Mapping[str, float], RetrievalResult]:
    """Returns state, metrics last logged and final result."""
    run, guard = self._run, self._guard
    batches = run.feed.batches(self._start)
    split = partial(parallel.split, parts=run.config.train.accumulate)
    metrics, result, unchecked, on_device = {}, None, None, None
    progress = tqdm(
      total=run.total_steps,
      initial=self._start,
      desc='Training',
      unit=' steps',
    )
    with progress as self._bar, self._interruption.deferred():
      for step in range(self._start + 1, run.total_steps + 1):
        with self.profile.step(step, on_device):
          batch = split(self._timer.fetch(batches))
          self._state, on_device = run.step(self._state, batch)
        # Looking at the last step while this one runs keeps the device busy.
        guard.must_roll_back(step - 1, unchecked)
        unchecked = on_device
        self._timer.count()
        self._bar.update()
        self.profile.end(step, on_device)
        logs, saves = self._logs(step), run.saves(step)
        stops = self._interruption.wanted(step)
        if logs or saves or stops or guard.looks_at_once():
          unchecked = None
          if guard.must_roll_back(step, on_device):
            self._roll_back(step)
        if logs:
          metrics = self._log(step, on_device)
        if stops:
          self._stop(step)
        if saves:
          result = self._evaluate_and_save(step)
    with self._interruption.at_once():
      return self._state, metrics, result or run.evaluate(self._state)

  def _logs(self, step: int) -> bool:
    every = self._run.config.train.log_every_steps
    return step % every == 0 or step == self._run.total_steps

  def _log(self, step: int, on_device: Mapping) -> dict[str, float]:
    """Writes what is finite of a step's metrics, and returns it."""
    run = self._run
    metrics = {k: float(v) for k, v in on_device.items() if not v.ndim}
    metrics |= {
      'learning_rate': float(run.learning_rate(step - 1)),
      'epoch': step / run.feed.steps_per_epoch,
      **self._timer.figures(),
      **observe.memory(),
    }
    metrics = {k: v for k, v in metrics.items() if math.isfinite(v)}
    self._writer.write(step, {f'train/{k}': v for k, v in metrics.items()})
    self._bar.set_postfix_str(
      f'loss {metrics.get("loss", math.nan):.3f},'
      f' {metrics["images_per_second"]:.0f} images/s, data wait'
      f' {metrics["data_wait"]:.0%}'
    )
    return metrics

  def _evaluate_and_save(self, step: int) -> RetrievalResult | None:
    """The result, if an evaluation is due."""
    result = scores = None
    if self._run.evaluates(step):
      with self._interruption.at_once(), self._timer.phase('evaluation'):
        result = self._run.evaluate(self._state)
      scores = self._run.figures(result)
      self._writer.write(step, {f'eval/{k}': v for k, v in scores.items()})
      shown = ', '.join(f'{k} {100 * v:.1f}' for k, v in scores.items())
      self._bar.write(f'step {step}: {shown}')
    self._save(step, scores)
    return result

  def _save(self, step: int, scores: Mapping[str, float] | None) -> None:
    with self._timer.phase('save'):
      self._checkpoints.save(step, self._state, scores, self._guard.count)

  def _stop(self, step: int) -> None:
    """Ends the run with a checkpoint, unless it would lack an evaluation."""
    if not self._run.evaluates(step):
      self._save(step, None)
    saved = self._checkpoints.wait()
    failure = self._checkpoints.failure
    what = (
      'nothing was saved yet' if saved is None else f'step {saved} is saved'
    )
    self._interruption.stop(failure or what)

  def _roll_back(self, step: int) -> None:
    """Takes the weights and moments of the last checkpoint that was due."""
    self._checkpoints.wait()
    source = self._checkpoints.latest_regular_step
    if source is None:
      state = self._run.first_state()
    else:
      state = self._checkpoints.restore(source, self._state)
    # Two arrays, since a step donates each.
    here, there = (
      parallel.replicate(jnp.asarray(step, state.step.dtype)) for _ in range(2)
    )
    opt_state = optim.at_step(state.opt_state, there)
    self._state = state.replace(step=here, opt_state=opt_state)
    self._bar.write(
      f'  weights and moments are those after {source or 0} steps'
    )

  def _note(self, step: int, record: Mapping, message: str) -> None:
    self._writer.write(step, record)
    self._bar.write(message)

  def _what_is_kept(self) -> str:
    step = self._checkpoints.wait()
    if step is None:
      return 'No checkpoint was saved yet.'
    folder = self._checkpoints.directory / str(step)
    return f'The checkpoint after step {step} is kept: {folder}.'
