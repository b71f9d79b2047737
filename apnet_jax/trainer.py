"""The training run: steps, evaluations, checkpoints and logs."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
from functools import partial
import math
import os
import pathlib
import time

import flax.linen as nn
import jax
import ml_collections
import optax
from tqdm import tqdm

from apnet_jax import checkpoint, optim, parallel
from apnet_jax.feed import Feed
from apnet_jax.logs import open_writer
from apnet_jax.models.apnet import create_model, variable_shapes
from apnet_jax.models.layers import check_batch_norm_group
from apnet_jax.models.torch_weights import import_weights
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
  config: ml_collections.ConfigDict, feed: Feed, workdir: str | os.PathLike
) -> Summary:
  """Trains the run of a workdir, or goes on with it, and evaluates it.

  Args:
    config: the whole configuration; see `configs/common.py`.
    feed: what to train and evaluate on.
    workdir: gets checkpoints and logs; made if need be.

  Raises:
    ValueError: the configuration does not fit the data, the devices or the
      workdir.
    FloatingPointError: the loss is not finite.
  """
  check(config, workdir)
  skipped = evaluation.check_benchmark(feed)
  _claim(workdir, config, feed)
  print(feed.summary)
  if skipped:
    print(f'  {skipped} queries have no true match and are skipped')
  run = Run(config, feed)
  print(run.describe(), flush=True)
  with checkpoint.Checkpoints(workdir) as checkpoints:
    state, run.initial_state = run.initial_state, None  # steps donate it
    if checkpoints.latest_step is not None:
      state = checkpoints.restore(checkpoints.latest_step, state)
      print(f'Going on after step {int(state.step)} of {workdir}.', flush=True)
    elif config.model.pretrained:
      state = start_from(config.model, state)
    with open_writer(workdir, int(state.step)) as writer:
      state, metrics, result = _train_steps(run, state, checkpoints, writer)
    chosen = {
      'step': int(state.step),
      'which': 'last',
      'trained_on': card.trained_on(config, feed.fingerprint),
    }
    result_card = card.result_card(result, config, feed, chosen)
    if parallel.is_first():
      checkpoint.write_json(workdir, 'result.json', result_card)
  print(run.closing_table(result))
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
    self.initial_state = parallel.replicate(
      create_state(
        self.model, optimizer, tuple(config.data.image_size), config.seed
      )
    )
    parameters = jax.tree.leaves(self.initial_state.params)
    self.num_parameters = sum(p.size for p in parameters)

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

  def evaluate(self, state: TrainState) -> RetrievalResult:
    variables = {'params': state.params, 'batch_stats': state.batch_stats}
    return evaluation.evaluate(
      self.embed, variables, self.feed, self.config.eval
    ).result

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
  imported = import_weights(config.pretrained, variables, config)
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
    checkpoint.claim_workdir(workdir, config, facts(feed))
  parallel.wait_for_all()
  if not (pathlib.Path(workdir) / 'config.json').exists():
    raise ValueError(
      f'--workdir={workdir}: {parallel.this_process()} does not see what'
      ' process 0 wrote there. It must lie on a file system that all share.'
    )


def facts(feed: Feed) -> dict:
  """What run.json says of a run."""
  return {
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
      import_weights(config.model.pretrained, shapes, config.model)
    except ValueError as error:
      raise ValueError(
        f'config.model.pretrained={config.model.pretrained!r}: {error}'
      ) from error


def _train_steps(run: Run, state, checkpoints, writer):
  """Runs the steps that are left; returns state, metrics and final result."""
  config, start = run.config.train, int(state.step)
  batches = run.feed.batches(start)
  metrics, result, unchecked = {}, None, None
  timer = _Timer(config.P * config.K)
  split = partial(parallel.split, parts=config.accumulate)
  progress = tqdm(
    total=run.total_steps, initial=start, desc='Training', unit=' steps'
  )
  with progress as bar:
    for step in range(start + 1, run.total_steps + 1):
      state, on_device = run.step(state, split(timer.fetch(batches)))
      # Looking at the last step while this one runs keeps the device busy.
      _check_finite(unchecked, step - 1)
      unchecked = on_device
      timer.count()
      bar.update()
      if step % config.log_every_steps == 0 or step == run.total_steps:
        metrics = {k: float(v) for k, v in on_device.items()} | {
          'learning_rate': float(run.learning_rate(step - 1)),
          'epoch': step / run.feed.steps_per_epoch,
          **timer.figures(),
        }
        _check_finite(metrics, step)
        writer.write(step, {f'train/{k}': v for k, v in metrics.items()})
        bar.set_postfix_str(
          f'loss {metrics["loss"]:.3f}, {metrics["images_per_second"]:.0f}'
          f' images/s, data wait {metrics["data_wait"]:.0%}'
        )
      scores = None
      evaluates = run.is_due(step, config.eval_every_epochs)
      saves = evaluates or run.is_due(step, config.checkpoint_every_epochs)
      if saves:
        _check_finite(on_device, step)
      if evaluates:
        result = run.evaluate(state)
        scores = run.figures(result)
        writer.write(step, {f'eval/{k}': v for k, v in scores.items()})
        shown = ', '.join(f'{k} {100 * v:.1f}' for k, v in scores.items())
        bar.write(f'step {step}: {shown}')
      if saves:
        checkpoints.save(step, state, scores)
        timer.restart()
  return state, metrics, result or run.evaluate(state)


def _check_finite(metrics: Mapping | None, step: int) -> None:
  for name in ('loss', 'gradient_norm'):
    if metrics is not None and not math.isfinite(float(metrics[name])):
      raise FloatingPointError(
        f'the {name} is {float(metrics[name])} at step {step}. The last'
        ' checkpoint is kept; a lower config.train.learning_rate may help.'
      )


class _Timer:
  """How fast steps alone are; the first step compiles."""

  def __init__(self, batch_size: int):
    self._batch_size = batch_size
    self._start = None
    self._steps = 0
    self._waited = 0.0

  def fetch(self, batches: Iterator) -> Mapping:
    """The next batch; what it takes is waiting for data."""
    start = time.perf_counter()
    batch = next(batches)
    self._waited += time.perf_counter() - start
    return batch

  def count(self) -> None:
    if self._start is None:
      self.restart()
    else:
      self._steps += 1

  def restart(self) -> None:
    self._start, self._steps, self._waited = time.perf_counter(), 0, 0.0

  def figures(self) -> dict[str, float]:
    """Since they were last asked or restarted; 0 if no step was counted.

    `data_wait` is the share of the time in which this program waited for a
    batch. The device works on the step before meanwhile, so that it is idle for
    no more than this.
    """
    seconds = time.perf_counter() - self._start
    result = {
      'images_per_second': self._steps * self._batch_size / seconds,
      'data_wait': self._waited / seconds,
    }
    self.restart()
    return result
