import json

import numpy as np
import pytest

from apnet_jax.retrieval import scores as scores_module
from apnet_jax.retrieval import verification
from apnet_jax.retrieval.scores import EmbeddingScores, Labels
from tests.retrieval.worlds import Matrix, draw_ids


def world(seed, queries=40, gallery=120):
  """Scores and labels, with masks of the genuine and the impostor pairs."""
  ids = draw_ids(seed, queries, gallery, least_pid=-1)
  rng = np.random.default_rng(seed)
  centers = rng.normal(size=(6, 8))
  query, gallery_embeddings = (
    centers[ids[f'{side}_pids']] + 0.8 * rng.normal(size=(number, 8))
    for side, number in (('query', queries), ('gallery', gallery))
  )
  labels = Labels.make(**ids, queries=queries, gallery=gallery)
  scores = EmbeddingScores(query, gallery_embeddings, labels.kept, 'cosine')
  similarity = np.asarray(scores.block(np.arange(queries)))[:, : scores.gallery]
  pids = ids['gallery_pids'][labels.kept]
  same = ids['query_pids'][:, None] == pids
  own_camera = (
    ids['query_camids'][:, None] == ids['gallery_camids'][labels.kept]
  )
  return scores, labels, similarity, same & ~own_camera, ~same


@pytest.mark.parametrize('seed', range(4))
def test_rates_are_those_of_all_pairs(seed, monkeypatch):
  monkeypatch.setattr(scores_module, 'QUERY_BLOCK', 16)
  monkeypatch.setattr(verification, 'MIN_ERRORS', 0)
  scores, labels, similarity, genuine, impostor = world(seed)
  counted = verification.count_pairs(scores, labels)
  mated = genuine.any(1)
  best = np.where(genuine, similarity, -np.inf).max(1)[mated]
  wrong = np.where(impostor, similarity, -np.inf).max(1)

  def check(point):
    threshold = point['threshold']
    rates = {
      'tpr': (similarity[genuine] >= threshold).mean(),
      'fpr': (similarity[impostor] >= threshold).mean(),
      'fnir': (best < threshold).mean(),
      'fpir': (wrong >= threshold).mean(),
    }
    for name, rate in rates.items():
      np.testing.assert_allclose(point[name], rate, err_msg=name, atol=1e-12)

  for threshold in (-1, -0.3, 0, 0.25, 0.7, 1):
    check(counted.at(threshold))
  step = 1 / verification.BINS_PER_UNIT
  for rate in (0.5, 0.1, 0.01):
    for name, point in (
      ('fpr', counted.at_fpr(rate)),
      ('fpir', counted.at_fpir(rate)),
    ):
      check(point)
      lower = counted.at(point['threshold'] - step)
      assert point[name] <= rate < lower[name]
  equal = counted.at_equal_error()
  check(equal)
  assert abs(equal['fpr'] - (1 - equal['tpr'])) < 0.02
  np.testing.assert_allclose(
    equal['eer'], (1 + equal['fpr'] - equal['tpr']) / 2
  )
  assert equal['fpr'] - 0.02 < equal['eer'] < equal['fpr'] + 0.02


def test_a_summary_is_json_and_its_curve_falls():
  scores, labels, similarity, genuine, impostor = world(seed=0)
  counted = verification.count_pairs(scores, labels)
  summary = json.loads(json.dumps(verification.summarize(counted)))
  assert summary['pairs'] == {
    'genuine': genuine.sum(), 'impostor': impostor.sum(),
  }  # fmt: skip
  curve = summary['curve']
  assert curve['fpr'][0] == curve['tpr'][0] == 1
  assert 0 <= curve['fpr'][-1] < 2 / impostor.sum()
  for name, way in (('tpr', -1), ('fpr', -1), ('fpir', -1), ('fnir', 1)):
    assert (way * np.diff(curve[name]) >= 0).all()
  for name, pairs in (('genuine', genuine), ('impostor', impostor)):
    expected, _ = np.histogram(similarity[pairs], 128, (-1, 1))
    np.testing.assert_allclose(summary['histogram'][name], expected, atol=1)
  # Some thousands of pairs are too few for lower rates.
  assert set(summary['at_fpr']) == {'0.01', '0.1'}
  text = '\n'.join(verification.lines(summary))
  assert 'equal error rate' in text and 'FPR    0.1: TPR' in text


def labels_of(query_pids, gallery_pids):
  return Labels.make(
    np.array(query_pids), None, np.array(gallery_pids), None,
    queries=len(query_pids), gallery=len(gallery_pids),
  )  # fmt: skip


def test_without_other_persons_there_is_nothing_to_verify():
  scores = Matrix(np.ones((1, 2), np.float32))
  assert verification.count_pairs(scores, labels_of([1], [1, 1])) is None


def test_a_pair_of_two_queries_counts_once():
  similarity = np.array(
    [[1, 0.5, 0.1, 0.2], [0.5, 1, 0.4, 0.3], [0.1, 0.4, 1, 0.3]], np.float32
  )
  people, cameras = np.array([1, 1, 2, 3]), np.arange(4)
  for gallery, places, genuine, impostor in (
    ([0, 1, 2, 3], np.arange(3), 1, 5),  # all pairs of the four images
    ([1, 0, 2, 3], np.array([1, 0, 2]), 1, 5),
    ([0, 1, 2, 3], np.array([0, 1, -1]), 1, 7),  # query 2 is another image
    ([0, 1, 2, 3], None, 2, 7),
  ):
    labels = Labels.make(
      people[:3], cameras[:3], people[gallery], cameras[gallery], 3, 4
    )
    scores = Matrix(similarity[:, gallery])
    counted = verification.count_pairs(scores, labels, places)
    assert counted.genuine.sum() == genuine
    assert counted.impostor.sum() == impostor
    assert counted.mated.sum() == 2 and counted.non_mated.sum() == 3
    assert counted.at(0.35)['fpir'] == 2 / 3 and counted.at(0.5)['fnir'] == 0


def test_a_query_without_its_person_is_non_mated_only():
  scores = Matrix(np.array([[0.5, 0.25], [0.125, 0.75]], np.float32))
  counted = verification.count_pairs(scores, labels_of([1, 9], [1, 2]))
  assert counted.mated.sum() == 1 and counted.non_mated.sum() == 2
  assert counted.at(0.5)['fnir'] == 0 and counted.at(0.51)['fnir'] == 1
  assert counted.at(0.75)['fpir'] == 0.5


def test_a_similarity_below_a_threshold_is_not_accepted():
  """However little below it is."""
  below = np.nextafter(np.float32(0.5), np.float32(0))
  scores = Matrix(np.array([[below, 0.5]], np.float32))
  counted = verification.count_pairs(scores, labels_of([1], [1, 2]))
  assert counted.at(0.5)['tpr'] == 0 and counted.at(0.5)['fpr'] == 1


def test_cosines_that_rounding_made_larger_than_one():
  scores = Matrix(np.array([[1.0000001, -1.0000001]], np.float32))
  counted = verification.count_pairs(scores, labels_of([1], [1, 2]))
  assert counted.at(1)['tpr'] == 1 and counted.at(-1)['fpr'] == 1
  assert counted.at_fpr(0.5) is None  # of one pair
  with pytest.raises(ValueError, match='threshold=1.5'):
    counted.at(1.5)


def test_what_is_no_cosine_or_of_other_images_is_refused():
  labels = labels_of([1], [1, 2])
  for similarity, message in (
    ([[0.5, 7.0]], 'not cosines'),
    ([[0.5, np.nan]], 'query 0 are NaN'),
    ([[0.5, 0.1, 0.2]], '1 queries and 3 gallery images'),
  ):
    with pytest.raises(ValueError, match=message):
      verification.count_pairs(Matrix(np.array(similarity, 'f4')), labels)


def test_persons_as_alike_as_can_be_have_no_threshold(monkeypatch):
  monkeypatch.setattr(verification, 'MIN_ERRORS', 0)
  scores = Matrix(np.array([[1, 1, 1, 0]], np.float32))
  counted = verification.count_pairs(scores, labels_of([1], [1, 2, 3, 4]))
  assert counted.at_fpr(0.5) is None
  assert counted.at_fpr(0.7)['threshold'] > 0
  json.dumps(verification.summarize(counted))


@pytest.mark.parametrize(('pairs', 'enough'), [(1000, True), (999, False)])
def test_a_rate_is_given_from_ten_errors_on(pairs, enough):
  even = np.bincount(np.arange(pairs) * 60, minlength=verification.BINS)
  others = 1000 * even
  counted = verification.Verification(others, even, others, others)
  assert (counted.at_fpr(0.01) is not None) == enough
  counted = verification.Verification(others, others, others, even)
  assert (counted.at_fpir(0.01) is not None) == enough
