"""The threshold that stays with the network whose similarities it is of."""

from collections.abc import Mapping
import os
import pathlib

import ml_collections

from apnet_jax import checkpoint
from apnet_jax.retrieval.embed import FEATURES
from apnet_jax.retrieval.verification import LEAST_ERRORS, Verification

FIELDS = {
  'threshold': float, 'wanted_fpr': float, 'step': int, 'feature': str,
  'flip': bool, 'dataset': str,
}  # fmt: skip


def choose(
  verification: Verification | None,
  rate: float,
  config: ml_collections.ConfigDict,
  fingerprint: str,
  step: int,
) -> dict:
  """Chooses the lowest threshold with this FPR.

  Args:
    verification: of the network's cosine similarities on some benchmark, None
      if that has no pairs of different persons.
    rate: the wanted FPR.
    config: the whole configuration, with `data` and `eval` as evaluated.
    fingerprint: of the benchmark.
    step: of the checkpoint.

  Returns:
    The threshold with what it was chosen on and for, as `save` wants it.

  Raises:
    ValueError: the benchmark is too small for the rate.
  """
  point = verification and verification.at_fpr(rate)
  if point is None:
    pairs = verification.impostor.sum() if verification else 0
    raise ValueError(
      f'no threshold was chosen: {rate:g} of {pairs:,} pairs of different'
      f' persons are fewer than {LEAST_ERRORS}, or more are entirely alike.'
    )
  return {
    **point,
    'wanted_fpr': rate,
    'dataset': config.data.name,
    'fingerprint': fingerprint,
    'step': step,
    'feature': config.eval.feature,
    'flip': config.eval.flip,
  }


def save(workdir: str | os.PathLike, chosen: Mapping) -> None:
  """Stores what `choose` returned in a workdir."""
  checkpoint.write_json(workdir, checkpoint.THRESHOLD, chosen)


def load(workdir: str | os.PathLike) -> dict | None:
  """What `save` stored, None if nothing.

  Raises:
    ValueError: the file is damaged.
  """
  path = pathlib.Path(workdir) / checkpoint.THRESHOLD
  if not path.exists():
    return None
  stored = checkpoint.read_json(workdir, checkpoint.THRESHOLD)
  for name, kind in FIELDS.items():
    value = stored.get(name) if isinstance(stored, dict) else None
    if not isinstance(value, (kind, int) if kind is float else kind):
      raise ValueError(f'{path} is damaged: {name} is {value!r}.')
  if not -1 <= stored['threshold'] <= 1 or stored['feature'] not in FEATURES:
    raise ValueError(
      f'{path} is damaged: threshold {stored["threshold"]} of the'
      f' {stored["feature"]!r}.'
    )
  return stored


def problem(
  stored: Mapping, step: int, rules: ml_collections.ConfigDict
) -> str | None:
  """Why a stored threshold is not of these similarities; None if it is."""
  here = {'step': step, 'feature': rules.feature, 'flip': rules.flip}
  different = [
    f'{name} {stored[name]} there, {value} here'
    for name, value in here.items()
    if stored[name] != value
  ]
  if rules.distance != 'cosine':
    different.append('distances here')
  if not different:
    return None
  return f'The stored threshold is not used: {", ".join(different)}.'


def describe(stored: Mapping) -> str:
  """Says what a stored threshold is."""
  return (
    f'Threshold {stored["threshold"]:.4f}, chosen on {stored["dataset"]}, where'
    f' at most {stored["wanted_fpr"]:g} of the pairs of different persons are'
    ' as alike.'
  )
