"""Compares embeddings of boxmot from an exported network with the network's.

boxmot's own class `ReID` loads the files that `export --for=boxmot` wrote, and
cuts boxes out of a frame on which the images of a folder are laid side by side.
`same tensors` compares with what `Embedder` makes of the pixels in boxmot's
tensors; `whole path` with what it makes of the frame, of which it cuts and
resizes the boxes itself.

  pip install '.[onnx]' boxmot
  python -m apnet_jax export --ckpt=RUN --for=boxmot --output=FOLDER
  python benchmarks/export_boxmot.py --ckpt=RUN --exported=FOLDER --images=DIR
"""

import argparse
import importlib.metadata
import itertools
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

import numpy as np  # noqa: E402

from apnet_jax import images as image_files  # noqa: E402
from apnet_jax.inference.embedder import Embedder  # noqa: E402
from apnet_jax.models import normalization  # noqa: E402
from benchmarks import command  # noqa: E402

BACKGROUND = 128
LOWEST = 0.9999  # cosine of the embeddings of the same tensors


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


def run(args: argparse.Namespace) -> dict:
  """Compares each exported file and returns the record.

  Raises:
    RuntimeError: boxmot is missing, or embeddings of the same tensors differ.
  """
  try:
    from boxmot.reid.core.runtime import ReID
  except ImportError as error:
    raise RuntimeError(f'this needs boxmot 25 or newer: {error}') from error
  embedder = Embedder.load(args.ckpt)
  paths = image_files.find_images(args.images)
  spread = np.linspace(0, len(paths) - 1, min(args.count, len(paths)))
  frame, boxes = make_frame(
    [np.asarray(image_files.read_upright(paths[int(i)])) for i in spread]
  )
  frame = np.ascontiguousarray(frame[..., ::-1])  # BGR, as boxmot wants it
  own = embedder(frame, boxes, order='bgr')
  files = {}
  for path in sorted(args.exported.glob('*.onnx')):
    reid = ReID(path, device='cpu')
    found = reid(frame, boxes)
    tensors = np.asarray(reid.preprocess(frame, boxes)['batch'])
    pixels = normalization.denormalize(tensors.transpose(0, 2, 3, 1))
    expected = embedder(np.rint(pixels).astype(np.uint8))
    same, whole = ((found * x).sum(1) for x in (expected, own))
    files[path.name] = {
      'input of boxmot': list(reid.model.input_shape),
      'same tensors, lowest cosine': round(float(same.min()), 6),
      'whole path, mean cosine': round(float(whole.mean()), 4),
      'whole path, lowest cosine': round(float(whole.min()), 4),
    }
    print(path.name, files[path.name])
    if same.min() < LOWEST:
      raise RuntimeError(f'{path.name}: a cosine is below {LOWEST}.')
  if not files:
    raise RuntimeError(f'{args.exported} has no .onnx file.')
  packages = ('boxmot', 'jax', 'onnxruntime', 'torch')
  return {
    'versions': {name: importlib.metadata.version(name) for name in packages},
    'boxes': len(boxes),
    'files': files,
  }


def main(arguments: list[str] | None = None) -> int:
  parser = command.make_parser(__doc__)
  parser.add_argument('--ckpt', required=True, help='trained network')
  parser.add_argument(
    '--exported', required=True, type=pathlib.Path,
    help='folder that export --for=boxmot wrote',
  )  # fmt: skip
  parser.add_argument('--images', required=True, help='folder of images')
  parser.add_argument(
    '--count', type=int, default=32, help='number of images (%(default)s)'
  )
  args = command.parse(parser, arguments)
  command.check_at_least(parser, args, count=1)
  return command.finish(__file__, run, args)


if __name__ == '__main__':
  sys.exit(main())
