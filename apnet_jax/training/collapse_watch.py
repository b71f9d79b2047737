"""Warns of a network that collapses in training: it embeds all images alike."""

from collections.abc import Callable, Mapping

import ml_collections

from apnet_jax.retrieval import collapse

# The triplet loss of a collapsed network is the margin, since the hardest
# positive and the hardest negative of an anchor are equally far. A network that
# learns passes the margin, but does not stay there.
TOLERANCE = 0.02  # of the margin
STEPS = 200  # at the margin


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
    self._since = None  # first step of those at the margin
    self._said = set()

  def see_losses(self, step: int, metrics: Mapping[str, float]) -> None:
    """Warns if the triplet loss has been at the margin for many steps.

    Args:
      step: number of the step.
      metrics: finite metrics of this step by name; steps between calls count as
        this one.
    """
    margin = self._config.margin
    distance = abs(metrics.get('triplet', float('inf')) - margin)
    if margin == 0 or distance > TOLERANCE * margin:
      self._since = None
      return
    if self._since is None:
      self._since = step
    if step - self._since >= STEPS:
      self._warn(
        'losses',
        f'step {step}: the triplet loss has stayed at config.train.margin='
        f'{margin:g} since step {self._since}, as if the network embedded all'
        ' images alike.',
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
