"""DenseNet-BC with growth rate 32, with torchvision's structure and names.

Huang et al., Densely Connected Convolutional Networks, CVPR 2017. By default
the last transition keeps the resolution, as the last stage of the ResNets does.
In torchvision the last transition halves the resolution (`last_stride=2`).
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from apnet_jax.models.layers import Conv
from apnet_jax.models.pooling import max_pool

BLOCK_LAYERS = {'densenet169': (6, 12, 32, 32)}  # layers of the dense blocks
STEM_WIDTH = 64  # channels after the stem
GROWTH = 32  # channels that a layer adds
BOTTLENECK = 4 * GROWTH  # channels between the convolutions of a layer

# torchvision's initialisation of the convolutions of its DenseNets.
he_normal_in = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')


class DenseLayer(nn.Module):
  """A dense layer: a 1x1 and a 3x3 convolution, which compute new channels.

  A normalisation and a ReLU precede each convolution. `DenseBlock` appends the
  new channels to the input.

  Attributes:
    conv: makes a convolution, called as `layer(x)`.
    norm: makes a normalisation layer, called as `layer(x, train)`.
  """

  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [batch, h, w, channels] to [batch, h, w, GROWTH]."""
    x = nn.relu(self.norm(name='norm1')(x, train))
    x = self.conv(BOTTLENECK, name='conv1')(x)
    x = nn.relu(self.norm(name='norm2')(x, train))
    return self.conv(GROWTH, 3, name='conv2')(x)


class DenseBlock(nn.Module):
  """A sequence of layers, each of which appends its channels to its input.

  Attributes:
    layers: number of layers, named `denselayer1` and so on.
    conv: makes a convolution, called as `layer(x)`.
    norm: makes a normalisation layer, called as `layer(x, train)`.
  """

  layers: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [batch, h, w, channels] to [..., channels + layers * GROWTH]."""
    for i in range(1, self.layers + 1):
      layer = DenseLayer(self.conv, self.norm, name=f'denselayer{i}')
      x = jnp.concatenate([x, layer(x, train)], axis=-1)
    return x


class Transition(nn.Module):
  """A layer that halves the channels and reduces the resolution.

  Attributes:
    stride: factor by which height and width shrink.
    conv: makes a convolution, called as `layer(x)`.
    norm: makes a normalisation layer, called as `layer(x, train)`.
  """

  stride: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [batch, h, w, c] to [batch, h/stride, w/stride, c/2]."""
    x = nn.relu(self.norm(name='norm')(x, train))
    # torchvision averages after the 1x1 convolution. The two commute, and this
    # order has a quarter of the pixels to convolve.
    if self.stride > 1:
      window = (self.stride, self.stride)
      x = nn.avg_pool(x, window, strides=window)
    return self.conv(x.shape[-1] // 2, name='conv')(x)


class Features(nn.Module):
  """The layers of a `DenseNet`, which torchvision keeps under `features`.

  Attributes:
    block_layers: number of layers of the four dense blocks.
    norm: makes a normalisation layer, called as `layer(x, train)`.
    conv: makes a convolution, called as `layer(x)`.
    last_stride: stride of the last transition, 1 or 2.
  """

  block_layers: tuple[int, ...]
  norm: Callable[..., nn.Module]
  conv: Callable[..., nn.Module]
  last_stride: int

  @nn.compact
  def __call__(self, x: jax.Array, stage: int, train: bool) -> jax.Array:
    """Runs one stage; see `DenseNet.__call__`."""
    if stage == 0:
      x = self.conv(STEM_WIDTH, 7, 2, name='conv0')(x)
      return max_pool(nn.relu(self.norm(name='norm0')(x, train)))
    last = len(self.block_layers)
    if stage > 1:
      stride = self.last_stride if stage == last else 2
      transition = Transition(
        stride, self.conv, self.norm, name=f'transition{stage - 1}'
      )
      x = transition(x, train)
    layers = self.block_layers[stage - 1]
    block = DenseBlock(layers, self.conv, self.norm, name=f'denseblock{stage}')
    x = block(x, train)
    return nn.relu(self.norm(name='norm5')(x, train)) if stage == last else x


class DenseNet(nn.Module):
  """A DenseNet backbone, which is called stage by stage.

  Attributes:
    block_layers: number of layers of the four dense blocks; see `BLOCK_LAYERS`.
    norm: makes a normalisation layer, called as `layer(x, train)`.
    conv: makes a convolution, called as `layer(x)`.
    last_stride: stride of the last transition, 1 or 2.
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
    """Runs one stage.

    Args:
      x: images [batch, height, width, 3] for stage 0; else the map of the
        previous stage.
      stage: 0 is the stem (stride 4). Stages 1 to 4 have a dense block each;
        stages 2 to 4 begin with a transition, and stage 4 ends with a
        normalisation and a ReLU.
      train: whether normalisations use and update batch statistics.

    Returns:
      The map of this stage, [batch, height', width', channels].
    """
    return self.features(x, stage, train)
