"""The attention pyramid: split, attend, merge, stack (Section III.A)."""

from collections.abc import Callable
import math

import flax.linen as nn
import jax

from apnet_jax.errors import UserError
from apnet_jax.models.attention import average


class SplitError(UserError):
  """A feature map cannot be split into the parts of a pyramid level.

  Attributes:
    size: number of channels or rows of the map.
    along: 'channels' or 'rows'.
    parts: number of parts.
  """

  def __init__(
    self,
    name: str,
    size: int,
    along: str,
    parts: int,
    *,
    level: int,
    radix: int,
  ):
    fit = [r for r in range(1, 33) if size % r ** (level - 1) == 0]
    super().__init__(
      f'{name}: {size} {along} do not split into {parts} parts at level {level}'
      f' with config.model.radix={radix}; these radices do:'
      f' {", ".join(map(str, fit))}'
      + ('; or change config.data.image_size.' if along == 'rows' else '.')
    )
    self.size, self.along, self.parts = size, along, parts


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
    attention: makes the attention of a level that is not split.
    split_attention: makes the attention of `parts` parts.
    along: 'channels' or 'rows', which are split.
    radix: growth of the number of parts from a level to the next.
    stacked: repeats level 1 without splitting ("stacked attention", Table II).
    fine_to_coarse: the other order, that of the released code.
    norm_after_split: makes the normalisation that the released code puts after
      a level that is split; None for the paper's pyramid.
  """

  levels: int
  attention: Callable[..., nn.Module]
  split_attention: Callable[..., nn.Module]
  along: str = 'channels'
  radix: int = 2
  stacked: bool = False
  fine_to_coarse: bool = False
  norm_after_split: Callable[..., nn.Module] | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Returns X_levels, of the shape of `x`; Eq. (3) once a level."""
    # Scores of channels are the same at all positions, so that the average over
    # them is attended like the map: levels look at it, and the map is read and
    # multiplied once. A normalisation between levels is not like that.
    averaged = self.along == 'channels' and not self.norm_after_split
    seen = average(x) if averaged else x
    all_scores = []
    levels = range(1, self.levels + 1)
    for level in reversed(levels) if self.fine_to_coarse else levels:
      parts = parts_of_level(level, self.radix, self.stacked)
      self._check_split(x, parts, level)
      attention = self.attention if parts == 1 else self.split_attention
      scores = attention(parts=parts, name=f'level{level}')(seen, train)
      all_scores.append(scores)
      seen = scores.astype(seen.dtype) * seen
      if parts > 1 and self.norm_after_split:
        seen = self.norm_after_split(name=f'norm{level}')(seen, train)
    if averaged and all_scores:
      return math.prod(all_scores).astype(x.dtype) * x
    return seen if all_scores else x

  def _check_split(self, x: jax.Array, parts: int, level: int) -> None:
    size = x.shape[1 if self.along == 'rows' else 3]
    if size % parts:
      raise SplitError(
        self.name, size, self.along, parts, level=level, radix=self.radix
      )
