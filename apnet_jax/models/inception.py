"""Inception-V3 with torchvision's structure and names.

Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR
2016, without the auxiliary classifier. By default the last reduction
(`Mixed_7a`) has stride 1, as the last stage of the ResNets does; the map only
loses a margin of one pixel. In torchvision this stride is 2 (`last_stride=2`).
"""

from collections.abc import Callable, Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from apnet_jax.errors import UserError
from apnet_jax.models.layers import Conv
from apnet_jax.models.normalization import MEAN, STD
from apnet_jax.models.pooling import max_pool

# Least height and width of images in pixels: the output of Mixed_7a may be
# empty for smaller images.
MIN_SIZE = 75

# The convolutions outside of the mixed modules, by stage: number of output
# channels, kernel size, stride and padding.
PLAIN = {
  0: {
    'Conv2d_1a_3x3': (32, 3, 2, 0),
    'Conv2d_2a_3x3': (32, 3, 1, 0),
    'Conv2d_2b_3x3': (64, 3, 1, 1),
  },
  1: {'Conv2d_3b_1x1': (80, 1, 1, 0), 'Conv2d_4a_3x3': (192, 3, 1, 0)},
}


def _mixed_5(pool):
  """Returns the branches of `Mixed_5b` to `Mixed_5d`, in the form of `MIXED`.

  Args:
    pool: number of output channels of the pooling branch.
  """
  return {
    'branch1x1': [(64, 1)],
    'branch5x5': [(48, 1), (64, 5)],
    'branch3x3dbl': [(64, 1), (96, 3), (96, 3)],
    'branch_pool': [(pool, 1)],
  }


def _mixed_6(width):
  """Returns the branches of `Mixed_6b` to `Mixed_6e`, in the form of `MIXED`.

  Args:
    width: number of channels within the branches of 7x1 and 1x7 convolutions.
  """
  row, column = (1, 7), (7, 1)
  return {
    'branch1x1': [(192, 1)],
    'branch7x7': [(width, 1), (width, row), (192, column)],
    'branch7x7dbl': [
      (width, 1), (width, column), (width, row), (width, column), (192, row),
    ],
    'branch_pool': [(192, 1)],
  }  # fmt: skip


def _mixed_7():
  """Returns the branches of `Mixed_7b` and `Mixed_7c`, as in `MIXED`."""
  row, column = (1, 3), (3, 1)
  return {
    'branch1x1': [(320, 1)],
    'branch3x3': [(384, 1), (384, row, column)],
    'branch3x3dbl': [(448, 1), (384, 3), (384, row, column)],
    'branch_pool': [(192, 1)],
  }


# The mixed modules by stage. A branch is a sequence of convolutions, each given
# by its number of output channels and its kernel size. An entry with two kernel
# sizes is a pair of parallel convolutions, `a` and `b`.
MIXED = {
  2: {
    'Mixed_5b': _mixed_5(32),
    'Mixed_5c': _mixed_5(64),
    'Mixed_5d': _mixed_5(64),
  },
  3: {
    'Mixed_6a': {
      'branch3x3': [(384, 3)],
      'branch3x3dbl': [(64, 1), (96, 3), (96, 3)],
    },
    'Mixed_6b': _mixed_6(128),
    'Mixed_6c': _mixed_6(160),
    'Mixed_6d': _mixed_6(160),
    'Mixed_6e': _mixed_6(192),
  },
  4: {
    'Mixed_7a': {
      'branch3x3': [(192, 1), (320, 3)],
      'branch7x7x3': [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)],
    },
    'Mixed_7b': _mixed_7(),
    'Mixed_7c': _mixed_7(),
  },
}


class BasicConv(nn.Module):
  """A convolution, a batch normalisation and a ReLU.

  Attributes:
    conv: makes the convolution, called as `layer(x)`.
    norm: makes the normalisation layer, called as `layer(x, train)`.
  """

  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [batch, height, width, in] to [batch, height', width', out]."""
    x = self.conv(name='conv')(x)
    return nn.relu(self.norm(epsilon=1e-3, name='bn')(x, train))


class Mixed(nn.Module):
  """An Inception module: parallel branches, whose outputs are concatenated.

  A module with a stride is a reduction. The last convolution of each of its
  branches has this stride and no padding. A max pooling of the input, with the
  same stride and no padding, is its last branch.

  Attributes:
    branches: one module of `MIXED`. The input of `branch_pool` is averaged over
      3x3 windows first.
    stride: stride of a reduction; None for other modules.
    norm: makes a normalisation layer, called as `layer(x, train)`.
    conv: makes a convolution, called as `layer(x)`.
  """

  branches: Mapping
  stride: int | None
  norm: Callable[..., nn.Module]
  conv: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [batch, height, width, in] to [batch, height', width', out]."""
    maps = [self._branch(x, name, train) for name in self.branches]
    if self.stride:
      maps.append(max_pool(x, self.stride, padding=0))
    return jnp.concatenate(maps, axis=-1)

  def _branch(self, x, branch, train):
    """Computes one branch of the module.

    Args:
      x: input of the module, [batch, height, width, in].
      branch: name of the branch, a key of `branches`.
      train: whether normalisations use and update batch statistics.
    """
    if branch == 'branch_pool':  # the average includes the padding's zeros
      x = nn.avg_pool(x, (3, 3), padding=((1, 1), (1, 1)))
    convs = self.branches[branch]
    for i, (features, *sizes) in enumerate(convs, start=1):
      name = f'{branch}_{i}' if len(convs) > 1 else branch
      reduces = self.stride and i == len(convs)
      window = (self.stride, 0) if reduces else ()
      maps = [
        BasicConv(
          partial(self.conv, features, size, *window),
          self.norm,
          name=name + suffix,
        )(x, train)
        for size, suffix in zip(sizes, ('a', 'b') if len(sizes) > 1 else ('',))
      ]
      x = jnp.concatenate(maps, axis=-1)
    return x


class InceptionV3(nn.Module):
  """An Inception-V3 backbone, which is called stage by stage.

  Attributes:
    norm: makes a normalisation layer, called as `layer(x, train)`.
    conv: makes a convolution, called as `layer(x)`.
    last_stride: stride of `Mixed_7a`, 1 or 2.
  """

  norm: Callable[..., nn.Module]
  conv: Callable[..., nn.Module] = Conv
  last_stride: int = 1

  num_stages = 4

  @nn.compact
  def __call__(self, x: jax.Array, stage: int, train: bool) -> jax.Array:
    """Runs one stage.

    Args:
      x: images [batch, height, width, 3], normalised with the mean and standard
        deviation of ImageNet, for stage 0; else the map of the previous stage.
      stage: 0 is the stem (stride 4), 1 ends with `Conv2d_4a_3x3`, 2 with
        `Mixed_5d`, 3 with `Mixed_6e`, and 4 with `Mixed_7c`.
      train: whether normalisations use and update batch statistics.

    Returns:
      The map of this stage, [batch, height', width', channels].

    Raises:
      UserError: the images are smaller than `MIN_SIZE`.
    """
    # torchvision's initialisation, which also truncates at 20 deviations.
    conv = partial(self.conv, kernel_init=nn.initializers.normal(0.1))
    if stage == 0:
      if min(x.shape[1:3]) < MIN_SIZE:
        raise UserError(
          f'Inception-V3 needs images of at least {MIN_SIZE} pixels a side, not'
          f' {x.shape[1]}x{x.shape[2]}: change config.data.image_size.'
        )
      x = _to_symmetric_range(x)
    if stage == 2:
      x = max_pool(x, padding=0)
    for name, args in PLAIN.get(stage, {}).items():
      x = BasicConv(partial(conv, *args), self.norm, name=name)(x, train)
    strides = {'Mixed_6a': 2, 'Mixed_7a': self.last_stride}
    for name, branches in MIXED.get(stage, {}).items():
      mixed = Mixed(branches, strides.get(name), self.norm, conv, name=name)
      x = mixed(x, train)
    return max_pool(x, padding=0) if stage == 0 else x


def _to_symmetric_range(images):
  """Rescales images normalised for ImageNet to the range [-1, 1].

  The ImageNet weights come from TensorFlow and expect this range. torchvision's
  model does the same (`transform_input`).

  Args:
    images: [batch, height, width, 3].

  Returns:
    The rescaled images, of the same shape.
  """
  return images * (2 * jnp.array(STD)) + (2 * jnp.array(MEAN) - 1)
