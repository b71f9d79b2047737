"""Measures what another size and plain resizing do to embeddings.

Trackers resize images otherwise than the training did: to 256x128, or without
antialiasing, as OpenCV does. This prints the cosine of each image's embedding
with that of the network's own resizing. For a scale, it prints the cosines of
different images, too. The images are spread over the folder.

  python benchmarks/export_resizing.py --ckpt=runs/market --images=DIR
"""

import argparse
from collections.abc import Callable
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from apnet_jax import images as image_files  # noqa: E402
from apnet_jax.inference.embedder import Embedder  # noqa: E402
from apnet_jax.models import normalization  # noqa: E402
from benchmarks import command  # noqa: E402

TRACKERS = (256, 128)
BATCH = 20
FIGURES = ('mean', 'lowest 5%', 'minimum')


def resize_plainly(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
  """Resizes an image bilinearly without antialiasing, as OpenCV does.

  Args:
    image: image of mode RGB.
    size: height and width of the result, in pixels.

  Returns:
    uint8 [height, width, 3].
  """
  pixels = jnp.asarray(np.asarray(image), jnp.float32)
  resized = jax.image.resize(pixels, (*size, 3), 'linear', antialias=False)
  return np.asarray(jnp.clip(jnp.rint(resized), 0, 255)).astype(np.uint8)


def resize_twice(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
  """Resizes an image as a tracker does, and then as the network wants it."""
  tracked = Image.fromarray(resize_plainly(image, TRACKERS))
  return image_files.resize(tracked, size)


def compare(
  embed: Callable[[np.ndarray], np.ndarray],
  images: list[Image.Image],
  size: tuple[int, int],
) -> dict[str, dict[str, float]]:
  """Compares embeddings of images that were resized in several ways.

  Args:
    embed: from uint8 [images, height, width, 3] to embeddings of length 1.
    images: images of mode RGB.
    size: height and width that the network was trained with.

  Returns:
    The mean, lowest 5% and minimum of the cosines for each way; `different
    images` are those of pairs of images with the network's own resizing.
  """

  def embeddings(resize, size):
    return embed(np.stack([resize(image, size) for image in images]))

  own = embeddings(image_files.resize, size)
  rows = {}
  ways = {'antialiased': image_files.resize, 'plain': resize_plainly}
  for to in dict.fromkeys((tuple(size), TRACKERS)):
    for name, resize in ways.items():
      if (resize, to) != (image_files.resize, tuple(size)):
        found = embeddings(resize, to)
        key = f'{to[0]}x{to[1]}, {name}'
        rows[key] = _summarize((own * found).sum(1))
  through = f'{TRACKERS[0]}x{TRACKERS[1]}, plain, to {size[0]}x{size[1]}'
  rows[through] = _summarize((own * embeddings(resize_twice, size)).sum(1))
  pairs = np.triu_indices(len(own), 1)
  rows['different images'] = _summarize((own @ own.T)[pairs])
  return rows


def _summarize(cosines: np.ndarray) -> dict[str, float]:
  values = (cosines.mean(), np.quantile(cosines, 0.05), cosines.min())
  return {name: round(float(x), 4) for name, x in zip(FIGURES, values)}


def run(args: argparse.Namespace) -> dict:
  """Compares, prints a table and returns the record."""
  embedder = Embedder.load(args.ckpt)
  paths = image_files.find_images(args.images)
  spread = np.linspace(0, len(paths) - 1, min(args.count, len(paths)))
  images = [image_files.read_upright(paths[int(i)]) for i in spread]
  variables = jax.tree.map(np.asarray, embedder.variables)

  @jax.jit
  def embed_batch(pixels):
    return embedder.embed_normalized(variables, normalization.normalize(pixels))

  def embed(pixels):
    starts = range(0, len(pixels), BATCH)
    return np.concatenate([embed_batch(pixels[i : i + BATCH]) for i in starts])

  rows = compare(embed, images, embedder.image_size)
  print(
    f'{"cosine":24}' + ''.join(f'{name:>12}' for name in rows[next(iter(rows))])
  )
  for name, row in rows.items():
    print(f'{name:24}' + ''.join(f'{value:12.4f}' for value in row.values()))
  height, width = embedder.image_size
  sizes = np.array([image.size for image in images])
  return {
    'network': f'that of --ckpt, trained with {height}x{width}',
    'images': len(images),
    'median size of the images': np.median(sizes, 0)[::-1].tolist(),
    'threshold': embedder.threshold,
    'cosines': rows,
  }


def main(arguments: list[str] | None = None) -> int:
  parser = command.make_parser(__doc__)
  parser.add_argument('--ckpt', required=True, help='trained network')
  parser.add_argument('--images', required=True, help='folder of images')
  parser.add_argument(
    '--count', type=int, default=200, help='number of images (%(default)s)'
  )
  args = command.parse(parser, arguments)
  command.check_at_least(parser, args, count=2)
  return command.finish(__file__, run, args)


if __name__ == '__main__':
  sys.exit(main())
