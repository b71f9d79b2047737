"""A network of few layers, two by default, which compiles fast.

Its images are smaller than those of `tests.fakes`, which are for ResNet-14.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import numpy as np

from apnet_jax.models.apnet import APNet, create_model
from apnet_jax.models.layers import Conv
from tests.fakes import small_config


class TinyBackbone(nn.Module):
  """A backbone whose stem and stages are single convolutions of stride 2."""

  norm: Callable[..., nn.Module]
  widths: tuple[int, ...] = (16, 16)  # channels of the stem and each stage

  @property
  def num_stages(self):
    return len(self.widths) - 1

  @nn.compact
  def __call__(self, x, stage, train):
    x = Conv(self.widths[stage], 3, 2, dtype=x.dtype, name=f'conv{stage}')(x)
    return nn.relu(self.norm(name=f'bn{stage}')(x, train))


def tiny_model(config, *args, widths=(16, 16), **kwargs) -> APNet:
  """Returns the network of `create_model` with a `TinyBackbone`."""
  model = create_model(config, *args, **kwargs)
  return model.clone(
    backbone=partial(TinyBackbone, model.norm, widths),
    sites=tuple(site for site in config.sites if site < len(widths)),
  )


def tiny_config(**train):
  """Returns the configuration of a run that trains on tiny images."""
  config = small_config(**train)
  config.data.image_size = (32, 16)
  return config


def widen(tree):
  """Returns a tree with its float32 arrays in float64."""
  return jax.tree.map(
    lambda x: np.float64(x) if x.dtype == np.float32 else x, tree
  )


def difference(tree, expected):
  """Returns the largest difference over the largest value (at least 1)."""
  leaves, expected = jax.tree.leaves(tree), jax.tree.leaves(expected)
  scale = max(1, *(np.abs(x).max() for x in expected))
  pairs = zip(leaves, expected, strict=True)
  return max(np.abs(a - b).max() for a, b in pairs) / scale
