import dataclasses

import numpy as np

from apnet_jax.retrieval import multi_query, ranked_lists
from apnet_jax.retrieval.evaluation import rank
from tests.visualize import worlds


def test_ranked_images_are_those_of_the_ranking_and_others_lie_between(
  monkeypatch,
):
  """With junk in the first rows of the gallery."""
  benchmark = worlds.make_benchmark()
  order = np.roll(np.arange(len(benchmark.gallery.pids)), 2)
  gallery = multi_query.select(benchmark.gallery, order)
  benchmark = dataclasses.replace(benchmark, gallery=gallery)
  monkeypatch.setattr(worlds, 'make_benchmark', lambda: benchmark)
  _, evaluated, benchmark = worlds.evaluate()
  rows = np.arange(worlds.QUERIES)
  lists = list(ranked_lists.ranked_lists(evaluated, rows, top=10))
  kinds = np.concatenate([each.kinds for each in lists])
  assert set(kinds) == set(range(4))
  pids, camids = benchmark.gallery.pids, benchmark.gallery.camids
  for each, ranking in zip(lists, rank(evaluated, rows, top=10)):
    assert (np.diff(each.similarity) <= 0).all()
    ranked = each.kinds <= ranked_lists.WRONG
    assert each.found[ranked].tolist() == ranking.found.tolist()
    right = each.kinds[ranked] == ranked_lists.RIGHT
    assert right.tolist() == ranking.correct.tolist()
    pid = benchmark.query.pids[each.query]
    same = each.found[each.kinds == ranked_lists.SAME_CAMERA]
    assert (pids[same] == pid).all()
    assert (camids[same] == benchmark.query.camids[each.query]).all()
    assert (pids[each.found[each.kinds == ranked_lists.JUNK]] == -1).all()
    assert (~ranked).sum() <= ranked_lists.MAX_LEFT_OUT
    assert pids[each.match] == pid and each.match not in same
    first = evaluated.result.first_match_rank[each.query]
    if first <= 10:
      assert each.match == ranking.found[first - 1]


def test_the_closest_of_the_images_that_are_left_out_are_listed():
  junk = np.arange(8), np.linspace(0.1, 0.8, 8), ranked_lists.JUNK
  ranked = np.array([9]), np.array([ranked_lists.RIGHT]), np.array([0.15])
  found, kinds, _ = ranked_lists._with_left_out(*ranked, [junk])
  assert found.tolist() == [7, 6, 5, 4, 3, 9]
  assert kinds.tolist() == [ranked_lists.JUNK] * 5 + [ranked_lists.RIGHT]
