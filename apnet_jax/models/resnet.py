"""ResNets of bottleneck blocks with torchvision's structure and names.

He et al., Deep Residual Learning for Image Recognition, CVPR 2016. As in
torchvision, the stride of a block is the stride of its 3x3 convolution. By
default the last stage keeps the resolution (`last_stride=1`, Section IV.B).
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from apnet_jax.models.attention import attend
from apnet_jax.models.layers import Conv
from apnet_jax.models.pooling import max_pool

# Number of bottleneck blocks in each stage.
STAGE_BLOCKS = {
  'resnet50': (3, 4, 6, 3),
  'resnet101': (3, 4, 23, 3),
  # One block in each stage, for CPUs and tests; not in the paper.
  'resnet14': (1, 1, 1, 1),
}
STAGE_WIDTHS = (64, 128, 256, 512)  # channels of the 3x3 convolutions
EXPANSION = 4  # output channels of a block over those of its 3x3 convolution


class Downsample(nn.Module):
  """The projection of a shortcut: a 1x1 convolution and a normalisation.

  Attributes:
    features: number of output channels.
    stride: stride of the convolution.
    conv: makes a convolution, called as `layer(x)`.
    norm: makes a normalisation layer, called as `layer(x, train)`.
  """

  features: int
  stride: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [batch, h, w, in] to [batch, h/stride, w/stride, features]."""
    x = self.conv(self.features, stride=self.stride, name='0')(x)
    return self.norm(name='1')(x, train)


class Bottleneck(nn.Module):
  """A bottleneck block: 1x1, 3x3 and 1x1 convolutions plus a shortcut.

  Attributes:
    width: number of channels of the 3x3 convolution.
    stride: stride of the 3x3 convolution.
    project: whether the shortcut is projected; otherwise it is the identity.
    conv: makes a convolution, called as `layer(x)`.
    norm: makes a normalisation layer, called as `layer(x, train)`.
    attention: makes the attention (`se`) that scales the last convolution's
      output; None for a plain block.
  """

  width: int
  stride: int
  project: bool
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]
  attention: Callable[..., nn.Module] | None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [batch, h, w, in] to [batch, h/stride, w/stride, 4 * width]."""
    features = self.width * EXPANSION
    shortcut = x
    x = nn.relu(
      self.norm(name='bn1')(self.conv(self.width, name='conv1')(x), train)
    )
    x = nn.relu(
      self.norm(name='bn2')(
        self.conv(self.width, 3, self.stride, name='conv2')(x), train
      )
    )
    x = self.norm(name='bn3')(self.conv(features, name='conv3')(x), train)
    if self.attention:
      x = attend(x, self.attention(name='se')(x, train))
    if self.project:
      shortcut = Downsample(
        features, self.stride, self.conv, self.norm, name='downsample'
      )(shortcut, train)
    return nn.relu(x + shortcut)


class Stage(nn.Module):
  """A stage of bottleneck blocks, which are named 0, 1 and so on.

  Attributes:
    blocks: number of blocks.
    width: number of channels of the 3x3 convolutions.
    stride: stride of the first block.
    conv: makes a convolution, called as `layer(x)`.
    norm: makes a normalisation layer, called as `layer(x, train)`.
    attention: makes the attention of every block; None for plain blocks.
  """

  blocks: int
  width: int
  stride: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]
  attention: Callable[..., nn.Module] | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [batch, h, w, in] to [batch, h/stride, w/stride, 4 * width]."""
    for i in range(self.blocks):
      x = Bottleneck(
        self.width,
        stride=self.stride if i == 0 else 1,
        project=i == 0,
        conv=self.conv,
        norm=self.norm,
        attention=self.attention,
        name=str(i),
      )(x, train)
    return x


class ResNet(nn.Module):
  """A ResNet backbone, which is called stage by stage.

  Attributes:
    stage_blocks: number of blocks of the four stages; see `STAGE_BLOCKS`.
    norm: makes a normalisation layer, called as `layer(x, train)`.
    conv: makes a convolution, called as `layer(x)`.
    attention: makes the attention of every block (`se`); None for plain blocks.
    last_stride: stride of `layer4`, 1 or 2.
    stem_relu: False leaves out the ReLU after the first convolution, as the
      released code does.
  """

  stage_blocks: tuple[int, ...]
  norm: Callable[..., nn.Module]
  conv: Callable[..., nn.Module] = Conv
  attention: Callable[..., nn.Module] | None = None
  last_stride: int = 1
  stem_relu: bool = True

  num_stages = 4

  def setup(self):
    self.conv1 = self.conv(64, 7, 2)
    self.bn1 = self.norm()
    strides = (1, 2, 2, self.last_stride)
    stage = partial(
      Stage, conv=self.conv, norm=self.norm, attention=self.attention
    )
    self.layer1, self.layer2, self.layer3, self.layer4 = (
      stage(blocks, width, stride, name=f'layer{i}')
      for i, (blocks, width, stride) in enumerate(
        zip(self.stage_blocks, STAGE_WIDTHS, strides), start=1
      )
    )

  def __call__(self, x: jax.Array, stage: int, train: bool) -> jax.Array:
    """Runs one stage.

    Args:
      x: images [batch, height, width, 3] for stage 0; else the map of the
        previous stage.
      stage: 0 is the stem (stride 4); 1 to 4 are `layer1` to `layer4`.
      train: whether normalisations use and update batch statistics.

    Returns:
      The map of this stage, [batch, height', width', channels].
    """
    if stage == 0:
      x = self.bn1(self.conv1(x), train)
      return max_pool(nn.relu(x) if self.stem_relu else x)
    layer = (self.layer1, self.layer2, self.layer3, self.layer4)[stage - 1]
    return layer(x, train)
