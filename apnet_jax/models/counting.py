"""Counts the parameters and multiply-adds of a network.

The counts come from the traced computation (the jaxpr): no array is computed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
from jax.extend import core

from apnet_jax.models.attention import ChannelAttention
from apnet_jax.models.layers import BatchNorm, MomentNorm
from apnet_jax.models.pyramid import AttentionPyramid


@dataclasses.dataclass(frozen=True)
class Complexity:
  """The cost of embedding one image.

  The costs exclude the classifier, which only training needs.

  Attributes:
    parameters: number of trainable parameters.
    multiply_adds: number of multiply-adds of convolutions and matrix products.
    normalized: number of elements that batch normalisations read.
    pooled: number of elements that the average poolings of the head and of each
      `ChannelAttention` read and write.
  """

  parameters: int
  multiply_adds: int
  normalized: int
  pooled: int

  @property
  def operations(self) -> int:
    """The number of operations as PyTorch-OpCounter counts (Table III).

    The release of 2020 of this tool adds to the multiply-adds 2 for each
    normalised element and 1 for each element that an average-pooling module
    reads or writes. It misses pooling by a function, as in the shared attention
    of the released code.
    """
    return self.multiply_adds + 2 * self.normalized + self.pooled


def count(model: nn.Module, image_size: tuple[int, int]) -> Complexity:
  """Counts the cost of embedding one image.

  Args:
    model: network made by `create_model`; its number of classes has no effect.
    image_size: height and width of the image in pixels.

  Raises:
    NotImplementedError: the network multiplies matrices in a while loop.
  """
  normalized = pooled = 0
  # Shape of the last feature map, which the head averages.
  features: tuple[int, ...] = ()
  map_sizes = {}  # number of elements that a pyramid reads, by its path

  def watch(call, args, kwargs, context):
    nonlocal normalized, pooled, features
    if isinstance(context.module, AttentionPyramid):
      map_sizes[context.module.path] = args[0].size
    out = call(*args, **kwargs)
    if context.method_name == '__call__':
      if isinstance(context.module, MomentNorm):
        # It gets moments. The code that PyTorch-OpCounter counts reads the map.
        _, _, shape, *_ = args
        normalized += math.prod(shape)
      elif isinstance(context.module, BatchNorm):
        normalized += args[0].size
      elif isinstance(context.module, ChannelAttention):
        # `AttentionPyramid` averages the map once. The code that
        # PyTorch-OpCounter counts pools the whole map at each level.
        read = map_sizes.get(context.module.path[:-1], args[0].size)
        pooled += read + out.size
      elif len(context.module.path) == 1 and getattr(out, 'ndim', 0) == 4:
        features = out.shape
    return out

  params, equations = trace(model, image_size, watch)
  return Complexity(
    parameters=sum(leaf.size for leaf in params.values()),
    multiply_adds=sum(multiply_adds(equation) for equation in equations),
    normalized=normalized,
    pooled=pooled + math.prod(features) + features[-1],
  )


def trace(
  model: nn.Module, image_size: tuple[int, int], watch: Callable
) -> tuple[dict[tuple[str, ...], jax.ShapeDtypeStruct], list]:
  """Traces the embedding of one image.

  Args:
    model: network made by `create_model`.
    image_size: height and width of the image in pixels.
    watch: interceptor of module calls; see `flax.linen.intercept_methods`.

  Returns:
    The shapes of the trainable parameters by path, and the equations of the
    jaxpr, in order. Both are limited to those that the embedding depends on.
  """
  images = jax.ShapeDtypeStruct((1, *image_size, 3), 'float32')

  def embed(images):
    out, variables = model.init_with_output(jax.random.key(0), images)
    return out.embedding, variables['params']

  with nn.intercept_methods(watch):
    jaxpr, (_, shapes) = jax.make_jaxpr(embed, return_shape=True)(images)
  embedding, *outputs = jaxpr.jaxpr.outvars
  equations, needed = _dependencies(jaxpr.jaxpr, [embedding])
  params = {
    tuple(key.key for key in path): shape
    for (path, shape), output in zip(jax.tree.leaves_with_path(shapes), outputs)
    if output in needed
  }
  return params, equations


def _dependencies(jaxpr: core.Jaxpr, outputs: Iterable) -> tuple[list, set]:
  """Returns the equations and variables that some outputs depend on.

  Returns:
    The equations, in their order, and the variables, with the outputs.
  """
  needed = set(_variables(outputs))
  equations = []
  for equation in reversed(jaxpr.eqns):
    if needed & set(equation.outvars):
      needed |= set(_variables(equation.invars))
      equations.append(equation)
  return equations[::-1], needed


def _variables(atoms: Iterable) -> Iterator[core.Var]:
  """Returns the variables among some atoms, which may also be constants."""
  return (atom for atom in atoms if isinstance(atom, core.Var))


def multiply_adds(equation) -> int:
  """Counts the multiply-adds of one equation of a jaxpr.

  The count includes nested jaxprs: all iterations of a loop, and the most
  expensive branch of a conditional.

  Args:
    equation: a `jax.extend.core.JaxprEqn`.

  Raises:
    NotImplementedError: the equation is a while loop with matrix products.
  """
  shapes = [atom.aval.shape for atom in equation.invars]
  size = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
  match equation.primitive.name:
    case 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      return size * math.prod(shapes[0][axis] for axis in contracted)
    case 'conv_general_dilated':
      # A grouped convolution's kernel holds the input channels of one group.
      # Zeros between pixels, as in the gradient of a strided convolution, do
      # not count.
      features = equation.params['dimension_numbers'].rhs_spec[0]
      size //= math.prod(equation.params['lhs_dilation'])
      return size * math.prod(shapes[1]) // shapes[1][features]
    case 'cond':
      return max(map(count_jaxpr, equation.params['branches']))
    case 'scan':
      return equation.params['length'] * count_jaxpr(equation.params['jaxpr'])
  inside = sum(map(count_jaxpr, _jaxprs(equation.params)))
  if inside and equation.primitive.name == 'while':
    raise NotImplementedError(
      'The multiply-adds of a while loop cannot be counted: the number of its'
      ' iterations depends on its input.'
    )
  return inside


def count_jaxpr(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> int:
  """Counts the multiply-adds of a traced computation.

  A computation mapped over devices is counted for one device. Equations that no
  output depends on do not count, because compilers remove them.

  Raises:
    NotImplementedError: see `multiply_adds`.
  """
  opened = jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr
  equations, _ = _dependencies(opened, opened.outvars)
  return sum(multiply_adds(equation) for equation in equations)


def _jaxprs(params: Mapping[str, Any]) -> Iterator:
  """Yields the nested jaxprs among the parameters of an equation."""
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else [value]:
      if isinstance(item, (core.Jaxpr, core.ClosedJaxpr)):
        yield item
