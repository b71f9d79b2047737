import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apnet_jax.models.heads import Branch, ReidOutput
from apnet_jax.training import losses
from apnet_jax.training.train_step import center_loss, reid_loss
from configs import common

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


def test_center_loss_of_bot_by_our_weight_and_rate():
  """The conversion of docs/recipes.md, for 20 x 4 images."""
  rng = np.random.default_rng(0)
  labels = np.repeat(np.arange(20), 4)
  features, centers = rng.normal(size=(80, 3)), rng.normal(size=(25, 3))

  def of_bot(features, centers):  # without the factor 1/2
    return jnp.square(features - centers[labels]).sum(1).mean()

  def ours(features):
    return 1e-3 * losses.center(features, labels, centers)

  by_feature, by_center = jax.grad(of_bot, (0, 1))(features, centers)
  np.testing.assert_allclose(
    jax.grad(ours)(features), 5e-4 * by_feature, rtol=1e-5, atol=1e-9
  )
  moved = losses.moved_centers(jnp.array(centers), features, labels, 0.0625)
  np.testing.assert_allclose(moved, centers - 0.5 * by_center, rtol=1e-4)


def test_soft_margin_by_hand():
  """And its gradient by the features, where each distance moves two of them."""
  labels = jnp.array([0, 0, 1, 1])

  def loss(features):
    hardest = losses.hardest_distances(features, labels, features, labels)
    return losses.soft_margin_triplet(hardest)

  features = jnp.array([[0.0], [1.0], [3.0], [7.0]])
  value, gradient = jax.value_and_grad(loss)(features)
  # Positive minus negative: 1 - 3, 1 - 2, 4 - 2, 4 - 6.
  excess = np.array([-2, -1, 2, -2])
  np.testing.assert_allclose(value, np.log1p(np.exp(excess)).mean(), rtol=1e-6)
  a, b, c, d = 1 / (1 + np.exp(-excess)) / 4
  # They are x1 - x0 - (x2 - x0), x1 - x0 - (x2 - x1), x3 - x2 - (x2 - x1) and
  # x3 - x2 - (x3 - x1).
  expected = [-b, a + 2 * b + c + d, -a - b - 2 * c - d, c]
  np.testing.assert_allclose(gradient.ravel(), expected, rtol=1e-5, atol=1e-7)


def test_cross_entropy_by_hand():
  logits = jnp.log(jnp.array([[0.7, 0.2, 0.1]]))
  targets = np.array([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3])
  expected = -(targets * np.log([0.7, 0.2, 0.1])).sum()
  loss = losses.cross_entropy(logits, jnp.array([0]), 0.1)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize(
  ('triplet', 'expected'),
  [
    (lambda hardest: losses.triplet(hardest, 0.3), 0.3),
    (losses.soft_margin_triplet, np.log(2)),
  ],
)
def test_gradient_is_finite_when_all_features_are_equal(triplet, expected):
  features, labels = jnp.ones((4, 8)), jnp.array([0, 0, 1, 1])

  def loss(features):
    hardest = losses.hardest_distances(features, labels, features, labels)
    return triplet(hardest)

  value, gradient = jax.value_and_grad(loss)(features)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  assert jnp.isfinite(gradient).all()


def test_smooth_k_need_not_be_the_number_of_classes():
  """With smooth_k as in the released code, targets need not sum to 1."""
  targets = np.array([0.9 + 0.1 / 10, 0.1 / 10, 0.1 / 10])
  loss = losses.cross_entropy(
    jnp.log(jnp.array([[0.7, 0.2, 0.1]])), jnp.array([0]), 0.1, smooth_k=10
  )
  expected = -(targets * np.log([0.7, 0.2, 0.1])).sum()
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


def circle_by_loop(x, labels, margin, scale):
  """Sun et al., Eq. (6), and the gradient by each similarity, Eq. (10).

  Returns:
    The mean loss, and its gradient [anchors, images] by the cosines.
  """
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  s = unit @ unit.T
  images = range(len(x))
  values, gradient = [], np.zeros_like(s)
  for a in images:
    ps = [i for i in images if labels[i] == labels[a] and i != a]
    ns = [j for j in images if labels[j] != labels[a]]
    p = {
      i: np.exp(-scale * max(1 + margin - s[a, i], 0) * (s[a, i] - 1 + margin))
      for i in ps
    }
    n = {
      j: np.exp(scale * max(s[a, j] + margin, 0) * (s[a, j] - margin))
      for j in ns
    }
    product = sum(p.values()) * sum(n.values())
    values.append(np.log1p(product))
    z = product / (1 + product)  # 1 - exp(-loss)
    for i in ps:
      weight = max(1 + margin - s[a, i], 0)
      gradient[a, i] = -z * p[i] / sum(p.values()) * scale * weight
    for j in ns:
      weight = max(s[a, j] + margin, 0)
      gradient[a, j] = z * n[j] / sum(n.values()) * scale * weight
  return np.mean(values), gradient / len(x)


def test_circle_loss_and_its_gradient_are_those_of_its_paper():
  rng = np.random.default_rng(3)
  labels = np.array([0, 0, 0, 1, 1, 2, 2])
  x = rng.normal(size=(7, 3)) + labels[:, None]
  margin, scale = 0.25, 6.0
  expected, by_cosine = circle_by_loop(x, labels, margin, scale)

  def loss(x):
    order = jnp.arange(7)
    return losses.circle(x, labels, x, labels, order, margin, scale)

  value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.float32(x))
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  # The chain rule: cosines of unit vectors, then x / |x|.
  length = np.linalg.norm(x, axis=1, keepdims=True)
  unit = x / length
  by_unit = (by_cosine + by_cosine.T) @ unit
  radial = (by_unit * unit).sum(1, keepdims=True) * unit
  by_x = (by_unit - radial) / length
  np.testing.assert_allclose(gradient, by_x, rtol=1e-4, atol=1e-5)


def test_circle_loss_is_finite_where_exponents_are_large():
  x, labels = jnp.array([[0.0], [0.0], [1e4], [-1e4]]), jnp.array([0, 0, 1, 1])

  def loss(x):
    return losses.circle(x, labels, x, labels, jnp.arange(4), 0.25, 1024.0)

  value, gradient = jax.jit(jax.value_and_grad(loss))(x)
  assert value > 100 and jnp.isfinite(value) and jnp.isfinite(gradient).all()


def test_center_loss_and_its_gradient_are_those_of_its_paper():
  """Wen et al., Eq. (2) and (3), per image."""
  rng = np.random.default_rng(4)
  x, centers = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
  labels = np.array([2, 0, 2, 4])
  value, gradient = jax.jit(jax.value_and_grad(losses.center))(
    jnp.float32(x), labels, centers
  )
  expected = sum(((x[i] - centers[labels[i]]) ** 2).sum() / 2 for i in range(4))
  np.testing.assert_allclose(value, expected / 4, rtol=1e-5)
  np.testing.assert_allclose(gradient, (x - centers[labels]) / 4, rtol=1e-5)


def test_centers_are_summed_in_a_fixed_order():
  """The order of a scatter is not fixed on a GPU, that of a product is."""
  program = jax.jit(losses.moved_centers).lower(
    jnp.zeros((5, 3)), jnp.zeros((4, 3)), jnp.zeros(4, int), 0.5
  )
  assert 'scatter' not in program.as_text()
  assert 'precision = [HIGHEST, HIGHEST]' in program.as_text()


def test_distances_and_cosines_are_not_rounded_first():
  """Accelerators round float32 operands to bfloat16 by default."""
  x, labels = jnp.zeros((4, 3)), jnp.zeros(4, int)
  for loss in (
    lambda x: losses.hardest_distances(x, labels, x, labels),
    lambda x: losses.circle(x, labels, x, labels, labels, 0.25, 64.0),
  ):
    program = jax.jit(loss).lower(x).as_text()
    assert program.count('dot_general') == 1
    assert 'precision = [HIGHEST, HIGHEST]' in program


def test_two_devices_move_centers_by_the_batch_of_both():
  """Wen et al., Eq. (4); the identity that the batch lacks stays."""
  rng = np.random.default_rng(5)
  labels = np.array([[0, 1, 0, 2], [1, 2, 1, 0]])
  features = rng.normal(size=(2, 2, 4, 3))  # branches, devices, images
  centers = tuple(rng.normal(size=(2, 4, 3)))
  config = common.get_config().train

  def of_device(features, labels):
    branches = tuple(Branch(feature, None) for feature in features)
    output = ReidOutput(None, None, None, branches)
    return center_loss(output, labels, jnp.array(centers), config, 'batch')

  loss, moved = jax.jit(jax.vmap(of_device, (1, 0), axis_name='batch'))(
    features, labels
  )
  flat, whole = labels.ravel(), features.reshape(2, 8, 3)
  squares = [((x - c[flat]) ** 2).sum(1) / 2 for x, c in zip(whole, centers)]
  np.testing.assert_allclose(loss.mean(), np.mean(squares), rtol=1e-5)
  for x, old, new in zip(whole, centers, moved):
    for person in range(4):
      steps = old[person] - x[flat == person]
      expected = old[person] - 0.5 * steps.sum(0) / (1 + len(steps))
      for device in (0, 1):
        np.testing.assert_allclose(new[device, person], expected, rtol=1e-5)


@pytest.mark.parametrize('soft', [False, True])
def test_loss_of_two_branches_on_two_devices_by_hand(soft):
  """Eq. (9): the mean over branches, mined in the batch of both devices."""
  rng = np.random.default_rng(0)
  labels = np.array([[0, 1, 0, 2], [1, 2, 1, 0]])
  features = rng.normal(size=(2, 2, 4, 3)) * [[[[1]]], [[[5]]]]
  logits = rng.normal(size=(3, 2, 4, 3))  # one classifier, and two
  config = common.get_config().train
  config.update(
    triplet_weight=0.25, margin=0.5, circle_weight=2.0, circle_scale=4.0,
    soft_margin=soft,
  )  # fmt: skip

  def of_device(features, logits, labels):
    branches = (
      Branch(features[0], logits[0][:, None]),
      Branch(features[1], jnp.stack([logits[1], logits[2]], 1)),
    )
    output = ReidOutput(None, None, logits[0], branches)
    return reid_loss(output, labels, config, 'batch')

  loss, metrics = jax.jit(jax.vmap(of_device, (1, 1, 0), axis_name='batch'))(
    features, logits, labels
  )

  triplets = []
  same = labels.reshape(8, 1) == labels.ravel()
  for x in features.reshape(2, 8, 3):
    distance = np.linalg.norm(x[:, None] - x, axis=-1)
    positive = np.where(same, distance, 0).max(1)
    negative = np.where(same, np.inf, distance).min(1)
    triplets.append(positive - negative + (0 if soft else 0.5))
  if soft:
    triplet = np.mean([np.log1p(np.exp(t)).mean() for t in triplets])
  else:
    triplet = np.mean([np.maximum(t, 0).mean() for t in triplets])
  circle = np.mean(
    [
      circle_by_loop(x, labels.ravel(), 0.25, 4.0)[0]
      for x in features.reshape(2, 8, 3)
    ]
  )
  targets = 0.9 * np.eye(3)[labels] + 0.1 / 3
  logarithms = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  cross_entropy = -(targets * logarithms).sum(-1).mean()
  active = (triplets[0] > 0).mean()
  assert 0 < active < 1
  expected = {
    'triplet': triplet,
    'cross_entropy': cross_entropy,
    'circle': circle,
    'loss': cross_entropy + 0.25 * triplet + 2 * circle,
    'active_triplets': active,
    'accuracy': (logits[0].argmax(-1) == labels).mean(),
  }
  np.testing.assert_allclose(loss.mean(), expected['loss'], rtol=1e-5)
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name].mean(), value, rtol=1e-5)
