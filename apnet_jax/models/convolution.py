"""2-D convolution with faster algorithms for CPUs.

On CPUs, large 3x3 convolutions use Winograd's algorithm (`winograd.py`). A 1x1
convolution is a matrix product: as a convolution, XLA's CPU backend computes
its input twice and copies it into another layout for the gradient of the
kernel. The gradient with respect to any other kernel is one matrix product,
because XLA's CPU backend takes up to twice as long for it as a convolution of
two maps, and three times as long in the first layer of a network.

Other devices use XLA's convolution. There it adds the gradient of a shortcut in
the same pass (cuDNN), and XLA merges it with the normalisation around it.
`counting.py` counts its multiply-adds on every device.
"""

from collections.abc import Callable
from functools import partial

import jax
from jax import lax
import jax.numpy as jnp

from apnet_jax.models import device_forms, winograd


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
  x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int]
) -> jax.Array:
  """Convolves zero-padded maps, as `torch.nn.functional.conv2d` does.

  Args:
    x: [batch, height, width, in].
    kernel: [height, width, in, out].
    stride: stride along both axes.
    padding: rows added above and below, and columns added left and right.

  Returns:
    [batch, height', width', out], where a size n becomes
    (n + 2 * padding - kernel size) // stride + 1.
  """
  options = {'stride': stride, 'padding': padding}
  return device_forms.choose(
    x,
    kernel,
    cpu=partial(_convolve_on_cpu, **options),
    default=partial(_convolve, **options),
  )


def _forward(x, kernel, stride, padding):
  """Returns the convolution and the arrays that its gradient needs."""
  return convolve(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, saved, gradient):
  """Returns the gradients of `convolve` with respect to x and kernel.

  Args:
    stride: stride along both axes.
    padding: rows added above and below, and columns added left and right.
    saved: the arrays that `_forward` returned for the gradient.
    gradient: gradient with respect to the output.
  """
  x, kernel = saved
  options = {'stride': stride, 'padding': padding}
  form = _cpu_form(x, kernel, **options)

  def input_gradient(kernel, gradient, form=_convolve):
    linear = partial(form, kernel=kernel, **options)
    return jax.linear_transpose(linear, x)(gradient)[0]

  def kernel_gradient(x, gradient):
    linear = partial(_convolve, x, **options)
    return jax.linear_transpose(linear, kernel)(gradient)[0]

  def kernel_gradient_by_matmul(x, gradient):
    patches = _extract_patches(x, kernel.shape[:2], stride, padding)
    product = patches.T @ gradient.reshape(-1, gradient.shape[-1])
    return product.reshape(kernel.shape)

  if form is _convolve_by_winograd:
    cpu_input, cpu_kernel = winograd.input_gradient, winograd.kernel_gradient
  else:
    cpu_input = partial(input_gradient, form=form)
    cpu_kernel = kernel_gradient_by_matmul
  return (
    device_forms.choose(
      kernel, gradient, cpu=cpu_input, default=input_gradient
    ),
    device_forms.choose(x, gradient, cpu=cpu_kernel, default=kernel_gradient),
  )


convolve.defvjp(_forward, _backward)


def _cpu_form(x, kernel, stride, padding) -> Callable:
  """Returns the function that computes a convolution on CPUs."""
  if stride == 1 and padding == (1, 1) and winograd.suits(x, kernel):
    return _convolve_by_winograd
  if kernel.shape[:2] == (1, 1) and padding == (0, 0):
    return _convolve_by_matmul
  return _convolve


def _convolve_on_cpu(x, kernel, **options):
  """Computes a convolution in the form that is fastest on CPUs."""
  return _cpu_form(x, kernel, **options)(x, kernel, **options)


def _convolve(x, kernel, stride, padding):
  """Computes the convolution as a single operation of XLA."""
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=[(pad, pad) for pad in padding],
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def _convolve_by_winograd(x, kernel, stride, padding):
  """Computes a 3x3 convolution, of stride 1 and padding 1."""
  del stride, padding
  return winograd.convolve(x, kernel)


def _convolve_by_matmul(x, kernel, stride, padding):
  """Computes a 1x1 convolution without padding as one matrix product."""
  del padding
  x = x[:, ::stride, ::stride]
  y = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
  return y.reshape(*x.shape[:-1], -1)


def _extract_patches(x, size, stride, padding):
  """Extracts the patch of inputs that each output depends on (im2col).

  Args:
    x: [batch, height, width, in].
    size: height and width of the kernel.
    stride: stride along both axes.
    padding: rows added above and below, and columns added left and right.

  Returns:
    [batch * height' * width', kernel height * kernel width * in].
  """
  x = jnp.pad(x, ((0, 0), *((pad, pad) for pad in padding), (0, 0)))
  ends = [n - k + 1 for n, k in zip(x.shape[1:3], size, strict=True)]
  taps = [
    x[:, i : i + ends[0] : stride, j : j + ends[1] : stride]
    for i in range(size[0])
    for j in range(size[1])
  ]
  patches = jnp.concatenate(taps, axis=-1)
  return patches.reshape(-1, patches.shape[-1])
