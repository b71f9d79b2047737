"""Warns of a network that collapses in training: it embeds all images alike."""

from collections.abc import Callable, Mapping
import math

import ml_collections

from apnet_jax.retrieval import collapse

# The triplet loss of a collapsed network is the margin, or softplus(0) with a
# soft margin, since the hardest positive and the hardest negative of an anchor
# are equally far. A network that learns passes this value, but does not stay
# there.
TOLERANCE = 0.02  # of that value
STEPS = 200  # at that value


class CollapseWatch:
  """Watches losses and evaluations, and warns at most once of each.

  Args:
    config: the `train` part of a configuration.
    write: prints a message for the user.
  """

  def __init__(
    self, config: ml_collections.ConfigDict, write: Callable[[str], None]
  ):
    self._config, self._write = config, write
    self._since: int | None = None  # first step of those at the value
    self._value = math.log(2) if config.soft_margin else config.margin
    self._said: set[str] = set()

  def see_losses(self, step: int, metrics: Mapping[str, float]) -> None:
    """Warns if the triplet loss has been that of a collapse for many steps.

    Args:
      step: number of the step.
      metrics: finite metrics of this step by name; steps between calls count as
        this one.
    """
    distance = abs(metrics.get('triplet', float('inf')) - self._value)
    if self._value == 0 or distance > TOLERANCE * self._value:
      self._since = None
      return
    if self._since is None:
      self._since = step
    if step - self._since >= STEPS:
      name = 'log(2)' if self._config.soft_margin else 'config.train.margin'
      self._warn(
        'losses',
        f'step {step}: the triplet loss has stayed at {name}={self._value:g}'
        f' since step {self._since}, as if the network embedded all images'
        ' alike.',
      )

  def see_evaluation(self, step: int, median: float | None) -> None:
    """Warns if strangers are as similar as in a collapsed network.

    Args:
      step: number of the step that was evaluated.
      median: see `collapse.median_stranger_similarity`.
    """
    if text := collapse.describe(median):
      self._warn('evaluation', f'step {step}: {text}')

  def _warn(self, kind: str, text: str) -> None:
    if kind not in self._said:
      self._said.add(kind)
      causes = collapse.describe_causes(self._config)
      self._write(f'warning: {text} {causes}')
