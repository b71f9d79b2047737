import numpy as np

from apnet_jax.retrieval import ranked_lists
from apnet_jax.retrieval.evaluation import rank
from tests.visualize import worlds


def test_ranked_images_are_those_of_the_ranking_and_others_lie_between():
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
