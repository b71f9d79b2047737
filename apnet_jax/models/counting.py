"""Parameters and multiply-adds of a network, counted in its traced program."""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
from jax.extend import core

from apnet_jax.models.attention import ChannelAttention
from apnet_jax.models.layers import BatchNorm
from apnet_jax.models.pyramid import AttentionPyramid


@dataclasses.dataclass(frozen=True)
class Complexity:
  """Of embedding one image; the classifier, which training alone needs, is out.

  Attributes:
    parameters: trainable ones.
    multiply_adds: of convolutions and matrix products.
    normalized: elements that batch normalisations read.
    pooled: elements that the global averages of the head and of each
      `ChannelAttention` read and write.
  """

  parameters: int
  multiply_adds: int
  normalized: int
  pooled: int

  @property
  def operations(self) -> int:
    """What PyTorch-OpCounter reports, which the paper used for Table III.

    In its release of 2020 it counts multiply-adds, 2 for each element that is
    normalised, and 1 for each that an average pooling *module* reads or writes.
    (The shared attention of the released code pools by a function.)
    """
    return self.multiply_adds + 2 * self.normalized + self.pooled


def count(model: nn.Module, image_size: tuple[int, int]) -> Complexity:
  """Counts what it takes to embed one image of `image_size` (height, width).

  Args:
    model: made by `create_model`; the number of its classes does not matter.
    image_size: height and width.
  """
  normalized = pooled = 0
  features = None  # shape of the last feature map, which the head averages
  maps = {}  # sizes of what pyramids attend, by path

  def watch(call, args, kwargs, context):
    nonlocal normalized, pooled, features
    if isinstance(context.module, AttentionPyramid):
      maps[context.module.path] = args[0].size
    out = call(*args, **kwargs)
    if context.method_name == '__call__':
      if isinstance(context.module, BatchNorm):
        normalized += args[0].size
      elif isinstance(context.module, ChannelAttention):
        # A pyramid averages once; the usual code pools at each level.
        read = maps.get(context.module.path[:-1], args[0].size)
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
    model: made by `create_model`.
    image_size: height and width.
    watch: an interceptor of calls, see `flax.linen.intercept_methods`.

  Returns:
    The trainable parameters, by path, and the equations that the embedding
    depends on.
  """
  images = jax.ShapeDtypeStruct((1, *image_size, 3), 'float32')

  def embed(images):
    out, variables = model.init_with_output(jax.random.key(0), images)
    return out.embedding, variables['params']

  with nn.intercept_methods(watch):
    jaxpr, (_, shapes) = jax.make_jaxpr(embed, return_shape=True)(images)
  embedding, *outputs = jaxpr.jaxpr.outvars
  equations, needed = _needed(jaxpr.jaxpr, [embedding])
  params = {
    tuple(key.key for key in path): shape
    for (path, shape), output in zip(jax.tree.leaves_with_path(shapes), outputs)
    if output in needed
  }
  return params, equations


def _needed(jaxpr: core.Jaxpr, outputs: Iterable) -> tuple[list, set]:
  """Equations and variables that some outputs depend on."""
  needed = set(_variables(outputs))
  equations = []
  for equation in reversed(jaxpr.eqns):
    if needed & set(equation.outvars):
      needed |= set(_variables(equation.invars))
      equations.append(equation)
  return equations[::-1], needed


def _variables(atoms: Iterable) -> Iterator[core.Var]:
  return (atom for atom in atoms if isinstance(atom, core.Var))


def multiply_adds(equation) -> int:
  """Multiply-adds of one equation of a jaxpr, and of all inside it."""
  shapes = [atom.aval.shape for atom in equation.invars]
  size = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
  match equation.primitive.name:
    case 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      return size * math.prod(shapes[0][axis] for axis in contracted)
    case 'conv_general_dilated':
      # The kernel's input channels are those of one group already. Zeros
      # between pixels, as in the gradient of a stride, are no work.
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
      'The multiply-adds of a while loop depend on its input.'
    )
  return inside


def count_jaxpr(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> int:
  """Multiply-adds of a traced computation; of one device, if it is mapped.

  What no output depends on is not counted: compilers leave it out.
  """
  jaxpr = getattr(jaxpr, 'jaxpr', jaxpr)  # of a closed one
  equations, _ = _needed(jaxpr, jaxpr.outvars)
  return sum(multiply_adds(equation) for equation in equations)


def _jaxprs(params: Mapping[str, Any]) -> Iterator:
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else [value]:
      if isinstance(item, (core.Jaxpr, core.ClosedJaxpr)):
        yield item
