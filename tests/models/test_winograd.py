import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from apnet_jax import complexity
from apnet_jax.models import layers, winograd


def usual(x, kernel):
  return lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


@pytest.fixture
def arrays():
  """An input with an offset, as after a ReLU, a kernel, and a gradient."""
  keys = jax.random.split(jax.random.key(0), 3)
  x = 1 + jax.random.normal(keys[0], (2, 6, 4, 5))
  return (
    x,
    jax.random.normal(keys[1], (3, 3, 5, 7)),
    jax.random.normal(keys[2], (2, 6, 4, 7)),
  )


def test_values_and_gradients(arrays):
  """Those of the usual convolution, in float64 to its own rounding."""
  with jax.enable_x64(True):
    x, kernel, gradient = (np.asarray(a, np.float64) for a in arrays)
    for function in (winograd.conv3x3, jax.jit(winograd.conv3x3)):
      y, back = jax.vjp(function, x, kernel)
      expected, expected_back = jax.vjp(usual, x, kernel)
      np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-13)
      for ours, theirs in zip(
        back(gradient), expected_back(gradient), strict=True
      ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_rounding_is_that_of_float32(arrays):
  """Beside float64, it is at most a few times that of the usual one."""
  x, kernel, _ = arrays
  with jax.enable_x64(True):
    exact = usual(np.asarray(x, np.float64), np.asarray(kernel, np.float64))
    exact = np.asarray(exact)
  errors = [
    np.abs(np.asarray(function(x, kernel), np.float64) - exact).max()
    for function in (winograd.conv3x3, usual)
  ]
  assert errors[0] < 4 * errors[1]
  assert errors[0] < 1e-6 * np.abs(exact).max()


def test_the_counted_work_is_that_of_the_usual_form(arrays):
  x, kernel, gradient = arrays

  def count(function):
    def both(x, kernel):
      y, back = jax.vjp(function, x, kernel)
      return y, back(gradient)

    return complexity.count_jaxpr(jax.make_jaxpr(both)(x, kernel))

  assert count(winograd.conv3x3) == count(usual) == 3 * gradient.size * 9 * 5


def test_the_cpu_multiplies_less(arrays):
  """16 products for 4 outputs instead of 36."""
  x, kernel, _ = arrays
  products = {}
  for platform in ('cpu', 'cuda', 'tpu'):
    text = (
      jax.jit(winograd.conv3x3)
      .trace(x, kernel)
      .lower(lowering_platforms=(platform,))
      .as_text()
    )
    products[platform] = text.count('dot_general'), text.count('convolution(')
  assert products == {'cpu': (16, 0), 'cuda': (0, 1), 'tpu': (0, 1)}


def test_other_devices_have_the_usual_gradients(arrays):
  x, kernel, gradient = arrays
  ours = winograd._lax_gradients(x, kernel, gradient)
  _, back = jax.vjp(usual, x, kernel)
  for a, b in zip(ours, back(gradient), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ('shape', 'dtype', 'applies'),
  [
    ((8, 24, 12, 512), jnp.float32, True),
    ((8, 24, 12, 512), jnp.bfloat16, False),
    ((8, 23, 12, 512), jnp.float32, False),
    ((8, 24, 11, 512), jnp.float32, False),
    ((8, 2, 2, 512), jnp.float32, False),  # too small
  ],
)
def test_where_it_applies(shape, dtype, applies):
  x = jax.ShapeDtypeStruct(shape, dtype)
  assert winograd.applies(x, 512) == applies


@pytest.mark.parametrize(
  ('options', 'used'),
  [
    ({}, True),
    ({'stride': 2}, False),
    ({'padding': 0}, False),
    ({'kernel_size': 1}, False),
    ({'kernel_size': (1, 3)}, False),
    ({'kernel_size': 5, 'padding': 1}, False),
  ],
)
def test_what_conv_uses(options, used):
  conv = layers.Conv(512, **{'kernel_size': 3, **options})
  x = jax.ShapeDtypeStruct((8, 24, 12, 512), jnp.float32)
  jaxpr = jax.make_jaxpr(lambda x: conv.init_with_output(jax.random.key(0), x))
  assert ('conv3x3' in str(jaxpr(x))) == used
