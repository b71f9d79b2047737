"""The outputs of a network, and the local branch of the multi-part head."""

from collections.abc import Callable

from flax import struct
import flax.linen as nn
import jax
import jax.numpy as jnp

from apnet_jax.errors import UserError
from apnet_jax.models.attention import GroupedDense

classifier_init = nn.initializers.normal(0.001)


@struct.dataclass
class Branch:
  """The outputs of one branch of the head, from which losses are computed.

  Attributes:
    feature: [batch, features], before the BN neck, for the triplet loss.
    logits: [batch, classifiers, num_classes], for the cross-entropy. The global
      branch has one classifier, the local branch one for each stripe.
  """

  feature: jax.Array
  logits: jax.Array


@struct.dataclass
class ReidOutput:
  """The outputs of a re-identification network, in at least float32.

  With the multi-part head, `feature` and `embedding` are concatenations of the
  values of the global and the local branch.

  Attributes:
    feature: [batch, features], pooled, before the BN neck.
    embedding: [batch, features], after the BN neck; images are ranked by it.
    logits: [batch, num_classes], of the global branch.
    branches: the outputs from which losses are computed: first the global
      branch, then the local branch if there is a multi-part head.
  """

  feature: jax.Array
  embedding: jax.Array
  logits: jax.Array
  branches: tuple[Branch, ...]


class LocalBranch(nn.Module):
  """The second branch of the multi-part head, which starts from stage 3.

  It has a fourth stage of its own, without stride and without attention. The
  resulting map is split into horizontal stripes. Each stripe is pooled, reduced
  to `features` channels, normalised and classified.

  The paper uses the multi-part head on CUHK03 (Section IV.D), describes it in a
  few sentences and has released no code. This is our reading: the two-part
  branch of Wang et al., Learning Discriminative Features with Multiple
  Granularities, MM 2018, in the form of fast-reid's `MGN`.

  Attributes:
    stage: makes the fourth stage.
    norm: makes a normalisation layer.
    num_classes: number of identities of the classifier of each stripe.
    stripes: number of stripes along the height.
    features: number of channels of a reduced stripe.
  """

  stage: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]
  num_classes: int
  stripes: int = 2
  features: int = 256

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[Branch, jax.Array]:
    """Embeds and classifies the stripes.

    Args:
      x: map of the third stage, [batch, height, width, channels].
      train: whether normalisations use and update batch statistics.

    Returns:
      The branch, with logits [batch, stripes, num_classes], and the embedding
      [batch, stripes * features].

    Raises:
      UserError: the height of the fourth stage does not split into stripes.
    """
    x = self.stage(name='layer4')(x, train)
    batch, height, width, channels = x.shape
    if height % self.stripes:
      raise UserError(
        f'config.model.multi_part=True: {height} rows of the last stage do not'
        f' split into {self.stripes} stripes. Choose a height in'
        ' config.data.image_size that is a multiple of 32.'
      )
    x = x.reshape(batch, self.stripes, -1, channels)
    pooled = x.mean(2, dtype=jnp.promote_types(x.dtype, jnp.float32))
    feature = GroupedDense(self.features, name='reduction')(pooled)
    feature = feature.reshape(batch, -1)
    neck = self.norm(train_bias=False, dtype=None, name='bottleneck')
    embedding = neck(feature, train)
    classifier = GroupedDense(
      self.num_classes, kernel_init=classifier_init, name='classifier'
    )
    logits = classifier(embedding.reshape(batch, self.stripes, -1))
    return Branch(feature, logits), embedding
