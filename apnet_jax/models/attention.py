"""Attention modules: each scores every part of a feature map on its own.

A module takes features [batch, height, width, channels] and returns the merged
attention map A_i of Eq. (2) *before* the sigmoid, in a shape that broadcasts
against the features.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp


class ChannelAttention(nn.Module):
  """Channel-wise (squeeze and excitation) attention per part, Eq. (2) and (5).

  The channels are split into `parts` consecutive groups, and each group has its
  own two fully-connected layers. Splitting is a reshape and all parts are
  attended at once by an einsum with weights [part, in, out].

  Attributes:
    parts: n of Eq. (2).
    reduction: input over hidden width of a part. The paper does not state it;
      16 is that of Hu et al., Squeeze-and-Excitation Networks, CVPR 2018.
  """

  parts: int
  reduction: int = 16

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> [batch, 1, 1, channels]."""
    batch, height, width, channels = x.shape
    size = channels // self.parts
    hidden = max(size // self.reduction, 1)
    init = nn.initializers.variance_scaling(
      1 / 3, 'fan_in', 'uniform', in_axis=1, out_axis=2, batch_axis=0
    )  # PyTorch's default for fully-connected layers
    fc1 = self.param('fc1', init, (self.parts, size, hidden))
    fc2 = self.param('fc2', init, (self.parts, hidden, size))

    x = x.reshape(batch, height, width, self.parts, size)  # split
    pooled = x.mean((1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
    einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    attention = nn.relu(einsum('bpc,pch->bph', pooled, fc1))
    attention = einsum('bph,phc->bpc', attention, fc2)
    return attention.reshape(batch, 1, 1, channels)  # merge
