import dataclasses
import pathlib
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from apnet_jax import evaluate_retrieval
from apnet_jax.parallel.devices import AXIS
from apnet_jax.retrieval import metrics, scores
from apnet_jax.retrieval.scores import shard_similarities

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


def test_agrees_with_the_released_code():
  golden = np.load(GOLDEN / 'retrieval_a.npz')
  result = evaluate_retrieval(
    golden['query_features'],
    golden['query_pids'],
    golden['query_camids'],
    golden['gallery_features'],
    golden['gallery_pids'],
    golden['gallery_camids'],
  )
  np.testing.assert_allclose(result.mAP, golden['mAP'], atol=1e-6)
  np.testing.assert_allclose(result.cmc, golden['cmc'], atol=1e-6)


def on_a_circle(degrees):
  """Returns embeddings at angles; their cosine to 0 falls with the angle."""
  angle = np.radians(np.asarray(degrees, np.float64))
  return np.stack([np.cos(angle), np.sin(angle)], 1)


def test_by_hand():
  # True matches at ranks 1, 2, 4 and 7 of seven valid gallery images.
  pids = np.array([5, 5, 9, 5, 8, 8, 5])
  result = evaluate_retrieval(
    on_a_circle([0]), np.array([5]), np.array([0]),
    on_a_circle([10, 20, 30, 40, 50, 60, 70]), pids, np.ones(7, int),
  )  # fmt: skip
  np.testing.assert_allclose(result.mAP, (1 + 1 + 3 / 4 + 4 / 7) / 4)
  np.testing.assert_allclose(result.mAP_trapezoid, 0.8110, atol=5e-5)
  np.testing.assert_allclose(result.mINP, 4 / 7)
  np.testing.assert_array_equal(result.cmc, np.ones(7))
  assert (result.num_valid_queries, result.num_skipped_queries) == (1, 0)


def test_market_rules_by_hand():
  """The first three are the same camera, junk and another person."""
  pids = np.array([5, -1, 7, 5])
  camids = np.array([0, 1, 0, 1])
  result = evaluate_retrieval(
    on_a_circle([0, 0]), np.array([5, 6]), np.array([0, 0]),
    on_a_circle([1, 2, 3, 4]), pids, camids,
  )  # fmt: skip
  assert result.first_match_rank.tolist() == [2, 0]
  np.testing.assert_allclose(result.mAP, 0.5)
  np.testing.assert_array_equal(result.cmc, [0, 1, 1])
  assert result.rank(1) == 0 and result.rank(2) == 1 and result.rank(50) == 1
  assert (result.num_valid_queries, result.num_skipped_queries) == (1, 1)
  np.testing.assert_array_equal(
    np.isnan(result.average_precision), [False, True]
  )


def test_ties_rank_by_gallery_index():
  result = evaluate_retrieval(
    on_a_circle([0]), np.array([1]), np.array([0]),
    on_a_circle([30, 30, 30, 30]), np.array([2, 1, 3, 1]), np.ones(4, int),
  )  # fmt: skip
  np.testing.assert_allclose(result.mAP, (1 / 2 + 2 / 4) / 2)


def naive_ranks(similarity, query_pids, query_camids, pids, camids):
  """Returns the ranks of the matches of each query, by sorting."""
  all_ranks = []
  for q in range(len(similarity)):
    order = np.argsort(-similarity[q], kind='stable')
    same = pids[order] == query_pids[q]
    excluded = same & (camids[order] == query_camids[q])
    ranked = same[~excluded & (pids[order] != -1)]
    all_ranks.append(np.flatnonzero(ranked) + 1)
  return all_ranks


def naive_average_precision(ranks):
  """Returns the area under precision over recall, by steps and trapezoids."""
  step = trapezoid = 0
  for i, rank in enumerate(ranks, 1):
    before = (i - 1) / (rank - 1) if rank > 1 else 1
    step += i / rank / len(ranks)
    trapezoid += (i / rank + before) / 2 / len(ranks)
  return (step, trapezoid) if len(ranks) else (np.nan, np.nan)


def check(result, ranks, length):
  """Compares a result with the ranks of the matches of each query."""
  first = np.array([r[0] if len(r) else 0 for r in ranks])
  valid = first > 0
  step, trapezoid = np.array([naive_average_precision(r) for r in ranks]).T
  np.testing.assert_array_equal(result.first_match_rank, first)
  np.testing.assert_array_equal(result.num_matches, [len(r) for r in ranks])
  np.testing.assert_allclose(result.average_precision, step)
  np.testing.assert_allclose(result.mAP, np.nanmean(step))
  np.testing.assert_allclose(result.mAP_trapezoid, np.nanmean(trapezoid))
  np.testing.assert_allclose(
    result.mINP, np.mean([len(r) / r[-1] for r in ranks if len(r)])
  )
  assert result.num_valid_queries == valid.sum()
  assert result.num_skipped_queries == len(ranks) - valid.sum()
  np.testing.assert_allclose(
    result.cmc,
    [np.mean(first[valid] <= k) for k in range(1, length + 1)],
  )
  figures = result.figures()
  for k in (1, 2, 5, 10, 99):
    share = np.mean(first[valid] <= min(k, length))
    assert result.rank(k) == share == figures.get(f'Rank-{k}', share)


def draw_world(rng, distance):
  """Draws few images, many with equal similarities, exact in float32."""
  queries, gallery = rng.integers(1, 33), rng.integers(1, 65)
  identities, cameras, used = rng.integers(1, [7, 4, 6])
  if distance == 'cosine':  # scaled one-hot: similarities are 0 or 1
    draw = np.eye(5)[rng.integers(used, size=queries + gallery)]
    draw *= rng.integers(1, 4, (len(draw), 1))
    unit = draw / draw.sum(1, keepdims=True)
    similarity = unit[:queries] @ unit[queries:].T
  else:  # small integers
    draw = rng.integers(-used, used + 1, (queries + gallery, 5)).astype(float)
    difference = draw[:queries, None] - draw[queries:]
    similarity = -(difference**2).sum(-1)
  pids = rng.integers(identities, size=queries + gallery)
  camids = rng.integers(cameras, size=queries + gallery)
  junk = rng.random(gallery) < rng.choice([0, 0.2, 0.9])
  pids[queries:][junk] = -1
  return {
    'similarity': similarity,
    'arguments': (
      draw[:queries], pids[:queries], camids[:queries],
      draw[queries:], pids[queries:], camids[queries:],
    ),
  }  # fmt: skip


@pytest.mark.parametrize('distance', ['cosine', 'euclidean'])
@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), cameras=st.booleans())
def test_equals_a_naive_evaluation(distance, seed, cameras):
  rng = np.random.default_rng(seed)
  for _ in range(20):
    world = draw_world(rng, distance)
    query, query_pids, query_camids, gallery, pids, camids = world['arguments']
    if not cameras:
      query_camids, camids = np.zeros_like(query_camids), np.ones_like(camids)
    ranks = naive_ranks(
      world['similarity'], query_pids, query_camids, pids, camids
    )
    arguments = (
      query, query_pids, query_camids if cameras else None,
      gallery, pids, camids if cameras else None,
    )  # fmt: skip
    if any(map(len, ranks)):
      result = evaluate_retrieval(*arguments, distance=distance)
      check(result, ranks, min(50, (pids != -1).sum()))
    else:
      with pytest.raises(ValueError, match='none of the'):
        evaluate_retrieval(*arguments, distance=distance)


def draw_large(queries, gallery, seed=0):
  """Draws a gallery of several tiles per device, each image about three times.

  Embeddings are small integers, so that their products are exact.
  """
  rng = np.random.default_rng(seed)
  some = rng.integers(-8, 9, (gallery // 3, 24)).astype(np.float32)
  rows = rng.integers(len(some), size=queries + gallery)
  pids = rng.integers(60, size=queries + gallery)
  pids[queries:][rng.random(gallery) < 0.1] = -1
  camids = rng.integers(3, size=queries + gallery)
  embeddings = some[rows]
  return (
    embeddings[:queries], pids[:queries], camids[:queries],
    embeddings[queries:], pids[queries:], camids[queries:],
  )  # fmt: skip


def test_many_queries_and_tiles(monkeypatch):
  """Several blocks, tiles and devices, with repeated images."""
  arguments = draw_large(queries=150, gallery=9000)
  query, query_pids, query_camids, gallery, pids, camids = arguments
  expected = evaluate_retrieval(*arguments, distance='euclidean')
  distance = -2 * query @ gallery.T + (gallery**2).sum(1)
  check(
    expected,
    naive_ranks(-distance, query_pids, query_camids, pids, camids),
    length=50,
  )
  monkeypatch.setattr(metrics, 'QUERY_BLOCK', 64)
  check_same(evaluate_retrieval(*arguments, distance='euclidean'), expected)


def check_same(result, expected):
  """Compares results with equal ranks; sums may be rounded differently."""
  for field in dataclasses.fields(result):
    np.testing.assert_allclose(
      getattr(result, field.name), getattr(expected, field.name), rtol=1e-12
    )


@pytest.mark.parametrize('number', [1, 3])
def test_any_number_of_devices(number, monkeypatch):
  arguments = draw_large(queries=40, gallery=5000)
  expected = evaluate_retrieval(*arguments, distance='euclidean')
  some = jax.local_devices()[:number]
  jax.clear_caches()  # compiled programs are tied to their devices
  monkeypatch.setattr(jax, 'local_devices', lambda: some)
  try:
    assert shard_similarities(np.zeros((1, 1))).sharding.device_set == set(some)
    check_same(evaluate_retrieval(*arguments, distance='euclidean'), expected)
  finally:
    jax.clear_caches()


@pytest.fixture
def small_tiles(monkeypatch):
  for module in (metrics, scores):
    monkeypatch.setattr(module, 'TILE', 256)


def write_memory_map(path, array):
  found = np.memmap(path, array.dtype, 'w+', shape=array.shape)
  found[:] = array
  return found


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_a_memory_map_has_the_same_figures(dtype, small_tiles, tmp_path):
  """Several tiles on each device, with junk and repeated images."""
  arguments = list(draw_large(queries=40, gallery=5000))
  expected = evaluate_retrieval(*arguments, distance='euclidean')
  mapped = write_memory_map(tmp_path / 'gallery', arguments[3].astype(dtype))
  arguments[3] = mapped[:]
  check_same(evaluate_retrieval(*arguments, distance='euclidean'), expected)
  mapped[7, 3] = np.nan
  with pytest.raises(ValueError, match=r'1 rows that are not finite: \[7\]'):
    evaluate_retrieval(*arguments, distance='euclidean')


def test_a_memory_map_is_not_copied(small_tiles, tmp_path):
  gallery = np.ones((16_384, 512), np.float16)
  gallery = write_memory_map(tmp_path / 'gallery', gallery)
  rows = np.arange(8)
  tracemalloc.start()
  try:
    scores.EmbeddingScores(
      np.ones((8, 512)), gallery, np.arange(len(gallery)), 'cosine'
    ).block(rows)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < gallery.size * 4 / 2


def test_more_queries_than_a_block_and_any_scale():
  rng = np.random.default_rng(0)
  number = metrics.QUERY_BLOCK + 3
  embeddings = rng.standard_normal((number, 16)).astype(np.float32)
  pids = np.arange(number)
  result = evaluate_retrieval(
    7 * embeddings, pids, np.zeros(number, int),
    0.1 * embeddings, pids, np.ones(number, int),
  )  # fmt: skip
  assert result.mAP == 1 and result.rank(1) == 1


def test_euclidean_is_on_embeddings_as_they_are():
  """The first gallery image is the nearest, the second has the same angle."""
  arguments = (
    np.array([[1.0, 0.0]]), np.array([1]), np.array([0]),
    np.array([[0.9, 0.4], [9.0, 0.0]]), np.array([1, 2]), np.array([1, 1]),
  )  # fmt: skip
  assert evaluate_retrieval(*arguments).mAP == 0.5
  assert evaluate_retrieval(*arguments, distance='euclidean').mAP == 1


def good():
  return {
    'query_embeddings': np.eye(3),
    'query_pids': np.arange(3),
    'query_camids': np.zeros(3, int),
    'gallery_embeddings': np.eye(3),
    'gallery_pids': np.arange(3),
    'gallery_camids': np.ones(3, int),
  }


@pytest.mark.parametrize(
  ('name', 'value', 'message'),
  [
    ('query_embeddings', np.eye(3)[:0], r'query_embeddings has shape \(0, 3\)'),
    ('query_embeddings', np.diag([1, 0, 1]), r'1 rows that are zero.*\[1\]'),
    ('gallery_embeddings', np.full((3, 3), np.nan), 'not finite'),
    ('gallery_embeddings', np.eye(4)[:3], '3 features.*4'),
    ('gallery_pids', np.arange(2), r'gallery_pids has shape \(2,\)'),
    ('query_camids', np.zeros(3), 'query_camids are float64'),
    ('query_pids', np.array([0, -1, 2]), r'query_pids\[1\]=-1 is junk'),
    ('gallery_camids', np.zeros(3, int), 'none of the 3 queries'),
    ('max_rank', 0, 'max_rank=0'),
    ('distance', 'manhattan', "distance='manhattan' is not one of"),
    ('gallery_camids', None, 'both must be None, or neither'),
    ('query_pids', np.arange(3, dtype=np.uint64), 'query_pids are uint64'),
    ('query_pids', np.ones(3, bool), 'query_pids are bool'),
  ],
)
def test_bad_input_is_named(name, value, message):
  with pytest.raises(ValueError, match=message):
    evaluate_retrieval(**good() | {name: value})


@pytest.mark.parametrize('scale', [1e-100, 1e100])
def test_float64_may_be_of_any_scale(scale):
  result = evaluate_retrieval(
    **good() | {'query_embeddings': scale * np.eye(3)}
  )
  assert result.mAP == 1


def test_zero_embeddings_have_euclidean_distances():
  zero = good() | {'query_embeddings': np.diag([1, 0, 1])}
  assert evaluate_retrieval(**zero, distance='euclidean').num_valid_queries == 3


def test_memory_is_that_of_a_block():
  """Product and counting need little more than a block of similarities."""
  queries, items, features = metrics.QUERY_BLOCK, 64_000, 16
  mesh = shard_similarities(np.zeros((1, 1))).sharding.mesh

  def array(shape, dtype, *spec):
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  def memory(function, *arguments):
    return function.lower(*arguments).compile().memory_analysis()

  block_bytes = 4 * queries * items // jax.device_count()
  product = memory(
    scores._similarities,
    array((queries, features), np.float32),
    array((items, features), np.float32, AXIS),
    array((items,), np.float32, AXIS),
  )
  assert product.output_size_in_bytes == block_bytes
  assert product.temp_size_in_bytes <= block_bytes
  matches = array((queries, 16), np.int32)
  count = memory(
    metrics._count_closer,
    array((queries, items), np.float32, None, AXIS),
    matches,
    matches,
    array((), np.int32),
  )
  assert count.argument_size_in_bytes < 1.1 * block_bytes
  assert count.temp_size_in_bytes < block_bytes / 2
