"""Attention modules, which compute the attention of each part of a feature map.

A module is called as `attention(x, train)` with features [batch, height, width,
channels]. It returns the merged attention map A_i of Eq. (2), with the sigmoid
of Eq. (3) or a softmax already applied, in a shape that broadcasts against the
features. Splitting into parts is a reshape. One einsum with weights
[part, in, out] then computes a layer for all parts at once, where each part has
its own weights. Equations are those of the APNet paper.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from apnet_jax.errors import UserError

# PyTorch's default initialisation of convolutions and fully-connected layers.
torch_uniform = nn.initializers.variance_scaling(
  1 / 3, 'fan_in', 'uniform', in_axis=1, out_axis=2, batch_axis=0
)


class GroupedDense(nn.Module):
  """A grouped fully-connected layer: each group has weights of its own.

  Applied to a feature map, the layer is a grouped 1x1 convolution. The groups
  are the parts of an attention or the stripes of the multi-part head.

  Attributes:
    features: number of outputs of a group.
    use_bias: whether the layer adds a bias.
    kernel_init: initialiser of the weights [group, in, out].
    dtype: type to compute in; None for the type of the input.
    precision: precision of the matrix product.
  """

  features: int
  use_bias: bool = False
  kernel_init: Callable[..., jax.Array] = torch_uniform
  dtype: jax.typing.DTypeLike | None = None
  precision: jax.lax.Precision | None = jax.lax.Precision.HIGHEST

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., group, in] to [..., group, features]."""
    *_, groups, size = x.shape
    kernel = self.param(
      'kernel', self.kernel_init, (groups, size, self.features)
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
        (groups, self.features),
      )
      x = x + bias.astype(dtype)
    return x


class ChannelAttention(nn.Module):
  """Channel attention: squeeze-and-excitation of each part, Eq. (2) and (5).

  A part consists of consecutive channels.

  Attributes:
    parts: number of parts, n of Eq. (2).
    reduction: input width over hidden width of a part. The paper does not state
      this ratio; 16 is the ratio of Hu et al., Squeeze-and-Excitation Networks,
      CVPR 2018.
    hidden: hidden width of a part, for any input width; 0 uses `reduction`.
    use_bias: whether the layers have biases, as those of Hu et al. have. Eq.
      (5) has none.
  """

  parts: int = 1
  reduction: int = 16
  hidden: int = 0
  use_bias: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Computes the attention of each channel.

    Args:
      x: features [batch, height, width, channels].
      train: has no effect.

    Returns:
      Attention in 0..1, [batch, 1, 1, channels].
    """
    del train
    pooled = pool_parts(x, self.parts)
    size = pooled.shape[-1]
    hidden = self.hidden or max(size // self.reduction, 1)
    attention = nn.relu(GroupedDense(hidden, self.use_bias, name='fc1')(pooled))
    attention = GroupedDense(size, self.use_bias, name='fc2')(attention)
    return nn.sigmoid(attention).reshape(x.shape[0], 1, 1, -1)  # merge


class SharedChannelAttention(nn.Module):
  """Channel attention that all parts share, as in the released code.

  The sum of the pooled parts passes through two layers, which score all parts.
  A softmax over the parts replaces the sigmoid, so that parts compete. This is
  the split attention of Zhang et al., ResNeSt, arXiv:2004.08955, without its
  convolution. The paper's Eq. (2) gives each part its own attention instead.

  Attributes:
    parts: number of parts, n of Eq. (2).
    norm: makes a normalisation layer.
  """

  parts: int
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Computes the attention of each channel.

    Args:
      x: features [batch, height, width, channels].
      train: whether the normalisation uses and updates batch statistics.

    Returns:
      Attention in 0..1, [batch, 1, 1, channels].
    """
    batch, *_, channels = x.shape
    hidden = max(channels * self.parts // 4, 32)
    pooled = pool_parts(x, self.parts).sum(1, keepdims=True)
    y = GroupedDense(hidden, use_bias=True, name='fc1')(pooled)
    y = nn.relu(self.norm(dtype=None, name='bn1')(y, train))
    scores = GroupedDense(channels, use_bias=True, name='fc2')(y)
    attention = nn.softmax(scores.reshape(batch, self.parts, -1), axis=1)
    return attention.reshape(batch, 1, 1, channels)


def attend(
  x: jax.Array, attention: jax.Array, shift: jax.Array | None = None
) -> jax.Array:
  """Multiplies features by attention, the product of Eq. (3).

  The product, and the sum over positions or channels in its gradient, are
  computed in at least float32.

  Args:
    x: features [batch, height, width, channels].
    attention: an array that broadcasts against `x`.
    shift: an array that broadcasts against `x` and is added to the product, as
      a normalisation does; None for the product alone.

  Returns:
    An array of the shape and type of `x`.
  """
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  y = attention.astype(dtype) * x.astype(dtype)
  if shift is not None:
    y = y + shift.astype(dtype)
  return y.astype(x.dtype)


def average(x: jax.Array) -> jax.Array:
  """Averages a map over its positions, in at least float32.

  Args:
    x: [batch, height, width, channels].

  Returns:
    [batch, 1, 1, channels].
  """
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  return x.mean((1, 2), keepdims=True, dtype=dtype)


def pool_parts(x: jax.Array, parts: int) -> jax.Array:
  """Averages a map over its positions and splits the channels into parts.

  Args:
    x: [batch, height, width, channels].
    parts: number of parts, which divides the number of channels.

  Returns:
    [batch, parts, channels / parts].
  """
  return average(x).reshape(x.shape[0], parts, -1)


class SpatialAttention(nn.Module):
  """Relation-aware global attention (RGA-S) of every part, Eq. (2) and (4).

  A part consists of consecutive rows. The module follows the released code of
  Zhang et al., Relation-Aware Global Attention for Person Re-identification,
  CVPR 2020, and uses its names. Every 1x1 convolution is followed by a
  normalisation, and all but the last by a ReLU.

  The shape of the weights depends on the number of positions of a part, so that
  a network takes images of one size only. The module checks the number of
  positions; it cannot detect another size with the same number, such as height
  and width exchanged.

  Attributes:
    parts: number of parts, n of Eq. (2).
    norm: makes a normalisation layer.
    dtype: type that the convolutions compute in.
    ratio: input width over output width of every layer but the last.
  """

  parts: int
  norm: Callable[..., nn.Module]
  dtype: jax.typing.DTypeLike = jnp.float32
  ratio: int = 8

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Computes the attention of each position.

    Args:
      x: features [batch, height, width, channels]; `parts` divides the height.
      train: whether normalisations use and update batch statistics.

    Returns:
      Attention in 0..1, [batch, height, width, 1].

    Raises:
      UserError: the weights were made for images of another size.
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, self.parts, -1, channels).swapaxes(1, 2)  # split
    sequence = partial(ConvSequence, norm=self.norm, dtype=self.dtype)
    embed = partial(sequence, (max(channels // self.ratio, 1),))
    theta = embed(name='theta_spatial')(x, train)
    phi = embed(name='phi_spatial')(x, train)
    relations = Relations(self.ratio, self.norm, self.dtype, name='gg_spatial')(
      theta, phi, train
    )
    features = embed(name='gx_spatial')(x, train).mean(-1, keepdims=True)
    y = jnp.concatenate([features, relations], -1)
    # At level 3 of 256x128 images, the ratio alone gives no hidden unit.
    hidden = max(y.shape[-1] // self.ratio, 1)
    scores = sequence((hidden, 1), name='W_spatial')(y, train)
    attention = nn.sigmoid(scores.swapaxes(1, 2))
    return attention.reshape(batch, height, width, 1)  # merge


class ConvSequence(nn.Module):
  """1x1 convolutions of each part, with normalisations and one ReLU.

  The ReLU follows the first normalisation. Submodules are numbered as in the
  `nn.Sequential` of the released code: convolution, normalisation, ReLU.

  Attributes:
    widths: number of output channels of each convolution.
    norm: makes a normalisation layer.
    dtype: type that the convolutions compute in.
  """

  widths: tuple[int, ...]
  norm: Callable[..., nn.Module]
  dtype: jax.typing.DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [batch, position, part, in] to [batch, position, part, out]."""
    for i, width in enumerate(self.widths):
      conv = GroupedDense(
        width, dtype=self.dtype, precision=None, name=f'{3 * i}'
      )
      x = normalize_parts(self.norm(name=f'{3 * i + 1}'), conv(x), train)
      if i == 0:
        x = nn.relu(x)
    return x


class Relations(nn.Module):
  """Embeds the relations between the positions of each part (RGA-S).

  The module is a 1x1 convolution, a normalisation and a ReLU.

  Attributes:
    ratio: number of positions of a part over number of output channels.
    norm: makes a normalisation layer.
    dtype: type that the convolution computes in.
  """

  ratio: int
  norm: Callable[..., nn.Module]
  dtype: jax.typing.DTypeLike

  @nn.compact
  def __call__(
    self, theta: jax.Array, phi: jax.Array, train: bool
  ) -> jax.Array:
    """Embeds the relations r_{p,q} = theta_p . phi_q of each position.

    Args:
      theta: first embedding of the features, [batch, position, part, in].
      phi: second embedding of the features, of the same shape.
      train: whether the normalisation uses and updates batch statistics.

    Returns:
      [batch, position, part, out].
    """
    features = max(theta.shape[1] // self.ratio, 1)
    y = RelationConv(features, self.dtype, name='0')(theta, phi)
    return nn.relu(normalize_parts(self.norm(name='1'), y, train))


class RelationConv(nn.Module):
  """A 1x1 convolution of relations, computed without the relation matrix.

  Let R be the matrix of the relations r_{p,q} = theta_p . phi_q of a part, and
  let K_in and K_out be the halves of the kernel. The convolution is

    R K_in + R^T K_out = theta (phi^T K_in) + phi (theta^T K_out)

  The right-hand side does not need the matrix R, [positions, positions], which
  takes 16.8 MB per image at the first stage of 256x128 images.

  Attributes:
    features: number of outputs.
    dtype: type to compute in.
  """

  features: int
  dtype: jax.typing.DTypeLike

  @nn.compact
  def __call__(self, theta: jax.Array, phi: jax.Array) -> jax.Array:
    """Convolves the relations of each position.

    Args:
      theta: first embedding of the features, [batch, position, part, in].
      phi: second embedding of the features, of the same shape.

    Returns:
      [batch, position, part, features].

    Raises:
      UserError: the weights were made for another number of positions.
    """
    _, positions, parts, _ = theta.shape
    shape = (parts, 2 * positions, self.features)
    if self.has_variable('params', 'kernel'):
      made_for = self.get_variable('params', 'kernel').shape[1] // 2
      if made_for != positions:
        raise UserError(
          f'{"/".join(self.path)}: these weights of spatial attention were made'
          f' for {made_for} positions in a part, but these images give'
          f" {positions}. With config.model.attention='spatial', a network"
          ' takes only images of the size that it was made for'
          ' (config.data.image_size).'
        )
    kernel = self.param('kernel', torch_uniform, shape).astype(self.dtype)
    kernel_in, kernel_out = jnp.split(kernel, 2, axis=1)

    def relate(a, b, kernel):
      mixed = jnp.einsum('bqpc,pqo->bpco', b, kernel)
      return jnp.einsum('bspc,bpco->bspo', a, mixed)

    return relate(theta, phi, kernel_in) + relate(phi, theta, kernel_out)


def normalize_parts(norm: nn.Module, x: jax.Array, train: bool) -> jax.Array:
  """Normalises the channels of each part of a feature map separately.

  Args:
    norm: normalisation layer, called with [batch, position, part * channels].
    x: [batch, position, part, channels].
    train: whether `norm` uses and updates batch statistics.

  Returns:
    The result, of the shape of `x`.
  """
  return norm(x.reshape(*x.shape[:2], -1), train).reshape(x.shape)
