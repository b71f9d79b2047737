"""Convolution and batch normalisation with PyTorch's conventions.

Arrays are channels-last, [batch, height, width, channels]. Kernels are stored
as [height, width, in, out]; names and defaults are those of `torch.nn`, so that
weights carry over by name (`docs/architecture.md`).
"""

from collections.abc import Callable
from functools import partial
import math

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from apnet_jax.errors import UserError
from apnet_jax.models.convolution import convolve

# torchvision's initialisation of the convolutions of its ResNets.
he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class Conv(nn.Module):
  """2-D convolution without bias; `convolution.py` computes it.

  Attributes:
    features: number of output channels.
    kernel_size: height and width, or one number for both.
    stride: stride along both axes.
    padding: rows and columns of zeros added on each side; None adds
      `(size - 1) // 2`, which keeps the size of the map at stride 1.
    dtype: type to compute in.
    kernel_init: initialiser of the kernel [height, width, in, out].
  """

  features: int
  kernel_size: int | tuple[int, int] = 1
  stride: int = 1
  padding: int | None = None
  dtype: jax.typing.DTypeLike = jnp.float32
  kernel_init: Callable[..., jax.Array] = he_normal

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [batch, height, width, in] to [batch, height', width', features]."""
    size = self.kernel_size
    size = (size, size) if isinstance(size, int) else size
    padding = [
      (k - 1) // 2 if self.padding is None else self.padding for k in size
    ]
    shape = (*size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape)
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    return convolve(x, kernel, self.stride, tuple(padding))


class BatchNorm(nn.Module):
  """Batch normalisation over groups of images.

  A group consists of `group` consecutive images of the global batch. Its images
  may lie on several devices, so that the result does not depend on the number
  of devices. Running statistics are averaged over all groups. They keep the
  unbiased variance, as PyTorch does (Flax keeps the biased one).

  Attributes:
    group: number of images that share statistics; 0 is the whole global batch,
      and so is any number above its size.
    axis_name: name of the mapped axis over devices; None outside of a mapped
      function.
    train_bias: False freezes the bias, as in the "BN neck". It is then stored
      in `batch_stats` and is 0 unless imported weights set it.
    momentum: weight of the old running statistics (1 - PyTorch's momentum).
    epsilon: number added to variances.
    dtype: type of the output; None for the type of the statistics, which is at
      least float32.
  """

  group: int = 0
  axis_name: str | None = None
  train_bias: bool = True
  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Normalises a batch over all axes but the last.

    Args:
      x: [batch, ..., channels], the images of one device.
      train: True normalises by the statistics of each group and updates the
        running statistics; False normalises by the running statistics.

    Returns:
      The result, of the shape of `x`.

    Raises:
      UserError: groups do not fit the batch; see `check_batch_norm_group`.
    """
    scale, bias, running_mean, running_var = self._variables(x.shape[-1])
    if not train:
      factor = scale * lax.rsqrt(running_var.value + self.epsilon)
      y = (_wide(x) - running_mean.value) * factor + bias
      return y.astype(self.dtype or y.dtype)

    groups, average = self._grouping(x.shape[0])
    y, mean, var = normalize(
      x.reshape(groups, -1, *x.shape[1:]), scale, bias, average, self.epsilon
    )
    y = y.reshape(x.shape)
    self._update(running_mean, running_var, mean, var, x.shape)
    return y.astype(self.dtype or y.dtype)

  def _variables(self, channels: int) -> tuple:
    """Returns scale, bias, and the variables of the running statistics."""
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, channels)
    running_var = self.variable('batch_stats', 'var', jnp.ones, channels)
    scale = self.param('scale', nn.initializers.ones, (channels,))
    if self.train_bias:
      bias = self.param('bias', nn.initializers.zeros, (channels,))
    else:
      bias = self.variable('batch_stats', 'bias', jnp.zeros, channels).value
    return scale, bias, running_mean, running_var

  def _update(self, running_mean, running_var, mean, var, shape) -> None:
    """Updates the running statistics, except during initialisation.

    Args:
      running_mean: variable of the running mean, [channels].
      running_var: variable of the running variance, [channels].
      mean: mean of each group on this device, [groups, 1, ..., channels].
      var: biased variance of each group, of the same shape.
      shape: shape of the normalised map, (batch, ..., channels).
    """
    if self.is_initializing():
      return
    group = self._group_size(shape[0])
    images = group or shape[0] * self._devices()
    count = images * math.prod(shape[1:-1])
    for running, value in (
      (running_mean, mean),
      (running_var, var * (count / max(count - 1, 1))),
    ):
      value = value.mean(0).reshape(shape[-1])
      if group:  # without groups, all devices have the same value
        value = self._average_devices(value)
      new = self.momentum * running.value + (1 - self.momentum) * value
      running.value = new.astype(running.value.dtype)

  def _group_size(self, local: int) -> int:
    """Returns the images of a group, 0 if it is the whole global batch.

    Args:
      local: number of images of this device.
    """
    return self.group if self.group < local * self._devices() else 0

  def _devices(self) -> int:
    """Returns the number of devices that share a batch."""
    return lax.axis_size(self.axis_name) if self.axis_name else 1

  def _average_devices(self, value, groups=None):
    """Averages an array over all devices, or over groups of devices.

    Args:
      value: array of this device.
      groups: lists of the devices of each group; None for all devices.
    """
    if self.axis_name is None:
      return value
    return lax.pmean(value, self.axis_name, axis_index_groups=groups)

  def _grouping(self, local: int) -> tuple[int, Callable]:
    """Returns the grouping of the images of this device for statistics.

    Args:
      local: number of images of this device.

    Returns:
      The number of groups with images on this device, and a function that
      averages a value over the devices of a group.
    """
    devices, group = self._devices(), self._group_size(local)
    if group == 0:
      return 1, self._average_devices
    if local % group == 0:  # every group lies on one device
      return local // group, lambda value: value
    check_batch_norm_group(group, local * devices, devices)
    span = group // local  # number of devices of a group
    members = [
      list(range(first, first + span)) for first in range(0, devices, span)
    ]
    return 1, partial(self._average_devices, groups=members)


class MomentNorm(BatchNorm):
  """Batch normalisation of maps whose moments are known, as scale and shift.

  The module has the variables and the result of `BatchNorm`, but does not read
  the map. By the law of total variance, the variance of a group is the average
  of the variances within its images, plus the variance of their means.
  """

  @nn.compact
  def __call__(  # type: ignore[override]  # takes moments, not a map
    self, mean: jax.Array, var: jax.Array, shape: tuple[int, ...], train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the scale and the shift that normalise each channel.

    Args:
      mean: average of each image over its positions, [batch, 1, 1, channels].
      var: biased variance within each image, of the same shape.
      shape: shape of the map, (batch, height, width, channels).
      train: whether the statistics are those of each group, and update the
        running statistics, as in `BatchNorm`.

    Returns:
      Scale and shift, which broadcast against `mean`: the map times the scale
      plus the shift is normalised.

    Raises:
      UserError: groups do not fit the batch; see `check_batch_norm_group`.
    """
    scale, bias, running_mean, running_var = self._variables(shape[-1])
    if train:
      groups, average = self._grouping(shape[0])
      by_group = (groups, -1, *mean.shape[1:])
      means = mean.reshape(by_group)
      group_mean = average(means.mean(1, keepdims=True))
      between = jnp.square(means - group_mean)
      group_var = average(
        (var.reshape(by_group) + between).mean(1, keepdims=True)
      )
      self._update(running_mean, running_var, group_mean, group_var, shape)
      used_mean, used_var = (
        jnp.broadcast_to(value, means.shape).reshape(mean.shape)
        for value in (group_mean, group_var)
      )
    else:
      used_mean, used_var = running_mean.value, running_var.value
    factor = scale * lax.rsqrt(used_var + self.epsilon)
    return factor, bias - used_mean * factor


def image_moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the mean and the biased variance of each image over its positions.

  Args:
    x: [batch, height, width, channels].

  Returns:
    Two arrays [batch, 1, 1, channels] of at least float32.
  """
  return _moments(x, (1, 2), lambda value: value)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize(
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  average: Callable[[jax.Array], jax.Array],
  epsilon: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Normalises groups of images by their own mean and variance.

  The gradient is written out, because automatic differentiation stores more
  arrays and reads them more often.

  Args:
    x: [groups, images, ..., channels]. Positions should stay unflattened: JAX
      0.10 sums slowly over flattened positions on the CPU.
    scale: [channels].
    bias: [channels].
    average: function that averages a value over the devices of a group.
    epsilon: number added to variances.

  Returns:
    The normalised array, and the mean and the (biased) variance of each group,
    [groups, 1, ..., channels], which have no gradient. All are at least
    float32.
  """
  return _normalize_forward(x, scale, bias, average, epsilon)[0]


def _normalize_forward(x, scale, bias, average, epsilon):
  """Returns the outputs of `normalize` and the arrays for its gradient."""
  axes = tuple(range(1, x.ndim - 1))
  mean, var = _moments(x, axes, average)
  inverse = lax.rsqrt(var + epsilon)
  y = (_wide(x) - mean) * (inverse * scale) + bias
  return (y, mean, var), (x, scale, mean, inverse)


def _moments(x, axes, average):
  """Returns the mean and the biased variance over some axes.

  A map of bfloat16 is read once, for the means of x and of x^2: the memory that
  is read and written is what a training step on an accelerator costs. Their
  difference E[x^2] - E[x]^2 has the precision of float32, which suffices: eight
  bits cannot represent a deviation below 1/512 of the mean. Wider types are
  read twice.
  """
  wide = _wide(x)
  mean = average(wide.mean(axes, keepdims=True))
  if x.dtype == wide.dtype:
    # The derivative of the variance with respect to the mean is 0.
    centred = wide - lax.stop_gradient(mean)
    return mean, average(jnp.square(centred).mean(axes, keepdims=True))
  mean_square = average(jnp.square(wide).mean(axes, keepdims=True))
  return mean, jnp.maximum(mean_square - jnp.square(mean), 0)


def _normalize_backward(average, _, saved, gradients):
  """Returns the gradients of `normalize` with respect to x, scale and bias.

  Ioffe and Szegedy, Batch Normalization, ICML 2015, Section 3.
  """
  x, scale, mean, inverse = saved
  gradient, *_ = gradients
  axes = tuple(range(1, x.ndim - 1))
  centred = _wide(x) - mean
  d_bias = gradient.sum(axes, keepdims=True)
  d_scale = (gradient * centred).sum(axes, keepdims=True) * inverse
  positions = x[0, ..., 0].size
  through_mean = average(d_bias / positions)
  through_var = centred * (inverse * average(d_scale / positions))
  d_x = (gradient - through_mean - through_var) * (inverse * scale)
  d_scale, d_bias = (
    value.sum(0).reshape(scale.shape).astype(scale.dtype)
    for value in (d_scale, d_bias)
  )
  return d_x.astype(x.dtype), d_scale, d_bias


normalize.defvjp(_normalize_forward, _normalize_backward)


def _wide(x: jax.Array) -> jax.Array:
  """Converts an array to float32, unless its type is wider."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def check_batch_norm_group(group: int, batch: int, devices: int) -> None:
  """Checks that groups of `BatchNorm` fit a batch.

  Args:
    group: number of images that share statistics, `batch_norm_group`.
    batch: number of images of all devices.
    devices: number of devices.

  Raises:
    UserError: a device would have neither whole groups nor an equal share of
      one group.
  """
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
      f' a time on {devices} devices. It must divide {local}, the number of'
      f' images of a device, or be a multiple of {local} that divides {batch}.'
    )
