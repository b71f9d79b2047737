"""Max pooling with 3x3 windows, in the form that suits each kind of device.

All forms give the same maxima. The gradient of a window goes to its maximum;
if several values share it, to one of them or in parts to each, by device.

- CPU: maxima of strided slices, first of rows and then of columns. The gradient
  of XLA's windowed maximum is slower there.
- TPU: XLA's windowed maximum, which has instructions of its own. It reads and
  writes each map once.
- GPU: XLA's windowed maximum, and a gradient that each input collects from its
  windows. XLA's own gradient is a scatter, whose order of additions is not
  fixed.
- Exported graphs: as on the CPU. Not every runtime takes the maxima of windows
  of channels-last maps.
"""

from functools import partial

import jax
from jax import lax
import jax.numpy as jnp

from apnet_jax.models import device_forms

SIZE = 3  # height and width of a window


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, stride: int = 2, padding: int = 1) -> jax.Array:
  """Applies max pooling with 3x3 windows.

  Args:
    x: [batch, height, width, channels].
    stride: stride along both axes.
    padding: rows and columns of minus infinity added on each side.

  Returns:
    [batch, height', width', channels]; by default half the height and width,
    rounded up.
  """
  options = {'stride': stride, 'padding': padding}
  return device_forms.choose(
    x,
    cpu=partial(_by_slices, **options),
    default=partial(_by_windows, **options),
    for_export=partial(_by_slices, **options),
  )


def _forward(x, stride, padding):
  """Returns the maxima and the arrays that the gradient needs."""
  y = max_pool(x, stride, padding)
  return y, (x, y)


def _backward(stride, padding, saved, gradient):
  """Returns the gradient of `max_pool` with respect to x."""
  options = {'stride': stride, 'padding': padding}

  def differentiate(form):
    def input_gradient(x, y, gradient):
      del y
      return jax.vjp(partial(form, **options), x)[1](gradient)[0]

    return input_gradient

  input_gradient = device_forms.choose(
    *saved,
    gradient,
    cpu=differentiate(_by_slices),
    tpu=differentiate(_by_windows),
    default=partial(_collect_gradient, **options),
  )
  return (input_gradient,)


max_pool.defvjp(_forward, _backward)


def _by_slices(x, stride, padding):
  """Takes the maxima of strided slices, of rows and then of columns."""
  for axis in (1, 2):
    pad = [(0, 0)] * x.ndim
    pad[axis] = (padding, padding)
    size = x.shape[axis] + 2 * padding - (SIZE - 1)
    padded = jnp.pad(x, pad, constant_values=-jnp.inf)
    a, b, c = (
      lax.slice_in_dim(padded, i, i + size, stride, axis=axis)
      for i in range(SIZE)
    )
    x = jnp.maximum(jnp.maximum(a, b), c)
  return x


def _by_windows(x, stride, padding):
  """Takes the maxima of windows in one operation of XLA."""
  return lax.reduce_window(
    x,
    -jnp.inf,
    lax.max,
    window_dimensions=(1, SIZE, SIZE, 1),
    window_strides=(1, stride, stride, 1),
    padding=_pad(padding),
  )


def _collect_gradient(x, y, gradient, stride, padding):
  """Returns the gradient with respect to x, which each input collects.

  The gradient of a window goes to its first maximum in row-major order, as in
  PyTorch.

  Args:
    x: [batch, height, width, channels].
    y: maxima of the windows, [batch, height', width', channels].
    gradient: gradient with respect to `y`.
    stride: stride along both axes.
    padding: rows and columns added on each side.

  Returns:
    An array of the shape and type of `x`.
  """
  # The index of the maximum is computed once, and here instead of in the
  # forward pass, where it would be kept in memory.
  y, gradient = lax.optimization_barrier((y, gradient))
  padded = jnp.pad(x, _pad(padding), constant_values=-jnp.inf)
  ends = [n - SIZE + 1 for n in padded.shape[1:3]]
  offsets = [(i, j) for i in range(SIZE) for j in range(SIZE)]
  first = jnp.full(y.shape, len(offsets), jnp.uint8)  # index of the maximum
  for index, (i, j) in reversed(list(enumerate(offsets))):
    inputs = padded[:, i : i + ends[0] : stride, j : j + ends[1] : stride]
    first = jnp.where(inputs == y, jnp.uint8(index), first)
  first = lax.optimization_barrier(first)
  wide = gradient.astype(jnp.promote_types(gradient.dtype, jnp.float32))
  total = jnp.zeros((), wide.dtype)
  for index, offset in enumerate(offsets):
    spread = [(0, 0, 0)]  # zeros before, after and between, along each axis
    for start, size, windows in zip(offset, x.shape[1:3], y.shape[1:3]):
      before = start - padding
      last = before + (windows - 1) * stride
      spread.append((before, size - 1 - last, stride - 1))
    share = jnp.where(first == index, wide, 0)
    total += lax.pad(share, total.dtype.type(0), [*spread, (0, 0, 0)])
  return total.astype(x.dtype)


def _pad(padding):
  return [(0, 0), (padding, padding), (padding, padding), (0, 0)]
