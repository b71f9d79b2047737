"""3x3 convolutions with fewer products on the CPU: Winograd's F(2x2, 3x3).

Of every 2x2 outputs, 16 products of an input and a kernel instead of 36 (Lavin
and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016):

  Y = A' [(B' d B) * (G g G')] A

with d the 4x4 inputs of Y and g the kernel. Here each of the 16 is a product of
matrices, [tiles, in] x [in, out]. Sums are of +-1 and 1/2, so that the result
differs from the usual one by float32 rounding.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

B_T = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
A_T = ((1, 1, 1, 0), (0, 1, -1, -1))
# Multiply-adds of a tap below which the transforms are not worth compiling.
LEAST = 2**25

Grid = Sequence[Sequence[jax.Array]]


def applies(x: jax.Array, kernel: jax.Array) -> bool:
  """Whether it is worth its while for these two, of stride 1, padded by 1."""
  return (
    kernel.shape[:2] == (3, 3)
    and x.dtype in (jnp.float32, jnp.float64)  # bfloat16 would lose digits
    and x.shape[1] % 2 == x.shape[2] % 2 == 0
    and x.size * kernel.shape[3] >= LEAST
  )


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolution of stride 1, zero padded by 1.

  Args:
    x: [batch, height, width, in], height and width even.
    kernel: [3, 3, in, out].

  Returns:
    [batch, height, width, out].
  """
  return _convolve(x, _transform(G, kernel))


def input_gradient(kernel: jax.Array, gradient: jax.Array) -> jax.Array:
  """A convolution with the turned kernel: [batch, height, width, in]."""
  turned = _transform(G, kernel[::-1, ::-1])
  return _convolve(gradient, _each(jnp.transpose, turned))


def kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
  """The transpose of `convolve`, step by step: [3, 3, in, out]."""
  tiles = _transform(B_T, _overlapping_tiles(x))
  spread = _transform(_transposed(A_T), _tiles(gradient))
  products = _each(lambda a, b: a.T @ b, tiles, spread)
  of_kernel = _transform(_transposed(G), products)
  return jnp.stack([jnp.stack(row) for row in of_kernel])


def _convolve(x, kernels: Grid) -> jax.Array:
  """With a transformed kernel, 4x4 of [in, out]."""
  tiles = _transform(B_T, _overlapping_tiles(x))
  y = _transform(A_T, _each(jnp.matmul, tiles, kernels))
  batch, height, width, _ = x.shape
  shape = (batch, height // 2, width // 2, -1)
  y = [jnp.stack([part.reshape(shape) for part in row], axis=3) for row in y]
  return jnp.stack(y, axis=2).reshape(batch, height, width, -1)


def _overlapping_tiles(x) -> Grid:
  """The 4x4 inputs of each 2x2 outputs: [row][column] of [tiles, channels]."""
  _, height, width, channels = x.shape
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  x = _pairs(x)

  def pixel(row, column):
    rows = slice(row // 2, row // 2 + height // 2)
    columns = slice(column // 2, column // 2 + width // 2)
    return x[:, rows, row % 2, columns, column % 2].reshape(-1, channels)

  return [[pixel(i, j) for j in range(4)] for i in range(4)]


def _tiles(x) -> Grid:
  """2x2 pixels each: [row][column] of [tiles, channels]."""
  x, channels = _pairs(x), x.shape[-1]
  return [
    [x[:, :, i, :, j].reshape(-1, channels) for j in range(2)] for i in range(2)
  ]


def _pairs(x):
  """[batch, h, w, channels] -> [batch, h/2, 2, w/2, 2, channels]."""
  batch, height, width, channels = x.shape
  return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def _transform(matrix: Sequence[Sequence[float]], grid) -> Grid:
  """M X M' of a grid X of arrays."""
  columns = [_combine(matrix, column) for column in zip(*grid, strict=True)]
  return [_combine(matrix, row) for row in zip(*columns, strict=True)]


def _combine(matrix, arrays):
  return [
    sum(factor * x for factor, x in zip(row, arrays, strict=True) if factor)
    for row in matrix
  ]


def _each(function: Callable, *grids: Grid) -> Grid:
  return [list(map(function, *rows)) for rows in zip(*grids, strict=True)]


def _transposed(matrix):
  return list(zip(*matrix, strict=True))
