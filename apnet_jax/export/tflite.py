"""Writes TFLite (LiteRT), by TensorFlow's converter of SavedModels."""

from collections.abc import Callable
import pathlib
import tempfile
import warnings

import numpy as np

from apnet_jax.export import saved_model
from apnet_jax.export.graph import Graph


def import_libraries() -> None:
  """Imports all that writing and running a file needs.

  Raises:
    UserError: TensorFlow is not installed.
  """
  saved_model.import_libraries()


def write(graph: Graph, path: pathlib.Path) -> None:
  """Writes a network to a file of builtin operations of TFLite.

  Its only signature, input and output are those of `saved_model.write`.

  Raises:
    UserError: TensorFlow is not installed.
  """
  tf = saved_model.import_tensorflow()
  with tempfile.TemporaryDirectory() as folder:
    source = pathlib.Path(folder, 'network')
    saved_model.write(graph, source)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(source))
    path.write_bytes(converter.convert())


def open_file(path: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
  """Returns the function in a TFLite file, run on the CPU."""
  tf = saved_model.import_tensorflow()
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # LiteRT has the interpreter, too
    interpreter = tf.lite.Interpreter(model_path=str(path))
  (images_in,) = interpreter.get_input_details()
  (embeddings_out,) = interpreter.get_output_details()

  def run(images):
    interpreter.resize_tensor_input(images_in['index'], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(images_in['index'], images)
    interpreter.invoke()
    return interpreter.get_tensor(embeddings_out['index'])

  return run
