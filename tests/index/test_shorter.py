import numpy as np
import pytest

from apnet_jax.config import get_config
from apnet_jax.errors import UserError
from apnet_jax.feed import Benchmark
from apnet_jax.index.shorter import Shortening
from apnet_jax.retrieval import evaluation
from tests.fakes import make_split
from tests.index.test_projection import write

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(20, 16)) + 0.5


def draw(pids, noise=0.8):
  rows = CENTRES[pids] + noise * RNG.normal(size=(len(pids), 16))
  return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype('float32')


@pytest.fixture
def path(tmp_path):
  return write(tmp_path / 'a.npz', draw(np.arange(200) % 20))


def naive_mAP(query, gallery, pids):
  found = []
  for q, similarity in enumerate(query @ gallery.T):
    ranks = np.flatnonzero(pids[np.argsort(-similarity, kind='stable')] == q)
    found.append(np.mean(np.arange(1, len(ranks) + 1) / (ranks + 1)))
  return np.mean(found)


def test_each_way_is_ranked_by_its_own_embeddings(path):
  people = np.arange(20)
  pids = np.tile(people, 4)
  benchmark = Benchmark(
    make_split(people, np.zeros(20, int)), make_split(pids, 1 + pids * 0), '',
    '', as_published=False, has_cameras=True,
  )  # fmt: skip
  drawn = {id(s): draw(s.pids) for s in (benchmark.query, benchmark.gallery)}
  evaluated = evaluation.evaluate(
    lambda _, split, rows: drawn[id(split)][rows], {}, benchmark,
    get_config().eval,
  )  # fmt: skip
  shorten = Shortening(path, 3, 'abc')
  found = shorten(evaluated, benchmark)
  assert {way: (x.length, x.fitted_on) for way, x in found.items()} == {
    'int8': (16, 0), 'codes': (64, 200), '3 dimensions': (6, 200),
    '3 dimensions, whitened': (6, 200), '3 dimensions, codes': (64, 200),
  }  # fmt: skip
  query, gallery = drawn.values()
  fitted = np.load(path)['embedding']
  variances, axes = np.linalg.eigh(np.cov(fitted.T, ddof=0))
  few = [(x - fitted.mean(0)) @ axes[:, -3:] for x in (query, gallery)]
  white = [x / np.sqrt(variances[-3:]) for x in few]
  signs = [np.sign(x - fitted.mean(0)) for x in (query, gallery)]
  few, white = (
    [x / np.linalg.norm(x, axis=1, keepdims=True) for x in pair]
    for pair in (few, white)
  )
  for way, rows in (
    ('3 dimensions', few), ('3 dimensions, whitened', white), ('codes', signs),
  ):  # fmt: skip
    assert found[way].result.mAP == pytest.approx(
      naive_mAP(*rows, pids), abs=0.01
    )
  assert found['int8'].result.mAP == pytest.approx(
    evaluated.result.mAP, abs=0.02
  )
  assert found['3 dimensions'].result.mAP < evaluated.result.mAP


def test_embeddings_of_another_network_are_refused(path):
  with pytest.raises(UserError, match='of another network'):
    Shortening(path, 3, 'other')
