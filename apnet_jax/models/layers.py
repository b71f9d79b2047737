"""Convolution, batch normalisation and pooling with PyTorch's conventions.

Arrays are channels-last, [batch, height, width, channels]. Kernels are stored
as [height, width, in, out]; names and defaults are those of `torch.nn`, so that
weights carry over by name (`docs/architecture.md`).
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from apnet_jax.errors import UserError
from apnet_jax.models.convolution import convolve

# torchvision initialises the convolutions of its ResNets so.
he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class Conv(nn.Module):
  """2-D convolution, zero padded by `(kernel_size - 1) // 2` on each side.

  A 1x1 convolution is written as the matrix product that it is, of matrices,
  not of maps: XLA's CPU backend then neither makes its input twice nor copies
  it into another order for the weight gradient. Large 3x3 convolutions have a
  form of their own there (`winograd.py`).

  Attributes:
    kernel_size: height and width, one number for both if they are equal.
    padding: on each side instead of the above.
  """

  features: int
  kernel_size: int | tuple[int, int] = 1
  stride: int = 1
  padding: int | None = None
  dtype: jnp.dtype = jnp.float32
  kernel_init: Callable[..., jax.Array] = he_normal

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    size = self.kernel_size
    size = (size, size) if isinstance(size, int) else size
    padding = [
      (k - 1) // 2 if self.padding is None else self.padding for k in size
    ]
    shape = (*size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape)
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    if size == (1, 1) and not any(padding):
      x = x[:, :: self.stride, :: self.stride]
      y = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
      return y.reshape(*x.shape[:-1], -1)
    return convolve(x, kernel, self.stride, tuple(padding))


class BatchNorm(nn.Module):
  """Batch normalisation over a declared number of images.

  Statistics belong to a group of `group` consecutive images of the *global*
  batch, wherever those images lie, so that the result does not depend on the
  number of devices. Running statistics average over all groups and keep the
  unbiased variance, as PyTorch does (flax keeps the biased one).

  Attributes:
    group: images that share statistics; 0, or more than the global batch has,
      is the whole global batch.
    axis_name: mapped axis that carries the devices; None outside of it.
    train_bias: False freezes the shift (at 0, unless imported weights say
      otherwise), as the "BN neck" does; it is then kept in `batch_stats`.
    momentum: weight of the old running statistics (1 - PyTorch's momentum).
    dtype: of the output, None for that of the statistics, which are at least
      float32.
  """

  group: int = 0
  axis_name: str | None = None
  train_bias: bool = True
  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Normalises `x` [batch, ..., channels] over all axes but the last."""
    channels = x.shape[-1]
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, channels)
    running_var = self.variable('batch_stats', 'var', jnp.ones, channels)
    scale = self.param('scale', nn.initializers.ones, (channels,))
    if self.train_bias:
      bias = self.param('bias', nn.initializers.zeros, (channels,))
    else:
      bias = self.variable('batch_stats', 'bias', jnp.zeros, channels).value

    if not train:
      factor = scale * lax.rsqrt(running_var.value + self.epsilon)
      y = (_wide(x) - running_mean.value) * factor + bias
      return y.astype(self.dtype or y.dtype)

    images = x.shape[0] * self._devices()
    group = self.group if self.group < images else 0
    groups, average = self._grouping(group, x.shape[0])
    y, mean, var = normalize(
      x.reshape(groups, -1, *x.shape[1:]), scale, bias, average, self.epsilon
    )
    y = y.reshape(x.shape)
    if not self.is_initializing():
      count = (group or images) * x[0, ..., 0].size
      for running, value in (
        (running_mean, mean),
        (running_var, var * (count / max(count - 1, 1))),
      ):
        value = value.mean(0).reshape(channels)
        if group:  # else all devices hold the same
          value = self._average_devices(value)
        new = self.momentum * running.value + (1 - self.momentum) * value
        running.value = new.astype(running.value.dtype)
    return y.astype(self.dtype or y.dtype)

  def _devices(self) -> int:
    return lax.axis_size(self.axis_name) if self.axis_name else 1

  def _average_devices(self, value, **groups):
    if self.axis_name is None:
      return value
    return lax.pmean(value, self.axis_name, **groups)

  def _grouping(self, group: int, local: int) -> tuple[int, Callable]:
    """Number of groups held here, and the mean over devices of one group."""
    devices = self._devices()
    if group == 0:
      return 1, self._average_devices
    if local % group == 0:  # whole groups lie on this device
      return local // group, lambda value: value
    check_batch_norm_group(group, local * devices, devices)
    span = group // local  # a group spans several devices
    members = [
      list(range(first, first + span)) for first in range(0, devices, span)
    ]
    return 1, lambda value: self._average_devices(
      value, axis_index_groups=members
    )


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize(
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  average: Callable[[jax.Array], jax.Array],
  epsilon: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Batch normalisation of groups, which has its gradient written out.

  JAX's own keeps more arrays, and passes over them more often.

  Args:
    x: [groups, images, ..., channels]. (JAX 0.10 sums slowly over positions of
      maps that are flattened, on the CPU.)
    scale: and `bias`, [channels].
    average: of a value over the devices that a group lies on.
    epsilon: is added to variances.

  Returns:
    The result, and of each group mean and variance [groups, 1, ..., channels],
    which have no gradient. All are at least float32.
  """
  return _normalize_forward(x, scale, bias, average, epsilon)[0]


def _normalize_forward(x, scale, bias, average, epsilon):
  axes = tuple(range(1, x.ndim - 1))
  mean = average(_wide(x).mean(axes, keepdims=True))
  centred = _wide(x) - mean
  var = average(jnp.square(centred).mean(axes, keepdims=True))
  inverse = lax.rsqrt(var + epsilon)
  y = centred * (inverse * scale) + bias
  return (y, mean, var), (x, scale, mean, inverse)


def _normalize_backward(average, _, saved, gradients):
  """Ioffe and Szegedy, Batch Normalization, ICML 2015, Section 3."""
  x, scale, mean, inverse = saved
  gradient, *_ = gradients
  axes = tuple(range(1, x.ndim - 1))
  centred = _wide(x) - mean
  of_bias = gradient.sum(axes, keepdims=True)
  of_scale = (gradient * centred).sum(axes, keepdims=True) * inverse
  positions = x[0, ..., 0].size
  through_mean = average(of_bias / positions)
  through_var = centred * (inverse * average(of_scale / positions))
  of_x = (gradient - through_mean - through_var) * (inverse * scale)
  of_scale, of_bias = (
    value.sum(0).reshape(scale.shape).astype(scale.dtype)
    for value in (of_scale, of_bias)
  )
  return of_x.astype(x.dtype), of_scale, of_bias


normalize.defvjp(_normalize_forward, _normalize_backward)


def _wide(x: jax.Array) -> jax.Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def check_batch_norm_group(group: int, batch: int, devices: int) -> None:
  """Raises UserError unless groups of images fit a batch on some devices."""
  local = batch // devices
  fits = (
    group == 0
    or group >= batch
    or local % group == 0
    or (group % local == 0 and batch % group == 0)
  )
  if not fits:
    raise UserError(
      f'config.model.batch_norm_group={group} does not fit {batch} images at'
      f' a time on {devices} devices: it must divide the {local} images of a'
      f' device, or be a multiple of them that divides {batch}.'
    )


def max_pool(x: jax.Array, stride: int = 2, padding: int = 1) -> jax.Array:
  """3x3 maximum; [batch, h, w, c] -> [batch, h/2, w/2, c] by default.

  Written as maxima of strided slices, first of rows and then of columns: the
  gradient of XLA's windowed maximum is slower on the CPU.
  """
  for axis in (1, 2):
    pad = [(0, 0)] * x.ndim
    pad[axis] = (padding, padding)
    size = x.shape[axis] + 2 * padding - 2
    padded = jnp.pad(x, pad, constant_values=-jnp.inf)
    a, b, c = (
      lax.slice_in_dim(padded, i, i + size, stride, axis=axis) for i in range(3)
    )
    x = jnp.maximum(jnp.maximum(a, b), c)
  return x
