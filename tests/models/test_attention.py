import re

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apnet_jax.models.attention import ChannelAttention
from apnet_jax.models.pyramid import AttentionPyramid, parts_of_level


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def attend(x, fc1, fc2):
  """Eq. (5) without the sigmoid, of one part [height, width, channels]."""
  return np.maximum(x.mean((0, 1)) @ fc1, 0) @ fc2


def pyramid_by_hand(x, params, radix):
  """Eq. (1) to (3) with loops over images, levels and parts."""
  x = np.array(x)
  for level in range(1, len(params) + 1):
    weights = params[f'level{level}']
    parts = radix ** (level - 1)
    for image in x:
      maps = [
        attend(part, weights['fc1'][j], weights['fc2'][j])
        for j, part in enumerate(np.split(image, parts, axis=-1))
      ]
      image *= sigmoid(np.concatenate(maps))
  return x


@settings(max_examples=15)
@given(
  st.sampled_from([(1, 4), (2, 1), (2, 2), (2, 8), (3, 2), (3, 4)]),
  st.integers(0, 2**31 - 1),
)
def test_pyramid_equals_the_equations(levels_radix, seed):
  levels, radix = levels_radix
  keys = jax.random.split(jax.random.key(seed), 2)
  x = jax.random.normal(keys[0], (2, 3, 2, 64)) * 2
  pyramid = AttentionPyramid(levels=levels, radix=radix, reduction=2)
  params = pyramid.init(keys[1], x)['params']
  expected = pyramid_by_hand(x, jax.device_get(params), radix)
  y = pyramid.apply({'params': params}, x)
  np.testing.assert_allclose(y, expected, rtol=2e-5, atol=2e-5)
  assert not np.allclose(y, 0.5**levels * x)  # the attention says something


def test_parts_are_attended_alone():
  """A change in one part leaves the attention of the others as it was."""
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
  assert params['fc1'].shape == (32, 2, 1)


def test_split_attention_has_no_loop_and_no_vmap():
  """The same operations whatever the number of parts."""

  def operations(parts):
    attention = ChannelAttention(parts=parts)
    x = jnp.ones((2, 4, 4, 64))
    params = attention.init(jax.random.key(0), x)
    jaxpr = str(jax.make_jaxpr(attention.apply)(params, x))
    return re.findall(r'= ([a-z_]+)', jaxpr)

  assert operations(2) == operations(32)
  assert operations(2).count('dot_general') == 2


def test_a_split_that_does_not_divide_is_an_error():
  pyramid = AttentionPyramid(levels=3, radix=3, name='att1')
  with pytest.raises(
    ValueError, match=r'att1: 256 channels.* 3 parts at level 2 .*radix=3'
  ):
    pyramid.init(jax.random.key(0), jnp.ones((1, 1, 1, 256)))
