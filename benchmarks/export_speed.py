"""Compares the speed of an exported network with JAX on this CPU, in images/s.

Both get normalised float32 images and return embeddings: the average over an
image and its mirror image, which takes two forward passes. JAX computes the
network in the forms that it chooses for a CPU, such as Winograd's; ONNX Runtime
computes the exported file. Each runs in a process of its own on all cores, in
turns, after two rounds of warm-up. Times are the fastest of all rounds, because
other programs may use the machine; the load stands in the record.

  pip install '.[onnx]'
  python benchmarks/export_speed.py
  python benchmarks/export_speed.py --ckpt=runs/synthetic
"""

import argparse
import contextlib
import os
import pathlib
import statistics
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

import jax  # noqa: E402
import numpy as np  # noqa: E402

from apnet_jax.export import onnx_file  # noqa: E402
from apnet_jax.export.graph import Graph  # noqa: E402
from apnet_jax.inference.embedder import Embedder  # noqa: E402
from apnet_jax.models.apnet import create_model, initialize  # noqa: E402
from apnet_jax.parallel import devices  # noqa: E402
from benchmarks import command, measuring  # noqa: E402
from benchmarks.network_ours import CLASSES, make_config  # noqa: E402

JAX, ONNX = 'JAX', 'ONNX Runtime'


def open_network(args: argparse.Namespace) -> Embedder:
  """Returns the network of --ckpt, or one with random weights."""
  if args.ckpt:
    return Embedder.load(args.ckpt)
  config = make_config(args)
  model = create_model(config.model, CLASSES)
  variables = initialize(model, config.data.image_size, 0)
  return Embedder(model, devices.replicate(variables), config)


def jax_function(embedder: Embedder):
  """Returns the compiled network, from normalised images to embeddings."""
  variables = jax.tree.map(np.asarray, embedder.variables)
  variables = jax.device_put(variables)
  function = jax.jit(embedder.embed_normalized)
  return lambda images: np.asarray(function(variables, images))


def serve(args: argparse.Namespace) -> None:
  """Times one of the two runtimes, as its process."""
  if args.serve == JAX:
    embedder = open_network(args)
    size, run = embedder.image_size, jax_function(embedder)
  else:
    size = args.image_size
    run = onnx_file.open_file(pathlib.Path(args.file))

  def measure(batch):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, *size, 3), np.float32)
    return {'seconds': measuring.time_step(lambda: run(images), np.asarray)}

  measuring.serve(measure)


def run(args: argparse.Namespace) -> dict:
  """Measures both runtimes, prints a table and returns the record."""
  embedder = open_network(args)
  args.image_size = embedder.image_size
  load = os.getloadavg()[0]
  arguments = measuring.network_arguments(args)
  arguments += ['--ckpt', command.absolute(args.ckpt)]
  figures = {}
  with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
    file = pathlib.Path(folder, 'network.onnx')
    onnx_file.write(Graph(embedder, embedder.image_size), file)
    arguments += ['--file', str(file)]
    del embedder
    processes = stack.enter_context(
      command.serve_networks('export_speed', arguments, (JAX, ONNX))
    )
    print(f'{"batch":>5}  {"":14}{"fastest s":>10}{"images/s":>10}')
    for batch in args.batch:
      seconds = command.time_in_turns(processes, args.turns, batch=batch)
      figures[str(batch)] = {
        name: _summarize(batch, times) for name, times in seconds.items()
      }
      for name, row in figures[str(batch)].items():
        print(
          f'{batch:5}  {name:14}{row["fastest s"]:10.4f}{row["images/s"]:10.2f}'
        )
  return {
    'versions': command.versions('jax', 'jax2onnx', 'onnxruntime'),
    'network': _describe(args),
    'turns': args.turns,
    'load of the machine': {
      'before': round(load, 1), 'after': round(os.getloadavg()[0], 1)
    },
    'figures by batch': figures,
  }  # fmt: skip


def _summarize(batch: int, seconds: list[float]) -> dict[str, float]:
  return {
    'fastest s': round(min(seconds), 4),
    'median s': round(statistics.median(seconds), 4),
    'images/s': round(batch / min(seconds), 2),
  }


def _describe(args: argparse.Namespace) -> str:
  if not args.ckpt:
    return f'{measuring.describe(args)}, random weights'
  height, width = args.image_size
  return f'that of --ckpt, images {height}x{width}'


def main(arguments: list[str] | None = None) -> int:
  parser = command.make_parser(__doc__)
  measuring.add_network(parser)
  parser.add_argument(
    '--ckpt', default='', help='trained network, instead of random weights'
  )
  parser.add_argument(
    '--batch', type=int, nargs='+', default=[1, 32], help='sizes of batches'
  )
  command.add_turns(parser, 5, 'both runtimes')
  for hidden in ('--serve', '--file'):
    parser.add_argument(hidden, help=argparse.SUPPRESS)
  args = command.parse(parser, arguments)
  command.check_at_least(parser, args, batch=1, turns=1)
  if args.serve:
    serve(args)
    return 0
  return command.finish(__file__, run, args)


if __name__ == '__main__':
  sys.exit(main())
