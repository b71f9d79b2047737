import numpy as np
import pytest

from apnet_jax.index import codes

RNG = np.random.default_rng(0)


@pytest.mark.parametrize('features', [1, 64, 100, 600, 2048])
def test_distances_count_features_on_other_sides_of_the_centre(
  features, monkeypatch
):
  monkeypatch.setattr(codes, 'ROWS', 8)
  embeddings = RNG.normal(size=(101, features)).astype(np.float32)
  centre = RNG.normal(size=features).astype(np.float32)
  found = codes.encode(embeddings, centre)
  assert found.shape == (101, codes.words(features))
  sides = embeddings > centre
  expected = (sides != sides[7]).sum(1)
  distances = codes.distances(found[[3, 7]], found)
  np.testing.assert_array_equal(distances[1], expected)
  assert distances.dtype == np.uint16 and not distances[0, 3]


def test_opposite_codes_do_not_overflow():
  ones = np.ones((3, 2048), np.float32)
  both = codes.encode(np.concatenate([ones, -ones]), np.zeros(2048))
  found = codes.distances(both[:1], both)
  assert found.tolist() == [[0, 0, 0, 2048, 2048, 2048]]


def test_the_closest_include_all_that_are_equal():
  found = np.array([3, 1, 2, 2, 2, 9], np.uint16)
  assert codes.closest(found, 2).tolist() == [1, 2, 3, 4]
  assert codes.closest(found, 1).tolist() == [1]
  assert codes.closest(found, 6).tolist() == [*range(6)]
