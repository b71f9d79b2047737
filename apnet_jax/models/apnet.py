"""Attention Pyramid Networks for person re-identification.

A network is a backbone with an attention pyramid after each stage, and a head.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
from flax.traverse_util import flatten_dict
import jax
import jax.numpy as jnp
import ml_collections

from apnet_jax.config import check_section
from apnet_jax.errors import EnvironmentFieldError, FieldError, UserError
from apnet_jax.models.attention import (
  ChannelAttention,
  SharedChannelAttention,
  SpatialAttention,
)
from apnet_jax.models.densenet import BLOCK_LAYERS, DenseNet
from apnet_jax.models.heads import (
  Branch,
  LocalBranch,
  ReidOutput,
  classifier_init,
)
from apnet_jax.models.inception import InceptionV3
from apnet_jax.models.layers import BatchNorm, Conv, MomentNorm
from apnet_jax.models.network_fields import NETWORK_FIELDS, has_pyramids
from apnet_jax.models.pyramid import AttentionPyramid
from apnet_jax.models.resnet import STAGE_BLOCKS, STAGE_WIDTHS, ResNet, Stage

SITES = (0, 1, 2, 3, 4)  # stages that a pyramid may follow; 0 is the stem
# Fields of `config.model` that `create_model` reads.
REQUIRED_FIELDS = (*NETWORK_FIELDS, 'batch_norm_group', 'dtype', 'reduction')


class APNet(nn.Module):
  """A backbone with an attention pyramid after its stages (Section III.A).

  The head follows Luo et al., Bag of Tricks and a Strong Baseline for Deep
  Person Re-identification, CVPRW 2019. It consists of average pooling, a batch
  normalisation whose shift stays 0 (`bottleneck`, the "BN neck") and a
  classifier without bias.

  Attributes:
    num_classes: number of identities of the classifier.
    backbone: makes the backbone, which is called as `base(x, stage, train)`.
    pyramid: makes the pyramid after a stage; None for no attention.
    norm: makes a normalisation layer.
    sites: stages that are followed by a pyramid; 0 is the stem.
    local: makes the local branch of the multi-part head; None for no branch.
    dtype: type that convolutions compute in; the head uses at least float32.
    rematerialize: True stores only the feature map after each stage for the
      backward pass, which computes the maps within a stage again.
  """

  num_classes: int
  backbone: Callable[..., nn.Module]
  pyramid: Callable[..., nn.Module] | None
  norm: Callable[..., nn.Module]
  sites: tuple[int, ...] = (1, 2, 3, 4)
  local: Callable[..., nn.Module] | None = None
  dtype: jax.typing.DTypeLike = jnp.float32
  rematerialize: bool = False

  def setup(self):
    self.base = self.backbone()
    sites = self.sites if self.pyramid else ()
    self.pyramids = {site: self.pyramid(name=f'att{site}') for site in sites}
    self.bottleneck = self.norm(train_bias=False, dtype=None)
    self.classifier = nn.Dense(
      self.num_classes,
      use_bias=False,
      kernel_init=classifier_init,
      precision=jax.lax.Precision.HIGHEST,
    )
    self.local_branch = self.local(name='local') if self.local else None

  def __call__(self, images: jax.Array, train: bool = False) -> ReidOutput:
    """Embeds and classifies images.

    Args:
      images: float [batch, height, width, 3], normalised with the mean and
        standard deviation of ImageNet (`models.normalization`).
      train: True normalises by the statistics of the batch and updates
        `batch_stats`; False normalises by the running statistics.

    Returns:
      The outputs of the head; `ReidOutput` lists their shapes.

    Raises:
      UserError: a feature map cannot be split into the parts of a pyramid level
        or into the stripes of the multi-part head.
    """
    x, maps = images.astype(self.dtype), []
    run_stage, run_local = APNet._stage, APNet._local
    if self.rematerialize:
      run_stage = nn.remat(run_stage, static_argnums=(2, 3))
      run_local = nn.remat(run_local, static_argnums=2)
    for stage in range(self.base.num_stages + 1):
      x = run_stage(self, x, stage, train)
      maps.append(x)
    feature = x.mean((1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
    embedding = self.bottleneck(feature, train)
    logits = self.classifier(embedding)
    branches: tuple[Branch, ...] = (Branch(feature, logits[:, None]),)
    if self.local_branch:
      branch, local_embedding = run_local(self, maps[3], train)
      branches += (branch,)
      feature = jnp.concatenate([feature, branch.feature], 1)
      embedding = jnp.concatenate([embedding, local_embedding], 1)
    return ReidOutput(feature, embedding, logits, branches)

  def _stage(self, x, stage, train):
    """Runs one stage of the backbone and the pyramid that follows it."""
    x = self.base(x, stage, train)
    return self.pyramids[stage](x, train) if stage in self.pyramids else x

  def _local(self, x, train):
    return self.local_branch(x, train)


def create_model(
  config: ml_collections.ConfigDict,
  num_classes: int,
  axis_name: str | None = None,
  rematerialize: bool = False,
) -> nn.Module:
  """Returns the network that `config` describes.

  Args:
    config: the `model` part of a configuration; `apnet_jax.config` explains
      each field.
    num_classes: number of identities of the classifier.
    axis_name: name of the mapped axis over which batch statistics are
      synchronised; None outside of a mapped function.
    rematerialize: True saves memory in training: the backward pass computes
      the feature maps within a stage again.

  Returns:
    A module. `apply(variables, images, train=False)` returns a `ReidOutput` for
    images [batch, height, width, 3].

  Raises:
    UserError: a field is missing or has a value that is not allowed.
  """
  _check(config, num_classes)
  dtype = jnp.dtype(config.dtype)
  norm = partial(
    BatchNorm,
    group=config.batch_norm_group,
    axis_name=axis_name,
    dtype=dtype,
  )
  conv = partial(Conv, dtype=dtype)
  local = None
  if config.multi_part:
    last_stage = partial(
      Stage,
      STAGE_BLOCKS[config.backbone][-1],
      STAGE_WIDTHS[-1],
      1,
      norm=norm,
      conv=conv,
    )
    local = partial(LocalBranch, last_stage, norm, num_classes)
  return APNet(
    num_classes=num_classes,
    backbone=_backbone(config, norm, conv),
    pyramid=_pyramid(config, norm) if has_pyramids(config) else None,
    norm=norm,
    sites=tuple(config.sites),
    local=local,
    dtype=dtype,
    rematerialize=rematerialize,
  )


def _backbone(config, norm, conv) -> Callable[..., nn.Module]:
  """Returns a function that makes the backbone that `config` describes.

  Args:
    config: the `model` part of a configuration.
    norm: makes a normalisation layer.
    conv: makes a convolution.
  """
  layers = {'norm': norm, 'conv': conv, 'last_stride': config.last_stride}
  if config.backbone in BLOCK_LAYERS:
    return partial(
      DenseNet, block_layers=BLOCK_LAYERS[config.backbone], **layers
    )
  if config.backbone == 'inception_v3':
    return partial(InceptionV3, **layers)
  # Reduction and biases as in Hu et al., Squeeze-and-Excitation Networks, 2018.
  se = partial(ChannelAttention, reduction=16, use_bias=True)
  return partial(
    ResNet,
    stage_blocks=STAGE_BLOCKS[config.backbone],
    **layers,
    attention=se if config.se_blocks else None,
    stem_relu=config.stem_relu,
  )


def _pyramid(config, norm) -> Callable[..., nn.Module]:
  """Returns a function that makes the pyramids that `config` describes.

  Args:
    config: the `model` part of a configuration; it has attention.
    norm: makes a normalisation layer.

  Returns:
    A function `make(name=...)`, which returns an `AttentionPyramid`.
  """
  modules: Mapping[str, Callable[..., nn.Module]] = {
    'channel': partial(
      ChannelAttention, reduction=config.reduction, hidden=config.hidden
    ),
    'spatial': partial(
      SpatialAttention, norm=norm, dtype=jnp.dtype(config.dtype)
    ),
  }
  attention = split_attention = modules[config.attention]
  if config.split_attention == 'shared':
    split_attention = partial(SharedChannelAttention, norm=norm)
  return partial(
    AttentionPyramid,
    levels=config.levels,
    attention=attention,
    split_attention=split_attention,
    along='rows' if config.attention == 'spatial' else 'channels',
    radix=config.radix,
    stacked=config.stacked,
    fine_to_coarse=config.order == 'fine_to_coarse',
    norm_after_split=(
      partial(MomentNorm, **norm.keywords, train_bias=False)
      if config.norm_after_split
      else None
    ),
  )


def initialize(
  model: nn.Module, image_size: tuple[int, int], seed: int
) -> Mapping:
  """Returns initial variables of a network, which depend on `seed` alone.

  Args:
    model: network made by `create_model`.
    image_size: height and width of the images in pixels; the weights of spatial
      attention depend on them.
    seed: seed of the random weights.

  Returns:
    A dict of 'params' and 'batch_stats'.
  """
  return lower_initialize(model, image_size).compile()(jax.random.key(seed))


def lower_initialize(
  model: nn.Module,
  image_size: tuple[int, int],
  make: Callable[[Mapping], Any] = lambda variables: variables,
) -> jax.stages.Lowered:
  """Lowers the program of `initialize`, so that it can be compiled elsewhere.

  Args:
    model: see `initialize`.
    image_size: see `initialize`.
    make: function that turns the variables into the returned value. It is
      compiled together with the initialisation, because on its own it could
      need one program for each shape of an array.

  Returns:
    A lowered function of a random key, which returns `make(variables)`.
  """
  # The program runs once. On the CPU, full optimisation would take longer than
  # it saves.
  fast = {'xla_backend_optimization_level': 1}
  on_cpu = jax.default_backend() == 'cpu'

  @partial(jax.jit, compiler_options=fast if on_cpu else None)
  def init(key):
    return make(model.init(key, jnp.zeros((1, *image_size, 3))))

  return init.lower(jax.random.key(0))


def variable_shapes(model: nn.Module, image_size: tuple[int, int]) -> Mapping:
  """Returns the shapes and types of a network's variables without computing.

  Args:
    model: network made by `create_model`.
    image_size: height and width of the images in pixels.

  Returns:
    A dict of 'params' and 'batch_stats' with `jax.ShapeDtypeStruct` leaves.
  """
  images = jax.ShapeDtypeStruct((1, *image_size, 3), 'float32')
  return jax.eval_shape(model.init, jax.random.key(0), images)


def parameter_names(model: nn.Module, image_size: tuple[int, int]) -> list[str]:
  """Returns the names of a network's parameters in the order of their use.

  Args:
    model: network made by `create_model`.
    image_size: height and width of the images in pixels.

  Returns:
    Paths of the parameters, such as 'base/conv1/kernel'.
  """
  names = []

  def init(key, images):
    variables = model.init(key, images)
    names.extend('/'.join(path) for path in flatten_dict(variables['params']))
    return variables

  images = jax.ShapeDtypeStruct((1, *image_size, 3), 'float32')
  jax.eval_shape(init, jax.random.key(0), images)
  return names


def _check(config: ml_collections.ConfigDict, num_classes: int) -> None:
  """Checks that `create_model` can build the network of a configuration.

  Args:
    config: the `model` part of a configuration.
    num_classes: number of identities of the classifier.

  Raises:
    UserError: a field is missing, has a value that is not allowed, or does not
      fit another field.
  """
  missing = [field for field in sorted(REQUIRED_FIELDS) if field not in config]
  if missing:
    raise UserError(
      f'the configuration of a model lacks {", ".join(missing)}. Either it is'
      ' not the `model` part of a configuration, or an older version wrote it.'
    )
  check_section('model', config)
  sites = tuple(config.sites)
  if list(sites) != sorted(set(sites) & set(SITES)):
    raise FieldError(
      'model.sites',
      f'={sites} must be some of {SITES}, each at most once, in this order.',
    )
  shared = config.split_attention == 'shared'
  if shared and config.attention not in ('channel', 'none'):
    raise FieldError(
      'model.split_attention',
      "='shared' is for channel attention only; with"
      f' config.model.attention={config.attention!r} it must be per_part.',
    )
  for field, value in (
    ('se_blocks', True), ('multi_part', True), ('stem_relu', False),
  ):  # fmt: skip
    if config[field] == value and config.backbone not in STAGE_BLOCKS:
      raise FieldError(
        f'model.{field}',
        f'={value} needs a ResNet: config.model.backbone must be one of'
        f' {tuple(STAGE_BLOCKS)}, not {config.backbone!r}.',
      )
  x64 = jax.config.jax_enable_x64  # type: ignore[attr-defined]  # set by JAX
  if config.dtype == 'float64' and not x64:
    raise EnvironmentFieldError(
      'model.dtype', "='float64' needs JAX_ENABLE_X64=1."
    )
  if num_classes < 1:
    raise UserError(f'num_classes={num_classes} must be at least 1.')
