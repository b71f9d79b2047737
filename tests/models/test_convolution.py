from functools import partial

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from apnet_jax.models import counting, layers, winograd
from apnet_jax.models.convolution import convolve

# Kernel size, stride, padding, and height and width of the input.
USUAL = ((3, 3), 1, (1, 1), (6, 4))
SHAPES = [
  USUAL,
  ((3, 3), 2, (1, 1), (6, 4)),
  ((3, 3), 2, (0, 0), (7, 5)),
  ((7, 7), 2, (3, 3), (8, 6)),
  ((1, 7), 1, (0, 3), (3, 4)),
  ((5, 5), 1, (2, 2), (4, 3)),
  ((1, 1), 1, (1, 1), (2, 3)),
]
# All shapes by the direct convolution, and one by Winograd's algorithm.
CASES = [(False, *shape) for shape in SHAPES] + [(True, *USUAL)]


def direct(x, kernel, stride=1, padding=(1, 1)):
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    [(pad, pad) for pad in padding],
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def make_arrays(size, stride, padding, image):
  """Returns an input, a kernel and a gradient with respect to the output.

  The mean of the input is not 0, as after a ReLU.
  """
  keys = jax.random.split(jax.random.key(0), 3)
  x = 1 + jax.random.normal(keys[0], (2, *image, 5))
  kernel = jax.random.normal(keys[1], (*size, 5, 7))
  y = jax.eval_shape(partial(direct, stride=stride, padding=padding), x, kernel)
  return x, kernel, jax.random.normal(keys[2], y.shape)


@pytest.fixture
def by_winograd(request, monkeypatch):
  """Uses Winograd's algorithm for small arrays too, or for no arrays."""
  least = 0 if request.param else 2**60
  monkeypatch.setattr(winograd, 'MIN_MULTIPLY_ADDS', least)
  return request.param


@pytest.fixture
def other_device(monkeypatch):
  """Runs on the CPU what a GPU or TPU would compute."""
  monkeypatch.setattr(
    lax, 'platform_dependent', lambda *arrays, cpu, default: default(*arrays)
  )


def each_case(function):
  names = ('by_winograd', 'size', 'stride', 'padding', 'image')
  return pytest.mark.parametrize(names, CASES, indirect=names[:1])(function)


def each_algorithm(function):
  return pytest.mark.parametrize('by_winograd', [False, True], indirect=True)(
    function
  )


@each_case
def test_values_and_gradients(by_winograd, size, stride, padding, image):
  """They equal those of the direct convolution up to rounding of float64."""
  arrays = make_arrays(size, stride, padding, image)
  with jax.enable_x64(True):
    x, kernel, gradient = (np.asarray(a, np.float64) for a in arrays)
    options = {'stride': stride, 'padding': padding}
    ours, theirs = (partial(f, **options) for f in (convolve, direct))
    expected, expected_back = jax.vjp(theirs, x, kernel)
    for function in (ours, jax.jit(ours)):
      y, back = jax.vjp(function, x, kernel)
      np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-13)
      for a, b in zip(back(gradient), expected_back(gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(('size', 'stride', 'padding', 'image'), SHAPES[:2])
def test_other_devices_have_the_usual_gradients(
  size, stride, padding, image, other_device
):
  x, kernel, gradient = make_arrays(size, stride, padding, image)
  _, back = jax.vjp(lambda *a: convolve(*a, stride, padding), x, kernel)
  _, expected = jax.vjp(lambda *a: direct(*a, stride, padding), x, kernel)
  for a, b in zip(back(gradient), expected(gradient), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@each_algorithm
@pytest.mark.parametrize('result', ['value', 'gradients'])
def test_rounding_is_that_of_float32(result, by_winograd):
  """The error is at most a few times that of the direct convolution."""
  x, kernel, gradient = make_arrays(*USUAL)

  def run(function, *arrays):
    y, back = jax.vjp(function, *arrays[:2])
    return [y] if result == 'value' else back(arrays[2])

  with jax.enable_x64(True):
    wide = (np.asarray(a, np.float64) for a in (x, kernel, gradient))
    exact = [np.asarray(a) for a in run(direct, *wide)]
  ours, theirs = (
    [
      np.abs(np.asarray(a, np.float64) - e).max()
      for a, e in zip(run(f, x, kernel, gradient), exact, strict=True)
    ]
    for f in (lambda x, kernel: convolve(x, kernel, 1, (1, 1)), direct)
  )
  for a, b, e in zip(ours, theirs, exact, strict=True):
    assert a < 4 * b
    assert a < 1e-6 * np.abs(e).max()


@each_case
def test_the_counted_work_is_that_of_the_usual_form(
  by_winograd, size, stride, padding, image
):
  x, kernel, gradient = make_arrays(size, stride, padding, image)

  def count(function, wanted):
    def both(x, kernel):
      y, back = jax.vjp(lambda *a: function(*a, stride, padding), x, kernel)
      return y, back(gradient)[wanted]

    return counting.count_jaxpr(jax.make_jaxpr(both)(x, kernel))

  forward = gradient.size * size[0] * size[1] * 5
  assert count(convolve, 1) == count(direct, 1) == 2 * forward
  both = slice(None)
  assert count(convolve, both) == count(direct, both)
  if (size, stride, padding, image) == USUAL:
    assert count(convolve, both) == 3 * forward


@each_algorithm
def test_the_cpu_multiplies_otherwise(by_winograd):
  """Only the CPU computes convolutions as matrix products.

  Winograd's algorithm has 16 of them. Without it, the gradient with respect to
  the kernel is one.
  """
  x, kernel, gradient = make_arrays(*USUAL)
  convolution = partial(convolve, stride=1, padding=(1, 1))

  def back(x, kernel, gradient):
    return jax.vjp(convolution, x, kernel)[1](gradient)

  def products(function, *arrays):
    traced = jax.jit(function).trace(*arrays)
    return [
      (text.count('dot_general'), text.count('convolution('))
      for platform in ('cpu', 'cuda', 'tpu')
      for text in [traced.lower(lowering_platforms=(platform,)).as_text()]
    ]

  forward = (16, 0) if by_winograd else (0, 1)
  assert products(convolution, x, kernel) == [forward, (0, 1), (0, 1)]
  backward = (32, 0) if by_winograd else (1, 1)
  assert products(back, x, kernel, gradient) == [backward, (0, 2), (0, 2)]


@pytest.mark.parametrize(
  ('shape', 'dtype', 'suits'),
  [
    ((8, 24, 12, 512), jnp.float32, True),
    ((8, 24, 12, 512), jnp.bfloat16, False),
    ((8, 23, 12, 512), jnp.float32, False),
    ((8, 24, 11, 512), jnp.float32, False),
    ((8, 2, 2, 512), jnp.float32, False),  # too small
  ],
)
def test_where_winograd_applies(shape, dtype, suits):
  x, kernel = (
    jax.ShapeDtypeStruct(shape, dtype) for shape in (shape, (3, 3, 512, 512))
  )
  assert winograd.suits(x, kernel) == suits


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
def test_what_conv_uses(options, used, monkeypatch):
  uses = []
  original = winograd.convolve
  monkeypatch.setattr(
    winograd, 'convolve', lambda *a: uses.append(1) or original(*a)
  )
  conv = layers.Conv(512, **{'kernel_size': 3, **options})
  x = jax.ShapeDtypeStruct((8, 24, 12, 512), jnp.float32)
  jax.eval_shape(lambda x: conv.init_with_output(jax.random.key(0), x), x)
  assert bool(uses) == used
