"""Label-smoothed cross-entropy and batch-hard triplet loss (Section III.C).

The soft margin, the circle loss and the centre loss are not of the paper.

Losses are computed in float32 (or float64), at the highest precision of the
backend.
"""

from typing import NamedTuple

import chex
import jax
from jax import lax
import jax.numpy as jnp
import optax


class HardestDistances(NamedTuple):
  """Distances of anchors to their hardest positive and negative, [anchors]."""

  positive: jax.Array
  negative: jax.Array


def cross_entropy(
  logits: jax.Array, labels: jax.Array, smoothing: float, smooth_k: int = 0
) -> jax.Array:
  """Mean label-smoothed cross-entropy, Eq. (8).

  Args:
    logits: [batch, num_classes].
    labels: int [batch], in 0..num_classes - 1.
    smoothing: the rate epsilon; each class gets epsilon / K.
    smooth_k: the number K; 0 means `num_classes`. The released APNet code uses
      751 for every data set, so that its targets need not sum to 1.
  """
  chex.assert_rank([logits, labels], [2, 1])
  chex.assert_equal_shape_prefix([logits, labels], 1)
  classes = logits.shape[-1]
  targets = (1 - smoothing) * jax.nn.one_hot(
    labels, classes, dtype=logits.dtype
  )
  targets += smoothing / (smooth_k or classes)
  return optax.softmax_cross_entropy(logits, targets).mean()


def pairwise_distances(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns Euclidean distances [n, m] of the rows of a [n, d] and b [m, d]."""
  squares = jnp.square(a).sum(1)[:, None] + jnp.square(b).sum(1)[None]
  product = jnp.matmul(a, b.T, precision=lax.Precision.HIGHEST)
  # The lower bound keeps the gradient of the root finite at distance 0.
  return jnp.sqrt(jnp.maximum(squares - 2 * product, 1e-12))


def hardest_distances(
  anchors: jax.Array,
  anchor_labels: jax.Array,
  others: jax.Array,
  other_labels: jax.Array,
) -> HardestDistances:
  """Computes the distances of anchors to their hardest examples in a batch.

  The hardest positive is the farthest example of the same identity, which may
  be the anchor itself. The hardest negative is the closest example of another
  identity. (Hermans et al., arXiv:1703.07737.)

  Args:
    anchors: [n, features], not normalised.
    anchor_labels: int [n], identities.
    others: [m, features], the whole batch, anchors included.
    other_labels: int [m], identities.
  """
  _check_pairs(anchors, anchor_labels, others, other_labels)
  distances = pairwise_distances(anchors, others)
  same = anchor_labels[:, None] == other_labels[None]
  positive = jnp.where(same, distances, -jnp.inf).max(1)
  negative = jnp.where(same, jnp.inf, distances).min(1)
  return HardestDistances(positive, negative)


def triplet(hardest: HardestDistances, margin: float) -> jax.Array:
  """Mean batch-hard triplet loss, Eq. (6): a hinge with a margin."""
  return jnp.maximum(hardest.positive - hardest.negative + margin, 0).mean()


def soft_margin_triplet(hardest: HardestDistances) -> jax.Array:
  """Mean batch-hard triplet loss with a soft margin: softplus for the hinge.

  Hermans et al., arXiv:1703.07737: log(1 + exp(positive - negative)).
  """
  return jax.nn.softplus(hardest.positive - hardest.negative).mean()


def circle(
  anchors: jax.Array,
  anchor_labels: jax.Array,
  others: jax.Array,
  other_labels: jax.Array,
  own: jax.Array,
  margin: float,
  scale: float,
) -> jax.Array:
  """Mean circle loss of anchors, with all positives and negatives in a batch.

  Sun et al., CVPR 2020 (arXiv:2002.10857), Eq. (6) with the margins of Eq. (8).
  The similarity is the cosine. As in the gradient of that paper, Eq. (10), the
  weights alpha are constants.

  Args:
    anchors: [n, features], not normalised.
    anchor_labels: int [n], identities.
    others: [m, features], the whole batch, anchors included.
    other_labels: int [m], identities.
    own: int [n], positions of the anchors in the batch; an anchor is not its
      own positive.
    margin: m, the relaxation of the similarities 1 and 0 that are aimed at.
    scale: gamma, the factor of the exponents.
  """
  _check_pairs(anchors, anchor_labels, others, other_labels)
  similarity = jnp.matmul(
    _unit(anchors), _unit(others).T, precision=lax.Precision.HIGHEST
  )
  same = anchor_labels[:, None] == other_labels[None]
  itself = own[:, None] == jnp.arange(len(others))[None]
  constant = lax.stop_gradient(similarity)
  alpha_positive = jnp.maximum(1 + margin - constant, 0)
  alpha_negative = jnp.maximum(constant + margin, 0)
  positive = -scale * alpha_positive * (similarity - (1 - margin))
  negative = scale * alpha_negative * (similarity - margin)

  def log_sum_exp(exponents, chosen):
    return jax.nn.logsumexp(jnp.where(chosen, exponents, -jnp.inf), axis=1)

  total = log_sum_exp(positive, same & ~itself) + log_sum_exp(negative, ~same)
  return jax.nn.softplus(total).mean()


def center(
  features: jax.Array, labels: jax.Array, centers: jax.Array
) -> jax.Array:
  """Mean centre loss: half the squared distance to the centre of the identity.

  Wen et al., A Discriminative Feature Learning Approach for Deep Face
  Recognition, ECCV 2016, Eq. (2), divided by the number of images.

  Args:
    features: [batch, features], not normalised.
    labels: int [batch], identities.
    centers: [identities, features].
  """
  chex.assert_rank([features, labels, centers], [2, 1, 2])
  return jnp.square(features - centers[labels]).sum(1).mean() / 2


def moved_centers(
  centers: jax.Array, features: jax.Array, labels: jax.Array, rate: float
) -> jax.Array:
  """Moves the centres of the identities of a batch towards their images.

  Wen et al., Eq. (4) and line 6 of Algorithm 1. Other centres stay. The sums
  are a matrix product, because a GPU would add a scatter in any order: the
  copies of the centres on several devices would drift apart.

  Args:
    centers: [identities, features].
    features: [batch, features], of the whole batch.
    labels: int [batch], identities.
    rate: alpha, from 0 to 1.

  Returns:
    The new centres, [identities, features].
  """
  member = jax.nn.one_hot(labels, len(centers), axis=0, dtype=centers.dtype)
  sums = jnp.matmul(
    member, features - centers[labels], precision=lax.Precision.HIGHEST
  )
  return centers + rate * sums / (1 + member.sum(1, keepdims=True))


def _unit(features: jax.Array) -> jax.Array:
  """Scales rows to length 1; the bound keeps the gradient finite at 0."""
  squares = jnp.square(features).sum(1, keepdims=True)
  return features * lax.rsqrt(jnp.maximum(squares, 1e-12))


def _check_pairs(anchors, anchor_labels, others, other_labels) -> None:
  for features, labels in ((anchors, anchor_labels), (others, other_labels)):
    chex.assert_rank([features, labels], [2, 1])
    chex.assert_equal_shape_prefix([features, labels], 1)
