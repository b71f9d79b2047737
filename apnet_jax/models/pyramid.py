"""The attention pyramid: split, attend, merge, stack (Section III.A)."""

from collections.abc import Callable

import flax.linen as nn
import jax

from apnet_jax.errors import UserError
from apnet_jax.models.attention import attend, average
from apnet_jax.models.layers import image_moments


class SplitError(UserError):
  """A feature map cannot be split into the parts of a pyramid level.

  Attributes:
    size: number of channels or rows of the map.
    along: what is split, 'channels' or 'rows'.
    parts: number of parts.
  """

  def __init__(
    self,
    name: str | None,
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
      f' with config.model.radix={radix}. Choose one of these radices:'
      f' {", ".join(map(str, fit))}'
      + ('; or change config.data.image_size.' if along == 'rows' else '.')
    )
    self.size, self.along, self.parts = size, along, parts


def parts_of_level(level: int, radix: int, stacked: bool = False) -> int:
  """Returns the number of parts of a pyramid level, n of Eq. (2).

  The paper's text says n = 2^i for level i, but its APNet-C_1 has one global
  part. The authors confirm that level 1 does not split the map, so that
  n = radix^(i - 1).

  Args:
    level: i, counted from 1, the coarsest level.
    radix: growth of the number of parts from a level to the next.
    stacked: True for stacked attention, which never splits (Table II).
  """
  return 1 if stacked else radix ** (level - 1)


class AttentionPyramid(nn.Module):
  """Levels of attention from coarse to fine on one feature map.

  Eq. (1) to (3) of the paper are this loop:

    for i in range(1, levels + 1):                # Eq. (1)
      parts = split(x, n=radix ** (i - 1))        # along channels or rows
      scores = [attend[i][j](part) for j, part in enumerate(parts)]
      a = merge(scores)                           # Eq. (2): concatenate
      x = sigmoid(a) * x                          # Eq. (3)

  The implementation gives the same result with less work:

  - An attention module computes all parts of a level at once and applies the
    sigmoid too (see `attention.py`). Splitting and merging are reshapes.
  - Channel attention sees a map only through its average over positions, and it
    scales a channel by the same factor at all positions. Hence the average of
    X_i is sigmoid(A_i) times the average of X_{i-1}: levels read and scale the
    average, and the map is multiplied once, by the product of all sigmoids.
    Both forms agree up to the rounding of floating-point numbers.
  - A batch normalisation between levels scales and shifts a channel by the same
    numbers at all positions, too. It needs the variance of X_i within each
    image, which is the square of the scale so far times that of X_0.
  - Spatial attention scores positions. There, every level multiplies the whole
    map, as the loop does.

  The split attention of the released code (`SharedChannelAttention`) has a
  softmax over parts in place of the sigmoid; the loop does not show it.

  Attributes:
    levels: number of levels; 0 makes the pyramid the identity.
    attention: makes the attention of a level that is not split; called as
      `attention(parts=1, name=...)`.
    split_attention: makes the attention of a level with several parts; called
      as `split_attention(parts=..., name=...)`.
    along: what is split, 'channels' or 'rows'.
    radix: growth of the number of parts from a level to the next.
    stacked: True repeats level 1 without splitting ("stacked attention", Table
      II).
    fine_to_coarse: True applies the finest level first, as the released code
      does.
    norm_after_split: makes the batch normalisation that the released code has
      after each split level, a `MomentNorm`; None for the paper's pyramid.
    level_by_level: True multiplies the whole map at every level, as the loop
      does, so that the map X_i of each level exists. This is slower, and for
      pictures of the levels.
  """

  levels: int
  attention: Callable[..., nn.Module]
  split_attention: Callable[..., nn.Module]
  along: str = 'channels'
  radix: int = 2
  stacked: bool = False
  fine_to_coarse: bool = False
  norm_after_split: Callable[..., nn.Module] | None = None
  level_by_level: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Applies all levels to a feature map.

    Args:
      x: X_0, [batch, height, width, channels].
      train: whether normalisations use and update batch statistics.

    Returns:
      X_levels, of the shape and type of `x`.

    Raises:
      SplitError: the channels or rows do not split into the parts of a level.
    """
    averaged = self.along == 'channels' and not self.level_by_level
    seen, var = x, None  # X_{i-1}, or its average and its variance
    if averaged and self.norm_after_split:
      seen, var = image_moments(x)
    elif averaged:
      seen = average(x)
    scale, shift = None, None  # X_i = scale * X_0 + shift; None is 1, 0
    levels = range(1, self.levels + 1)
    for level in reversed(levels) if self.fine_to_coarse else levels:
      parts = parts_of_level(level, self.radix, self.stacked)
      self._check_split(x, parts, level)
      attention = self.attention if parts == 1 else self.split_attention
      scores = attention(parts=parts, name=f'level{level}')(seen, train)
      seen = attend(seen, scores)
      scale = scores if scale is None else scale * scores
      shift = None if shift is None else shift * scores
      if parts > 1 and self.norm_after_split:
        moments = (seen, scale**2 * var) if averaged else image_moments(seen)
        norm = self.norm_after_split(name=f'norm{level}')
        factor, offset = norm(*moments, x.shape, train)
        seen = attend(seen, factor, offset)
        scale = scale * factor
        shift = offset if shift is None else shift * factor + offset
      seen = self.level_output(seen, level, scores)
    if not averaged:
      return seen
    return x if scale is None else attend(x, scale, shift)

  def level_output(
    self, x: jax.Array, level: int, scores: jax.Array
  ) -> jax.Array:
    """Returns X_i unchanged; `nn.intercept_methods` can watch it here.

    Args:
      x: X_i, [batch, height, width, channels]; unless `level_by_level`, it may
        be the average of X_i over its positions.
      level: i, counted from 1.
      scores: the attention of this level, which broadcasts against `x`.
    """
    del level, scores
    return x

  def _check_split(self, x: jax.Array, parts: int, level: int) -> None:
    """Raises SplitError unless a feature map splits into equal parts.

    Args:
      x: [batch, height, width, channels].
      parts: number of parts.
      level: level with these parts, counted from 1.
    """
    size = x.shape[1 if self.along == 'rows' else 3]
    if size % parts:
      raise SplitError(
        self.name, size, self.along, parts, level=level, radix=self.radix
      )
