"""ResNets of bottleneck blocks with torchvision's structure and names.

He et al., Deep Residual Learning for Image Recognition, CVPR 2016; the stride
sits on the 3x3 convolution, as in torchvision. The last stage keeps its
resolution by default (`last_stride=1`, Section IV.B).
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from apnet_jax.models.layers import Conv, max_pool

STAGE_BLOCKS = {
  'resnet50': (3, 4, 6, 3),
  'resnet101': (3, 4, 23, 3),
  # One block a stage: for the CPU and for tests, not in the paper.
  'resnet14': (1, 1, 1, 1),
}
STAGE_WIDTHS = (64, 128, 256, 512)
EXPANSION = 4


class Downsample(nn.Module):
  """Projection of the shortcut: `downsample.0` and `downsample.1`."""

  features: int
  stride: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    x = self.conv(self.features, stride=self.stride, name='0')(x)
    return self.norm(name='1')(x, train)


class Bottleneck(nn.Module):
  """1x1 reduce, 3x3, 1x1 expand, attention if any, plus the shortcut."""

  width: int
  stride: int
  project: bool
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]
  attention: Callable[..., nn.Module] | None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
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
      x = self.attention(name='se')(x, train).astype(x.dtype) * x
    if self.project:
      shortcut = Downsample(
        features, self.stride, self.conv, self.norm, name='downsample'
      )(shortcut, train)
    return nn.relu(x + shortcut)


class Stage(nn.Module):
  """`layer1` to `layer4`: blocks named 0, 1, ..."""

  blocks: int
  width: int
  stride: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]
  attention: Callable[..., nn.Module] | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
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
  """A backbone that is called stage by stage.

  Attributes:
    stage_blocks: bottleneck blocks of the four stages, see `STAGE_BLOCKS`.
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
    """Runs one stage: 0 is the stem (stride 4), 1 to 4 are `layer1` to 4."""
    if stage == 0:
      x = self.bn1(self.conv1(x), train)
      return max_pool(nn.relu(x) if self.stem_relu else x)
    layer = (self.layer1, self.layer2, self.layer3, self.layer4)[stage - 1]
    return layer(x, train)
