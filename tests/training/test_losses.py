import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apnet_jax.training import losses

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


@pytest.mark.parametrize('name', ['loss_a', 'loss_b'])
def test_values_and_gradients_agree_with_the_released_code(name):
  golden = np.load(GOLDEN / f'{name}.npz')
  labels = jnp.asarray(golden['labels'], jnp.int32)

  def loss(features, logits):
    hardest = losses.hardest_distances(features, labels, features, labels)
    triplet = losses.triplet(hardest, float(golden['margin']))
    cross_entropy = losses.cross_entropy(
      logits, labels, float(golden['label_smoothing'])
    )
    return triplet + cross_entropy, (triplet, cross_entropy, hardest)

  gradients, (triplet, cross_entropy, hardest) = jax.grad(
    loss, argnums=(0, 1), has_aux=True
  )(golden['features'], golden['logits'])

  np.testing.assert_allclose(triplet, golden['triplet'], rtol=1e-5)
  np.testing.assert_allclose(cross_entropy, golden['cross_entropy'], rtol=1e-5)
  for ours, theirs in (
    (hardest.positive, golden['hardest_positive']),
    (hardest.negative, golden['hardest_negative']),
    (gradients[0], golden['features_gradient']),
    (gradients[1], golden['logits_gradient']),
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_triplet_by_hand():
  features = jnp.array([[0.0], [1.0], [3.0], [7.0]])
  labels = jnp.array([0, 0, 1, 1])
  hardest = losses.hardest_distances(features, labels, features, labels)
  np.testing.assert_allclose(hardest.positive, [1, 1, 4, 4])
  np.testing.assert_allclose(hardest.negative, [3, 2, 2, 6])
  # Hinges with margin 0.3: 0, 0, 2.3, 0.
  np.testing.assert_allclose(losses.triplet(hardest, 0.3), 2.3 / 4, rtol=1e-6)


def test_cross_entropy_by_hand():
  logits = jnp.log(jnp.array([[0.7, 0.2, 0.1]]))
  targets = np.array([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3])
  expected = -(targets * np.log([0.7, 0.2, 0.1])).sum()
  loss = losses.cross_entropy(logits, jnp.array([0]), 0.1)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_gradient_is_finite_when_all_features_are_equal():
  features, labels = jnp.ones((4, 8)), jnp.array([0, 0, 1, 1])

  def loss(features):
    hardest = losses.hardest_distances(features, labels, features, labels)
    return losses.triplet(hardest, 0.3)

  value, gradient = jax.value_and_grad(loss)(features)
  np.testing.assert_allclose(value, 0.3, rtol=1e-5)
  assert jnp.isfinite(gradient).all()
