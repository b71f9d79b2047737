"""2-D convolution, with the forms that suit the CPU.

There, large 3x3 convolutions are Winograd's (`winograd.py`), and the gradient
of any other kernel is one product of matrices: as a convolution of two maps, it
takes XLA's CPU backend up to twice as long, and that of a network's first layer
three times. Other devices have the usual form, and work is counted by it.
"""

from functools import partial

import jax
from jax import lax
import jax.numpy as jnp

from apnet_jax.models import winograd


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
  x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int]
) -> jax.Array:
  """Convolution of zero padded maps, as in `torch.nn.functional.conv2d`.

  Args:
    x: [batch, height, width, in].
    kernel: [height, width, in, out].
    stride: along both axes.
    padding: above and below, left and right.

  Returns:
    [batch, height, width, out].
  """
  usual = partial(_convolve, stride=stride, padding=padding)
  fast = winograd.convolve if _fits(x, kernel, stride, padding) else usual
  return lax.platform_dependent(x, kernel, cpu=fast, default=usual)


def _forward(x, kernel, stride, padding):
  return convolve(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, saved, gradient):
  x, kernel = saved
  usual = partial(_convolve, stride=stride, padding=padding)

  def of_x(kernel, gradient):
    return jax.linear_transpose(lambda x: usual(x, kernel), x)(gradient)[0]

  def of_kernel(x, gradient):
    return jax.linear_transpose(partial(usual, x), kernel)(gradient)[0]

  def by_product(x, gradient):
    patches = _patches(x, kernel.shape[:2], stride, padding)
    product = patches.T @ gradient.reshape(-1, gradient.shape[-1])
    return product.reshape(kernel.shape)

  if _fits(x, kernel, stride, padding):
    fast_x, fast_kernel = winograd.input_gradient, winograd.kernel_gradient
  else:
    fast_x, fast_kernel = of_x, by_product
  return (
    lax.platform_dependent(kernel, gradient, cpu=fast_x, default=of_x),
    lax.platform_dependent(x, gradient, cpu=fast_kernel, default=of_kernel),
  )


convolve.defvjp(_forward, _backward)


def _fits(x, kernel, stride, padding) -> bool:
  usual = stride == 1 and padding == (1, 1)
  return usual and winograd.applies(x, kernel)


def _convolve(x, kernel, stride, padding):
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=[(pad, pad) for pad in padding],
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def _patches(x, size, stride, padding):
  """What each output sees: [batch * height * width, taps * in]."""
  x = jnp.pad(x, ((0, 0), *((pad, pad) for pad in padding), (0, 0)))
  ends = [n - k + 1 for n, k in zip(x.shape[1:3], size, strict=True)]
  taps = [
    x[:, i : i + ends[0] : stride, j : j + ends[1] : stride]
    for i in range(size[0])
    for j in range(size[1])
  ]
  patches = jnp.concatenate(taps, axis=-1)
  return patches.reshape(-1, patches.shape[-1])
