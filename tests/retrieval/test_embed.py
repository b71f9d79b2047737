import dataclasses

import jax
import numpy as np
import pytest

from apnet_jax.feed import Benchmark
from apnet_jax.models.apnet import initialize
from apnet_jax.models.normalization import normalize
from apnet_jax.retrieval import embed, evaluation
from apnet_jax.retrieval.embed import BLACK, embed_pixels, make_embed
from tests.fakes import SIZE, make_split, small_config
from tests.tiny import tiny_model


@pytest.fixture(scope='module')
def network():
  model = tiny_model(small_config().model, 3)
  return model, initialize(model, SIZE, seed=0)


@pytest.mark.parametrize(
  ('flip', 'feature', 'distance'),
  [
    (True, 'embedding', 'cosine'),
    (False, 'feature', 'euclidean'),
    (True, 'logits', 'euclidean'),
  ],
)
def test_every_image_is_embedded_once_and_in_order(
  network, flip, feature, distance
):
  """Eleven images in batches of eight on four devices."""
  model, variables = network
  rules = small_config().eval
  rules.update(batch_size=7, flip=flip, feature=feature, distance=distance)
  split = make_split(np.arange(12), np.zeros(12, int))
  rows = np.array([3, 1, 2, 11, 10, 9, 8, 7, 6, 5, 4])
  embeddings = make_embed(model, rules)(variables, split, rows)

  (images,) = split.batches(rows, 100)

  def apply(variables, images):
    return getattr(jax.jit(model.apply)(variables, images), feature)

  expected = apply(variables, normalize(images))
  if flip:
    mirrored = normalize(images[:, :, ::-1])
    expected = (expected + apply(variables, mirrored)) / 2
  if distance == 'cosine':
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
  np.testing.assert_allclose(
    embeddings, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max()
  )


def test_a_batch_is_read_while_the_one_before_is_computed(monkeypatch):
  events = []

  class Output:
    def __init__(self, number):
      self.number = number
      events.append(f'start {number}')

    def __array__(self, dtype=None, copy=None):
      events.append(f'end {self.number}')
      return np.full((4, 1), self.number, np.float32)

  def batches(rows, batch_size):
    for number in range(3):
      events.append(f'read {number}')
      yield np.full((4 if number < 2 else 1, 1, 1, 3), number, np.uint8)

  monkeypatch.setattr(
    embed, 'make_embed_batch', lambda *_: lambda _, x: Output(int(x.max()))
  )
  rules = small_config().eval
  rules.batch_size = 4
  split = dataclasses.replace(
    make_split(np.arange(9), np.zeros(9, int)), batches=batches
  )
  embeddings = make_embed(None, rules)({}, split, np.arange(9))
  assert embeddings.ravel().tolist() == [0] * 4 + [1] * 4 + [2]
  assert events == [
    'read 0', 'start 0', 'read 1', 'end 0', 'start 1', 'read 2', 'end 1',
    'start 2', 'end 2',
  ]  # fmt: skip


def test_pixels():
  split = make_split(np.arange(4), np.zeros(4, int))
  pixels = embed_pixels({}, split, np.array([2, 0]))
  (images,) = split.batches(np.array([2, 0]), 100)
  np.testing.assert_allclose(pixels, images.reshape(2, -1) / 255, rtol=1e-6)


@pytest.mark.parametrize('distance', ['cosine', 'euclidean'])
def test_a_black_image_ends_no_baseline_of_pixels(distance):
  rules = small_config().eval
  rules.distance = distance
  people = np.arange(4)
  gallery = make_split([*people, 9], [1] * 5)  # 9 is a distractor

  def with_black(rows, batch_size):
    for images in gallery.batches(rows, batch_size):
      yield images * (rows != 4).astype(np.uint8)[:, None, None, None]

  def evaluate(gallery):
    query = make_split(people, np.zeros(4, int))
    benchmark = Benchmark(query, gallery, 'noise', '')
    return evaluation.evaluate(embed_pixels, {}, benchmark, rules)

  black = evaluate(dataclasses.replace(gallery, batches=with_black))
  usual = evaluate(gallery)
  assert (black.gallery_embeddings[4] == BLACK).all()
  np.testing.assert_array_equal(
    black.gallery_embeddings[:4], usual.gallery_embeddings[:4]
  )
  assert np.isfinite(black.result.mAP)
