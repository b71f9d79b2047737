"""Helpers that run backbones and compare them with torchvision's."""

import pathlib

from flax import traverse_util
import flax.linen as nn
import jax
import numpy as np

from apnet_jax.models.torch_weights import from_torch, torch_name, torch_shape
from tests.golden import recipe

GOLDEN = pathlib.Path(__file__).parent / 'golden'


def run(backbone, x, train=False):
  """Returns the maps of all stages, the stem first."""
  maps = []
  for stage in range(backbone.num_stages + 1):
    x = backbone(x, stage, train)
    maps.append(x)
  return maps


def shapes(backbone, height, width):
  """Returns the shapes of the maps and the variables for two images."""
  images = jax.ShapeDtypeStruct((2, height, width, 3), 'float32')
  init = nn.init_with_output(run, backbone)
  return jax.eval_shape(init, jax.random.key(0), images)


def recipe_variables(shapes):
  """Returns variables with the recipe's values for their torchvision names."""

  def value(path, leaf):
    name = torch_name(path)
    shape = torch_shape(name, leaf.shape)
    return from_torch(name, recipe.state_dict_value(name, shape), leaf)

  return traverse_util.path_aware_map(value, shapes)


def assert_agrees_with_torchvision(backbone, name):
  """Compares the maps of every stage in eval mode.

  Args:
    backbone: backbone with torchvision's strides.
    name: name of the golden file.
  """
  golden = np.load(GOLDEN / f'{name}.npz')
  height, width = golden['size']
  images = recipe.images(int(golden['seed']), 2, height, width)
  variables = recipe_variables(shapes(backbone, height, width)[1])
  # The program runs once, so that optimisation would cost more than it saves.
  apply = jax.jit(
    nn.apply(run, backbone),
    compiler_options={'xla_backend_optimization_level': 0},
  )
  for stage, ours in enumerate(apply(variables, images)):
    pooled, channels = golden[f'pooled{stage}'], golden[f'map{stage}']
    for value, expected in (
      (ours.mean((1, 2)), pooled),
      (ours[..., : channels.shape[-1]], channels),
    ):
      # Rounding is 1e-6 of the largest entry; float64 agrees to 2e-15.
      atol = 1e-5 * abs(expected).max()
      np.testing.assert_allclose(value, expected, rtol=0, atol=atol)
