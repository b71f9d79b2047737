"""The initial state, training step and evaluation of a run."""

from collections.abc import Mapping
import dataclasses
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from apnet_jax.feed import Feed
from apnet_jax.models import apnet
from apnet_jax.parallel import devices, processes
from apnet_jax.retrieval import card, evaluation
from apnet_jax.retrieval.embed import embed_pixels, make_embed
from apnet_jax.retrieval.metrics import RetrievalResult
from apnet_jax.training import expected_curve, pretrained
from apnet_jax.training.programs import Programs
from apnet_jax.training.train_step import TrainState
from apnet_jax.workdir.checkpoints import Checkpoints


class StartingPoint(NamedTuple):
  """The state from which a run trains.

  Attributes:
    state: state before the next step, on all devices.
    not_finite: number of steps so far that were not finite.
    notes: lines that tell the user where the state comes from.
    evaluated: whether the checkpoint of the state has its figures, the same in
      all processes.
  """

  state: TrainState
  not_finite: int
  notes: list[str]
  evaluated: bool


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The outcome of evaluating a state on all data sets of a run.

  Attributes:
    results: the result on each data set, by name; '' names a single set.
    similarity: median similarity of strangers in the gallery, the largest of
      all sets; None if it is unknown. See `median_stranger_similarity`.
  """

  results: Mapping[str, RetrievalResult]
  similarity: float | None


class Run:
  """The programs of a run with its data: start, evaluation, result cards.

  Args:
    config: the whole configuration.
    feed: data to train and evaluate on.
    programs: programs for this configuration and data, if they were made
      before the data were prepared.
    facts: the content of run.json, if the run has begun.
    weights: weights of `config.model.pretrained`, if they were read before.

  Attributes:
    programs: the network, its training step and its initial state.
    total_steps: number of steps from the beginning to the end.
    step: see `Programs.step`.

  Raises:
    ValueError: `programs` are for other numbers of identities or batches.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    feed: Feed,
    programs: Programs | None = None,
    facts: Mapping | None = None,
    weights: pretrained.Weights | None = None,
  ):
    self.config, self.feed, self._weights = config, feed, weights
    size = (feed.num_classes, feed.steps_per_epoch)
    self.programs = programs or Programs(config, *size)
    if self.programs.size != size:
      raise ValueError(f'programs for {self.programs.size}, data of {size}')
    self.total_steps, self.step = self.programs.total_steps, self.programs.step
    self._embed = make_embed(self.programs.model, config.eval)
    self._expected, self._expectation = expected_curve.of_run(
      config, feed.num_classes, facts
    )

  def initial_state(self) -> tuple[TrainState, list[str]]:
    """Returns the state before the first step, and notes on its weights.

    All processes get that of process 0. Their own ones might differ: in a file
    of weights, or in the last bits of random weights.
    """
    state, model = self.programs.random_state(), self.config.model
    notes: list[str] = []
    if model.pretrained:
      state, notes = start_from(model, state, self._weights)
    return devices.replicate(processes.from_first(state)), notes

  def starting_point(self, checkpoints: Checkpoints) -> StartingPoint:
    """Restores the last whole checkpoint, or returns the initial state."""
    # Process 0 decides which, since others may not see its files yet.
    if processes.first_decides(checkpoints.latest_step is None):
      state, notes = self.initial_state()
      return StartingPoint(state, 0, notes, evaluated=False)
    state, not_finite = checkpoints.restore_latest(self.programs.state_shapes())
    workdir = checkpoints.directory.parent
    step = int(state.step)
    note = f'Resuming after step {step} of {workdir}.'
    # All processes evaluate together, or none does.
    evaluated = processes.first_decides(checkpoints.figures(step) is not None)
    return StartingPoint(state, not_finite, [note], evaluated)

  def describe(self, state: TrainState) -> str:
    """Returns lines about the network, the length of the run, and its record.

    The record is that of `config.eval.expected_curve`, if it names one.
    """
    config = self.config
    parameters = sum(p.size for p in jax.tree.leaves(state.params))
    return (
      f'{config.model.backbone}, attention {config.model.attention}, level'
      f' {config.model.levels}, radix {config.model.radix}:'
      f' {parameters:,} parameters on {devices.describe()}\n'
      f'{self.total_steps:,} training steps, {self.feed.steps_per_epoch} per'
      f' epoch; each step takes {config.train.P} identities x'
      f' {config.train.K} images'
      f'{describe_micro_batches(config)}'
      + (f'\n{self._expectation}' if self._expectation else '')
    )

  def is_due(self, step: int, every_epochs: int) -> bool:
    """Returns whether a periodic action is due after a step.

    Args:
      step: number of the step.
      every_epochs: period of the action in epochs; 0 for no period. The action
        is due after the last step in any case.
    """
    every = every_epochs * self.feed.steps_per_epoch
    return step == self.total_steps or (every > 0 and step % every == 0)

  def logs(self, step: int) -> bool:
    """Returns whether the metrics of a step are logged."""
    every = self.config.train.log_every_steps
    return step % every == 0 or step == self.total_steps

  def evaluates(self, step: int) -> bool:
    """Returns whether an evaluation is due after a step."""
    return self.is_due(step, self.config.train.eval_every_epochs)

  def saves(self, step: int) -> bool:
    """Returns whether a checkpoint is due after a step.

    A checkpoint is due after each evaluation, too.
    """
    every = self.config.train.checkpoint_every_epochs
    return self.evaluates(step) or self.is_due(step, every)

  def evaluate(self, state: TrainState) -> Outcome:
    """Evaluates a state on the queries and galleries of the feed."""
    variables = state.trained_variables
    results, similarities = {}, []
    for name, benchmark in self.feed.by_set.items():
      evaluated = evaluation.evaluate(
        self._embed, variables, benchmark, self.config.eval
      )
      results[name] = evaluated.result
      similarity = evaluation.stranger_similarity(evaluated, benchmark)
      similarities += [] if similarity is None else [similarity]
    return Outcome(results, max(similarities, default=None))

  def parameter_names(self) -> tuple[list[str], list[str]]:
    """Returns the parameter names in the order of use and of the tree.

    Returns:
      Two lists of all names: in the order in which the network uses the
      parameters, and in the order of the leaves of the parameter tree.
    """
    size = tuple(self.config.data.image_size)
    names = apnet.parameter_names(self.programs.model, size)
    return names, sorted(names, key=lambda name: name.split('/'))

  def figures(self, outcome: Outcome) -> dict[str, float]:
    """Returns mAP, mINP and Rank-k, the figures in tables, by name.

    Of several data sets these are the means; the figures of each set follow,
    as `market1501/mAP`.
    """
    by_set = {
      name: result.figures(self.config.eval.ap)
      for name, result in outcome.results.items()
    }
    if len(by_set) == 1:
      return next(iter(by_set.values()))
    names = next(iter(by_set.values()))
    means = {
      name: sum(each[name] for each in by_set.values()) / len(by_set)
      for name in names
    }
    return means | {
      f'{which}/{name}': value
      for which, figures in by_set.items()
      for name, value in figures.items()
    }

  def judge(
    self, step: int, figures: Mapping[str, float]
  ) -> expected_curve.Verdict | None:
    """Compares the mAP after a step with the recorded runs of this recipe.

    Returns:
      The comparison; None without a record, or if it has no such epoch.
    """
    if self._expected is None:
      return None
    epoch = step / self.feed.steps_per_epoch
    return self._expected.judge(epoch, figures['mAP'])

  def cards(self, outcome: Outcome, checkpoint: Mapping) -> dict[str, dict]:
    """Returns the result card of each data set, by name.

    Args:
      outcome: result of `evaluate`.
      checkpoint: the result of `card.checkpoint_entry`.
    """
    cards = {}
    for name, benchmark in self.feed.by_set.items():
      config = self.config.copy_and_resolve_references()
      config.data.name = name or config.data.name
      cards[name] = card.result_card(
        outcome.results[name], config, benchmark, checkpoint
      )
    return cards

  def closing_table(self, outcome: Outcome) -> str:
    """Formats the table of figures to print at the end of a run.

    If the configuration asks for it, raw pixels are evaluated as a baseline.
    """
    rows = {}
    for name, benchmark in self.feed.by_set.items():
      start = f'{name}, ' if name else ''
      if self.config.eval.pixel_baseline:
        rows[f'{start}raw pixels'] = evaluation.evaluate(
          embed_pixels, {}, benchmark, self.config.eval
        ).result
      rows[f'{start}trained network'] = outcome.results[name]
    return card.format_table(rows, self.config.eval.ap)


def describe_micro_batches(config: ml_collections.ConfigDict) -> str:
  """Describes the micro-batches of a configuration for the user.

  Returns:
    A line that begins with a line break: the size of the micro-batches, and the
    batch statistics that result; '' if batches are not divided.
  """
  micro_batches = config.train.accumulate
  group = config.model.batch_norm_group
  if micro_batches == 1:
    return ''
  images = config.train.P * config.train.K // micro_batches
  fits = 0 < group <= images
  return (
    f'\neach batch in {micro_batches} micro-batches of {images} images, '
    + (
      'with the losses of the whole batch at once'
      if fits
      else f'each with batch statistics of its own: the losses are those of'
      f' config.model.batch_norm_group={images}, not of {group}'
    )
  )


def start_from(
  config: ml_collections.ConfigDict,
  state: TrainState,
  weights: pretrained.Weights | None = None,
) -> tuple[TrainState, list[str]]:
  """Puts the weights of `config.model.pretrained` into a state.

  Args:
    config: the `model` part of a configuration.
    state: the state before the first step.
    weights: these weights, if they were read before.

  Returns:
    The state with these weights, and lines for the user on their origin.
  """
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  if weights is None:
    weights = pretrained.read(config.pretrained, variables)
  imported = pretrained.import_pretrained(weights, variables, config)
  notes = [f'Starting from the weights {config.pretrained}']
  notes += [f'  {note}' for note in imported.notes]
  started = dataclasses.replace(state, **devices.replicate(imported.variables))
  if state.average is not None:
    # Copies, since the first step donates each array.
    copies = jax.tree.map(np.array, imported.variables)
    started = dataclasses.replace(started, average=devices.replicate(copies))
  return started, notes
