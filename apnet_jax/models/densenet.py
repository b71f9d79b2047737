"""DenseNet of bottleneck layers with torchvision's structure and names.

Huang et al., Densely Connected Convolutional Networks, CVPR 2017: DenseNet-BC
with growth rate 32. The last transition keeps the resolution by default, as the
last stage of the ResNets does; torchvision's pools by 2 (`last_stride=2`).
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from apnet_jax.models.layers import Conv, max_pool

BLOCK_LAYERS = {'densenet169': (6, 12, 32, 32)}
STEM_WIDTH = 64
GROWTH = 32
BOTTLENECK = 4 * GROWTH

# torchvision initialises the convolutions of its DenseNets so.
he_normal_in = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')


class DenseLayer(nn.Module):
  """1x1 reduce and 3x3, each after its normalisation: the new channels."""

  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """[batch, h, w, channels] -> [batch, h, w, GROWTH]."""
    x = nn.relu(self.norm(name='norm1')(x, train))
    x = self.conv(BOTTLENECK, name='conv1')(x)
    x = nn.relu(self.norm(name='norm2')(x, train))
    return self.conv(GROWTH, 3, name='conv2')(x)


class DenseBlock(nn.Module):
  """Layers `denselayer1`, ...: each appends its channels to what it reads."""

  layers: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """[batch, h, w, channels] -> [batch, h, w, channels + layers * GROWTH]."""
    for i in range(1, self.layers + 1):
      layer = DenseLayer(self.conv, self.norm, name=f'denselayer{i}')
      x = jnp.concatenate([x, layer(x, train)], axis=-1)
    return x


class Transition(nn.Module):
  """Halves the channels, and divides height and width by `stride`."""

  stride: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """[batch, h, w, channels] -> [batch, h/stride, w/stride, channels/2]."""
    x = nn.relu(self.norm(name='norm')(x, train))
    # torchvision averages after the 1x1 convolution. The two commute, and this
    # order convolves a quarter of the pixels.
    if self.stride > 1:
      window = (self.stride, self.stride)
      x = nn.avg_pool(x, window, strides=window)
    return self.conv(x.shape[-1] // 2, name='conv')(x)


class Features(nn.Module):
  """The network under torchvision's name `features`; see `DenseNet`."""

  block_layers: tuple[int, ...]
  norm: Callable[..., nn.Module]
  conv: Callable[..., nn.Module]
  last_stride: int

  @nn.compact
  def __call__(self, x: jax.Array, stage: int, train: bool) -> jax.Array:
    parts = {'conv': self.conv, 'norm': self.norm}
    if stage == 0:
      x = self.conv(STEM_WIDTH, 7, 2, name='conv0')(x)
      return max_pool(nn.relu(self.norm(name='norm0')(x, train)))
    last = len(self.block_layers)
    if stage > 1:
      stride = self.last_stride if stage == last else 2
      x = Transition(stride, **parts, name=f'transition{stage - 1}')(x, train)
    layers = self.block_layers[stage - 1]
    x = DenseBlock(layers, **parts, name=f'denseblock{stage}')(x, train)
    return nn.relu(self.norm(name='norm5')(x, train)) if stage == last else x


class DenseNet(nn.Module):
  """A backbone that is called stage by stage.

  Attributes:
    block_layers: layers of the four dense blocks, see `BLOCK_LAYERS`.
    norm: makes a normalisation layer, called as `layer(x, train)`.
    conv: makes a convolution, called as `layer(x)`.
    last_stride: of the last transition, 1 or 2.
  """

  block_layers: tuple[int, ...]
  norm: Callable[..., nn.Module]
  conv: Callable[..., nn.Module] = Conv
  last_stride: int = 1

  num_stages = 4

  def setup(self):
    conv = partial(self.conv, kernel_init=he_normal_in)
    self.features = Features(
      self.block_layers, self.norm, conv, self.last_stride
    )

  def __call__(self, x: jax.Array, stage: int, train: bool) -> jax.Array:
    """Runs one stage: 0 is the stem (stride 4), then a dense block each.

    A transition opens stages 2 to 4; normalisation and ReLU close the last.
    """
    return self.features(x, stage, train)
