"""Tests of Grad-CAM by hand-derived networks and by finite differences."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from apnet_jax.models.apnet import create_model, variable_shapes
from apnet_jax.models.attention import ChannelAttention
from apnet_jax.models.normalization import normalize
from apnet_jax.models.pyramid import AttentionPyramid
from apnet_jax.visualize import grad_cam
from tests.fakes import small_config
from tests.pixel_network import CLASSES, draw_variables, pixel_model

SIZE = (8, 4)


def draw_images(count, seed=1):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, *SIZE, 3)).astype(np.uint8)


def make(**fields):
  model = pixel_model(**fields)
  return model, draw_variables(variable_shapes(model, SIZE))


def explain(model, variables, images, target):
  return jax.jit(
    lambda v, x: grad_cam.explain(model, v, x, target, [1])
  )(variables, images)  # fmt: skip


def logit_1(output):
  return output.logits[:, 1]


def test_a_network_without_attention_has_class_activation_maps(x64):
  """logit = sum_k w_k s_k mean(X_k): the gradient is w_k s_k / positions."""
  model, variables = make(levels=0, dtype='float64')
  images = draw_images(2)
  maps, _ = explain(model, variables, images, logit_1)
  (found,) = maps[1]
  x = np.repeat(normalize(images), 4, -1)[..., ::3]
  neck = variables['params']['bottleneck']['scale'] / np.sqrt(
    variables['batch_stats']['bottleneck']['var'] + 1e-5
  )
  weights = variables['params']['classifier']['kernel'][:, 1] * neck
  by_hand = np.maximum(x @ weights, 0) / np.prod(SIZE)
  assert found.level == 0 and found.attention is None
  assert (by_hand > 0).any() and (by_hand == 0).any()
  np.testing.assert_allclose(found.heat, by_hand, rtol=1e-6, atol=1e-9)


def test_attention_of_one_half_scales_the_map_by_one_half(x64):
  model, variables = make(levels=2, dtype='float64')
  for level in ('level1', 'level2'):
    kernel = variables['params']['att1'][level]['fc2']['kernel']
    kernel[:] = 0  # sigmoid(0)
  maps, _ = explain(model, variables, draw_images(2), logit_1)
  before, one, two = maps[1]
  for level, parts in ((one, 1), (two, 2)):
    np.testing.assert_allclose(level.attention, 0.5)
    np.testing.assert_allclose(level.weights, 0.5)
    np.testing.assert_array_equal(level.parts, np.full((2, parts), 0.5))
    # Half the map and twice the gradient.
    np.testing.assert_allclose(level.heat, before.heat, atol=1e-9)


def test_the_gradient_includes_the_attention_of_later_levels(x64):
  """Level 2 is written out, and differentiated by finite differences."""
  model, variables = make(levels=2, dtype='float64')
  images = draw_images(1)
  maps, _ = explain(model, variables, images, logit_1)
  params = variables['params']

  def attend(level, parts, x):
    layer = ChannelAttention(parts, hidden=2)
    return x * layer.apply({'params': params['att1'][level]}, x)

  x = np.repeat(normalize(images).astype(np.float64), 4, -1)[..., ::3]
  x = np.asarray(attend('level1', 1, x))

  @jax.jit
  def logit(x):
    feature = attend('level2', 2, x).mean((1, 2))
    stats = variables['batch_stats']['bottleneck']
    scale = params['bottleneck']['scale'] / np.sqrt(stats['var'] + 1e-5)
    return (feature * scale) @ params['classifier']['kernel'][:, 1]

  step = 1e-5 * np.eye(4)
  alpha = [(logit(x + h) - logit(x - h))[0] / 2e-5 for h in step]
  by_hand = np.maximum(x @ (np.array(alpha) / np.prod(SIZE)), 0)
  assert by_hand.max() > 0
  np.testing.assert_allclose(maps[1][1].heat, by_hand, rtol=1e-4, atol=1e-7)


KINDS = {
  'channel': {'levels': 2},
  'spatial': {'levels': 2, 'attention': 'spatial'},
  'official': {
    'levels': 2, 'split_attention': 'shared', 'norm_after_split': True,
    'order': 'fine_to_coarse',
  },
}  # fmt: skip


@pytest.mark.parametrize('kind', KINDS)
def test_maps_of_every_attention_follow_its_levels(kind, x64):
  """Maps are products, and gradients equal finite differences."""
  model, variables = make(dtype='float64', **KINDS[kind])
  images = draw_images(2)
  maps, output = explain(model, variables, images, logit_1)
  levels = [found.level for found in maps[1]]
  assert levels == ([0, 2, 1] if kind == 'official' else [0, 1, 2])
  fast = jax.jit(model.apply)(variables, normalize(images))
  np.testing.assert_allclose(output.logits, fast.logits, rtol=1e-6, atol=1e-6)

  loop = grad_cam._level_by_level(model)
  seen = {}

  def watch(place, shift):
    def intercept(call, args, kwargs, context):
      y = call(*args, **kwargs)
      here = None
      if context.module.path == ('base',) and args[1] == 1:
        here = 0
      elif isinstance(context.module, AttentionPyramid):
        here = args[1] if context.method_name == 'level_output' else None
      if here is not None:
        seen[here] = y
      return y + shift if here == place else y

    return intercept

  def logit(shift, place):
    with nn.intercept_methods(watch(place, shift)):
      output = loop.apply(variables, normalize(images))
    return output.logits[:, 1], dict(seen)

  logit = jax.jit(logit, static_argnums=1)
  step = 1e-5
  for i, found in enumerate(maps[1]):
    x = np.asarray(logit(np.zeros(4), found.level)[1][found.level])
    alpha = [
      (logit(h, found.level)[0] - logit(-h, found.level)[0]) / (2 * step)
      for h in step * np.eye(4)
    ]
    alpha = np.stack(alpha, -1) / np.prod(SIZE)
    heat = np.maximum((x * alpha[:, None, None]).sum(-1), 0)
    np.testing.assert_allclose(found.heat, heat, rtol=1e-3, atol=1e-6)
    if i and kind != 'official':  # without normalisation
      before = logit(np.zeros(4), 0)[1][maps[1][i - 1].level]
      factor = np.abs(x).sum(-1) / np.abs(before).sum(-1)
      np.testing.assert_allclose(found.attention, factor, rtol=1e-6)


def test_a_pair_is_explained_on_both_sides():
  model, variables = make(levels=1)
  a, b = draw_images(3, 1), draw_images(3, 2)
  attend_pairs = grad_cam.make_attend_pairs(model)
  left, right = attend_pairs(variables, a, b)
  assert left.shape == right.shape == (3, *SIZE)
  assert np.isclose(left.max((1, 2)), 1).all() and left.min() >= 0
  other, first = attend_pairs(variables, b, a)
  np.testing.assert_allclose(left, first, atol=1e-5)
  np.testing.assert_allclose(right, other, atol=1e-5)
  same, _ = attend_pairs(variables, a, a)  # a maximum: the gradient is 0
  assert not np.isnan(same).any()


def test_targets():
  model, variables = make(levels=0)
  images = draw_images(4)
  output = jax.jit(model.apply)(variables, normalize(images))
  largest = grad_cam.identity_logit(output, np.full(4, -1))
  np.testing.assert_array_equal(largest, output.logits.max(-1))
  second = grad_cam.identity_logit(output, np.full(4, 2))
  np.testing.assert_array_equal(second, output.logits[:, 2])
  similar = grad_cam.pair_similarity(output, 'embedding')
  u = np.asarray(output.embedding)
  u = u / np.linalg.norm(u, axis=1, keepdims=True)
  np.testing.assert_allclose(
    similar, [u[0] @ u[2], u[1] @ u[3]], rtol=1e-5, atol=1e-6
  )


def test_channels_that_are_all_zero_have_the_plain_average():
  x, attention = np.zeros((1, 2, 1, 2)), np.array([0.2, 0.6])[None, None, None]
  x[0, 1, 0] = [-3, 1]
  np.testing.assert_allclose(
    grad_cam.attention_map(x, attention)[0, :, 0], [0.4, 0.3], rtol=1e-6
  )


def test_without_attention_all_stages_are_sites():
  config = small_config().model
  config.attention = 'none'
  model = create_model(config, CLASSES)
  assert grad_cam.sites_of(model) == (1, 2, 3, 4)
  assert grad_cam.levels_of(model) == (0,)


def test_every_site_of_a_resnet_has_maps():
  """Traced only."""
  config = small_config().model
  config.update(multi_part=True, levels=2, dtype='bfloat16')
  model = create_model(config, CLASSES)
  assert grad_cam.sites_of(model) == (1, 2, 3, 4)
  variables = variable_shapes(model, (64, 32))
  images = jax.ShapeDtypeStruct((2, 64, 32, 3), np.uint8)
  maps, output = jax.eval_shape(
    lambda v, x: grad_cam.explain(model, v, x, logit_1, (1, 4)),
    variables,
    images,
  )
  assert output.logits.shape == (2, CLASSES)
  for site, shape in ((1, (2, 16, 8)), (4, (2, 4, 2))):
    assert [found.level for found in maps[site]] == [0, 1, 2]
    assert {found.heat.shape for found in maps[site]} == {shape}
    assert {found.heat.dtype for found in maps[site]} == {np.dtype('float32')}
