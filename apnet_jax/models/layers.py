"""Convolution, batch normalisation and pooling with PyTorch's conventions.

Arrays are channels-last, [batch, height, width, channels]. Kernels are stored
as [height, width, in, out]; names and defaults are those of `torch.nn`, so that
weights carry over by name (`docs/architecture.md`).
"""

from collections.abc import Callable

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

# torchvision initialises the convolutions of its ResNets so.
he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class Conv(nn.Module):
  """2-D convolution, zero padded by `(kernel_size - 1) // 2` on each side.

  A 1x1 convolution is written as the matrix product that it is, which XLA's
  CPU backend runs faster, above all its weight gradient.
  """

  features: int
  kernel_size: int = 1
  stride: int = 1
  dtype: jnp.dtype = jnp.float32
  kernel_init: Callable[..., jax.Array] = he_normal

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    size = self.kernel_size
    shape = (size, size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape)
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    if size == 1:
      return x[:, :: self.stride, :: self.stride] @ kernel[0, 0]
    padding = (size - 1) // 2
    return lax.conv_general_dilated(
      x,
      kernel,
      window_strides=(self.stride, self.stride),
      padding=((padding, padding), (padding, padding)),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )


class BatchNorm(nn.Module):
  """Batch normalisation over a declared number of images.

  Statistics belong to a group of `group` consecutive images of the *global*
  batch, wherever those images lie, so that the result does not depend on the
  number of devices. Running statistics average over all groups and keep the
  unbiased variance, as PyTorch does (flax keeps the biased one).

  Attributes:
    group: images that share statistics; 0 is the whole global batch.
    axis_name: mapped axis that carries the devices; None outside of it.
    use_bias: False leaves the shift out (the "BN neck" freezes it at 0).
    momentum: weight of the old running statistics (1 - PyTorch's momentum).
    dtype: of the output, None for that of the statistics, which are at least
      float32.
  """

  group: int = 0
  axis_name: str | None = None
  use_bias: bool = True
  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Normalises `x` [batch, ..., channels] over all axes but the last."""
    channels = x.shape[-1]
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, channels)
    running_var = self.variable('batch_stats', 'var', jnp.ones, channels)
    scale = self.param('scale', nn.initializers.ones, (channels,))
    bias = 0.0
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (channels,))

    if not train:
      factor = scale * lax.rsqrt(running_var.value + self.epsilon)
      y = (x - running_mean.value) * factor + bias
      return y.astype(self.dtype or y.dtype)

    groups, average = self._grouping(x.shape[0])
    x = x.reshape(groups, -1, *x.shape[1:])
    axes = tuple(range(1, x.ndim - 1))
    mean = average(x.mean(axes, keepdims=True))
    # d(variance)/d(mean) is zero, so the mean is a constant here.
    centred = x - lax.stop_gradient(mean)
    var = average(jnp.square(centred).mean(axes, keepdims=True))
    if not self.is_initializing():
      images = self.group or x.shape[1] * self._devices()
      count = images * x[0, 0, ..., 0].size
      for running, value in (
        (running_mean, mean),
        (running_var, var * (count / max(count - 1, 1))),
      ):
        value = value.mean(0).reshape(channels)
        if self.group:  # else all devices hold the same
          value = self._average_devices(value)
        new = self.momentum * running.value + (1 - self.momentum) * value
        running.value = new.astype(running.value.dtype)
    y = (x - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias
    y = y.reshape(-1, *y.shape[2:])
    return y.astype(self.dtype or y.dtype)

  def _devices(self) -> int:
    return lax.axis_size(self.axis_name) if self.axis_name else 1

  def _average_devices(self, value, **groups):
    if self.axis_name is None:
      return value
    return lax.pmean(value, self.axis_name, **groups)

  def _grouping(self, local: int) -> tuple[int, Callable]:
    """Number of groups held here, and the mean over devices of one group."""
    devices = self._devices()
    if self.group == 0:
      return 1, self._average_devices
    if local % self.group == 0:  # whole groups lie on this device
      return local // self.group, lambda value: value
    check_batch_norm_group(self.group, local * devices, devices)
    span = self.group // local  # a group spans several devices
    members = [
      list(range(first, first + span)) for first in range(0, devices, span)
    ]
    return 1, lambda value: self._average_devices(
      value, axis_index_groups=members
    )


def check_batch_norm_group(group: int, batch: int, devices: int) -> None:
  """Raises ValueError unless groups of images fit a batch on some devices."""
  local = batch // devices
  fits = (
    group == 0
    or local % group == 0
    or (group % local == 0 and batch % group == 0)
  )
  if not fits:
    raise ValueError(
      f'config.model.batch_norm_group={group} does not fit a batch of {batch}'
      f' images on {devices} devices: it must divide the {local} images of a'
      ' device, or be a multiple of them that divides the batch.'
    )


def max_pool(x: jax.Array) -> jax.Array:
  """3x3 maximum with stride 2; [batch, h, w, c] -> [batch, h/2, w/2, c].

  Written as maxima of strided slices, first of rows and then of columns: the
  gradient of XLA's windowed maximum is slower on the CPU.
  """
  for axis in (1, 2):
    pad = [(0, 0)] * x.ndim
    pad[axis] = (1, 1)
    size = x.shape[axis]
    padded = jnp.pad(x, pad, constant_values=-jnp.inf)
    a, b, c = (
      lax.slice_in_dim(padded, i, i + size, 2, axis=axis) for i in range(3)
    )
    x = jnp.maximum(jnp.maximum(a, b), c)
  return x
