import types

import numpy as np
import pytest

from apnet_jax.errors import UserError
from apnet_jax.retrieval import threshold
from apnet_jax.retrieval.verification import BINS, BINS_PER_UNIT, Verification
from apnet_jax.workdir import run_files
from configs import common


def counted():
  """Returns impostor pairs spread evenly, and all matches at one half."""
  even = np.ones(BINS, int)
  half = np.zeros(BINS, int)
  half[BINS_PER_UNIT + BINS_PER_UNIT // 2] = 9
  return Verification(half, even, half, even)


def config():
  config = common.get_config()
  config.data.name = 'market1501'
  return config


def choose(rate=0.01):
  return threshold.choose(counted(), rate, config(), 'abc', step=7)


def test_what_is_stored_is_read(tmp_path):
  assert threshold.load(tmp_path) is None
  chosen = choose()
  threshold.save(tmp_path, chosen)
  assert threshold.load(tmp_path) == chosen
  np.testing.assert_allclose(chosen['threshold'], 0.98, atol=1e-4)
  assert chosen['fpr'] <= 0.01 and chosen['tpr'] == 0
  assert chosen['dataset'] == 'market1501' and chosen['step'] == 7
  assert 'chosen on market1501' in threshold.describe(chosen)


@pytest.mark.parametrize('value', [-0.25, 1])
def test_any_cosine_can_be_the_threshold(value, tmp_path):
  threshold.save(tmp_path, choose() | {'threshold': value})
  assert threshold.load(tmp_path)['threshold'] == value
  assert threshold.verdict(value, value) == threshold.SAME_PERSON
  assert threshold.verdict(value - 0.1, value) == threshold.OTHER_PERSON


def test_rates_here_are_those_of_a_threshold_that_applies(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(
    threshold.verification, 'count_pairs', lambda *_: counted()
  )
  rules = config()
  evaluated = types.SimpleNamespace(scores=None, labels=None, places=None)
  threshold.save(tmp_path, choose() | {'feature': 'logits'})
  rules.eval.feature = 'logits'
  for step, applies in ((7, True), (8, False)):
    verifier = threshold.PairVerifier(tmp_path, step, rules.eval, None)
    summary = verifier.verify(evaluated, rules, None)
    assert ('stored_threshold' in summary) == applies
    out = capsys.readouterr().out
    assert ('step 7 there, 8 here' in out) == (not applies)
    assert ('Here: FPR 0.01, TPR 0.0%' in out) == applies
  rules.eval.distance = 'euclidean'
  assert verifier.verify(evaluated, rules, None) is None
  choose_again = threshold.choose(counted(), 0.5, rules, 'abc', step=8)
  assert choose_again['feature'] == 'logits'


def test_it_is_of_one_network_and_one_way_of_embedding():
  chosen, rules = choose(), config().eval
  assert threshold.mismatch(chosen, 7, rules) is None
  assert 'step 7 there, 8 here' in threshold.mismatch(chosen, 8, rules)
  for field, value, words in (
    ('flip', False, 'flip True there, False here'),
    ('feature', 'logits', 'feature embedding there, logits here'),
    ('distance', 'euclidean', 'not cosine similarities here'),
    ('multi_query', True, 'single images there, averaged queries here'),
  ):
    rules = config().eval
    rules[field] = value
    assert words in threshold.mismatch(chosen, 7, rules)


@pytest.mark.parametrize('given', [float('nan'), 2, -1.5])
def test_a_given_threshold_is_a_cosine(given):
  with pytest.raises(UserError, match=f'threshold {given} is no cosine'):
    threshold.choose_known(None, given, 7, config().eval)


def test_a_rate_that_is_too_small_for_the_set():
  with pytest.raises(ValueError, match='1e-06 of 65,537 pairs'):
    choose(1e-6)
  with pytest.raises(ValueError, match='0.01 of 0 pairs'):
    threshold.choose(None, 0.01, config(), 'abc', step=7)


def test_a_threshold_that_cannot_be_stored_is_said_at_the_end(
  tmp_path, monkeypatch, capsys
):
  """The rates of the evaluation are not lost."""
  monkeypatch.setattr(
    threshold.verification, 'count_pairs', lambda *_: counted()
  )
  workdir, rules = tmp_path / 'file', config()
  workdir.touch()  # no folder: nothing can be written to it
  verifier = threshold.PairVerifier(workdir, 7, rules.eval, wanted_fpr=0.01)
  evaluated = types.SimpleNamespace(scores=None, labels=None, places=None)
  benchmark = types.SimpleNamespace(fingerprint='abc')
  summary = verifier.verify(evaluated, rules, benchmark)
  assert summary['pairs']['genuine'] == 9 and 'stored_threshold' not in summary
  assert 'chosen on' not in capsys.readouterr().out
  with pytest.raises(UserError, match=r'0\.98\d\d was chosen, but.*/file'):
    verifier.raise_failure()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'threshold': 2}, 'damaged: threshold 2'),
    ({'threshold': 'x'}, "threshold is 'x'"),
    ({'wanted_fpr': None}, 'wanted_fpr is None'),
    ({'feature': 'pixels'}, "for the feature 'pixels'"),
    ({'flip': 1}, 'flip is 1'),
  ],
)
def test_a_damaged_file_is_named(change, message, tmp_path):
  threshold.save(tmp_path, choose() | change)
  with pytest.raises(ValueError, match=message):
    threshold.load(tmp_path)


@pytest.mark.parametrize(
  ('text', 'message'),
  [('{', 'cannot be read'), ('[]', 'damaged'), ('{}', 'threshold is None')],
)
def test_what_is_no_threshold_is_named(text, message, tmp_path):
  (tmp_path / run_files.THRESHOLD_FILE).write_text(text)
  with pytest.raises(ValueError, match=message):
    threshold.load(tmp_path)
