"""Exports a network in all forms and records how far each differs from it.

Each form is exported as the command `export` does it: run in its runtime on
batches of 1, 7 and 32 images, and compared with the network.

  pip install '.[onnx,data]'
  python benchmarks/export_parity.py --ckpt=RUN --images=DIR
"""

import argparse
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

from apnet_jax.export import job  # noqa: E402
from apnet_jax.export.graph import Graph  # noqa: E402
from apnet_jax.inference.embedder import Embedder  # noqa: E402
from benchmarks import command  # noqa: E402

FORMS = {
  'outside': ('normalized', 'float32'),
  'inside': ('uint8', 'float32'),
  'inside, float16': ('uint8', 'float16'),
}
PACKAGES = (
  'jax', 'jax2onnx', 'onnx', 'onnxruntime', 'tensorflow-cpu', 'tensorflow',
)  # fmt: skip


def graphs(embedder: Embedder) -> dict[str, tuple[str, Graph]]:
  """Returns the format and the graph of each form, by a name."""
  size = embedder.image_size
  found = {
    f'{format}, {form}': (format, Graph(embedder, size, takes, weights))
    for format in job.FORMATS
    for form, (takes, weights) in FORMS.items()
  }
  for given, _ in job.boxmot_exports(size, '').values():
    name = f'boxmot, {given[0]}x{given[1]}'
    found[name] = 'onnx', Graph(embedder, size, size_of_input=given)
  found['ultralytics'] = 'onnx', Graph(embedder, size, 'unit')
  return found


def run(args: argparse.Namespace) -> dict:
  """Exports all forms, prints a table and returns the record."""
  embedder = Embedder.load(args.ckpt)
  rows = {}
  with tempfile.TemporaryDirectory() as folder:
    for name, (format, graph) in graphs(embedder).items():
      path = pathlib.Path(folder, name).with_suffix(job.SUFFIXES[format])
      found = job.export(graph, format, path, args.images)
      rows[name] = {
        'largest difference': float(f'{found["largest_difference"]:.1e}'),
        'lowest cosine': round(found['lowest_cosine'], 6),
        'MB': round(found['bytes'] / 1e6, 1),
      }
      print(name, rows[name], flush=True)
  height, width = embedder.image_size
  return {
    'versions': command.versions(*PACKAGES),
    'network': f'that of --ckpt, images {height}x{width}',
    'images': found['images'],
    'batches': found['batches'],
    'exports': rows,
  }


def main(arguments: list[str] | None = None) -> int:
  parser = command.make_parser(__doc__)
  parser.add_argument('--ckpt', required=True, help='trained network')
  parser.add_argument('--images', required=True, help='folder of images')
  return command.finish(__file__, run, command.parse(parser, arguments))


if __name__ == '__main__':
  sys.exit(main())
