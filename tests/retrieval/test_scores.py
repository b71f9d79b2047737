import jax
import numpy as np
import pytest

from apnet_jax.retrieval import nearest, rerank
from apnet_jax.retrieval import scores as scores_module
from apnet_jax.retrieval.metrics import evaluate_retrieval, evaluate_scores
from apnet_jax.retrieval.scores import (
  EmbeddingScores,
  Labels,
  shard_similarities,
)
from tests.retrieval.worlds import Matrix, draw_ids


def draw(seed):
  return draw_ids(seed, least_pid=-1)


def test_matches_and_excluded_images():
  ids = draw(seed=0)
  labels = Labels.make(**ids, queries=30, gallery=60)
  np.testing.assert_array_equal(
    labels.kept, np.flatnonzero(ids['gallery_pids'] != -1)
  )
  rows = np.arange(30)
  matches = labels.matches(rows, labels.num_matches.max() + 2)
  excluded = labels.excluded(rows, 60)
  pids = ids['gallery_pids'][labels.kept]
  camids = ids['gallery_camids'][labels.kept]
  for row in rows:
    same_pid = pids == ids['query_pids'][row]
    same_camera = camids == ids['query_camids'][row]
    assert set(matches[row]) - {-1} == set(
      np.flatnonzero(same_pid & ~same_camera)
    )
    assert set(excluded[row]) - {-1} == set(
      np.flatnonzero(same_pid & same_camera)
    )
    assert (matches[row] >= 0).sum() == labels.num_matches[row]
    assert (excluded[row] >= 0).sum() == labels.num_excluded[row]


def test_ids_may_be_any_int64():
  large = 2**62 + np.arange(3)
  labels = Labels.make(large, None, large, None, queries=3, gallery=3)
  assert labels.matches(np.arange(3), 1).tolist() == [[0], [1], [2]]


@pytest.mark.parametrize('shard', [lambda block: block, shard_similarities])
def test_any_scores_can_be_ranked(shard):
  """Blocks are numpy or sharded; products of small integers are exact."""
  rng = np.random.default_rng(1)
  ids = draw(seed=1)
  query, gallery = (
    rng.integers(-3, 4, (n, 8)).astype(np.float64) for n in (30, 60)
  )
  expected = evaluate_retrieval(
    query, ids['query_pids'], ids['query_camids'],
    gallery, ids['gallery_pids'], ids['gallery_camids'], distance='euclidean',
  )  # fmt: skip
  labels = Labels.make(**ids, queries=30, gallery=60)
  distance = ((query[:, None] - gallery[labels.kept]) ** 2).sum(-1)
  scores = Matrix(-distance)
  block = scores.block
  scores.block = lambda rows: shard(block(rows))
  result = evaluate_scores(scores, labels)
  assert result.mAP == expected.mAP
  np.testing.assert_array_equal(
    result.first_match_rank, expected.first_match_rank
  )


def test_similarities_of_minus_infinity_rank_before_the_padding():
  ids = np.arange(3)
  labels = Labels.make(ids, None, ids, None, queries=3, gallery=3)
  result = evaluate_scores(Matrix(np.full((3, 3), -np.inf)), labels)
  assert result.first_match_rank.tolist() == [1, 2, 3]


def test_embeddings_that_are_alike_tie():
  """Products are rounded equally, wherever in the gallery an image is."""
  rng = np.random.default_rng(2)
  query = rng.standard_normal((32, 200)).astype(np.float32)
  one = rng.standard_normal(200).astype(np.float32)
  gallery = np.tile(one, (999, 1))
  scores = EmbeddingScores(query, gallery, np.arange(999), 'cosine')
  block = np.asarray(scores.block(np.arange(32)))
  np.testing.assert_array_equal(block[:, :999], block[:, :1].repeat(999, 1))
  assert (block[:, 999:] == -np.inf).all()


@pytest.mark.parametrize(
  'function',
  [
    lambda x: scores_module._similarities(x, x, x[:, 0]),
    lambda x: rerank._squared_distances(x, x),
    lambda x: nearest.similarities(x, x),
  ],
)
def test_embeddings_are_not_rounded_before_they_are_compared(function):
  """Accelerators round float32 operands to bfloat16 by default."""
  program = jax.jit(function).lower(np.zeros((4, 3), np.float32)).as_text()
  assert program.count('dot_general') == 1
  assert 'precision = [HIGHEST, HIGHEST]' in program


def test_a_block_lies_on_all_devices():
  scores = EmbeddingScores(np.eye(3), np.eye(3), np.arange(3), 'cosine')
  for block in (scores.block(np.arange(2)), shard_similarities(np.eye(3)[:2])):
    assert block.sharding.device_set == set(jax.devices())
    assert not block.is_fully_replicated


@pytest.mark.parametrize(
  ('similarity', 'message'),
  [
    (np.full((3, 3), np.nan), 'are NaN'),
    (np.zeros((3, 4)), '3 queries and 4 gallery images'),
  ],
)
def test_bad_scores_are_named(similarity, message):
  ids = np.arange(3)
  labels = Labels.make(ids, None, ids, None, queries=3, gallery=3)
  with pytest.raises(ValueError, match=message):
    evaluate_scores(Matrix(similarity), labels)
