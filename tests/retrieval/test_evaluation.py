"""From a benchmark to figures and a card."""

import numpy as np
import pytest

import apnet_jax
from apnet_jax.feed import Benchmark
from apnet_jax.retrieval import evaluation, rerank
from configs import common
from tests.fakes import make_split


def embed(variables, split, rows):
  """An embedding of the identity, with noise of the image."""
  centers = np.random.default_rng(0).normal(size=(40, 8))
  noise = [np.random.default_rng([int(split.camids[r]), int(r)]) for r in rows]
  noise = np.stack([rng.normal(size=8) for rng in noise])
  return (centers[split.pids[rows]] + noise).astype(np.float32)


@pytest.fixture(scope='module')
def benchmark():
  people = np.arange(1, 31)
  query = make_split(people, np.zeros(30, int))
  pids = np.concatenate([people, people, [0, -1, -1, 0]])
  return Benchmark(
    query,
    make_split(pids, np.arange(len(pids)) % 7),
    'noise',
    '',
    as_published=False,
    has_cameras=False,
  )


def test_reranking_ranks_by_its_distances(benchmark):
  evaluated = evaluation.evaluate(embed, {}, benchmark)
  result = evaluation.rerank(evaluated, benchmark)
  distance = apnet_jax.k_reciprocal_rerank(
    evaluated.query_embeddings, evaluated.gallery_embeddings
  )
  rows = evaluated.gallery_rows
  pids, camids = benchmark.gallery.pids[rows], benchmark.gallery.camids[rows]
  precisions = []
  for q, pid in enumerate(benchmark.query.pids):
    valid = (pids != pid) | (camids != benchmark.query.camids[q])
    order = np.argsort(distance[q][valid], kind='stable')
    ranks = np.flatnonzero((pids[valid] == pid)[order]) + 1
    assert len(ranks)
    precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
  np.testing.assert_allclose(result.average_precision, precisions)
  assert result.mAP != evaluated.result.mAP


def test_a_card_says_how_it_was_made(benchmark):
  config = common.get_config()
  evaluated = evaluation.evaluate(embed, {}, benchmark)
  reranked = evaluation.rerank(evaluated, benchmark)
  plain, both = (
    evaluation.result_card(evaluated.result, config, benchmark, {}, second)
    for second in (None, reranked)
  )
  assert plain['reranked'] is None
  assert both['reranked']['variant'] == rerank.VARIANT
  assert both['reranked']['figures']['mAP'] == reranked.mAP
  assert both['figures'] == plain['figures']
  assert plain['as_published'] is False
  assert plain['protocol']['rules'].startswith('no cameras: each query')
  assert plain['gallery'] == {
    'of_query_identities': 60, 'distractors': 2, 'junk_left_out': 2,
  }  # fmt: skip
