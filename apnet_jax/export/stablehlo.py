"""Writes StableHLO, by `jax.export`.

Files are serialised `jax.export.Exported`s, which other programs than JAX do
not read. They are for use and not for archives: see `build`.
"""

from collections.abc import Callable
import pathlib
import warnings

import jax
from jax import export
import numpy as np

from apnet_jax.export.graph import Graph

PLATFORMS = ('cpu', 'cuda', 'tpu')


def import_libraries() -> None:
  """Imports nothing: writing and running a file needs JAX alone."""


def build(graph: Graph) -> bytes:
  """Returns a network as serialised StableHLO for all `PLATFORMS`.

  `jax.export.deserialize` reads it, if its JAX is newer than this one by six
  months at most, or older by three weeks at most. Its input is [batch, height,
  width, 3], with a symbolic batch, and symbolic sizes if the graph resizes.
  """
  shape, dtype = graph.signature
  exported = export.export(
    jax.jit(graph.function_of_pixels()), platforms=PLATFORMS
  )(jax.ShapeDtypeStruct(export.symbolic_shape(shape), dtype))
  return bytes(exported.serialize())


def write(graph: Graph, path: pathlib.Path) -> None:
  """Writes a network to a file, see `build`."""
  path.write_bytes(build(graph))


def open_file(path: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
  """Returns the function in a file of serialised StableHLO."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    call = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
  return lambda images: np.asarray(call(images))
