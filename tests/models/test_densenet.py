from functools import partial

import jax

from apnet_jax.models.densenet import BLOCK_LAYERS, DenseNet
from apnet_jax.models.layers import BatchNorm
from tests import backbones

densenet169 = partial(DenseNet, BLOCK_LAYERS['densenet169'], BatchNorm)


def test_agrees_with_torchvision():
  backbones.assert_agrees_with_torchvision(
    densenet169(last_stride=2), 'densenet169'
  )


def test_shapes():
  maps, variables = backbones.shapes(densenet169(), 96, 64)
  assert [x.shape[1:] for x in maps] == [
    (24, 16, 64), (24, 16, 256), (12, 8, 512), (6, 4, 1280), (6, 4, 1664),
  ]  # fmt: skip
  half = backbones.shapes(densenet169(last_stride=2), 96, 64)
  assert half[0][-1].shape[1:] == (3, 2, 1664)
  assert half[1] == variables
  # torchvision's number of parameters less those of the classifier.
  params = jax.tree.leaves(variables['params'])
  assert sum(p.size for p in params) == 14_149_480 - (1664 + 1) * 1000
