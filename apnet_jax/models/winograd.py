"""3x3 convolutions with fewer multiplications: Winograd's F(2x2, 3x3).

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.
For each pair of an input and an output channel, a tile of 2x2 outputs Y takes
16 multiplications instead of 36:

  Y = A^T [(B^T d B) * (G g G^T)] A

where d are the 4x4 inputs of the tile, g is the kernel and * is the
element-wise product. Here each of the 16 products is a matrix product over all
tiles and channels, [tiles, in] x [in, out]. The matrices A, B and G hold only
0, +-1 and +-1/2, so that the result differs from the direct convolution by
float32 rounding only.

Each pixel position in a tile has its own array, which holds this pixel of all
tiles. A `Grid` holds these arrays: a list of rows, which are lists of arrays.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

B_T = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
A_T = ((1, 1, 1, 0), (0, 1, -1, -1))
# Smallest convolution, in multiply-adds per kernel position, for which the
# transforms are worth their compilation time.
MIN_MULTIPLY_ADDS = 2**25

Grid = Sequence[Sequence[jax.Array]]


def suits(x: jax.Array, kernel: jax.Array) -> bool:
  """Returns whether Winograd's algorithm suits the shapes of a convolution.

  The algorithm must be accurate and faster than the direct convolution.

  Args:
    x: [batch, height, width, in], or its shape and type.
    kernel: [height, width, in, out], or its shape and type; the stride is 1 and
      the padding is 1.
  """
  return (
    kernel.shape[:2] == (3, 3)
    and x.dtype in (jnp.float32, jnp.float64)  # bfloat16 would lose digits
    and x.shape[1] % 2 == x.shape[2] % 2 == 0
    and x.size * kernel.shape[3] >= MIN_MULTIPLY_ADDS
  )


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves maps with a 3x3 kernel, stride 1 and zero padding 1.

  Args:
    x: [batch, height, width, in]; height and width are even.
    kernel: [3, 3, in, out].

  Returns:
    [batch, height, width, out].
  """
  return _convolve(x, _transform(G, kernel))


def input_gradient(kernel: jax.Array, gradient: jax.Array) -> jax.Array:
  """Returns the gradient with respect to the input of `convolve`.

  This gradient is the convolution of `gradient` with the kernel rotated by 180
  degrees and its input and output channels exchanged.

  Args:
    kernel: [3, 3, in, out].
    gradient: gradient with respect to the output, [batch, height, width, out].

  Returns:
    [batch, height, width, in].
  """
  rotated = _transform(G, kernel[::-1, ::-1])
  return _convolve(gradient, _map_grids(jnp.transpose, rotated))


def kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
  """Returns the gradient with respect to the kernel of `convolve`.

  The computation transposes each step of `convolve`, in reverse order.

  Args:
    x: [batch, height, width, in].
    gradient: gradient with respect to the output, [batch, height, width, out].

  Returns:
    [3, 3, in, out].
  """
  inputs = _transform(B_T, _input_tiles(x))
  outputs = _transform(_transpose(A_T), _output_tiles(gradient))
  products = _map_grids(lambda a, b: a.T @ b, inputs, outputs)
  result = _transform(_transpose(G), products)
  return jnp.stack([jnp.stack(row) for row in result])


def _convolve(x, kernels: Grid) -> jax.Array:
  """Convolves maps with a transformed kernel.

  Args:
    x: [batch, height, width, in]; height and width are even.
    kernels: the transformed kernel G g G^T, a 4x4 grid of [in, out].

  Returns:
    [batch, height, width, out].
  """
  tiles = _transform(B_T, _input_tiles(x))
  y = _transform(A_T, _map_grids(jnp.matmul, tiles, kernels))
  batch, height, width, _ = x.shape
  shape = (batch, height // 2, width // 2, -1)
  rows = [
    jnp.stack([pixel.reshape(shape) for pixel in row], axis=3) for row in y
  ]
  return jnp.stack(rows, axis=2).reshape(batch, height, width, -1)


def _input_tiles(x) -> Grid:
  """Returns the 4x4 inputs of each tile as a grid of [tiles, channels].

  Args:
    x: input of the convolution, [batch, height, width, channels].
  """
  _, height, width, channels = x.shape
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  x = _pair_pixels(x)

  def pixel(row, column):
    rows = slice(row // 2, row // 2 + height // 2)
    columns = slice(column // 2, column // 2 + width // 2)
    return x[:, rows, row % 2, columns, column % 2].reshape(-1, channels)

  return [[pixel(i, j) for j in range(4)] for i in range(4)]


def _output_tiles(x) -> Grid:
  """Returns the 2x2 outputs of each tile as a grid of [tiles, channels].

  Args:
    x: array of the shape of the output, [batch, height, width, channels].
  """
  x, channels = _pair_pixels(x), x.shape[-1]
  return [
    [x[:, :, i, :, j].reshape(-1, channels) for j in range(2)] for i in range(2)
  ]


def _pair_pixels(x):
  """Reshapes [batch, h, w, channels] to [batch, h/2, 2, w/2, 2, channels]."""
  batch, height, width, channels = x.shape
  return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def _transform(matrix: Sequence[Sequence[float]], grid) -> Grid:
  """Returns M X M^T for a matrix M and a grid X of arrays."""
  columns = [_multiply(matrix, column) for column in zip(*grid, strict=True)]
  return [_multiply(matrix, row) for row in zip(*columns, strict=True)]


def _multiply(matrix, arrays):
  """Returns the product of a matrix and a vector whose entries are arrays."""
  return [
    sum(factor * x for factor, x in zip(row, arrays, strict=True) if factor)
    for row in matrix
  ]


def _map_grids(function: Callable, *grids: Grid) -> Grid:
  """Applies a function to the arrays at each place of grids of equal size."""
  return [list(map(function, *rows)) for rows in zip(*grids, strict=True)]


def _transpose(matrix):
  return list(zip(*matrix, strict=True))
