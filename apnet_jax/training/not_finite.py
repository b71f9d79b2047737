"""The policy for losses and gradients that are not finite."""

from collections.abc import Callable, Mapping
import math

import jax
import ml_collections
import numpy as np

RECORD = 'train/not_finite'  # in metrics.jsonl: number of such steps so far
LOWER_RATE = 'A lower config.train.learning_rate may help'


class Guard:
  """Detects steps that are not finite, and ends the run if it must end.

  A step is not finite if its loss or its gradient is NaN or infinite. The field
  `config.not_finite` says what to do: 'stop', 'skip' or 'roll_back'. The last
  two also end the run after more than `config.not_finite_limit` such steps.

  Args:
    config: the `train` part of a configuration.
    count: number of steps of the run so far that were not finite.
    parameter_names: returns two lists of all parameter names, in the order in
      which the network uses the parameters and in the order of their tree. It
      is called only after a step that is not finite.
    batch_names: `batch_names(k)` returns the names of all images of batch k.
    describe_saved: returns a sentence about the checkpoint that is kept.
    note: `note(step, {RECORD: count}, message)` logs a step that is not finite
      but does not end the run.

  Attributes:
    count: number of steps so far that were not finite.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    count: int,
    parameter_names: Callable[[], tuple[list[str], list[str]]],
    batch_names: Callable[[int], list[str]],
    describe_saved: Callable[[], str],
    note: Callable[[int, Mapping[str, float], str], None],
  ):
    self.count = count
    self._policy, self._limit = config.not_finite, config.not_finite_limit
    self._parameter_names, self._batch_names = parameter_names, batch_names
    self._describe_saved, self._note = describe_saved, note

  @property
  def rolls_back(self) -> bool:
    """Returns whether a step that is not finite is rolled back by the caller.

    If so, each step must be checked before the next step begins.
    """
    return self._policy == 'roll_back'

  def check(self, step: int, metrics: Mapping | None) -> bool:
    """Returns whether a step is finite; otherwise counts and logs the step.

    Args:
      step: number of the step.
      metrics: metrics of the step; None counts as finite.

    Raises:
      FloatingPointError: the step is not finite, and the run must end.
    """
    if metrics is None or is_finite(metrics):
      return True
    self.count += 1
    what = f'step {step} is not finite, first {self._first_bad(metrics)}'
    if self._policy == 'stop':
      advice = (
        f"{LOWER_RATE}; with config.train.not_finite='skip' or 'roll_back' a"
        ' run continues.'
      )
      raise FloatingPointError(self._final_message(step, what, advice))
    if self.count > self._limit:
      advice = (
        f'It is number {self.count} of such steps, and'
        f' config.train.not_finite_limit={self._limit}.'
      )
      raise FloatingPointError(self._final_message(step, what, advice))
    done = 'skipped' if self._policy == 'skip' else 'rolled back'
    self._note(step, {RECORD: self.count}, f'{what}; {done}')
    return False

  def check_state(self, step: int, state) -> None:
    """Checks a state before it is saved.

    A finite step can still lead to weights that are not, as by too high a
    learning rate. Then each policy ends the run.

    Raises:
      FloatingPointError: a parameter or batch statistic is not finite.
    """
    for leaf in jax.tree.leaves((state.params, state.batch_stats)):
      if not np.isfinite(leaf.addressable_data(0)).all():
        what = f'the weights after step {step} are not finite'
        advice = f'{LOWER_RATE}.'
        raise FloatingPointError(self._final_message(step, what, advice))

  def _first_bad(self, metrics: Mapping) -> str:
    """Names the first value that is not finite, in order of computation.

    Gradients are computed from the last layer to the first.
    """
    for name in ('cross_entropy', 'triplet', 'circle', 'center', 'loss'):
      if not math.isfinite(value := float(metrics.get(name, 0))):
        return f'the {name.replace("_", "-")}, which is {value}'
    in_use, in_tree = self._parameter_names()
    are_bad = np.asarray(metrics['bad_gradients']) > 0
    bad = {name for name, is_bad in zip(in_tree, are_bad) if is_bad}
    for name in reversed(in_use):
      if name in bad:
        return f'the gradient of {name}'
    return f'the norm of all gradients, {float(metrics["gradient_norm"])}'

  def _final_message(self, step: int, what: str, advice: str) -> str:
    names = ', '.join(self._batch_names(step - 1))
    saved = self._describe_saved()
    return f'{what}.\n{saved} {advice}\nImages of the batch: {names}'


def is_finite(metrics: Mapping) -> bool:
  """Returns whether the loss and the gradient of a step are finite."""
  return all(
    math.isfinite(float(metrics[name])) for name in ('loss', 'gradient_norm')
  )
