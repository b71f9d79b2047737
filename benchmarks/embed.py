"""Compares the speed of embedding image files with a loop in PyTorch.

This project is called as `Embedder(paths)`. The loop is what torchreid's
feature extractor does: Pillow opens and resizes one image after the other, they
are normalised and stacked, and a batch goes through the network. Both average
an image and its mirror image, which takes two forward passes, and have the same
network with random weights. Each runs in a process of its own on all cores, and
on one GPU, in turns, after two rounds of warm-up; `reading` is the same without
the network. Times are the fastest of all rounds, because other programs may use
the machine; the load stands in the record.

  pip install torch
  python benchmarks/embed.py --images=DIR
"""

import argparse
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from apnet_jax import images as image_files  # noqa: E402
from apnet_jax.inference import crops  # noqa: E402
from apnet_jax.inference.embedder import Embedder  # noqa: E402
from apnet_jax.models import normalization  # noqa: E402
from apnet_jax.models.apnet import create_model, initialize  # noqa: E402
from apnet_jax.parallel import devices  # noqa: E402
from benchmarks import command, measuring, versus  # noqa: E402

OURS, LOOP = 'this project', 'loop in PyTorch'
BATCH = 64  # images; also the largest batch of an Embedder


def make_ours(args: argparse.Namespace):
  """Returns this project's functions that read images, and embed them."""
  from benchmarks.network_ours import CLASSES, make_config

  config = make_config(args)
  model = create_model(config.model, CLASSES)
  variables = initialize(model, config.data.image_size, 0)
  embedder = Embedder(model, devices.replicate(variables), config)

  def read(paths):
    frames = crops.frames(paths, None, 'rgb')
    return len(list(crops.iterate(frames, embedder.image_size, None)))

  return read, embedder


def make_loop(args: argparse.Namespace):
  """Returns functions of the loop in PyTorch that read images, and embed."""
  import torch

  from benchmarks.network_torch import Network

  network = Network(args)
  height, width = args.image_size
  mean = torch.tensor(normalization.MEAN)[:, None, None]
  std = torch.tensor(normalization.STD)[:, None, None]

  def load(paths):
    tensors = []
    for path in paths:
      image = Image.open(path).convert('RGB')
      image = image.resize((width, height), Image.Resampling.BILINEAR)
      pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
      tensors.append((pixels.float() / 255 - mean) / std)
    return torch.stack(tensors).to(network.device)

  def embed(paths):
    starts = range(0, len(paths), BATCH)
    embedded = [network.embed(load(paths[i : i + BATCH])) for i in starts]
    return torch.cat(embedded).cpu().numpy()

  return lambda paths: len(load(paths)), embed


def serve(args: argparse.Namespace) -> None:
  """Times one of the two, as its process."""
  read, embed = {OURS: make_ours, LOOP: make_loop}[args.serve](args)
  paths = choose(args)

  def measure(task):
    step = {'reading': read, 'embedding': embed}[task]
    return {'seconds': measuring.time_step(lambda: step(paths), np.asarray)}

  measuring.serve(measure)


def choose(args: argparse.Namespace) -> list[pathlib.Path]:
  """Returns the images to embed, spread over the folder."""
  paths = image_files.find_images(args.images)
  spread = np.linspace(0, len(paths) - 1, args.count)
  return [paths[int(i)] for i in spread]


def run(args: argparse.Namespace) -> dict:
  """Measures both, prints a table and returns the record."""
  sizes = np.array([Image.open(path).size for path in choose(args)])
  before = os.getloadavg()[0]
  arguments = measuring.network_arguments(args)
  arguments += ['--images', command.absolute(args.images)]
  arguments += ['--count', str(args.count)]
  figures = {}
  with command.serve_networks('embed', arguments, (OURS, LOOP)) as processes:
    for task in ('reading', 'embedding'):
      seconds = command.time_in_turns(processes, args.turns, task=task)
      figures[task] = {
        name: {
          'fastest s': round(min(times), 4),
          'images/s': round(args.count / min(times), 2),
        }
        for name, times in seconds.items()
      }
      for name, row in figures[task].items():
        print(f'{task:10} {name:16}{row["images/s"]:10.2f} images/s')
  return {
    'versions': command.versions('jax', 'pillow', 'torch'),
    'network': f'{measuring.describe(args)}, random weights',
    'images': args.count,
    'median size of the images': np.median(sizes, 0)[::-1].tolist(),
    'turns': args.turns,
    'load of the machine': {
      'before': round(before, 1), 'after': round(os.getloadavg()[0], 1)
    },
    'figures': figures,
  }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
  parser = command.make_parser(__doc__)
  measuring.add_network(parser)
  parser.add_argument('--images', required=True, help='folder of images')
  parser.add_argument(
    '--count', type=int, default=BATCH, help='number of images (%(default)s)'
  )
  command.add_turns(parser, 3, 'both')
  parser.add_argument('--serve', help=argparse.SUPPRESS)
  parser.set_defaults(compile=False)  # of network_torch.Network
  args = command.parse(parser, arguments)
  command.check_at_least(parser, args, count=1, turns=1)
  versus.check_pytorch(parser, args)
  if args.serve:
    serve(args)
    return 0
  return command.finish(__file__, run, args)


if __name__ == '__main__':
  sys.exit(main())
