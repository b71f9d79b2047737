import pathlib
import tracemalloc

from hypothesis import example, given
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from apnet_jax.retrieval import rerank
from apnet_jax.retrieval.rerank import KReciprocal, k_reciprocal_rerank

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


@pytest.fixture(scope='module', autouse=True)
def small_tiles():
  """Makes several tiles, the last of which is not full."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(rerank, 'TILE', 16)
    yield


def test_agrees_with_the_released_code():
  golden = np.load(GOLDEN / 'rerank_a.npz')
  distance = k_reciprocal_rerank(
    golden['query_features'],
    golden['gallery_features'],
    k1=int(golden['k1']),
    k2=int(golden['k2']),
    lambda_value=float(golden['lambda_value']),
  )
  assert distance.dtype == np.float32
  np.testing.assert_allclose(distance, golden['distance'], rtol=0, atol=1e-5)


def reciprocal(rank, i, k):
  return [j for j in rank[i, : k + 1] if i in rank[j, : k + 1]]


def densely(query, gallery, k1, k2, lambda_value):
  """Re-ranks as the original code does, with ties by index."""
  x = np.concatenate([query, gallery]).astype(np.float64)
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  original = np.maximum(2 - 2 * x @ x.T, 0)
  greatest = original.max(0)
  original = (original / np.where(greatest > 0, greatest, 1)).T
  rank = np.argsort(original, axis=1, kind='stable')

  V = np.zeros_like(original)
  for i in range(len(x)):
    near = reciprocal(rank, i, k1)
    expanded = set(near)
    for candidate in near:
      theirs = reciprocal(rank, candidate, int(np.around(k1 / 2)))
      if len(set(theirs) & set(near)) > 2 / 3 * len(theirs):
        expanded |= set(theirs)
    expanded = sorted(expanded)
    weight = np.exp(-original[i, expanded])
    V[i, expanded] = weight / weight.sum()
  if k2 != 1:
    V = np.stack([V[rank[i, :k2]].mean(0) for i in range(len(x))])

  queries = len(query)
  jaccard = np.zeros((queries, len(gallery)))
  for q in range(queries):
    for g in range(len(gallery)):
      smaller = np.minimum(V[q], V[queries + g]).sum()
      jaccard[q, g] = 1 - smaller / (2 - smaller)
  distance = original[:queries, queries:]
  return (1 - lambda_value) * jaccard + lambda_value * distance


def crowd(seed, images, people, width=16):
  """Draws embeddings of a few people, with noise of a random strength."""
  rng = np.random.default_rng(seed)
  who = rng.integers(people, size=images)
  noise = rng.normal(size=(images, width))
  return rng.normal(size=(people, width))[who] + noise * rng.uniform(0.2, 1)


def signs(seed, images, people, width=16):
  """Draws embeddings of -1 and 1: many are equal, and so are distances."""
  rng = np.random.default_rng(seed)
  who = rng.integers(people, size=images)
  flipped = rng.random((images, width)) < rng.choice([0, 0.03, 0.1])
  person = rng.choice([-1, 1], size=(people, width))[who]
  return np.where(flipped, -person, person)


# Few sizes, since each is compiled.
SIZES = st.sampled_from([(1, 1), (3, 9), (10, 30)])


@given(
  draw=st.sampled_from([crowd, signs]),
  seed=st.integers(0, 2**32 - 1),
  size=SIZES,
  people=st.integers(1, 8),
  k1=st.sampled_from([1, 5, 12, 50]),
  k2=st.sampled_from([1, 2, 6, 45]),
  lambda_value=st.sampled_from([0, 0.3, 1]),
)
@example(  # half of k1 is rounded up here
  draw=signs, seed=1, size=(10, 30), people=6, k1=7, k2=6, lambda_value=0.3
)
def test_is_the_original(draw, seed, size, people, k1, k2, lambda_value):
  x = draw(seed, sum(size), people)
  query, gallery = np.split(x, size[:1])
  arguments = query, gallery, k1, k2, lambda_value
  np.testing.assert_allclose(
    k_reciprocal_rerank(*arguments), densely(*arguments), rtol=0, atol=2e-6
  )


@pytest.mark.parametrize('stored', [True, False])
def test_an_image_that_is_query_and_gallery_counts_once(stored, monkeypatch):
  if not stored:
    monkeypatch.setattr(rerank, 'MAX_STORED_BYTES', 0)
  x = crowd(0, 40, 4)
  queries, gallery = np.arange(10), np.random.default_rng(1).permutation(38)
  places = np.full(10, -1)  # the last two queries are not in the gallery
  gallery += 2 * (gallery >= 8)
  places[:8] = np.argsort(gallery)[:8]
  distance = k_reciprocal_rerank(x[queries], x[gallery], places=places)
  for query, row in enumerate(distance):
    others = gallery != query
    missing = [q for q in (8, 9) if q != query]
    # All other images are the gallery of this query alone.
    order = np.concatenate([gallery[others], missing]).astype(int)
    (expected,) = densely(x[[query]], x[order], 20, 6, 0.3)
    np.testing.assert_allclose(
      row[others], expected[: others.sum()], rtol=0, atol=2e-6
    )
    np.testing.assert_allclose(row[~others], 0, atol=2e-6)


def test_equal_images_are_not_told_apart():
  """All distances are 0; the original divides 0 by 0 here."""
  same = np.ones((30, 3))
  distance = k_reciprocal_rerank(same[:2], same[2:], k1=40)
  np.testing.assert_allclose(distance, 0, rtol=0, atol=1e-6)


@pytest.mark.parametrize('stored', [True, False])
def test_blocks_are_rows(stored, monkeypatch):
  """With stored or recomputed distances, in many tiles and blocks."""
  x = crowd(0, 60, 6)
  whole = k_reciprocal_rerank(x[:23], x[23:])
  monkeypatch.setattr(rerank, 'QUERY_BLOCK', 9)
  monkeypatch.setattr(rerank, 'TILE', 25)
  monkeypatch.setattr(rerank, 'PAIR_BLOCK', 100)
  monkeypatch.setattr(rerank, 'MAX_STORED_BYTES', 4 * 23 * 60 - (not stored))
  scores = KReciprocal(x[:23], x[23:])
  assert (scores.queries, scores.gallery) == (23, 37)
  rows = np.array([22, 0, 7, 7])
  block = scores.block(rows)
  assert isinstance(block, np.ndarray) and block.dtype == np.float32
  np.testing.assert_allclose(-block, whole[rows], rtol=0, atol=1e-6)
  in_blocks = k_reciprocal_rerank(x[:23], x[23:])
  np.testing.assert_allclose(in_blocks, whole, rtol=0, atol=1e-6)


def test_the_scale_of_embeddings_does_not_matter():
  x = crowd(1, 40, 4)
  scale = np.random.default_rng(0).uniform(0.1, 10, (40, 1))
  np.testing.assert_allclose(
    k_reciprocal_rerank(x[:10] * scale[:10], x[10:] * scale[10:]),
    k_reciprocal_rerank(x[:10], x[10:]),
    rtol=0, atol=1e-6,
  )  # fmt: skip


def test_no_matrix_of_all_distances_on_the_host(monkeypatch):
  monkeypatch.setattr(rerank, 'MAX_STORED_BYTES', 0)
  monkeypatch.setattr(rerank, 'TILE', 512)
  images = 6000
  x = crowd(0, images, 300, width=4).astype(np.float32)
  tracemalloc.start()
  try:
    KReciprocal(x[: images // 2], x[images // 2 :]).block(np.arange(8))
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  matrix = (images // 2) ** 2 * x.itemsize
  assert peak < matrix / 2


def test_no_matrix_of_all_distances_on_the_device():
  """A block of distances takes its own size twice, at most."""
  rows = jax.ShapeDtypeStruct((rerank.QUERY_BLOCK, 64), np.float32)
  gallery = jax.ShapeDtypeStruct((50_000, 64), np.float32)
  made = rerank._squared_distances.lower(rows, gallery).compile()
  memory = made.memory_analysis()
  block = rerank.QUERY_BLOCK * 50_000 * 4
  assert memory.output_size_in_bytes == block
  assert memory.temp_size_in_bytes <= block


def test_the_variant_has_the_values():
  usual = rerank.describe(rerank.K1, rerank.K2, rerank.LAMBDA_VALUE)
  for words in ('Zhong', 'squared', 'row maximum', 'k1 20', 'k2 6', '0.3'):
    assert words in usual
  assert 'k1 3, k2 2, lambda 0' in rerank.describe(3, 2, 0)


WRONG = np.eye(4)
WRONG[1], WRONG[3] = 0, np.nan
MISTAKES = [
  ({'k1': 0}, 'k1=0 must'),
  ({'k2': -1}, 'k2=-1 must'),
  ({'lambda_value': 1.5}, 'lambda_value=1.5 is not'),
  ({'lambda_value': np.nan}, 'lambda_value=nan is not'),
  ({'query_embeddings': np.ones(4)}, r'query_embeddings has shape \(4,\)'),
  ({'gallery_embeddings': np.ones((0, 4))}, r'gallery.* has shape \(0, 4\)'),
  ({'query_embeddings': WRONG}, r'query_embeddings has 2 rows .*: \[1, 3\]'),
  ({'gallery_embeddings': WRONG[3:]}, r'gallery_embeddings .*: \[0\]'),
  ({'gallery_embeddings': np.ones((5, 3))}, '4 features.*gallery.* 3'),
]


@pytest.mark.parametrize('changes, message', MISTAKES)
def test_mistakes_are_named(changes, message):
  arguments = {
    'query_embeddings': np.eye(4),
    'gallery_embeddings': np.eye(4),
  }
  with pytest.raises(ValueError, match=message):
    k_reciprocal_rerank(**(arguments | changes))
