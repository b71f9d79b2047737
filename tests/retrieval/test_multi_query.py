"""Multi-query: images of one identity and camera are one query."""

import dataclasses

import numpy as np
import pytest

from apnet_jax.feed import Benchmark, Split
from apnet_jax.retrieval import card, evaluation, multi_query
from configs import common
from tests.fakes import make_split


def make_degrees(*images):
  """Returns a split of (identity, camera, angle in degrees) of each image."""
  pids, camids, degrees = map(np.array, zip(*images))
  paths = np.array([f'{pid}_{angle}.jpg' for pid, _, angle in images])

  def batches(rows, batch_size):
    yield degrees[np.asarray(rows, int)]

  return Split(pids, camids, paths, batches)


def embed(variables, split, rows):
  """Returns the point of each image on the unit circle."""
  angle = np.radians(np.concatenate(list(split.batches(rows, 100))))
  return np.stack([np.cos(angle), np.sin(angle)], 1)


QUERY = make_degrees((2, 1, 60), (2, 1, 0), (1, 0, 90), (1, 0, 0))
GALLERY = make_degrees((1, 1, 40), (0, 1, 10), (2, 0, 100), (1, 0, 45))


def evaluate(query, **fields):
  config = common.get_config()
  config.eval.update(fields)
  benchmark = Benchmark(query, GALLERY, 'circle', '')
  evaluated = evaluation.evaluate(embed, {}, benchmark, config.eval)
  return evaluated, card.result_card(evaluated.result, config, benchmark, {})


def test_by_hand():
  """Person 2 is at 30 degrees and finds 40, 45, 10, 100; person 1 is at 45."""
  evaluated, made = evaluate(multi_query.group(QUERY, QUERY), multi_query=True)
  degrees = np.degrees(np.arctan2(*evaluated.query_embeddings.T[::-1]))
  np.testing.assert_allclose(degrees, [30, 45])
  np.testing.assert_allclose(evaluated.result.average_precision, [1 / 4, 1])
  assert made['figures']['mAP'] == 0.625
  assert len(made['queries']['figures']['mAP']) == 2
  _, single = evaluate(QUERY)
  assert single['figures']['mAP'] != 0.625
  assert made['protocol'] == single['protocol'] | {'query': multi_query.RULE}


def test_averages_have_length_1_where_cosines_compare():
  """For whoever reads the embeddings of queries, such as `--fit`."""
  query = multi_query.group(QUERY, QUERY)
  lengths = {
    distance: np.linalg.norm(
      evaluate(query, multi_query=True, distance=distance)[0].query_embeddings,
      axis=1,
    )
    for distance in ('cosine', 'euclidean')
  }
  np.testing.assert_allclose(lengths['cosine'], 1)
  np.testing.assert_allclose(lengths['euclidean'], [0.75**0.5, 0.5**0.5])
  opposite = np.array([[1.0, 0], [-1, 0]])
  assert not multi_query.average(opposite, np.array([0, 0]), 'cosine').any()


def test_other_images_may_be_averaged():
  """Images of others are left out; the card has a digest of those averaged."""
  more = make_degrees((1, 0, 20), (1, 1, 80), (2, 1, 50), (3, 0, 5), (1, 0, 40))
  grouped = multi_query.group(QUERY, more)
  assert grouped.pids.tolist() == [2, 1]
  assert grouped.camids.tolist() == [1, 0]
  assert grouped.paths.tolist() == ['2_60.jpg', '1_90.jpg']
  assert next(grouped.batches([1, 0], 8)).tolist() == [90, 60]
  averaged = grouped.averaged
  assert averaged.images.paths.tolist() == ['1_20.jpg', '2_50.jpg', '1_40.jpg']
  assert averaged.owners.tolist() == [1, 0, 1]
  evaluated, made = evaluate(grouped, multi_query=True)
  degrees = np.degrees(np.arctan2(*evaluated.query_embeddings.T[::-1]))
  np.testing.assert_allclose(degrees, [50, 30])
  digests = [card.digest(s) for s in (averaged.images, QUERY)]
  assert made['queries']['names'] == digests[0] != digests[1]


def test_queries_and_the_rule_must_fit():
  with pytest.raises(ValueError, match='multi_query=True does not fit'):
    evaluate(QUERY, multi_query=True)
  with pytest.raises(ValueError, match='multi_query=False does not fit'):
    evaluate(multi_query.group(QUERY, QUERY))
  # Also where all queries are in the gallery, and need not be embedded again.
  gallery = dataclasses.replace(QUERY, camids=QUERY.camids + 2)
  for query in (QUERY, multi_query.group(QUERY, QUERY)):
    benchmark = Benchmark(query, gallery, '', '', names_are_images=True)
    rules = common.get_config().eval
    rules.multi_query = query is QUERY
    with pytest.raises(ValueError, match='does not fit the queries'):
      evaluation.evaluate(embed, {}, benchmark, rules)
  with pytest.raises(ValueError, match='no image to average for 1 queries'):
    multi_query.group(QUERY, make_split([1, 3], [0, 0]))
