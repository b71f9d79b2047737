"""Compares a tracker's embeddings from an exported network with the network's.

The tracker loads each file itself and cuts boxes out of a frame on which the
images of a folder are laid side by side. It runs in the environments that
--python names, so that several versions can be compared; by default in that of
this program. `same tensors` compares with what `Embedder` makes of the pixels
that the tracker gave to the file; `same crops` with what it makes of the boxes
that the tracker cut out.

  pip install '.[onnx]' boxmot
  python -m apnet_jax export --ckpt=RUN --for=boxmot --output=FOLDER
  python benchmarks/export_trackers.py --tracker=boxmot --ckpt=RUN \
    --images=DIR --exported FOLDER/*.onnx
"""

import argparse
from collections.abc import Mapping
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

import numpy as np  # noqa: E402

from apnet_jax import images as image_files  # noqa: E402
from apnet_jax.inference.embedder import Embedder  # noqa: E402
from benchmarks import command  # noqa: E402

BACKGROUND = 128
LOWEST = 0.999  # cosine of embeddings of the same tensors, which are rounded


def make_frame(images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Lays images side by side.

  Args:
    images: uint8 [height, width, 3], of any sizes.

  Returns:
    The frame, uint8 [height, width, 3], and the boxes of the images in it,
    float32 [images, 4], x1, y1, x2, y2.
  """
  rights = list(itertools.accumulate(image.shape[1] for image in images))
  height = max(len(image) for image in images)
  frame = np.full((height, rights[-1], 3), BACKGROUND, np.uint8)
  boxes = []
  for image, right in zip(images, rights):
    box = (right - image.shape[1], 0, right, len(image))
    frame[: box[3], box[0] : box[2]] = image
    boxes.append(box)
  return frame, np.float32(boxes)


def compare(embedder: Embedder, output: Mapping[str, np.ndarray]) -> dict:
  """Compares what a tracker embedded with what the network makes of it.

  Args:
    embedder: the network.
    output: arrays that `tracker_features` wrote.

  Returns:
    Figures by name.
  """
  pixels = np.rint(output['pixels']).clip(0, 255).astype(np.uint8)
  crops = [output[f'crop_{i}'] for i in range(len(pixels))]
  features = output['features']
  features = features / np.linalg.norm(features, axis=1, keepdims=True)
  same, whole = ((features * embedder(x)).sum(1) for x in (pixels, crops))
  return {
    'pixels': list(pixels.shape[1:3]),
    'same tensors, lowest cosine': round(float(same.min()), 6),
    'same crops, mean cosine': round(float(whole.mean()), 4),
    'same crops, lowest cosine': round(float(whole.min()), 4),
  }


def run(args: argparse.Namespace) -> dict:
  """Compares each file in each environment and returns the record.

  Raises:
    RuntimeError: the tracker is missing, or gives other embeddings of the same
      tensors.
  """
  embedder = Embedder.load(args.ckpt)
  paths = image_files.find_images(args.images)
  spread = np.linspace(0, len(paths) - 1, min(args.count, len(paths)))
  frame, boxes = make_frame(
    [np.asarray(image_files.read_upright(paths[int(i)])) for i in spread]
  )
  versions = {}
  with tempfile.TemporaryDirectory() as folder:
    given = pathlib.Path(folder, 'frame.npz')
    output = pathlib.Path(folder, 'output.npz')
    np.savez(given, frame=frame[..., ::-1], boxes=boxes)  # BGR
    for python, path in itertools.product(args.python, args.exported):
      script = pathlib.Path(__file__).with_name('tracker_features.py')
      words = [python, script, args.tracker, given, path, output]
      if subprocess.run(list(map(str, words)), stdout=sys.stderr).returncode:
        raise RuntimeError(f'{python} cannot run {args.tracker}; see above.')
      with np.load(output) as arrays:
        about = json.loads(str(arrays['about']))
        if 'failure' not in about:
          about |= compare(embedder, arrays)
      packages = about.pop('versions')
      print(args.tracker, packages[args.tracker], path.name, about, flush=True)
      if about.get('same tensors, lowest cosine', 1) < LOWEST:
        raise RuntimeError(f'{path.name}: a cosine is below {LOWEST}.')
      version = versions.setdefault(
        packages[args.tracker], {'packages': packages, 'files': {}}
      )
      version['files'][path.name] = about
  return {'boxes': len(boxes), 'versions': versions}


def main(arguments: list[str] | None = None) -> int:
  parser = command.make_parser(__doc__)
  parser.add_argument('--ckpt', required=True, help='trained network')
  parser.add_argument(
    '--tracker', required=True, choices=['boxmot', 'ultralytics'],
    help='tracker that loads the files',
  )  # fmt: skip
  parser.add_argument(
    '--exported', required=True, nargs='+', type=pathlib.Path,
    help='ONNX files that export wrote for this tracker',
  )  # fmt: skip
  parser.add_argument('--images', required=True, help='folder of images')
  parser.add_argument(
    '--python', nargs='+', default=[sys.executable],
    help='interpreters of environments with the tracker (this one)',
  )  # fmt: skip
  parser.add_argument(
    '--count', type=int, default=32, help='number of images (%(default)s)'
  )
  args = command.parse(parser, arguments)
  command.check_at_least(parser, args, count=1)
  return command.finish(__file__, run, args)


if __name__ == '__main__':
  sys.exit(main())
