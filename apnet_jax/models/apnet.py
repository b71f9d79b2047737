"""Attention Pyramid Networks: backbone, a pyramid after each stage, head."""

from collections.abc import Mapping
from functools import partial

from flax import struct
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from apnet_jax.models.layers import BatchNorm, Conv
from apnet_jax.models.pyramid import AttentionPyramid
from apnet_jax.models.resnet import STAGE_BLOCKS, ResNet

ATTENTIONS = ('channel', 'none')
DTYPES = ('float32', 'bfloat16', 'float64')


@struct.dataclass
class ReidOutput:
  """What a re-identification model returns; float32 whatever it computes in.

  Attributes:
    feature: [batch, features], pooled, before the BN neck; the triplet loss's.
    embedding: [batch, features], after the BN neck; what is ranked.
    logits: [batch, num_classes].
  """

  feature: jax.Array
  embedding: jax.Array
  logits: jax.Array


class APNet(nn.Module):
  """Split-attend-merge-stack after every stage of a backbone (Section III.A).

  The head is that of Luo et al., Bag of Tricks and a Strong Baseline for Deep
  Person Re-identification, CVPRW 2019: average pooling, a batch normalisation
  without shift (`bottleneck`, the "BN neck") and a classifier without bias.

  Attributes:
    num_classes: identities of the classifier.
    backbone: makes the backbone, called as `base(x, stage, train)`.
    pyramid: makes the pyramid of a stage.
    norm: makes a normalisation layer.
    dtype: of the convolutions; the head is at least float32.
  """

  num_classes: int
  backbone: partial
  pyramid: partial
  norm: partial
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.base = self.backbone()
    stages = range(1, self.base.num_stages + 1)
    self.pyramids = {
      stage: self.pyramid(name=f'att{stage}') for stage in stages
    }
    self.bottleneck = self.norm(use_bias=False, dtype=None)
    self.classifier = nn.Dense(
      self.num_classes,
      use_bias=False,
      kernel_init=nn.initializers.normal(0.001),
      precision=jax.lax.Precision.HIGHEST,
    )

  def __call__(self, images: jax.Array, train: bool = False) -> ReidOutput:
    """Embeds and classifies images.

    Args:
      images: float [batch, height, width, 3], normalised with the mean and
        standard deviation of ImageNet (`apnet_jax.augment.normalize`).
      train: normalises by the batch and updates `batch_stats`.
    """
    x = self.base(images.astype(self.dtype), 0, train)
    for stage, pyramid in self.pyramids.items():
      x = pyramid(self.base(x, stage, train))
    feature = x.mean((1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
    embedding = self.bottleneck(feature, train)
    return ReidOutput(feature, embedding, self.classifier(embedding))


def create_model(
  config: ml_collections.ConfigDict,
  num_classes: int,
  axis_name: str | None = None,
) -> nn.Module:
  """Builds the network that `config` describes.

  Args:
    config: the `model` part of a configuration; `configs/common.py` says what
      each field means.
    num_classes: identities of the classifier.
    axis_name: mapped axis over which batch statistics are synchronised.

  Returns:
    A module to be called as `apply(variables, images, train=False)`, which
    returns a `ReidOutput`.

  Raises:
    ValueError: a field has a value that is not allowed.
  """
  _check(config, num_classes)
  dtype = jnp.dtype(config.dtype)
  norm = partial(
    BatchNorm,
    group=config.batch_norm_group,
    axis_name=axis_name,
    dtype=dtype,
  )
  return APNet(
    num_classes=num_classes,
    backbone=partial(
      ResNet,
      stage_blocks=STAGE_BLOCKS[config.backbone],
      norm=norm,
      conv=partial(Conv, dtype=dtype),
      last_stride=config.last_stride,
      stem_relu=config.stem_relu,
    ),
    pyramid=partial(
      AttentionPyramid,
      levels=config.levels if config.attention != 'none' else 0,
      radix=config.radix,
      stacked=config.stacked,
      reduction=config.reduction,
    ),
    norm=norm,
    dtype=dtype,
  )


def initialize(
  model: nn.Module, image_size: tuple[int, int], seed: int
) -> Mapping:
  """Initial variables, a function of `seed` alone.

  Args:
    model: made by `create_model`.
    image_size: height and width, which some attentions are tied to.
    seed: of the random weights.
  """
  # It runs once: on the CPU, full optimisation takes longer than it saves.
  fast = {'xla_backend_optimization_level': 1}
  init = jax.jit(
    model.init,
    compiler_options=fast if jax.default_backend() == 'cpu' else None,
  )
  return init(jax.random.key(seed), jnp.zeros((1, *image_size, 3)))


def variable_shapes(model: nn.Module, image_size: tuple[int, int]) -> Mapping:
  """Shapes and types of a model's variables; computes nothing."""
  images = jax.ShapeDtypeStruct((1, *image_size, 3), 'float32')
  return jax.eval_shape(model.init, jax.random.key(0), images)


def _check(config: ml_collections.ConfigDict, num_classes: int) -> None:
  allowed = {
    'backbone': tuple(STAGE_BLOCKS),
    'attention': ATTENTIONS,
    'levels': (0, 1, 2, 3),
    'last_stride': (1, 2),
    'dtype': DTYPES,
  }
  for field, values in allowed.items():
    if config[field] not in values:
      raise ValueError(
        f'config.model.{field}={config[field]!r} is not one of {values}.'
      )
  for field, low in (('radix', 1), ('reduction', 1), ('batch_norm_group', 0)):
    if config[field] < low:
      raise ValueError(
        f'config.model.{field}={config[field]} must be at least {low}.'
      )
  if config.dtype == 'float64' and not jax.config.jax_enable_x64:
    raise ValueError("config.model.dtype='float64' needs JAX_ENABLE_X64=1.")
  if num_classes < 1:
    raise ValueError(f'num_classes={num_classes} must be at least 1.')
