"""Attention modules: each scores every part of a feature map on its own.

A module is called as `attention(x, train)` with features [batch, height, width,
channels] and returns the merged attention map A_i of Eq. (2), after its sigmoid
or softmax, in a shape that broadcasts against the features. Splitting is a
reshape, and all parts are attended at once by einsums with weights
[part, in, out].
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from apnet_jax.errors import UserError

# PyTorch's default for convolutions and fully-connected layers.
torch_uniform = nn.initializers.variance_scaling(
  1 / 3, 'fan_in', 'uniform', in_axis=1, out_axis=2, batch_axis=0
)


class PartDense(nn.Module):
  """A fully-connected layer (a 1x1 convolution) of its own for each part.

  Attributes:
    features: outputs of a part.
    use_bias: adds a shift.
    kernel_init: of the weights [part, in, out].
    dtype: computed in; None for that of the input.
    precision: of the matrix product.
  """

  features: int
  use_bias: bool = False
  kernel_init: Callable[..., jax.Array] = torch_uniform
  dtype: jnp.dtype | None = None
  precision: jax.lax.Precision | None = jax.lax.Precision.HIGHEST

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., part, in] -> [..., part, features]."""
    *_, parts, size = x.shape
    kernel = self.param(
      'kernel', self.kernel_init, (parts, size, self.features)
    )
    dtype = self.dtype or x.dtype
    x = jnp.einsum(
      '...pi,pio->...po',
      x.astype(dtype),
      kernel.astype(dtype),
      precision=self.precision,
    )
    if self.use_bias:
      bound = size**-0.5
      bias = self.param(
        'bias',
        lambda key, shape: jax.random.uniform(
          key, shape, x.dtype, -bound, bound
        ),
        (parts, self.features),
      )
      x = x + bias.astype(dtype)
    return x


class ChannelAttention(nn.Module):
  """Squeeze and excitation of consecutive groups of channels, Eq. (2) and (5).

  Attributes:
    parts: n of Eq. (2).
    reduction: input over hidden width of a part. The paper does not state it;
      16 is that of Hu et al., Squeeze-and-Excitation Networks, CVPR 2018.
    hidden: hidden width of a part, whatever its input; 0 for `reduction`.
    use_bias: as in the squeeze-and-excitation of Hu et al.; Eq. (5) has none.
  """

  parts: int = 1
  reduction: int = 16
  hidden: int = 0
  use_bias: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """[batch, height, width, channels] -> [batch, 1, 1, channels]."""
    del train
    pooled = pool_parts(x, self.parts)
    size = pooled.shape[-1]
    hidden = self.hidden or max(size // self.reduction, 1)
    attention = nn.relu(PartDense(hidden, self.use_bias, name='fc1')(pooled))
    attention = PartDense(size, self.use_bias, name='fc2')(attention)
    return nn.sigmoid(attention).reshape(len(x), 1, 1, -1)  # merge


class SharedChannelAttention(nn.Module):
  """The split attention of the released code: parts compete for each channel.

  The parts are summed and pooled, two layers score all of them, and a softmax
  over the parts takes the place of the sigmoid. (It is the split attention of
  Zhang et al., ResNeSt, arXiv:2004.08955, without its convolution.)

  Attributes:
    parts: n of Eq. (2).
    norm: makes a normalisation layer.
  """

  parts: int
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """[batch, height, width, channels] -> [batch, 1, 1, channels]."""
    batch, *_, channels = x.shape
    hidden = max(channels * self.parts // 4, 32)
    pooled = pool_parts(x, self.parts).sum(1, keepdims=True)
    y = PartDense(hidden, use_bias=True, name='fc1')(pooled)
    y = nn.relu(self.norm(dtype=None, name='bn1')(y, train))
    scores = PartDense(channels, use_bias=True, name='fc2')(y)
    attention = nn.softmax(scores.reshape(batch, self.parts, -1), axis=1)
    return attention.reshape(batch, 1, 1, channels)


def average(x: jax.Array) -> jax.Array:
  """Averages positions, in at least float32; -> [batch, 1, 1, channels]."""
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  return x.mean((1, 2), keepdims=True, dtype=dtype)


def pool_parts(x: jax.Array, parts: int) -> jax.Array:
  """Averages positions, splits channels: -> [batch, part, channels / part]."""
  return average(x).reshape(len(x), parts, -1)


class SpatialAttention(nn.Module):
  """Relation-aware global attention (RGA-S) of stripes of the height, Eq. (4).

  Zhang et al., Relation-Aware Global Attention for Person Re-identification,
  CVPR 2020, as its released code has it: normalisation and ReLU after every
  1x1 convolution but the last, which is only normalised. Names are those of
  that code. The weights hold the number of positions of a part, so that a
  network takes images of one size only. (What can be checked is the number of
  positions: a size with as many, such as the transposed one, is not noticed.)

  Attributes:
    parts: n of Eq. (2).
    norm: makes a normalisation layer.
    dtype: of the convolutions.
    ratio: input over output width of all layers but the last.
  """

  parts: int
  norm: Callable[..., nn.Module]
  dtype: jnp.dtype = jnp.float32
  ratio: int = 8

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """[batch, height, width, channels] -> [batch, height, width, 1]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, self.parts, -1, channels).swapaxes(1, 2)  # split
    embed = self._sequence(max(channels // self.ratio, 1))
    theta = embed(name='theta_spatial')(x, train)
    phi = embed(name='phi_spatial')(x, train)
    relations = Relations(self.ratio, self.norm, self.dtype, name='gg_spatial')(
      theta, phi, train
    )
    features = embed(name='gx_spatial')(x, train).mean(-1, keepdims=True)
    y = jnp.concatenate([features, relations], -1)
    # Level 3 of 256x128 images would have no hidden unit at all.
    hidden = max(y.shape[-1] // self.ratio, 1)
    scores = self._sequence(hidden, 1)(name='W_spatial')(y, train)
    attention = nn.sigmoid(scores.swapaxes(1, 2))
    return attention.reshape(batch, height, width, 1)  # merge

  def _sequence(self, *widths: int) -> Callable[..., nn.Module]:
    def make(name):
      return ConvSequence(widths, self.norm, self.dtype, name=name)

    return make


class ConvSequence(nn.Module):
  """1x1 convolutions per part, each normalised, with ReLU between.

  A single one has its ReLU too. Names count as in `nn.Sequential` of the
  released code: convolution, normalisation, ReLU.
  """

  widths: tuple[int, ...]
  norm: Callable[..., nn.Module]
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """[batch, position, part, in] -> [batch, position, part, widths[-1]]."""
    for i, width in enumerate(self.widths):
      conv = PartDense(width, dtype=self.dtype, precision=None, name=f'{3 * i}')
      x = normalize_parts(self.norm(name=f'{3 * i + 1}'), conv(x), train)
      if i == 0:
        x = nn.relu(x)
    return x


class Relations(nn.Module):
  """A 1x1 convolution of the relations of each position, normalised, ReLU."""

  ratio: int
  norm: Callable[..., nn.Module]
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, theta: jax.Array, phi: jax.Array, train: bool
  ) -> jax.Array:
    """Twice [batch, position, part, in] -> [batch, position, part, out]."""
    features = max(theta.shape[1] // self.ratio, 1)
    y = RelationConv(features, self.dtype, name='0')(theta, phi)
    return nn.relu(normalize_parts(self.norm(name='1'), y, train))


class RelationConv(nn.Module):
  """The convolution of relations r_{p,q} = theta_p . phi_q, which are not held.

  With R the relations [p, q] of a part and K = [K_in, K_out] the kernel, it is
  R K_in + R^T K_out = theta (phi^T K_in) + phi (theta^T K_out): the products on
  the right never make the [positions, positions] matrix on the left, which at
  the first stage of 256x128 images takes 16.8 MB an image.
  """

  features: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, theta: jax.Array, phi: jax.Array) -> jax.Array:
    _, positions, parts, _ = theta.shape
    shape = (parts, 2 * positions, self.features)
    if self.has_variable('params', 'kernel'):
      made_for = self.get_variable('params', 'kernel').shape[1] // 2
      if made_for != positions:
        raise UserError(
          f'{"/".join(self.path)}: these weights of spatial attention were made'
          f' for {made_for} positions of a part, and these images give'
          f" {positions}. With config.model.attention='spatial' a network takes"
          ' images of the size it was made for (config.data.image_size) only.'
        )
    kernel = self.param('kernel', torch_uniform, shape).astype(self.dtype)
    kernel_in, kernel_out = jnp.split(kernel, 2, axis=1)

    def relate(a, b, kernel):
      mixed = jnp.einsum('bqpc,pqo->bpco', b, kernel)
      return jnp.einsum('bspc,bpco->bspo', a, mixed)

    return relate(theta, phi, kernel_in) + relate(phi, theta, kernel_out)


def normalize_parts(norm: nn.Module, x: jax.Array, train: bool) -> jax.Array:
  """Normalises [batch, position, part, channels], each part by its own."""
  return norm(x.reshape(*x.shape[:2], -1), train).reshape(x.shape)
