"""Exports a trained network to a file of another runtime."""

from collections.abc import Mapping
import os
import pathlib
import shutil

from apnet_jax.errors import UserError
from apnet_jax.export import (
  onnx_file,
  parity,
  saved_model,
  stablehlo,
  tflite,
)
from apnet_jax.export.graph import Graph
from apnet_jax.inference import model_card
from apnet_jax.workdir import json_files
from apnet_jax.writing import check_place

# Modules with `import_libraries()`, `write(graph, path)` and `open_file(path)`.
FORMATS = {
  'onnx': onnx_file, 'stablehlo': stablehlo, 'savedmodel': saved_model,
  'tflite': tflite,
}  # fmt: skip
SUFFIXES = {name: f'.{name}' for name in FORMATS}
# Formats that have no place for the facts of a network.
WITHOUT_FACTS = ('stablehlo', 'tflite')
METADATA_SUFFIX = '.metadata.json'
# Input of boxmot's networks before its version 23, whatever the file says.
BOXMOT_SIZE = (256, 128)


def format_of(path: str | os.PathLike) -> str:
  """Returns the format that the suffix of a file to write stands for.

  Raises:
    UserError: the name has none of `SUFFIXES`.
  """
  for name, suffix in SUFFIXES.items():
    if pathlib.Path(path).suffix == suffix:
      return name
  raise UserError(
    f'--output={path} must end in one of {", ".join(SUFFIXES.values())}; the'
    ' suffix chooses the format.'
  )


def check_folder(path: str | os.PathLike) -> pathlib.Path:
  """Returns the path of a folder to write files to.

  Raises:
    UserError: there is a file, or a folder that is not empty; or it cannot be
      made.
  """
  path = pathlib.Path(path).expanduser()
  if path.is_dir() and any(path.iterdir()):
    raise UserError(f'--output={path} is not empty; give another folder.')
  if path.exists() and not path.is_dir():
    raise UserError(f'--output={path} is a file; give a folder.')
  check_place(path, f'--output={path}')
  return path


def check_output(path: str | os.PathLike, format: str) -> pathlib.Path:
  """Returns the path of a file to write.

  Raises:
    UserError: the name does not have the suffix of the format, or the file
      exists or cannot be made.
  """
  path = pathlib.Path(path).expanduser()
  if path.suffix != SUFFIXES[format]:
    raise UserError(f'--output={path} must end in {SUFFIXES[format]}.')
  if path.exists():
    raise UserError(f'--output={path} exists; delete it, or give another name.')
  check_place(path, f'--output={path}')
  return path


def export(
  graph: Graph,
  format: str,
  output: str | os.PathLike,
  images: str | os.PathLike = '',
  card: Mapping | None = None,
  side_file: Mapping | None = None,
) -> dict:
  """Exports a network, unless the file gives other embeddings.

  Args:
    graph: the network as it is exported.
    format: one of `FORMATS`.
    output: file to write, with the suffix of the format; for a SavedModel, a
      folder.
    images: folder of images for the comparison; empty for drawn patterns.
    card: the parts that `model_card.write` needs, to write a card, too.
    side_file: content of the file `OUTPUT.metadata.json`; by default, the facts
      about a file of `WITHOUT_FACTS`.

  Returns:
    The result of `parity.compare`, the `images` that it compared, and the size
    of the export in `bytes`.

  Raises:
    UserError: the network cannot be exported, a library is not installed, or
      the file gives other embeddings; nothing is then written.
  """
  path = check_output(output, format)
  graph.check()
  FORMATS[format].import_libraries()  # before a folder is made
  size = graph.input_size
  if graph.takes != 'normalized':  # images of any size
    size = (2 * size[0] + 9, 2 * size[1] - 3)
  pixels, shown = parity.pixels(images, size)
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f'{path.name}.part')
  _remove(part)  # of a command that was killed
  try:
    FORMATS[format].write(graph, part)
    run = FORMATS[format].open_file(part)
    found = parity.compare(graph, run, pixels) | {'images': shown}
    part.replace(path)
  finally:
    _remove(part)
  if format in WITHOUT_FACTS and side_file is None:
    side_file = graph.metadata()
  if side_file is not None:
    json_files.write_json(
      path.with_name(path.name + METADATA_SUFFIX), side_file
    )
  if card is not None:
    model_card.write(model_card.path_beside(path), card)
  return found | {'bytes': _size(path)}


def boxmot_exports(
  image_size: tuple[int, int], dataset: str
) -> dict[str, tuple[tuple[int, int], dict]]:
  """Returns the files that trackers of boxmot take.

  Before version 23, boxmot chooses the size by the name of the file: 256x128.
  The file for it resizes to the size of the training. From 23 on, a side file
  gives the size. The name of a backbone that boxmot
  knows must stand in the name of the file; it decides nothing else.

  Args:
    image_size: height and width that the network was trained with.
    dataset: name of the data set that it was trained on.

  Returns:
    For each name of a file, the height and width of its images and the content
    of its side file.
  """
  dataset = dataset.replace('/', '_').lower()
  files: dict[str, tuple[tuple[int, int], dict]] = {}
  for size in dict.fromkeys((BOXMOT_SIZE, image_size)):
    name = f'resnet50_apnet_{dataset}_{size[0]}x{size[1]}.onnx'
    files[name] = (
      size,
      {
        'schema_version': 1,
        'model_name': 'resnet50',
        'model_kwargs_schema_version': 1,
        'model_kwargs': {'img_size': list(size)},
      },
    )
  return files


def _remove(path: pathlib.Path) -> None:
  """Removes a file, or a folder with all that it holds, if it exists."""
  if path.is_dir():
    shutil.rmtree(path)
  path.unlink(missing_ok=True)


def _size(path: pathlib.Path) -> int:
  """Returns the bytes of a file, or of all files in a folder."""
  files = path.rglob('*') if path.is_dir() else [path]
  return sum(file.stat().st_size for file in files if file.is_file())
