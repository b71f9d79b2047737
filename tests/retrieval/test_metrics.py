import pathlib

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from apnet_jax import evaluate_retrieval
from apnet_jax.retrieval import metrics

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


def test_agrees_with_the_released_code():
  golden = np.load(GOLDEN / 'retrieval_a.npz')
  result = evaluate_retrieval(
    golden['query_features'],
    golden['query_pids'],
    golden['query_camids'],
    golden['gallery_features'],
    golden['gallery_pids'],
    golden['gallery_camids'],
  )
  np.testing.assert_allclose(result.mAP, golden['mAP'], atol=1e-6)
  np.testing.assert_allclose(result.cmc, golden['cmc'], atol=1e-6)


def on_a_circle(degrees):
  """Embeddings whose similarity to 0 degrees falls with the angle."""
  angle = np.radians(np.asarray(degrees, np.float64))
  return np.stack([np.cos(angle), np.sin(angle)], 1)


def test_by_hand():
  # True matches at ranks 1, 2, 4 and 7 of seven valid gallery images.
  pids = np.array([5, 5, 9, 5, 8, 8, 5])
  result = evaluate_retrieval(
    on_a_circle([0]), np.array([5]), np.array([0]),
    on_a_circle([10, 20, 30, 40, 50, 60, 70]), pids, np.ones(7, int),
  )  # fmt: skip
  np.testing.assert_allclose(result.mAP, (1 + 1 + 3 / 4 + 4 / 7) / 4)
  np.testing.assert_allclose(result.mAP_trapezoid, 0.8110, atol=5e-5)
  np.testing.assert_allclose(result.mINP, 4 / 7)
  np.testing.assert_array_equal(result.cmc, np.ones(7))
  assert (result.num_valid_queries, result.num_skipped_queries) == (1, 0)


def test_market_rules_by_hand():
  """The closest three do not count: same camera, junk, another person."""
  pids = np.array([5, -1, 7, 5])
  camids = np.array([0, 1, 0, 1])
  result = evaluate_retrieval(
    on_a_circle([0, 0]), np.array([5, 6]), np.array([0, 0]),
    on_a_circle([1, 2, 3, 4]), pids, camids,
  )  # fmt: skip
  assert result.first_match_rank.tolist() == [2, 0]
  np.testing.assert_allclose(result.mAP, 0.5)
  np.testing.assert_array_equal(result.cmc, [0, 1, 1])
  assert result.rank(1) == 0 and result.rank(2) == 1 and result.rank(50) == 1
  assert (result.num_valid_queries, result.num_skipped_queries) == (1, 1)
  np.testing.assert_array_equal(
    np.isnan(result.average_precision), [False, True]
  )


def test_ties_rank_by_gallery_index():
  result = evaluate_retrieval(
    on_a_circle([0]), np.array([1]), np.array([0]),
    on_a_circle([30, 30, 30, 30]), np.array([2, 1, 3, 1]), np.ones(4, int),
  )  # fmt: skip
  np.testing.assert_allclose(result.mAP, (1 / 2 + 2 / 4) / 2)


def naive(query, query_pids, query_camids, gallery, pids, camids):
  """Sorts, and walks down the list: ranks of the matches of each query."""
  similarity = query @ gallery.T
  all_ranks = []
  for q in range(len(query)):
    order = sorted(range(len(gallery)), key=lambda g: (-similarity[q, g], g))
    rank, ranks = 0, []
    for g in order:
      same = pids[g] == query_pids[q]
      if pids[g] == -1 or (same and camids[g] == query_camids[q]):
        continue
      rank += 1
      if same:
        ranks.append(rank)
    all_ranks.append(ranks)
  return all_ranks


@settings(max_examples=200)
@given(st.data())
def test_equals_a_naive_evaluation(data):
  seed = data.draw(st.integers(0, 2**32 - 1))
  rng = np.random.default_rng(seed)
  queries = data.draw(st.integers(1, 20))
  # Few sizes, as each is compiled; junk comes on top.
  kept = data.draw(st.sampled_from([1, 2, 7, 40]))
  junk = data.draw(st.integers(0, 5))
  identities = data.draw(st.integers(1, 6))
  # One-hot embeddings: similarities are exactly 0 or 1, and full of ties.
  used = data.draw(st.integers(1, 5))
  query = np.eye(5)[rng.integers(used, size=queries)]
  gallery = np.eye(5)[rng.integers(used, size=kept + junk)]
  query_pids = rng.integers(identities, size=queries)
  pids = rng.integers(identities, size=kept + junk)
  pids[rng.permutation(kept + junk)[:junk]] = -1
  query_camids = rng.integers(3, size=queries)
  camids = rng.integers(3, size=kept + junk)
  arguments = (query, query_pids, query_camids, gallery, pids, camids)
  expected = naive(*arguments)
  if not any(expected):
    with pytest.raises(ValueError, match='none of the'):
      evaluate_retrieval(*arguments)
    return
  result = evaluate_retrieval(*arguments)
  valid = [np.array(ranks) for ranks in expected if ranks]
  precisions = [(np.arange(len(r)) + 1) / r for r in valid]
  first = [r[0] if r else 0 for r in expected]
  assert result.first_match_rank.tolist() == first
  assert result.num_skipped_queries == len(expected) - len(valid)
  np.testing.assert_allclose(
    result.mAP, np.mean([p.mean() for p in precisions])
  )
  np.testing.assert_allclose(
    result.mINP, np.mean([len(r) / r[-1] for r in valid])
  )
  length = min(50, (pids != -1).sum())
  np.testing.assert_allclose(
    result.cmc,
    [np.mean([r[0] <= k for r in valid]) for k in range(1, length + 1)],
  )


def test_more_queries_than_a_block_and_any_scale():
  rng = np.random.default_rng(0)
  number = metrics.QUERY_BLOCK + 3
  embeddings = rng.standard_normal((number, 16)).astype(np.float32)
  pids = np.arange(number)
  result = evaluate_retrieval(
    7 * embeddings, pids, np.zeros(number, int),
    0.1 * embeddings, pids, np.ones(number, int),
  )  # fmt: skip
  assert result.mAP == 1 and result.rank(1) == 1


def good():
  return {
    'query_embeddings': np.eye(3),
    'query_pids': np.arange(3),
    'query_camids': np.zeros(3, int),
    'gallery_embeddings': np.eye(3),
    'gallery_pids': np.arange(3),
    'gallery_camids': np.ones(3, int),
  }


@pytest.mark.parametrize(
  ('name', 'value', 'message'),
  [
    ('query_embeddings', np.eye(3)[:0], r'query_embeddings has shape \(0, 3\)'),
    ('query_embeddings', np.diag([1, 0, 1]), r'1 rows that are zero.*\[1\]'),
    ('gallery_embeddings', np.full((3, 3), np.nan), 'not finite'),
    ('gallery_embeddings', np.eye(4)[:3], '3 features.*4'),
    ('gallery_pids', np.arange(2), r'gallery_pids has shape \(2,\)'),
    ('query_camids', np.zeros(3), 'query_camids are float64'),
    ('query_pids', np.array([0, -1, 2]), r'query_pids\[1\]=-1 is junk'),
    ('gallery_camids', np.zeros(3, int), 'none of the 3 queries'),
    ('max_rank', 0, 'max_rank=0'),
  ],
)
def test_bad_input_is_named(name, value, message):
  with pytest.raises(ValueError, match=message):
    evaluate_retrieval(**good() | {name: value})


def test_memory_is_that_of_a_block():
  """No intermediate is larger than a block of queries by the gallery."""
  block, gallery, matches = metrics.QUERY_BLOCK, 5000, 8
  float32, int32 = np.float32, np.int32
  compiled = metrics._count_closer.lower(
    jax.ShapeDtypeStruct((block, 16), float32),
    jax.ShapeDtypeStruct((gallery, 16), float32),
    jax.ShapeDtypeStruct((block, matches), int32),
    jax.ShapeDtypeStruct((block, matches), int32),
  ).compile()
  used = compiled.memory_analysis().temp_size_in_bytes
  assert used < 3 * block * gallery * 4
