from functools import partial
import json
import pathlib
import re

import flax.linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apnet_jax.models import attention
from apnet_jax.models.attention import (
  ChannelAttention,
  GroupedDense,
  SharedChannelAttention,
  SpatialAttention,
  torch_uniform,
)
from apnet_jax.models.heads import LocalBranch
from apnet_jax.models.layers import BatchNorm, MomentNorm
from apnet_jax.models.pyramid import AttentionPyramid, parts_of_level
from apnet_jax.models.torch_weights import import_state_dict
from configs import common
from tests.golden import recipe

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def attend(x, fc1, fc2):
  """Computes Eq. (5) for one part [height, width, channels]."""
  return sigmoid(np.maximum(x.mean((0, 1)) @ fc1, 0) @ fc2)


def pyramid_by_hand(x, params, radix):
  """Computes Eq. (1) to (3) with loops over images, levels and parts."""
  x = np.array(x)
  for level in range(1, len(params) + 1):
    weights = params[f'level{level}']
    parts = radix ** (level - 1)
    for image in x:
      maps = [
        attend(part, weights['fc1']['kernel'][j], weights['fc2']['kernel'][j])
        for j, part in enumerate(np.split(image, parts, axis=-1))
      ]
      image *= np.concatenate(maps)
  return x


def channel_pyramid(**fields):
  attention = partial(ChannelAttention, reduction=fields.pop('reduction', 16))
  return AttentionPyramid(
    attention=attention, split_attention=attention, **fields
  )


@settings(max_examples=15)
@given(
  st.sampled_from([(1, 4), (2, 1), (2, 2), (2, 8), (3, 2), (3, 4)]),
  st.integers(0, 2**31 - 1),
)
def test_pyramid_equals_the_equations(levels_radix, seed):
  levels, radix = levels_radix
  keys = jax.random.split(jax.random.key(seed), 2)
  x = jax.random.normal(keys[0], (2, 3, 2, 64)) * 2
  pyramid = channel_pyramid(levels=levels, radix=radix, reduction=2)
  params = pyramid.init(keys[1], x)['params']
  expected = pyramid_by_hand(x, jax.device_get(params), radix)
  y = pyramid.apply({'params': params}, x)
  np.testing.assert_allclose(y, expected, rtol=2e-5, atol=2e-5)
  assert not np.allclose(y, 0.5**levels * x)  # attention is not constant


@pytest.mark.parametrize('along', ['channels', 'rows'])
def test_a_pyramid_without_levels_is_the_identity(along):
  x = jnp.arange(24.0).reshape(1, 2, 3, 4)
  y = channel_pyramid(levels=0, along=along).apply({}, x)
  np.testing.assert_array_equal(y, x)


def test_parts_are_attended_alone():
  """A change of one part does not change the attention of other parts."""
  x = jax.random.normal(jax.random.key(0), (1, 2, 2, 32))
  attention = ChannelAttention(parts=4, reduction=2)
  params = attention.init(jax.random.key(1), x)
  changed = x.at[..., 8:16].add(1.0)
  before, after = attention.apply(params, x), attention.apply(params, changed)
  same = np.isclose(before, after).reshape(4, 8).all(1)
  assert same.tolist() == [True, False, True, True]


def test_parts_of_a_level():
  assert [parts_of_level(i, 2) for i in (1, 2, 3)] == [1, 2, 4]
  assert [parts_of_level(i, 3) for i in (1, 2, 3)] == [1, 3, 9]
  assert [parts_of_level(i, 4, stacked=True) for i in (1, 2, 3)] == [1, 1, 1]


def test_hidden_width_is_at_least_one():
  x = jnp.ones((1, 1, 1, 64))
  params = ChannelAttention(parts=32).init(jax.random.key(0), x)['params']
  assert params['fc1']['kernel'].shape == (32, 2, 1)


def test_split_attention_has_no_loop_and_no_vmap():
  """The operations are the same for any number of parts."""

  def operations(parts):
    attention = ChannelAttention(parts=parts)
    x = jnp.ones((2, 4, 4, 64))
    params = attention.init(jax.random.key(0), x)
    jaxpr = str(jax.make_jaxpr(attention.apply)(params, x))
    return re.findall(r'= ([a-z_]+)', jaxpr)

  assert operations(2) == operations(32)
  assert operations(2).count('dot_general') == 2


def test_a_split_that_does_not_divide_is_an_error():
  pyramid = channel_pyramid(levels=3, radix=3, name='att1')
  with pytest.raises(
    ValueError, match=r'att1: 256 channels.* 3 parts at level 2 .*radix=3'
  ):
    pyramid.init(jax.random.key(0), jnp.ones((1, 1, 1, 256)))


def test_a_level_order_and_norm_of_the_released_code():
  """Level 2 comes first, and only level 2 is followed by a normalisation."""
  pyramid = AttentionPyramid(
    levels=2,
    attention=ChannelAttention,
    split_attention=partial(SharedChannelAttention, norm=BatchNorm),
    fine_to_coarse=True,
    norm_after_split=MomentNorm,
  )
  x = jax.random.normal(jax.random.key(0), (2, 3, 2, 64))
  variables = pyramid.init(jax.random.key(1), x)
  assert set(variables['params']) == {'level1', 'level2', 'norm2'}

  def apply(module, name, x):
    own = {k: v[name] for k, v in variables.items() if name in v}
    return module.apply(own, x, False)

  y = apply(SharedChannelAttention(2, BatchNorm), 'level2', x) * x
  y = apply(BatchNorm(), 'norm2', y)
  y = apply(ChannelAttention(), 'level1', y) * y
  np.testing.assert_allclose(pyramid.apply(variables, x), y, rtol=1e-6)


def test_shared_attention_makes_parts_compete():
  """The scores of a channel sum to 1 over the parts."""
  x = jax.random.normal(jax.random.key(0), (3, 2, 2, 64))
  attention = SharedChannelAttention(parts=4, norm=BatchNorm)
  variables = attention.init(jax.random.key(1), x)
  scores = attention.apply(variables, x).reshape(3, 4, 16)
  np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-6)
  assert scores.std() > 0
  assert variables['params']['fc1']['kernel'].shape == (1, 16, 64)
  narrow = SharedChannelAttention(4, partial(BatchNorm, dtype=jnp.bfloat16))
  found = jax.eval_shape(narrow.apply, variables, x.astype(jnp.bfloat16))
  assert found.dtype == jnp.float32


def rga_by_hand(x, theta, phi, gx, kernel, last):
  """Computes RGA-S of one part from the whole matrix of relations.

  Args:
    x: [positions, channels].
    theta: [channels, width].
    phi: [channels, width].
    gx: [channels, width].
    kernel: [2 * positions, width].
    last: the two layers of W.
  """

  def relu(z):
    # A fresh normalisation in eval mode only divides by sqrt(1 + epsilon).
    return np.maximum(z / np.sqrt(1 + 1e-5), 0)

  relations = relu(x @ theta) @ relu(x @ phi).T
  both = np.concatenate([relations, relations.T], 1)
  y = np.concatenate(
    [relu(x @ gx).mean(1, keepdims=True), relu(both @ kernel)], 1
  )
  return sigmoid(relu(y @ last[0]) @ last[1] / np.sqrt(1 + 1e-5))


@pytest.mark.parametrize('parts', [1, 2, 4])
def test_spatial_attention_equals_the_equations(parts):
  """Eq. (4) holds in each part of the height, which has its own weights."""
  x = jax.random.normal(jax.random.key(0), (2, 8, 4, 16))
  attention = SpatialAttention(parts, BatchNorm)
  variables = attention.init(jax.random.key(1), x)
  params = jax.device_get(variables['params'])

  def kernel(name, part, layer='0'):
    return params[name][layer]['kernel'][part]

  ours = attention.apply(variables, x)
  assert ours.shape == (2, 8, 4, 1)
  split = np.asarray(x).reshape(2, parts, -1, 16)
  expected = [
    [
      rga_by_hand(
        part,
        *(kernel(f'{n}_spatial', j) for n in ('theta', 'phi', 'gx', 'gg')),
        [kernel('W_spatial', j, layer) for layer in ('0', '3')],
      )
      for j, part in enumerate(image)
    ]
    for image in split
  ]
  np.testing.assert_allclose(ours.ravel(), np.ravel(expected), rtol=1e-5)
  assert np.std(expected) > 1e-4


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_spatial_attention_agrees_with_the_released_rga(mode):
  golden = np.load(GOLDEN / 'rga_s_small.npz')
  keys = json.loads((GOLDEN / 'rga_s_keys.json').read_text())
  height, width, channels = (
    int(golden[name]) for name in ('height', 'width', 'channels')
  )
  x = recipe.images(int(golden['seed']), 4, height, width, channels)
  attention = SpatialAttention(1, BatchNorm)
  # The names of weights need a place: level 1 of the pyramid after stage 1.
  shapes = {
    kind: {'att1': {'level1': tree}}
    for kind, tree in jax.eval_shape(
      attention.init, jax.random.key(0), x
    ).items()
  }
  state_dict = {
    f'rga_att1.{key}': recipe.state_dict_value(key, tuple(shape))
    for key, shape in keys.items()
    if 'num_batches' not in key
  }
  variables = {
    kind: tree['att1']['level1']
    for kind, tree in import_state_dict(
      state_dict, shapes, common.get_config().model
    ).variables.items()
  }
  scores, _ = attention.apply(
    variables, x, mode == 'train', mutable=['batch_stats']
  )
  np.testing.assert_allclose(
    scores[..., 0], golden[f'{mode}_attention'], rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(
    (scores * x)[..., :8].transpose(0, 3, 1, 2),
    golden[f'{mode}_out'],
    rtol=1e-4,
    atol=1e-5,
  )


def test_spatial_attention_holds_no_matrix_of_relations():
  """No array has the shape [positions, positions]."""
  x = jax.ShapeDtypeStruct((1, 64, 32, 64), 'float32')
  attention = SpatialAttention(1, BatchNorm)
  variables = jax.eval_shape(attention.init, jax.random.key(0), x)
  jaxpr = str(jax.make_jaxpr(attention.apply)(variables, x))
  assert '2048,256' in jaxpr and '2048,2048' not in jaxpr


def test_spatial_hidden_width_is_at_least_one():
  """The ratio alone gives 0 at level 3 of 256x128 images."""
  x = jnp.ones((1, 16, 8, 2048))
  params = jax.eval_shape(
    SpatialAttention(4, BatchNorm).init, jax.random.key(0), x
  )['params']
  assert params['W_spatial']['0']['kernel'].shape == (4, 1 + 4, 1)


def test_spatial_weights_are_tied_to_the_image_size():
  attention = SpatialAttention(1, BatchNorm)
  variables = attention.init(jax.random.key(0), jnp.ones((1, 8, 4, 16)))
  with pytest.raises(
    ValueError, match='made for 32 positions.* give 64.*config.data.image_size'
  ):
    attention.apply(variables, jnp.ones((1, 16, 4, 16)))


def test_rows_that_do_not_split_are_an_error():
  attention = partial(SpatialAttention, norm=BatchNorm)
  pyramid = AttentionPyramid(
    levels=2, attention=attention, split_attention=attention, along='rows',
    name='att3',
  )  # fmt: skip
  with pytest.raises(ValueError, match='att3: 7 rows .* 2 parts at level 2'):
    pyramid.init(jax.random.key(0), jnp.ones((1, 7, 4, 64)))


@pytest.mark.parametrize('kind', ['channel', 'spatial', 'shared'])
def test_gradients_of_every_level_are_not_zero(kind):
  """Level 1 has one part and level 2 has two; in training mode."""
  attention = {
    'channel': ChannelAttention,
    'spatial': partial(SpatialAttention, norm=BatchNorm),
    'shared': partial(SharedChannelAttention, norm=BatchNorm),
  }
  pyramid = AttentionPyramid(
    levels=2,
    attention=attention['channel' if kind == 'shared' else kind],
    split_attention=attention[kind],
    along='rows' if kind == 'spatial' else 'channels',
    norm_after_split=MomentNorm if kind == 'shared' else None,
  )
  x = jax.random.normal(jax.random.key(0), (8, 16, 4, 64))
  variables = pyramid.init(jax.random.key(1), x)

  @jax.jit
  def gradient(params):
    def loss_fn(params):
      y, _ = pyramid.apply(
        {**variables, 'params': params}, x, True, mutable=['batch_stats']
      )
      return jnp.sin(y).sum()

    return jax.grad(loss_fn)(params)

  leaves = jax.tree_util.tree_leaves_with_path(gradient(variables['params']))
  assert len(leaves) >= 4
  assert {path[0].key for path, _ in leaves} >= {'level1', 'level2'}
  for path, leaf in leaves:
    assert np.isfinite(leaf).all(), path
    # A bias before a normalisation has no effect in training.
    if 'fc1' not in str(path) or 'bias' not in str(path):
      assert abs(leaf).max() > 1e-6, path


def test_initial_weights_are_those_of_pytorch():
  """Uniform in one over the root of a part's inputs, as `torch.nn.Linear`."""
  kernel = torch_uniform(jax.random.key(0), (3, 64, 50))
  bound = 64**-0.5
  np.testing.assert_allclose(abs(kernel).max((1, 2)), bound, rtol=0.01)
  np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.02)
  layer = GroupedDense(50, use_bias=True)
  params = layer.init(jax.random.key(0), jnp.ones((1, 3, 64)))['params']
  np.testing.assert_allclose(abs(params['bias']).max(), bound, rtol=0.05)


class Unchanged(nn.Module):
  def __call__(self, x, train):
    return x


def test_the_local_branch_by_hand():
  """Upper and lower half: pooled, reduced, normalised and classified apart."""
  branch = LocalBranch(Unchanged, BatchNorm, num_classes=7, features=3)
  x = np.random.default_rng(0).normal(size=(2, 4, 6, 5)).astype(np.float32)
  variables = branch.init(jax.random.key(0), x, False)
  rng = np.random.default_rng(1)
  neck = {name: rng.uniform(1, 2, 6) for name in ('mean', 'var', 'bias')}
  variables = {
    'params': variables['params'], 'batch_stats': {'bottleneck': neck},
  }  # fmt: skip
  (found, embedding) = branch.apply(variables, x, False)

  halves = np.stack([x[:, :2], x[:, 2:]], 1).mean((2, 3))
  params = jax.device_get(variables['params'])
  feature = np.einsum('bpi,pio->bpo', halves, params['reduction']['kernel'])
  feature = feature.reshape(2, 6)
  normalized = (feature - neck['mean']) / np.sqrt(neck['var'] + 1e-5)
  normalized += neck['bias']
  logits = np.einsum(
    'bpi,pio->bpo', normalized.reshape(2, 2, 3), params['classifier']['kernel']
  )
  np.testing.assert_allclose(found.feature, feature, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(embedding, normalized, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(found.logits, logits, rtol=1e-4, atol=1e-7)


def test_bfloat16_attention_is_multiplied_and_summed_in_float32():
  """Rounding to bfloat16 happens once, at the end."""
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (2, 48, 24, 8)).astype(jnp.bfloat16)
  scores = jax.random.uniform(keys[1], (2, 1, 1, 8))
  gradient = jax.random.normal(keys[2], x.shape).astype(jnp.bfloat16)
  y, back = jax.vjp(attention.attend, x, scores)
  wide = np.asarray(x, np.float64)
  assert y.dtype == jnp.bfloat16
  exact = wide * np.asarray(scores, np.float64)
  np.testing.assert_array_equal(y, jnp.asarray(exact, jnp.bfloat16))
  d_x, d_scores = back(gradient)
  assert (d_x.dtype, d_scores.dtype) == (jnp.bfloat16, jnp.float32)
  expected = (wide * np.asarray(gradient, np.float64)).sum(
    (1, 2), keepdims=True
  )
  np.testing.assert_allclose(d_scores, expected, rtol=1e-4, atol=1e-4)


def test_averages_of_bfloat16_are_float32():
  x = 1 + jax.random.uniform(jax.random.key(0), (2, 24, 12, 8))
  x = x.astype(jnp.bfloat16)
  found = attention.average(x)
  assert found.dtype == jnp.float32
  exact = np.asarray(x, np.float64).mean((1, 2), keepdims=True)
  np.testing.assert_allclose(found, exact, rtol=1e-5)
