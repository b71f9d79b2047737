"""The attention pyramid: split, attend, merge, stack (Section III.A)."""

import flax.linen as nn
import jax

from apnet_jax.models.attention import ChannelAttention


def parts_of_level(level: int, radix: int, stacked: bool = False) -> int:
  """Number of parts n of pyramid level `level` (1 is the coarsest).

  The paper's text says n = 2^i, but its APNet-C_1 has one global part; the
  authors confirm that level 1 is the plain attention, so n = radix^(i - 1).
  """
  return 1 if stacked else radix ** (level - 1)


class AttentionPyramid(nn.Module):
  """Levels of attention from coarse to fine on one feature map, Eq. (1).

  Attributes:
    levels: number of levels; 0 makes it the identity.
    radix: growth of the number of parts from a level to the next.
    stacked: repeats level 1 without splitting ("stacked attention", Table II).
    reduction: see `ChannelAttention`.
  """

  levels: int
  radix: int = 2
  stacked: bool = False
  reduction: int = 16

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns X_levels, of the shape of `x`; Eq. (3) once a level."""
    for level in range(1, self.levels + 1):
      parts = parts_of_level(level, self.radix, self.stacked)
      if x.shape[-1] % parts:
        raise ValueError(
          f'{self.name}: {x.shape[-1]} channels do not split into {parts}'
          f' parts at level {level} with config.model.radix={self.radix}.'
        )
      attention = ChannelAttention(parts, self.reduction, name=f'level{level}')(
        x
      )
      x = nn.sigmoid(attention).astype(x.dtype) * x
    return x
