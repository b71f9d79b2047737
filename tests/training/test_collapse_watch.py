import numpy as np
import pytest

from apnet_jax.retrieval import collapse
from apnet_jax.training.collapse_watch import STEPS, CollapseWatch
from tests.fakes import small_config


def watch(losses, every=20, **train):
  """Returns what is said of triplet losses logged every some steps."""
  said = []
  watch = CollapseWatch(small_config(**train).train, said.append)
  for step, loss in enumerate(losses, 1):
    watch.see_losses(every * step, {} if loss is None else {'triplet': loss})
  return said


def test_a_loss_that_stays_at_the_margin_is_said_once():
  (said,) = watch([2.0, 0.5] + [0.302, 0.299] * 40, K=2)
  assert 'step 260: the triplet loss has stayed at config.train.margin' in said
  assert 'since step 60' in said and 'config.train.K=2' in said
  assert 'wrong labels' in said and 'config.train.learning_rate=0.001' in said


@pytest.mark.parametrize('every', [1, 20, 1000])
def test_only_after_many_steps(every):
  enough = -(-STEPS // every) + 1
  assert not watch([0.3] * (enough - 1), every)
  assert watch([0.3] * enough, every)


@pytest.mark.parametrize(
  'losses',
  [
    np.linspace(3, 0, 100),  # passes the margin
    ([0.3] * 9 + [0.2]) * 9,
    ([0.3] * 9 + [None]) * 9,  # as of a step that was not finite
    [0.0] * 99,
  ],
)
def test_a_network_that_learns_is_not_accused(losses):
  assert not watch(losses)


def test_a_soft_margin_has_a_value_of_its_own():
  (said,) = watch([2.0, 1.0] + [0.695, 0.691] * 40, soft_margin=True)
  assert 'the triplet loss has stayed at log(2)=0.693147' in said
  assert not watch([0.3] * 99, soft_margin=True)


def test_no_margin_tells_nothing():
  assert not watch([0.0] * 99, margin=0.0)


def test_strangers_that_are_alike_are_said_once():
  said = []
  watch = CollapseWatch(small_config().train, said.append)
  for step, median in enumerate((None, 0.5, collapse.COLLAPSED, 0.97, 0.99)):
    watch.see_evaluation(step, median)
  (text,) = said
  assert 'step 3: the network embeds all images alike' in text
  assert 'median similarity of 0.9700' in text and 'Likely causes' in text
