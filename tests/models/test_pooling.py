import itertools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from apnet_jax.models import pooling
from apnet_jax.models.pooling import max_pool

OPTIONS = [(2, 1), (2, 0), (1, 0)]  # stride and padding
DEVICES = ['cpu', 'tpu', 'default']


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
  """Runs on the CPU what another device would compute."""

  def choose(*arrays, default, **forms):
    return forms.get(request.param, default)(*arrays)

  monkeypatch.setattr(lax, 'platform_dependent', choose)
  return request.param


def windows(images, stride, padding):
  """Returns the windows of maps, [batch, height', width', channels, 3, 3]."""
  pad = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
  padded = np.pad(images, pad, constant_values=-np.inf)
  every = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
  return every[:, ::stride, ::stride]


def gradient_by_definition(images, gradient, stride, padding):
  """Adds the gradient of each window to its first maximum."""
  seen = windows(images, stride, padding)
  batch, rows, columns, channels = seen.shape[:4]
  total = np.zeros(images.shape, np.float64)
  for b, r, c, k in itertools.product(
    *map(range, (batch, rows, columns, channels))
  ):
    i, j = np.unravel_index(seen[b, r, c, k].argmax(), (3, 3))
    place = (r * stride + i - padding, c * stride + j - padding)
    total[b, *place, k] += gradient[b, r, c, k]
  return total


def make_arrays(stride, padding, dtype=jnp.float32, image=(7, 6)):
  keys = jax.random.split(jax.random.key(0), 2)
  x = jax.random.normal(keys[0], (2, *image, 3), dtype)
  y = jax.eval_shape(lambda x: max_pool(x, stride, padding), x)
  return x, jax.random.normal(keys[1], y.shape, dtype)


@pytest.mark.parametrize('image', [(7, 6), (8, 5)])
@pytest.mark.parametrize(('stride', 'padding'), OPTIONS)
def test_maxima_and_gradient(device, stride, padding, image):
  x, gradient = make_arrays(stride, padding, image=image)
  y, back = jax.vjp(lambda x: max_pool(x, stride, padding), x)
  expected = windows(x, stride, padding).max((-1, -2))
  np.testing.assert_array_equal(y, expected)
  expected = gradient_by_definition(x, gradient, stride, padding)
  np.testing.assert_allclose(*back(gradient), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('device', ['tpu', 'default'], indirect=True)
def test_accelerators_follow_the_first_of_equal_maxima(device):
  x, gradient = make_arrays(2, 1)
  x = jnp.round(x).clip(0)  # many zeros, as after a ReLU
  _, back = jax.vjp(max_pool, x)
  expected = gradient_by_definition(x, gradient, 2, 1)
  np.testing.assert_allclose(*back(gradient), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('device', DEVICES, indirect=True)
def test_the_gradient_of_equal_maxima_is_not_lost(device):
  x, gradient = make_arrays(2, 1)
  (total,) = jax.vjp(max_pool, jnp.round(x))[1](gradient)
  np.testing.assert_allclose(total.sum(), gradient.sum(), rtol=1e-5)


def test_a_gpu_adds_in_float32(monkeypatch):
  """The sum of a pixel's windows is rounded to bfloat16 once."""
  x = jnp.zeros((1, 3, 3, 1), jnp.bfloat16).at[0, 1, 1, 0].set(1)
  gradient = jnp.array([256, 1, 1, 1], jnp.bfloat16).reshape(1, 2, 2, 1)
  y = jnp.ones_like(gradient)
  total = pooling._collect_gradient(x, y, gradient, 2, 1)
  assert total.dtype == jnp.bfloat16
  assert total[0, 1, 1, 0] == 260  # 259 rounds to 260; 256 + 1 to 256


def test_each_platform_has_its_form():
  def back(x, gradient):
    return jax.vjp(max_pool, x)[1](gradient)

  traced = jax.jit(back).trace(*make_arrays(2, 1))
  scatters = [
    traced.lower(lowering_platforms=(platform,)).as_text().count(
      'select_and_scatter'
    )
    for platform in ('cpu', 'cuda', 'tpu')
  ]  # fmt: skip
  assert scatters == [0, 0, 1]
