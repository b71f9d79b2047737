from functools import partial

import jax
import pytest

from apnet_jax.models.inception import MIN_SIZE, InceptionV3
from apnet_jax.models.layers import BatchNorm
from tests import backbones

inception_v3 = partial(InceptionV3, BatchNorm)


def test_agrees_with_torchvision():
  backbones.assert_agrees_with_torchvision(
    inception_v3(last_stride=2), 'inception_v3'
  )


def test_shapes():
  """With stride 1, the unpadded last reduction still loses a margin of 1."""
  maps, variables = backbones.shapes(inception_v3(), 107, 91)
  assert [x.shape[1:] for x in maps] == [
    (25, 21, 64), (23, 19, 192), (11, 9, 288), (5, 4, 768), (3, 2, 2048),
  ]  # fmt: skip
  half = backbones.shapes(inception_v3(last_stride=2), 107, 91)
  assert half[0][-1].shape[1:] == (2, 1, 2048)
  assert half[1] == variables
  # torchvision's number of parameters less those of its two classifiers.
  params = jax.tree.leaves(variables['params'])
  assert sum(p.size for p in params) == 21_785_568


def test_small_images_are_an_error():
  assert backbones.shapes(inception_v3(), MIN_SIZE, MIN_SIZE)
  with pytest.raises(ValueError, match='at least 75 pixels a side, not 80x74'):
    backbones.shapes(inception_v3(), 80, 74)
