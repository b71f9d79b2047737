"""A network whose only feature map is the image, for results known by hand."""

from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np

from apnet_jax.models.apnet import create_model
from tests.fakes import small_config

CLASSES = 3


class Pixels(nn.Module):
  """A backbone of one stage, which returns the image repeated to 4 channels."""

  norm: Callable[..., nn.Module]
  num_stages = 1

  @nn.compact
  def __call__(self, x, stage, train):
    return x if stage == 0 else x.repeat(4, -1)[..., ::3]


def pixel_model(**fields):
  """Returns a network with `Pixels` as its backbone.

  Args:
    **fields: fields of `config.model` to change.
  """
  config = small_config().model
  config.update({'sites': (1,), 'hidden': 2, **fields})
  model = create_model(config, CLASSES)
  return model.clone(backbone=lambda: Pixels(model.norm))


def draw_variables(shapes, seed=0):
  """Draws variables of shapes; scales and variances are positive."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    value = rng.standard_normal(leaf.shape)
    positive = path[-1].key in ('scale', 'var')
    return (abs(value) + 0.5 if positive else value).astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)
