import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from apnet_jax.errors import UserError
from apnet_jax.models.attention import attend
from apnet_jax.models.layers import (
  BatchNorm,
  Conv,
  MomentNorm,
  check_batch_norm_group,
  image_moments,
)


class NormByMoments(MomentNorm):
  """A `MomentNorm` that is called as a `BatchNorm`."""

  def __call__(self, x, train):
    scale, shift = super().__call__(*image_moments(x), x.shape, train)
    return attend(x, scale, shift)


both_norms = pytest.mark.parametrize('norm', [BatchNorm, NormByMoments])


@pytest.fixture
def images():
  return jax.random.normal(jax.random.key(0), (8, 7, 6, 5)) * 3 + 2


@pytest.mark.parametrize(
  ('kernel_size', 'padding', 'pad'),
  [
    (1, None, (0, 0)),
    (3, None, (1, 1)),
    (7, None, (3, 3)),
    ((1, 7), None, (0, 3)),
    (3, 0, (0, 0)),
    (1, 1, (1, 1)),
  ],
)
@pytest.mark.parametrize('stride', [1, 2])
def test_conv_equals_the_definition(images, kernel_size, padding, pad, stride):
  conv = Conv(4, kernel_size, stride, padding)
  variables = conv.init(jax.random.key(1), images)
  kernel = variables['params']['kernel']
  size = np.broadcast_to(kernel_size, 2)
  assert kernel.shape == (*size, 5, 4)
  padded = np.pad(images, [(0, 0), *[(p, p) for p in pad], (0, 0)])
  windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=(1, 2))[
    :, ::stride, ::stride
  ]
  expected = np.einsum('bhwcij,ijco->bhwo', windows, kernel)
  np.testing.assert_allclose(
    conv.apply(variables, images), expected, rtol=1e-4, atol=1e-4
  )


def normalized(x, axes):
  mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
  return (x - mean) / np.sqrt(var + 1e-5)


@both_norms
@pytest.mark.parametrize('group', [0, 40, 8, 4, 2])
def test_batch_norm_by_groups(images, group, norm):
  """Groups are consecutive images; running statistics are those of PyTorch.

  A group size above the size of the batch means the whole batch.
  """
  norm = norm(group=group)
  variables = norm.init(jax.random.key(0), images, True)
  y, changed = norm.apply(variables, images, True, mutable=['batch_stats'])
  groups = np.asarray(images).reshape(-1, min(group or 8, 8), 7, 6, 5)
  expected = normalized(groups, (1, 2, 3)).reshape(images.shape)
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
  stats = changed['batch_stats']
  means = groups.mean((1, 2, 3)).mean(0)
  unbiased = groups.reshape(len(groups), -1, 5).var(1, ddof=1).mean(0)
  np.testing.assert_allclose(stats['mean'], 0.1 * means, rtol=1e-4)
  np.testing.assert_allclose(stats['var'], 0.9 + 0.1 * unbiased, rtol=1e-4)


@both_norms
@pytest.mark.parametrize('group', [0, 4])
def test_gradients_of_batch_norm_are_those_of_its_formula(
  images, group, norm, x64
):
  """Gradients equal those that JAX derives from the formula of the paper.

  `BatchNorm` has a hand-written gradient.
  """
  x = np.asarray(images, np.float64)
  scale, shift = np.arange(1.0, 6), np.arange(5.0)
  weights = np.sin(np.arange(x.size)).reshape(x.shape)

  def ours(x, scale, shift):
    variables = {
      'params': {'scale': scale, 'bias': shift},
      'batch_stats': {'mean': np.zeros(5), 'var': np.ones(5)},
    }
    y, _ = norm(group=group).apply(variables, x, True, mutable=['batch_stats'])
    return (y * weights).sum()

  def formula(x, scale, shift):
    groups, axes = x.reshape(-1, group or 8, 7, 6, 5), (1, 2, 3)
    y = groups - groups.mean(axes, keepdims=True)
    y /= jnp.sqrt(groups.var(axes, keepdims=True) + 1e-5)
    return ((y.reshape(x.shape) * scale + shift) * weights).sum()

  found, expected = (
    jax.jit(jax.grad(f, (0, 1, 2)))(x, scale, shift) for f in (ours, formula)
  )
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@both_norms
def test_batch_norm_in_evaluation(images, norm):
  variables = {
    'params': {'scale': jnp.arange(1.0, 6), 'bias': jnp.arange(5.0)},
    'batch_stats': {'mean': jnp.arange(5.0), 'var': jnp.full(5, 4.0)},
  }
  expected = (images - np.arange(5)) / np.sqrt(4 + 1e-5)
  expected = expected * np.arange(1, 6) + np.arange(5)
  y = norm().apply(variables, images, False)
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@both_norms
@pytest.mark.parametrize('group', [0, 40, 8, 4, 2, 1])
def test_batch_norm_does_not_depend_on_devices(images, group, norm):
  """Values, statistics and gradients are equal on one device and on four."""

  def run(images, axis_name=None):
    variables = norm().init(jax.random.key(0), images, False)

    def loss(images):
      y, changed = norm(group=group, axis_name=axis_name).apply(
        variables, images, True, mutable=['batch_stats']
      )
      weights = jnp.sin(jnp.arange(y[0].size)).reshape(y[0].shape)
      return (jnp.tanh(y) * weights).sum(), (y, changed['batch_stats'])

    gradient, (y, stats) = jax.grad(loss, has_aux=True)(images)
    return gradient, y, stats

  gradient, y, stats = run(images)
  shards = jax.pmap(lambda x: run(x, 'batch'), 'batch')(
    images.reshape(4, 2, *images.shape[1:])
  )
  for ours, expected in ((shards[0], gradient), (shards[1], y)):
    np.testing.assert_allclose(
      ours.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4
    )
  for name in ('mean', 'var'):
    for device in range(4):
      ours = shards[2][name][device]
      np.testing.assert_allclose(ours, stats[name], rtol=1e-5)


@pytest.mark.parametrize('group', [3, 5, 6])
def test_a_group_that_does_not_fit_is_an_error(images, group):
  norm = BatchNorm(group=group)
  with pytest.raises(ValueError, match=f'batch_norm_group={group} does not'):
    norm.init_with_output(jax.random.key(0), images, True)


def test_bfloat16_keeps_statistics_in_float32(images):
  norm = BatchNorm(dtype=jnp.bfloat16)
  variables = norm.init(jax.random.key(0), images, False)
  y, changed = norm.apply(
    variables, images.astype(jnp.bfloat16), True, mutable=['batch_stats']
  )
  assert y.dtype == jnp.bfloat16
  dtypes = jax.tree.leaves(jax.tree.map(lambda x: x.dtype, changed))
  assert set(dtypes) == {jnp.dtype('float32')}


@pytest.mark.parametrize('mean', [0, 3, 100])
def test_bfloat16_keeps_the_variance_beside_a_large_mean(mean):
  """One pass over the map changes the variance by 0.2% at most."""
  x = jax.random.normal(jax.random.key(0), (8, 24, 12, 16)) + mean
  x = x.astype(jnp.bfloat16)
  norm = BatchNorm()
  variables = norm.init(jax.random.key(0), x, False)
  y, changed = norm.apply(variables, x, True, mutable=['batch_stats'])
  wide = np.asarray(x, np.float64)
  running = changed['batch_stats']
  expected = 0.9 + 0.1 * wide.var((0, 1, 2), ddof=1)
  np.testing.assert_allclose(running['var'], expected, rtol=2e-4)
  np.testing.assert_allclose(
    running['mean'], 0.1 * wide.mean((0, 1, 2)), rtol=1e-4, atol=1e-5
  )
  known = {'mean': wide.mean((0, 1, 2)), 'var': wide.var((0, 1, 2))}
  z = norm.apply({**variables, 'batch_stats': known}, x, False)
  for found in (y, z):
    np.testing.assert_allclose(
      found, normalized(wide, (0, 1, 2)), rtol=1e-3, atol=1e-3
    )


def test_conv_agrees_with_lax_in_bfloat16(images):
  conv = Conv(4, 1, 2, dtype=jnp.bfloat16)
  variables = conv.init(jax.random.key(1), images)
  expected = lax.conv_general_dilated(
    images.astype(jnp.bfloat16),
    variables['params']['kernel'].astype(jnp.bfloat16),
    (2, 2),
    'VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  y = conv.apply(variables, images)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    y.astype(jnp.float32), expected.astype(jnp.float32), rtol=0.02, atol=0.02
  )


def test_a_frozen_shift_is_not_trained_and_not_lost(images):
  norm = BatchNorm(train_bias=False)
  variables = norm.init(jax.random.key(0), images, False)
  assert set(variables['params']) == {'scale'}
  shift = jnp.arange(5.0)
  shifted = {
    'params': variables['params'],
    'batch_stats': {**variables['batch_stats'], 'bias': shift},
  }
  for train in (False, True):
    y, _ = norm.apply(variables, images, train, mutable=['batch_stats'])
    z, changed = norm.apply(shifted, images, train, mutable=['batch_stats'])
    np.testing.assert_allclose(z, y + shift, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(changed['batch_stats']['bias'], shift)


def test_a_group_must_divide_the_images_of_a_device():
  with pytest.raises(UserError, match='batch_norm_group=6 does not fit 8'):
    check_batch_norm_group(6, 8, devices=4)
  check_batch_norm_group(4, 8, devices=4)


def test_rounding_does_not_make_a_variance_negative():
  """The channels are constant: without a bound, some variances are below 0."""
  x = jnp.broadcast_to(jnp.linspace(1, 300, 200), (2, 3, 5, 200))
  x = x.astype(jnp.bfloat16)
  norm = BatchNorm()
  variables = norm.init(jax.random.key(0), x, False)
  y, changed = norm.apply(variables, x, True, mutable=['batch_stats'])
  assert np.isfinite(y).all()
  assert (changed['batch_stats']['var'] >= 0.9 - 1e-6).all()
