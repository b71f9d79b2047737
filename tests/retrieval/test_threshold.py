import json

import numpy as np
import pytest

from apnet_jax.retrieval import threshold
from apnet_jax.retrieval.verification import BINS, HALF, Verification
from configs import common


def counted():
  """Impostors evenly over all similarities, matches at one half."""
  even = np.ones(BINS, int)
  half = np.zeros(BINS, int)
  half[HALF + HALF // 2] = 9
  return Verification(half, even, half, even)


def config():
  config = common.get_config()
  config.data.name = 'market1501'
  return config


def test_what_is_stored_is_read(tmp_path):
  assert threshold.load(tmp_path) is None
  stored = threshold.save(tmp_path, counted(), 0.01, config(), 'abc', step=7)
  assert threshold.load(tmp_path) == stored
  np.testing.assert_allclose(stored['threshold'], 0.98, atol=1e-4)
  assert stored['fpr'] <= 0.01 and stored['tpr'] == 0
  assert stored['dataset'] == 'market1501' and stored['step'] == 7
  assert 'chosen on market1501' in threshold.describe(stored)


def test_it_is_of_one_network_and_one_way_of_embedding(tmp_path):
  stored = threshold.save(tmp_path, counted(), 0.01, config(), 'abc', step=7)
  rules = config().eval
  assert threshold.problem(stored, 7, rules) is None
  assert threshold.problem(stored, 8, rules) == 'step 7 there, 8 here.'
  rules.flip = False
  assert threshold.problem(stored, 7, rules) == 'flip True there, False here.'


def test_a_rate_that_is_too_small_for_the_set(tmp_path):
  with pytest.raises(ValueError, match='1e-06 of 65,537 pairs.*too few'):
    threshold.save(tmp_path, counted(), 1e-6, config(), 'abc', step=7)
  assert threshold.load(tmp_path) is None


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{', 'cannot be read'),
    ('[]', 'has not all of'),
    ('{"threshold": 0.5}', 'has not all of'),
    (json.dumps(dict.fromkeys(threshold.FIELDS, 2)), 'threshold=2 is not'),
    (json.dumps(dict.fromkeys(threshold.FIELDS, 'x')), "threshold='x' is not"),
  ],
)
def test_a_damaged_file_is_named(text, message, tmp_path):
  (tmp_path / threshold.FILE).write_text(text)
  with pytest.raises(ValueError, match=message):
    threshold.load(tmp_path)
