"""What is done where a loss or a gradient is not finite."""

from collections.abc import Callable, Mapping
import math

import ml_collections
import numpy as np

POLICIES = ('stop', 'skip', 'roll_back')
RECORD = 'train/not_finite'  # in metrics.jsonl: how many steps, so far


def check_policy(config: ml_collections.ConfigDict) -> None:
  """Checks the fields of `config.train`; ValueError says what is allowed."""
  if config.not_finite not in POLICIES:
    raise ValueError(
      f'config.train.not_finite={config.not_finite!r} is not one of {POLICIES}.'
    )
  if config.not_finite_limit < 0:
    raise ValueError(
      f'config.train.not_finite_limit={config.not_finite_limit} must be at'
      ' least 0.'
    )


class Guard:
  """Looks at what steps return, and counts those that are not finite.

  Args:
    config: the `train` part of a configuration.
    count: of the run so far.
    parameter_names: gives them in the order of their use, and in that of their
      tree; asked only if something is not finite.
    batch_names: of a `Feed`.
    kept: what is said of the checkpoint that is kept.
    note: `note(step, {RECORD: count}, message)` logs a step that is survived.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    count: int,
    parameter_names: Callable[[], tuple[list[str], list[str]]],
    batch_names: Callable[[int], list[str]],
    kept: Callable[[], str],
    note: Callable[[int, Mapping[str, float], str], None],
  ):
    self.count = count
    self._policy, self._limit = config.not_finite, config.not_finite_limit
    self._parameter_names, self._batch_names = parameter_names, batch_names
    self._kept, self._note = kept, note

  def looks_at_once(self) -> bool:
    """Whether the next step must wait for what this one returns."""
    return self._policy == 'roll_back'

  def must_roll_back(self, step: int, metrics: Mapping | None) -> bool:
    """Looks at the metrics of a step, or at none.

    Raises:
      FloatingPointError: they are not finite, and the run must end.
    """
    if metrics is None or is_finite(metrics):
      return False
    self.count += 1
    what = f'step {step} is not finite, first {self._first_bad(metrics)}'
    over = self._policy != 'stop' and self.count > self._limit
    if over or self._policy == 'stop':
      raise FloatingPointError(self._last_words(step, what, over))
    done = 'skipped' if self._policy == 'skip' else 'rolled back'
    self._note(step, {RECORD: self.count}, f'{what}; {done}')
    return self._policy == 'roll_back'

  def _first_bad(self, metrics: Mapping) -> str:
    """The first in the order of computation: of gradients, the last layer's."""
    for name in ('cross_entropy', 'triplet', 'loss'):
      if not math.isfinite(value := float(metrics[name])):
        return f'the {name.replace("_", "-")}, which is {value}'
    in_use, in_tree = self._parameter_names()
    bad = np.asarray(metrics['bad_gradients']) > 0
    bad = {name for name, is_bad in zip(in_tree, bad) if is_bad}
    for name in reversed(in_use):
      if name in bad:
        return f'the gradient of {name}'
    return f'the norm of all gradients, {float(metrics["gradient_norm"])}'

  def _last_words(self, step: int, what: str, over: bool) -> str:
    advice = (
      f'It is number {self.count} of such steps, and'
      f' config.train.not_finite_limit={self._limit}.'
      if over
      else 'A lower config.train.learning_rate may help; with'
      " config.train.not_finite='skip' or 'roll_back' a run goes on."
    )
    names = ', '.join(self._batch_names(step - 1))
    return f'{what}.\n{self._kept()} {advice}\nImages of the batch: {names}'


def is_finite(metrics: Mapping) -> bool:
  return all(
    math.isfinite(float(metrics[name])) for name in ('loss', 'gradient_norm')
  )
