"""Writes StableHLO, by `jax.export`."""

from collections.abc import Callable
import warnings

import jax
from jax import export
import numpy as np

from apnet_jax.export.graph import Graph

PLATFORMS = ('cpu', 'cuda', 'tpu')


def build(graph: Graph) -> bytes:
  """Returns a network as serialised StableHLO for all `PLATFORMS`.

  `jax.export.deserialize` reads it. Its input is [batch, height, width, 3],
  with a symbolic batch, and symbolic sizes if the graph resizes.

  Args:
    graph: the network as it is exported.
  """
  if graph.takes == 'normalized':
    (batch,) = export.symbolic_shape('batch')
    shape = (batch, *graph.input_size, 3)
  else:
    shape = (*export.symbolic_shape('batch, height, width'), 3)
  dtype = 'uint8' if graph.takes == 'uint8' else 'float32'
  exported = export.export(
    jax.jit(graph.function_of_pixels()), platforms=PLATFORMS
  )(jax.ShapeDtypeStruct(shape, dtype))
  return bytes(exported.serialize())


def open_file(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
  """Returns the function in a serialised StableHLO program."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    call = jax.jit(export.deserialize(bytearray(content)).call)
  return lambda images: np.asarray(call(images))
