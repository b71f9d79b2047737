"""Writes ONNX, by jax2onnx (the extra `onnx`)."""

from collections.abc import Callable, Iterator
import contextlib
import logging
import pathlib
import warnings

import numpy as np

from apnet_jax.export import onnx_preprocessing
from apnet_jax.export.graph import Graph
from apnet_jax.optional import import_optional

# Old enough for ONNX Runtime 1.16, which boxmot 10 and 11 install.
OPSET, IR = 18, 8
INPUT, OUTPUT = 'images', 'output0'
EXTRA = 'onnx'


def import_libraries() -> tuple:
  """Imports all that writing and running a file needs.

  Returns:
    The modules onnx and jax2onnx.

  Raises:
    UserError: jax2onnx, onnx or onnxruntime is not installed.
  """
  onnx = import_optional('onnx', EXTRA)
  for part in ('onnx.inliner', 'onnx.parser', 'onnxruntime'):
    import_optional(part, EXTRA)
  with _quiet():
    return onnx, import_optional('jax2onnx', EXTRA)


def build(graph: Graph) -> bytes:
  """Returns a network as an ONNX file.

  The input `images` is [batch, 3, height, width], or uint8 [batch, height,
  width, 3] if the graph takes it. The output `output0` is [batch, features].
  The batch is dynamic; sizes are, too, if the graph resizes.

  Raises:
    UserError: a library is not installed; see `import_libraries`.
  """
  onnx, jax2onnx = import_libraries()
  with _quiet():
    model = jax2onnx.to_onnx(
      graph.function(),
      [('batch', *graph.image_size, 3)],
      opset=OPSET,
      model_name='apnet',
      inputs_as_nchw=[0],
      input_names=[INPUT],
      output_names=[OUTPUT],
    )
    model = _share_weights(model)
  if graph.resizes:
    first = onnx_preprocessing.build(onnx, graph, INPUT, OPSET, IR)
    model = _prepend(onnx, model, first)
  model.ir_version = IR
  del model.graph.value_info[:]  # some shapes of jax2onnx are wrong
  onnx.helper.set_model_props(model, graph.metadata())
  onnx.checker.check_model(model)
  return model.SerializeToString()


def write(graph: Graph, path: pathlib.Path) -> None:
  """Writes a network to a file, see `build`."""
  path.write_bytes(build(graph))


def open_file(path: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
  """Returns the function in an ONNX file, run by ONNX Runtime on the CPU.

  Returns:
    A function of images, which have their channels last as in JAX. They are
    transposed if the file wants them first.
  """
  runtime = import_optional('onnxruntime', EXTRA)
  session = runtime.InferenceSession(
    str(path), providers=['CPUExecutionProvider']
  )
  first = session.get_inputs()[0].shape[1] == 3

  def run(images):
    images = np.asarray(images)
    if first:
      images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return session.run(None, {INPUT: images})[0]

  return run


def _share_weights(model):
  """Returns a model that stores each weight once.

  With the average over mirror images, the network stands in the graph twice.
  """
  ir = import_optional('onnx_ir', EXTRA)
  passes = import_optional('onnx_ir.passes.common', EXTRA)
  shared = ir.from_proto(model)
  passes.DeduplicateInitializersPass(size_limit=2**31)(shared)
  return ir.to_proto(shared)


def _prepend(onnx, model, preprocessing):
  """Returns a model whose input passes through another one first."""
  named = onnx.compose.add_prefix(
    model, 'network/', rename_outputs=False, rename_inputs=True
  )
  named.ir_version = IR
  merged = onnx.compose.merge_models(
    preprocessing, named, io_map=[('normalized', named.graph.input[0].name)]
  )
  # Merging lists the operations of both models, which are the same version.
  versions = {entry.domain: entry.version for entry in merged.opset_import}
  del merged.opset_import[:]
  merged.opset_import.extend(
    onnx.helper.make_opsetid(*entry) for entry in versions.items()
  )
  return merged


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences jax2onnx, which logs each optional library that it lacks."""
  before = logging.root.manager.disable
  logging.disable(logging.WARNING)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      yield
  finally:
    logging.disable(before)
