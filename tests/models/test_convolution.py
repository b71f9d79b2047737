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
# As it is, and the one that Winograd's form is for in that form.
CASES = [(False, *shape) for shape in SHAPES] + [(True, *USUAL)]


def usual(x, kernel, stride=1, padding=(1, 1)):
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    [(pad, pad) for pad in padding],
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def make_arrays(size, stride, padding, image):
  """An input with an offset, as after a ReLU, a kernel, and a gradient."""
  keys = jax.random.split(jax.random.key(0), 3)
  x = 1 + jax.random.normal(keys[0], (2, *image, 5))
  kernel = jax.random.normal(keys[1], (*size, 5, 7))
  y = jax.eval_shape(partial(usual, stride=stride, padding=padding), x, kernel)
  return x, kernel, jax.random.normal(keys[2], y.shape)


@pytest.fixture
def by_winograd(request, monkeypatch):
  """Whether Winograd's form is taken for what is small."""
  monkeypatch.setattr(winograd, 'LEAST', 0 if request.param else 2**60)
  return request.param


@pytest.fixture
def other_device(monkeypatch):
  """What a GPU or TPU computes is computed here."""
  monkeypatch.setattr(
    lax, 'platform_dependent', lambda *arrays, cpu, default: default(*arrays)
  )


def each_case(function):
  names = ('by_winograd', 'size', 'stride', 'padding', 'image')
  return pytest.mark.parametrize(names, CASES, indirect=names[:1])(function)


def each_form(function):
  return pytest.mark.parametrize('by_winograd', [False, True], indirect=True)(
    function
  )


@each_case
def test_values_and_gradients(by_winograd, size, stride, padding, image):
  """Those of the usual convolution, in float64 to its own rounding."""
  arrays = make_arrays(size, stride, padding, image)
  with jax.enable_x64(True):
    x, kernel, gradient = (np.asarray(a, np.float64) for a in arrays)
    options = {'stride': stride, 'padding': padding}
    ours, theirs = (partial(f, **options) for f in (convolve, usual))
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
  _, expected = jax.vjp(lambda *a: usual(*a, stride, padding), x, kernel)
  for a, b in zip(back(gradient), expected(gradient), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@each_form
@pytest.mark.parametrize('part', ['value', 'gradients'])
def test_rounding_is_that_of_float32(part, by_winograd):
  """Beside float64, it is at most a few times that of the usual one."""
  x, kernel, gradient = make_arrays(*USUAL)

  def run(function, *arrays):
    y, back = jax.vjp(function, *arrays[:2])
    return [y] if part == 'value' else back(arrays[2])

  with jax.enable_x64(True):
    wide = (np.asarray(a, np.float64) for a in (x, kernel, gradient))
    exact = [np.asarray(a) for a in run(usual, *wide)]
  ours, theirs = (
    [
      np.abs(np.asarray(a, np.float64) - e).max()
      for a, e in zip(run(f, x, kernel, gradient), exact, strict=True)
    ]
    for f in (lambda x, kernel: convolve(x, kernel, 1, (1, 1)), usual)
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

  of_a_tap = gradient.size * size[0] * size[1] * 5
  assert count(convolve, 1) == count(usual, 1) == 2 * of_a_tap
  both = slice(None)
  assert count(convolve, both) == count(usual, both)
  if (size, stride, padding, image) == USUAL:
    assert count(convolve, both) == 3 * of_a_tap


@each_form
def test_the_cpu_multiplies_otherwise(by_winograd):
  """Winograd's 16 products for 4 outputs instead of 36, or one for kernels."""
  x, kernel, gradient = make_arrays(*USUAL)
  same = partial(convolve, stride=1, padding=(1, 1))

  def back(x, kernel, gradient):
    return jax.vjp(same, x, kernel)[1](gradient)

  def products(function, *arrays):
    traced = jax.jit(function).trace(*arrays)
    return [
      (text.count('dot_general'), text.count('convolution('))
      for platform in ('cpu', 'cuda', 'tpu')
      for text in [traced.lower(lowering_platforms=(platform,)).as_text()]
    ]

  forward = (16, 0) if by_winograd else (0, 1)
  assert products(same, x, kernel) == [forward, (0, 1), (0, 1)]
  backward = (32, 0) if by_winograd else (1, 1)
  assert products(back, x, kernel, gradient) == [backward, (0, 2), (0, 2)]


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
def test_where_winograd_applies(shape, dtype, applies):
  x, kernel = (
    jax.ShapeDtypeStruct(shape, dtype) for shape in (shape, (3, 3, 512, 512))
  )
  assert winograd.applies(x, kernel) == applies


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
  form = winograd.convolve
  monkeypatch.setattr(
    winograd, 'convolve', lambda *a: uses.append(1) or form(*a)
  )
  conv = layers.Conv(512, **{'kernel_size': 3, **options})
  x = jax.ShapeDtypeStruct((8, 24, 12, 512), jnp.float32)
  jax.eval_shape(lambda x: conv.init_with_output(jax.random.key(0), x), x)
  assert bool(uses) == used
