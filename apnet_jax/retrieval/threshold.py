"""The threshold that stays with the network whose similarities it is of."""

from collections.abc import Mapping
import os
import pathlib

import ml_collections

from apnet_jax import checkpoint
from apnet_jax.retrieval.verification import Verification

FILE = 'threshold.json'
FIELDS = ('threshold', 'step', 'feature', 'flip', 'wanted_fpr', 'dataset')


def save(
  workdir: str | os.PathLike,
  verification: Verification,
  rate: float,
  config: ml_collections.ConfigDict,
  fingerprint: str,
  step: int,
) -> dict:
  """Chooses the lowest threshold with this FPR, and stores it in a workdir.

  Args:
    workdir: of the run.
    verification: of the network's cosine similarities on some benchmark.
    rate: the wanted FPR.
    config: the whole configuration, with `data` and `eval` as evaluated.
    fingerprint: of the benchmark.
    step: of the checkpoint.

  Returns:
    What was stored.

  Raises:
    ValueError: the benchmark is too small for the rate.
  """
  point = verification.at_fpr(rate)
  if point is None:
    raise ValueError(
      f'a share of {rate:g} of {verification.impostor.sum():,} pairs of'
      f' different persons is too few, or too many are alike: no threshold can'
      ' be chosen for it.'
    )
  chosen = {
    **point,
    'wanted_fpr': rate,
    'dataset': config.data.name,
    'fingerprint': fingerprint,
    'step': step,
    'feature': config.eval.feature,
    'flip': config.eval.flip,
  }
  checkpoint.write_json(workdir, FILE, chosen)
  return chosen


def load(workdir: str | os.PathLike) -> dict | None:
  """What `save` stored, None if nothing.

  Raises:
    ValueError: the file is damaged.
  """
  path = pathlib.Path(workdir) / FILE
  if not path.exists():
    return None
  stored = checkpoint.read_json(workdir, FILE)
  if not isinstance(stored, dict) or not stored.keys() >= set(FIELDS):
    raise ValueError(f'{path} is damaged: it has not all of {FIELDS}.')
  value = stored['threshold']
  if not isinstance(value, int | float) or not -1 <= value <= 1:
    raise ValueError(f'{path}: threshold={value!r} is not a cosine.')
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
  return f'{", ".join(different)}.' if different else None


def describe(stored: Mapping) -> str:
  """Says what a stored threshold is."""
  return (
    f'Threshold {stored["threshold"]:.4f}, chosen on {stored["dataset"]}, where'
    f' at most {stored["wanted_fpr"]:g} of the pairs of different persons are'
    ' as alike.'
  )
