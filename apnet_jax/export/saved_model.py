"""Writes a SavedModel of TensorFlow: StableHLO in its operation XlaCallModule.

This is the only file of the library that imports TensorFlow, and it does so
only where a SavedModel is written or opened.

`jax.experimental.jax2tf` writes the same. But it takes the StableHLO version
of four weeks ago, which the released TensorFlow need not know: JAX 0.12.0 and
TensorFlow 2.21 do not fit together.
"""

from collections.abc import Callable
import pathlib

import jax
from jax import export
from jaxlib.mlir.dialects import stablehlo
import numpy as np

from apnet_jax.export.graph import Graph
from apnet_jax.export.stablehlo import PLATFORMS
from apnet_jax.optional import import_optional, quieten_tensorflow
from apnet_jax.workdir import json_files

INPUT, OUTPUT = 'images', 'output0'
SIGNATURE = 'serving_default'
# The folder of a SavedModel for files that TensorFlow does not read itself.
FACTS = 'assets.extra/metadata.json'
EXTRA = 'data'
# Old enough for released versions of TensorFlow (2.21 reads up to 1.13), and
# new enough for all operations used here.
STABLEHLO_VERSION = '1.0.0'


def import_libraries() -> None:
  """Imports all that writing and running a SavedModel needs.

  Raises:
    UserError: TensorFlow is not installed.
  """
  import_tensorflow()


def write(graph: Graph, path: pathlib.Path) -> None:
  """Writes a network as a folder that `tf.saved_model.load` reads.

  The signature `serving_default` has the input `images`, [batch, height, width,
  3], and the output `output0`, [batch, features]. The batch is dynamic; sizes
  are, too, if the graph resizes. Weights are variables, and are not trained.

  Raises:
    UserError: TensorFlow is not installed.
  """
  tf = import_tensorflow()
  xla = import_optional('tensorflow.compiler.tf2xla.python.xla', EXTRA)
  weights = jax.tree.map(
    lambda array: tf.Variable(array, trainable=False), graph.stored()
  )
  variables = jax.tree.leaves(weights)
  program = _export(graph)
  images_in, embeddings_out = program.in_avals[-1], program.out_avals[0]

  @tf.function(
    autograph=False,
    input_signature=[
      tf.TensorSpec(_sizes(images_in), images_in.dtype, name=INPUT)
    ],
  )
  def embed_images(images):
    arrays = [*variables, images]
    (embeddings,) = xla.call_module(
      [arrays[i] for i in program.module_kept_var_idx],
      version=program.calling_convention_version,
      module=stablehlo.serialize_portable_artifact_str(
        program.mlir_module(), STABLEHLO_VERSION
      ),
      Sout=[_sizes(embeddings_out)],
      Tout=[embeddings_out.dtype],
      platforms=[name.upper() for name in program.platforms],
    )
    return {OUTPUT: embeddings}

  module = tf.Module()
  module.weights = weights  # saves the variables
  module.embed_images = embed_images
  tf.saved_model.save(
    module,
    str(path),
    signatures={SIGNATURE: embed_images.get_concrete_function()},
  )
  facts = path / FACTS
  facts.parent.mkdir(exist_ok=True)
  json_files.write_json(facts, graph.metadata())


def open_file(path: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
  """Returns the function in a SavedModel, run by TensorFlow on the CPU."""
  tf = import_tensorflow()
  loaded = tf.saved_model.load(str(path))
  signature = loaded.signatures[SIGNATURE]

  def run(images):
    assert loaded  # keeps its variables, to which the signature only refers
    with tf.device('CPU'):
      return signature(**{INPUT: tf.constant(images)})[OUTPUT].numpy()

  return run


def _export(graph: Graph) -> export.Exported:
  """Returns the program of weights and images, for all `PLATFORMS`."""
  shape, dtype = graph.signature
  weights = jax.tree.map(
    lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), graph.stored()
  )
  images = jax.ShapeDtypeStruct(export.symbolic_shape(shape), dtype)
  function = jax.jit(graph.embed_pixels)
  return export.export(function, platforms=PLATFORMS)(weights, images)


def _sizes(array: jax.core.ShapedArray) -> list[int | None]:
  """Returns a shape with None for each symbolic size, as TensorFlow has it."""
  return [size if isinstance(size, int) else None for size in array.shape]


def import_tensorflow():
  """Imports TensorFlow, without what it logs, and keeps it off the GPUs.

  Raises:
    UserError: TensorFlow is not installed.
  """
  quieten_tensorflow()
  tf = import_optional('tensorflow', EXTRA)
  tf.config.set_visible_devices([], 'GPU')  # JAX uses them
  return tf
