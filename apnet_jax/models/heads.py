"""What a network returns, and the multi-part head."""

from collections.abc import Callable

from flax import struct
import flax.linen as nn
import jax
import jax.numpy as jnp

from apnet_jax.errors import UserError
from apnet_jax.models.attention import PartDense

classifier_init = nn.initializers.normal(0.001)


@struct.dataclass
class Branch:
  """What the losses see of a branch.

  Attributes:
    feature: [batch, features], before the BN neck; the triplet loss's.
    logits: [batch, classifiers, num_classes], for the cross-entropy.
  """

  feature: jax.Array
  logits: jax.Array


@struct.dataclass
class ReidOutput:
  """What a re-identification model returns; float32 whatever it computes in.

  Attributes:
    feature: [batch, features], pooled, before the BN neck.
    embedding: [batch, features], after the BN neck; what is ranked.
    logits: [batch, num_classes], of the global branch.
    branches: the global branch, and the local one of the multi-part head, whose
      features and embeddings are concatenated in `feature` and `embedding`.
  """

  feature: jax.Array
  embedding: jax.Array
  logits: jax.Array
  branches: tuple[Branch, ...]


class LocalBranch(nn.Module):
  """The multi-part head's second branch, which starts from the third stage.

  Our reading: the paper uses it on CUHK03 and gives one sentence and no code
  (Section IV.D). It follows the two-part branch of Wang et al., Learning
  Discriminative Features with Multiple Granularities, MM 2018, in the form of
  fast-reid's `MGN`: a fourth stage of its own without stride, and without
  attention; each half of the height pooled, reduced, normalised and classified.

  Attributes:
    stage: makes the fourth stage.
    norm: makes a normalisation layer.
    num_classes: identities of each part's classifier.
    parts: stripes along the height.
    features: reduced width of a part.
  """

  stage: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]
  num_classes: int
  parts: int = 2
  features: int = 256

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[Branch, jax.Array]:
    """Features of the third stage -> branch, embedding [batch, features]."""
    x = self.stage(name='layer4')(x, train)
    batch, height, width, channels = x.shape
    if height % self.parts:
      raise UserError(
        f'config.model.multi_part=True: {height} rows of the last stage do not'
        f' split into {self.parts} parts; choose a height in'
        ' config.data.image_size that 32 divides.'
      )
    x = x.reshape(batch, self.parts, -1, channels)
    pooled = x.mean(2, dtype=jnp.promote_types(x.dtype, jnp.float32))
    feature = PartDense(self.features, name='reduction')(pooled)
    feature = feature.reshape(batch, -1)
    neck = self.norm(train_bias=False, dtype=None, name='bottleneck')
    embedding = neck(feature, train)
    classifier = PartDense(
      self.num_classes, kernel_init=classifier_init, name='classifier'
    )
    logits = classifier(embedding.reshape(batch, self.parts, -1))
    return Branch(feature, logits), embedding
