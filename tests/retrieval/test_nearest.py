import numpy as np
import pytest

from apnet_jax.retrieval import nearest

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  monkeypatch.setattr(nearest, 'BLOCK', 16)
  monkeypatch.setattr(nearest, 'QUERIES', 3)


@pytest.mark.parametrize('top', [1, 5, 20, 99])
def test_blocks_give_what_a_sort_gives(top, tmp_path):
  """Small integers, so that many similarities are equal."""
  queries = RNG.integers(-2, 3, (7, 4)).astype(np.float32)
  gallery = RNG.integers(-2, 3, (77, 4)).astype(np.float16)
  gallery.tofile(tmp_path / 'gallery.bin')
  stored = np.memmap(tmp_path / 'gallery.bin', np.float16, 'r', shape=(77, 4))
  removed = RNG.random(77) < 0.2
  for array in (gallery, stored):
    for gone in (None, removed):
      found = list(nearest.search(queries, array, top, gone))
      assert len(found) == 7
      for query, (rows, similarity) in zip(queries, found):
        products = gallery.astype(np.float32) @ query
        if gone is not None:
          products[gone] = -np.inf
        order = np.argsort(-products, kind='stable')
        order = order[np.isfinite(products[order])][:top]
        np.testing.assert_array_equal(rows, order)
        np.testing.assert_allclose(similarity, products[order], rtol=1e-6)


def test_the_closest_are_those_of_a_stable_sort():
  rng = np.random.default_rng(0)
  for _ in range(50):
    values = rng.integers(0, 6, 30).astype(np.float32)  # many are equal
    expected = np.argsort(-values, kind='stable')
    for top in (0, 1, 7, 30):
      found = nearest.closest(values, top)
      assert found.tolist() == expected[:top].tolist()


def test_few_numbers_of_queries_are_compiled(monkeypatch):
  monkeypatch.setattr(nearest, 'QUERIES', 12)
  queries = RNG.normal(size=(12, 5)).astype(np.float32)
  gallery = RNG.normal(size=(9, 5)).astype(np.float32)
  expected = [rows.tolist() for rows, _ in nearest.search(queries, gallery, 9)]
  nearest.similarities.clear_cache()
  for count in range(1, 13):
    found = nearest.search(queries[:count], gallery, 9)
    assert [rows.tolist() for rows, _ in found] == expected[:count]
  assert nearest.similarities._cache_size() == 5  # 1, 2, 4, 8 and 12
