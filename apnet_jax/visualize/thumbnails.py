"""Small copies of images, as text that a page can hold."""

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
import io

import numpy as np
from PIL import Image

from apnet_jax.feed import Split

BUDGET = 45_000_000  # bytes for all images of a page
HEIGHTS = (256, 192, 128, 96)  # in pixels; the largest that fits is used
QUALITY = 60  # of WebP
SAMPLED = 48  # images whose size tells that of all
BATCH = 64


def encode(image: np.ndarray | Image.Image, height: int) -> str:
  """Returns an image as WebP in base 64.

  Args:
    image: uint8 [height, width, 3], or a picture.
    height: see `shrink`.
  """
  if not isinstance(image, Image.Image):
    image = Image.fromarray(image)
  file = io.BytesIO()
  shrink(image, height).save(file, 'WEBP', quality=QUALITY, method=2)
  return base64.b64encode(file.getvalue()).decode()


def shrink(image: Image.Image, height: int) -> Image.Image:
  """Returns an image in a smaller size.

  Args:
    image: image of mode RGB.
    height: largest height of the copy in pixels, and half of its largest width;
      a smaller image keeps its size.
  """
  scale = min(height / image.height, 2 * height / image.width)
  if scale >= 1:
    return image
  size = [max(1, round(side * scale)) for side in image.size]
  return image.resize(size, Image.Resampling.BICUBIC)


def encode_all(
  split: Split, rows: Sequence[int] | np.ndarray, height: int
) -> list[str]:
  """Returns copies of some images of a split; see `encode`."""
  with futures.ThreadPoolExecutor() as pool:
    return [
      text
      for batch in split.batches(np.asarray(rows, np.int64), BATCH)
      for text in pool.map(lambda image: encode(image, height), batch)
    ]


def evenly(total: int, number: int) -> list[int]:
  """Chooses places in a list, evenly spaced from the first to the last.

  Args:
    total: length of the list.
    number: number of places to choose; all are chosen if there are fewer.
  """
  places = np.linspace(0, total - 1, min(number, total))
  return places.round().astype(int).tolist()


def bytes_by_height(
  images: Sequence[np.ndarray | Image.Image],
) -> Iterator[tuple]:
  """Yields each of `HEIGHTS` with the mean size of a copy in bytes.

  Args:
    images: `SAMPLED` of the images of a page, or fewer; at least one.
  """
  for height in HEIGHTS:
    yield height, np.mean([len(encode(image, height)) for image in images])


def choose_height(
  sizes: Iterable[tuple[int, float]], images: int, budget: int
) -> tuple[int, int]:
  """Chooses the largest height whose copies fit into a budget.

  Args:
    sizes: pairs of a height and the mean size in bytes, the largest first.
    images: number of images.
    budget: bytes for all of them.

  Returns:
    The height, the lowest if none fits; and how many images fit.
  """
  fitting = [(height, int(budget / size)) for height, size in sizes]
  enough = [height for height, number in fitting if number >= images]
  return (enough[0], images) if enough else fitting[-1]


def most_fitting(total: int, needed: Callable[[int], int], images: int) -> int:
  """Returns the most lists of a page that need at most a number of images.

  Args:
    total: number of lists that there are.
    needed: returns the number of images of some number of lists.
    images: number of images that may be shown.

  Returns:
    The number of lists, at least one.
  """
  low, high = 1, total
  while low < high:
    middle = (low + high + 1) // 2
    low, high = (
      (middle, high) if needed(middle) <= images else (low, middle - 1)
    )
  return low
