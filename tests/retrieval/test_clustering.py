"""Groups equal those of scipy's linkage of all embeddings at once."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy.cluster import hierarchy

from apnet_jax.errors import UserError
from apnet_jax.retrieval import clustering


def unit(rows):
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def drawn(seed, rows, people=6, noise=0.5, features=8):
  rng = np.random.default_rng(seed)
  centres = rng.normal(size=(people, features))
  shown = rng.integers(people, size=rows)
  return shown, unit(centres[shown] + noise * rng.normal(size=(rows, features)))


@hypothesis.given(
  st.integers(0, 99), st.integers(2, 40), st.floats(-0.9, 0.99),
  st.integers(1, 50),
)  # fmt: skip
def test_equals_the_linkage_of_all_embeddings(seed, rows, threshold, block):
  _, embeddings = drawn(seed, rows)
  tree = hierarchy.linkage(embeddings, 'average', 'cosine')
  # Where rounding decides, both answers are right.
  hypothesis.assume(np.abs(tree[:, 2] - (1 - threshold)).min() > 1e-9)
  expected = hierarchy.fcluster(tree, 1 - threshold, 'distance')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(clustering, 'BLOCK', block)
    groups = clustering.cluster(embeddings, threshold)
  pairs = set(zip(groups, expected))
  assert len(pairs) == len(set(groups)) == len(set(expected))
  _, first = np.unique(groups, return_index=True)
  assert (np.diff(first) > 0).all()  # numbered by their first rows


def test_groups_that_are_as_similar_as_the_threshold_are_joined():
  embeddings = np.array([[1.0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]])
  assert clustering.cluster(embeddings, 0.5).tolist() == [0, 0]
  assert clustering.cluster(embeddings, 0.5001).tolist() == [0, 1]


def test_too_many_connected_rows_are_refused(monkeypatch):
  monkeypatch.setattr(clustering, 'LARGEST', 10)
  monkeypatch.setattr(clustering, 'BLOCK', 2)
  _, embeddings = drawn(0, 30, people=1)
  with pytest.raises(UserError, match='30 of 30 images .* a higher threshold'):
    clustering.cluster(embeddings, -0.9)
  assert len(clustering.cluster(embeddings, 0.9999)) == 30


def test_a_track_has_the_mean_of_its_embeddings():
  embeddings = unit(np.array([[1.0, 0], [0, 1], [-1, 0], [1, 1]]))
  means, track = clustering.mean_embeddings(
    embeddings, np.array(['b', 'a', 'a', 'b'])
  )
  np.testing.assert_array_equal(track, [1, 0, 0, 1])
  expected = unit(np.array([[-1, 1], [1 + 0.5**0.5, 0.5**0.5]]))
  np.testing.assert_allclose(means, expected, rtol=1e-6)


def test_agreement_with_identities_of_a_case_by_hand():
  groups = np.array([0, 0, 0, 1, 1, 2])
  people = np.array(['a', 'a', 'b', 'b', 'b', 'a'])
  assert clustering.compare_with_identities(groups, people) == {
    'purity': 5 / 6,  # 2 of a, 2 of b, 1 of a
    'completeness': 4 / 6,  # 2 of a's 3, 2 of b's 3
    'precision': 2 / 4,
    'recall': 2 / 6,
  }


def test_each_image_alone_makes_no_wrong_pair():
  found = clustering.compare_with_identities(np.arange(3), np.zeros(3))
  assert found == {
    'purity': 1, 'completeness': 1 / 3, 'precision': 1, 'recall': 0,
  }  # fmt: skip
