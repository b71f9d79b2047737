import numpy as np
import pytest

from apnet_jax.retrieval import collapse


def test_only_strangers_are_sampled():
  """Each image of a person has the same embedding, orthogonal to others'."""
  pids = np.array([7, 3, 7, 3, 3, 9])
  embeddings = np.eye(10)[pids] * np.arange(1, 7)[:, None]
  found = collapse.stranger_similarities(embeddings, pids)
  np.testing.assert_array_equal(found, np.zeros(collapse.PAIRS))


def test_all_pairs_of_strangers_are_equally_likely():
  """Embeddings by angle: each pair has a similarity of its own."""
  pids = np.array([1, 0, 1, 1, 1, 1, 2])
  angles = np.array([0.1, 0.2, 0.5, 0.95, 1.3, 2.1, 1.65])
  embeddings = np.stack([np.cos(angles), np.sin(angles)], 1)
  found = collapse.stranger_similarities(3 * embeddings, pids, seed=1)
  expected = [
    np.cos(angles[i] - angles[j])
    for i in range(7)
    for j in range(i)
    if pids[i] != pids[j]
  ]
  assert len(expected) == 11
  closest = np.abs(found[:, None] - np.sort(expected)).argmin(1)
  np.testing.assert_allclose(found, np.sort(expected)[closest], atol=1e-12)
  count = np.bincount(closest, minlength=11)
  assert (
    abs(count - collapse.PAIRS / 11) < 5 * np.sqrt(collapse.PAIRS / 11)
  ).all()


@pytest.mark.parametrize(
  'shared, collapsed', [(0, False), (1, False), (10, True)]
)
def test_the_median_tells_a_collapse(shared, collapsed):
  """Cosine of strangers is shared^2 / (shared^2 + 1) on average."""
  rng = np.random.default_rng(0)
  embeddings = rng.standard_normal((300, 512)) / np.sqrt(512)
  embeddings[:, 0] += shared
  median = collapse.median_stranger_similarity(embeddings, np.arange(300) // 3)
  assert median == pytest.approx(shared**2 / (shared**2 + 1), abs=0.02)
  assert bool(collapse.describe(median)) == collapsed


def test_one_person_has_no_strangers():
  median = collapse.median_stranger_similarity(
    np.ones((4, 3)), np.zeros(4, int)
  )
  assert median is None and not collapse.describe(median)
