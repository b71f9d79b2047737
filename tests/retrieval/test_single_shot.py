import numpy as np
import pytest

from apnet_jax.retrieval import single_shot
from apnet_jax.retrieval.metrics import evaluate_scores
from apnet_jax.retrieval.scores import Labels
from tests.retrieval.worlds import Matrix, draw_ids


def by_drawing(similarity, ids, repeats, rng):
  """Returns the mean CMC of many draws of one image per identity."""
  pids, camids = ids['gallery_pids'], ids['gallery_camids']
  curves = []
  for q, (pid, camid) in enumerate(zip(ids['query_pids'], ids['query_camids'])):
    order = np.argsort(-similarity[q], kind='stable')
    order = order[~((pids[order] == pid) & (camids[order] == camid))]
    if not (pids[order] == pid).any():
      continue
    for _ in range(repeats):
      drawn = [rng.choice(np.flatnonzero(pids[order] == p))
               for p in np.unique(pids[order])]  # fmt: skip
      hit = pids[order[np.sort(drawn)]] == pid
      curve = hit.cumsum()
      curves.append(np.pad(curve, (0, 5 - len(curve)), mode='edge'))
  return np.mean(curves, 0)


def evaluate(similarity, ids, max_rank=50):
  queries, gallery = similarity.shape
  labels = Labels.make(**ids, queries=queries, gallery=gallery)
  scores = Matrix(similarity)
  result = evaluate_scores(scores, labels, max_rank)
  return result, single_shot.single_gallery_shot(
    result, scores, labels, ids['gallery_pids'], max_rank
  )


@pytest.mark.parametrize('seed', range(3))
def test_is_what_the_mean_of_many_draws_tends_to(seed):
  rng = np.random.default_rng(seed)
  ids = draw_ids(seed, queries=70, gallery=40)
  similarity = rng.integers(0, 9, (70, 40)).astype(np.float32)  # with ties
  whole, single = evaluate(similarity, ids)
  expected = by_drawing(similarity, ids, repeats=200, rng=rng)
  np.testing.assert_allclose(single.cmc, expected, atol=0.012)
  assert single.mAP == whole.mAP
  assert single.num_valid_queries == whole.num_valid_queries
  np.testing.assert_allclose(single.cmc[-1], 1)
  np.testing.assert_array_equal(
    np.isnan(single.query_cmc[:, 0]), whole.num_matches == 0
  )


def test_by_hand():
  """One of two images of another person is closer: Rank-1 is one half."""
  ids = {
    'query_pids': np.array([1]), 'query_camids': np.array([0]),
    'gallery_pids': np.array([2, 1, 2]), 'gallery_camids': np.ones(3, int),
  }  # fmt: skip
  whole, single = evaluate(np.array([[0.9, 0.5, 0.1]], np.float32), ids)
  assert whole.cmc.tolist() == [0, 1, 1]
  assert single.cmc.tolist() == [0.5, 1]
  _, first = evaluate(np.array([[0.9, 0.5, 0.1]], np.float32), ids, max_rank=1)
  assert first.cmc.tolist() == [0.5]


def test_ties_rank_by_gallery_index():
  ids = {
    'query_pids': np.array([1]), 'query_camids': np.array([0]),
    'gallery_pids': np.repeat([2, 1, 3], [100, 1, 99]),
    'gallery_camids': np.ones(200, int),
  }  # fmt: skip
  similarity = np.float32([np.arange(200) % 2])
  ids['gallery_pids'][1::2] = 4  # the more similar half
  _, single = evaluate(similarity, ids)
  assert single.cmc.tolist() == [0, 0, 1, 1]


def test_chances_of_independent_events():
  fair = single_shot._cumulative_probabilities(np.full((1, 4), 0.5), 6)
  np.testing.assert_allclose(fair, np.array([[1, 5, 11, 15, 16, 16]]) / 16)
  sure = single_shot._cumulative_probabilities(np.array([[0, 1, 1, 0.25]]), 4)
  np.testing.assert_allclose(sure, [[0, 0, 0.75, 1]])


def test_identities_of_other_images_are_refused():
  ids = draw_ids(0, queries=5, gallery=9)
  labels = Labels.make(**ids, queries=5, gallery=9)
  scores = Matrix(np.zeros((5, 9), np.float32))
  result = evaluate_scores(scores, labels)
  with pytest.raises(ValueError, match='gallery_pids of 8 images for 9'):
    single_shot.single_gallery_shot(
      result, scores, labels, ids['gallery_pids'][1:]
    )
