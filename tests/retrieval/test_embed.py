import dataclasses

import jax
import numpy as np
import pytest

from apnet_jax.feed import Benchmark
from apnet_jax.models.apnet import initialize
from apnet_jax.models.normalization import normalize
from apnet_jax.retrieval import evaluation
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
