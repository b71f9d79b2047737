"""A similarity threshold, stored beside its network as threshold.json."""

from collections.abc import Mapping
import os
import pathlib

import ml_collections

from apnet_jax.config import CHOICES
from apnet_jax.errors import UserError
from apnet_jax.feed import Benchmark
from apnet_jax.retrieval import verification
from apnet_jax.retrieval.evaluation import Evaluation
from apnet_jax.retrieval.verification import MIN_ERRORS, Verification
from apnet_jax.workdir import json_files, run_files

SAME_PERSON, OTHER_PERSON = 'same person', 'another'  # verdicts
FIELDS = {
  'threshold': float, 'wanted_fpr': float, 'step': int, 'feature': str,
  'flip': bool, 'dataset': str,
}  # fmt: skip


def choose(
  counted: Verification | None,
  rate: float,
  config: ml_collections.ConfigDict,
  fingerprint: str,
  step: int,
) -> dict:
  """Chooses the lowest threshold with at most this false positive rate (FPR).

  Args:
    counted: the result of `verification.count_pairs` on a benchmark.
    rate: the largest FPR allowed.
    config: the whole configuration, with `data` and `eval` as evaluated.
    fingerprint: fingerprint of the benchmark.
    step: step of the checkpoint.

  Returns:
    The content of threshold.json: the threshold and its error rates, the
    benchmark, and how the network embedded it.

  Raises:
    UserError: the benchmark is too small for the rate.
  """
  point = counted.at_fpr(rate) if counted else None
  if point is None:
    pairs = counted.impostor.sum() if counted else 0
    raise UserError(
      f'no threshold was chosen: {rate:g} of {pairs:,} pairs of different'
      f' persons is less than {MIN_ERRORS} pairs, or more pairs than that have'
      ' similarity 1. Choose a larger rate or a larger data set.'
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
  """Stores the result of `choose` in a workdir."""
  json_files.write_json(pathlib.Path(workdir, run_files.THRESHOLD_FILE), chosen)


def load(workdir: str | os.PathLike) -> dict | None:
  """Loads the stored threshold of a workdir or of a packed network.

  Returns:
    The result of `choose` that was stored; None if there is none.

  Raises:
    UserError: the file is damaged.
  """
  path = pathlib.Path(workdir) / run_files.THRESHOLD_FILE
  stored = run_files.read_file(workdir, run_files.THRESHOLD_FILE)
  if stored is None:
    return None
  for name, kind in FIELDS.items():
    value = stored.get(name)
    if not isinstance(value, (kind, int) if kind is float else kind):
      raise UserError(f'{path} is damaged: {name} is {value!r}.')
  if (
    not -1 <= stored['threshold'] <= 1
    or stored['feature'] not in CHOICES['eval.feature']
  ):
    raise UserError(
      f'{path} is damaged: threshold {stored["threshold"]} for the feature'
      f' {stored["feature"]!r}.'
    )
  return stored


def adopt_settings(
  rules: ml_collections.ConfigDict, stored: Mapping | None, step: int
) -> None:
  """Makes rules embed images as they were for a stored threshold.

  A threshold of another checkpoint changes nothing.

  Args:
    rules: `config.eval`, which is changed.
    stored: the result of `load`.
    step: step of the checkpoint in use.
  """
  if stored and stored['step'] == step:
    rules.update(feature=stored['feature'], flip=stored['flip'])


def mismatch(
  stored: Mapping, step: int, rules: ml_collections.ConfigDict
) -> str | None:
  """Returns the reason not to use a stored threshold; None if it applies.

  Args:
    stored: the result of `load`.
    step: step of the checkpoint in use.
    rules: `config.eval` as in use.
  """
  here = {'step': step, 'feature': rules.feature, 'flip': rules.flip}
  different = [
    f'{name} {stored[name]} there, {value} here'
    for name, value in here.items()
    if stored[name] != value
  ]
  if rules.distance != 'cosine':
    different.append('not cosine similarities here')
  if rules.multi_query:  # eval.py chooses none for averages
    different.append('single images there, averaged queries here')
  if not different:
    return None
  return (
    'The stored threshold is not used, because it was chosen under other'
    f' settings: {", ".join(different)}.'
  )


def describe(stored: Mapping) -> str:
  """Returns a stored threshold and its origin, as a sentence."""
  return (
    f'Threshold {stored["threshold"]:.4f}, chosen on {stored["dataset"]}: at'
    f' most {stored["wanted_fpr"]:g} of its pairs of different persons reach'
    ' it.'
  )


def choose_known(
  stored: Mapping | None,
  given: float | None,
  step: int,
  rules: ml_collections.ConfigDict,
) -> tuple[float | None, str]:
  """Returns the threshold to use, and its origin as a sentence.

  Args:
    stored: the result of `load`.
    given: threshold given by the user, or None.
    step: step of the checkpoint in use.
    rules: `config.eval` as in use.

  Returns:
    The threshold, None if unknown; and the sentence.
  """
  if given is not None:
    if not -1 <= given <= 1:  # nor a number
      raise UserError(f'the threshold {given} is no cosine, from -1 to 1.')
    return given, f'Threshold {given:g}, as given.'
  if stored is None:
    return None, (
      'No threshold is known: give --threshold, or let eval.py choose one'
      ' (--choose_threshold).'
    )
  reason = mismatch(stored, step, rules)
  if reason:
    return None, reason
  return stored['threshold'], describe(stored)


def verdict(similarity: float, threshold: float | None) -> str:
  """Returns in words whether two images show one person.

  Args:
    similarity: cosine similarity of their embeddings.
    threshold: lowest similarity of two images of one person; None if unknown.

  Returns:
    `SAME_PERSON` or `OTHER_PERSON`; '' if the threshold is unknown.
  """
  if threshold is None:
    return ''
  return SAME_PERSON if similarity >= threshold else OTHER_PERSON


class PairVerifier:
  """Computes verification error rates, and chooses or applies a threshold.

  Args:
    workdir: workdir of the network.
    step: step of the checkpoint of the network.
    rules: `config.eval`.
    wanted_fpr: the FPR to choose a threshold for; None uses the stored
      threshold, if there is one.

  Raises:
    UserError: the file of the stored threshold is damaged.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    step: int,
    rules: ml_collections.ConfigDict,
    wanted_fpr: float | None,
  ):
    self._workdir, self._step = workdir, step
    self._wanted_fpr = wanted_fpr
    self._failure: UserError | None = None
    self._stored = None if wanted_fpr is not None else load(workdir)
    reason = self._stored and mismatch(self._stored, step, rules)
    if reason:
      print(reason)
      self._stored = None

  def verify(
    self,
    evaluated: Evaluation,
    config: ml_collections.ConfigDict,
    benchmark: Benchmark,
  ) -> dict | None:
    """Computes and prints the error rates of all pairs of a benchmark.

    If an FPR is wanted, a threshold for it is chosen and stored first.

    Args:
      evaluated: an evaluation of the benchmark.
      config: the whole configuration, with `data` and `eval` as evaluated.
      benchmark: the benchmark.

    Returns:
      The entry `verification` of a result card; None without cosine
      similarities, or without pairs of different persons.
    """
    if config.eval.distance != 'cosine':
      return None
    counted = verification.count_pairs(
      evaluated.scores, evaluated.labels, evaluated.places
    )
    if self._wanted_fpr is not None:
      self._choose(counted, self._wanted_fpr, config, benchmark.fingerprint)
    if counted is None:
      return None
    summary = verification.summarize(counted)
    print('\n'.join(verification.lines(summary)))
    if self._stored is None:
      return summary
    here = counted.at(self._stored['threshold'])
    print(
      f'{describe(self._stored)}\n  Here: FPR {here["fpr"]:.2g}, TPR'
      f' {100 * here["tpr"]:.1f}%; FPIR {here["fpir"]:.2g}, FNIR'
      f' {100 * here["fnir"]:.1f}%'
    )
    return summary | {
      'stored_threshold': {'chosen': self._stored, 'here': here}
    }

  def _choose(self, counted, rate: float, config, fingerprint: str) -> None:
    try:
      chosen = choose(counted, rate, config, fingerprint, self._step)
      save(self._workdir, chosen)
    except UserError as error:
      self._failure = error
    except OSError as error:
      self._failure = UserError(
        f'the threshold {chosen["threshold"]:.4f} was chosen, but could not be'
        f' stored: {error}. Give it to other commands as --threshold.'
      )
    else:
      self._stored = chosen

  def raise_failure(self) -> None:
    """Raises UserError if no threshold could be chosen, or it was not stored.

    Call it after the results have been written.
    """
    if self._failure:
      raise self._failure
