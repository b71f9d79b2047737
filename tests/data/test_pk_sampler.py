"""Tests of PK sampling: properties of every batch and every epoch."""

import collections
import itertools

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from data import pk_sampler


@st.composite
def problems(draw):
  """Labels in any order (not from 0, with gaps), P, K, seed and epoch."""
  counts = draw(st.lists(st.integers(1, 12), min_size=1, max_size=8))
  pids = draw(st.permutations(range(3, 3 + 2 * len(counts), 2)))
  labels = np.repeat(pids, counts)
  order = draw(st.permutations(range(len(labels))))
  P = draw(st.integers(1, len(counts)))
  K = draw(st.integers(1, 6))
  seed, epoch = draw(st.integers(0, 2**32)), draw(st.integers(0, 1000))
  return labels[list(order)], P, K, seed, epoch


def groups_of(batch, P, K):
  """Returns a batch as groups of K indices."""
  return np.reshape(batch, (P, K))


@given(problems())
def test_batches_hold_p_identities_with_k_images_each(problem):
  labels, P, K, _, _ = problem
  batches = pk_sampler.epoch_batches(*problem)
  steps = pk_sampler.steps_per_epoch(labels, P, K)
  assert steps >= 1
  assert batches.shape == (steps, P * K)
  assert batches.dtype == np.int64
  for batch in batches:
    of_groups = labels[groups_of(batch, P, K)]
    assert (of_groups == of_groups[:, :1]).all()
    assert len(set(of_groups[:, 0])) == P


@given(problems())
def test_groups_repeat_images_only_where_there_are_too_few(problem):
  labels, P, K, _, _ = problem
  for batch in pk_sampler.epoch_batches(*problem):
    for group in groups_of(batch, P, K):
      images = np.flatnonzero(labels == labels[group[0]])
      assert len(set(group)) == min(K, len(images))
      if len(images) <= K:
        assert set(group) == set(images)


@given(problems())
def test_an_image_stands_once_in_an_epoch(problem):
  """Except for identities with fewer than K images, which are in one batch."""
  labels, P, K, _, _ = problem
  batches = pk_sampler.epoch_batches(*problem)
  counts = collections.Counter(labels.tolist())
  used = collections.Counter(batches.ravel().tolist())
  for image, times in used.items():
    assert times == 1 or counts[labels[image]] < K
  groups = batches.reshape(-1, K)
  of_identity = collections.Counter(labels[groups[:, 0]].tolist())
  for pid, times in of_identity.items():
    assert times <= max(counts[pid] // K, 1)


@given(problems())
def test_an_epoch_has_the_most_batches(problem):
  """The maximum is reached by taking the identities with most chunks left."""
  labels, P, K, _, _ = problem
  counts = collections.Counter(labels.tolist())
  left = sorted(max(count // K, 1) for count in counts.values())
  most = 0
  while left[-P] > 0:
    left[-P:] = [n - 1 for n in left[-P:]]
    left.sort()
    most += 1
  assert pk_sampler.steps_per_epoch(labels, P, K) == most


def test_little_is_left_over_on_a_set_like_market1501():
  counts = np.random.default_rng(0).integers(2, 73, 751)
  labels = np.repeat(np.arange(751), counts)
  chunks = int(np.maximum(counts // 4, 1).sum())
  assert pk_sampler.steps_per_epoch(labels, 20, 4) == chunks // 20


@given(problems())
def test_is_a_function_of_its_arguments(problem):
  labels = problem[0].copy()
  np.random.seed(0)
  first = pk_sampler.epoch_batches(*problem)
  np.random.seed(1)
  np.testing.assert_array_equal(first, pk_sampler.epoch_batches(*problem))
  np.testing.assert_array_equal(labels, problem[0])  # left as they were


def test_seed_and_epoch_change_the_batches():
  labels = np.repeat(np.arange(50), 8)
  batches = [
    pk_sampler.epoch_batches(labels, 10, 4, seed, epoch)
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))
  ]
  for i, one in enumerate(batches):
    for other in batches[i + 1 :]:
      assert (one != other).mean() > 0.9


def test_all_identities_and_images_take_part():
  """Each epoch drops other images."""
  labels = np.repeat(np.arange(4), (1, 5, 7, 9))
  seen = np.zeros(len(labels), int)
  partners = collections.Counter()
  for epoch in range(100):
    for batch in pk_sampler.epoch_batches(labels, 2, 4, 0, epoch):
      seen[np.unique(batch)] += 1
      partners[frozenset(labels[batch].tolist())] += 1
  assert seen.min() > 40
  assert len(partners) == 6  # of 4 identities, any two have met


def test_filling_up_draws_evenly():
  labels = np.zeros(3, int)
  counts = collections.Counter()
  for epoch in range(600):
    (batch,) = pk_sampler.epoch_batches(labels, 1, 4, 0, epoch)
    ((image, times),) = collections.Counter(batch.tolist()).most_common(1)
    assert times == 2
    counts[image] += 1
  assert min(counts.values()) > 150


@pytest.mark.parametrize(
  ('counts', 'P', 'K', 'steps'),
  [
    ((4, 4), 2, 4, 1),
    ((8, 7, 1), 2, 4, 2),  # 2 + 1 + 1 chunks
    ((3, 3, 3), 2, 4, 1),  # one chunk is left over
    ((40, 4), 2, 4, 1),  # the large identity cannot be in a batch alone
    ((40, 4, 8), 2, 4, 3),
  ],
)
def test_steps_per_epoch(counts, P, K, steps):
  labels = np.repeat(np.arange(len(counts)), counts)
  assert pk_sampler.steps_per_epoch(labels, P, K) == steps
  assert len(pk_sampler.epoch_batches(labels, P, K, 0, 0)) == steps


@pytest.mark.parametrize(
  ('P', 'K', 'message'),
  [
    (0, 4, 'config.train.P=0 must be at least 1'),
    (2, 0, 'config.train.K=0 must be at least 1'),
    (-1, 4, 'config.train.P=-1 must be at least 1'),
    (4, 4, 'config.train.P=4 identities in a batch.* only 3'),
  ],
)
def test_refuses_what_does_not_fit(P, K, message):
  labels = np.repeat(np.arange(3), 5)
  with pytest.raises(ValueError, match=message):
    pk_sampler.steps_per_epoch(labels, P, K)
  with pytest.raises(ValueError, match=message):
    pk_sampler.epoch_batches(labels, P, K, 0, 0)


def test_any_two_images_of_a_person_meet_in_a_batch():
  labels, met = np.zeros(12, int), set()
  for epoch in range(60):
    for batch in pk_sampler.epoch_batches(labels, 1, 4, 0, epoch):
      met |= {*itertools.combinations(sorted(batch.tolist()), 2)}
  assert len(met) == 12 * 11 // 2
