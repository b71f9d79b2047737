"""Small copies of images, as text that a page can hold."""

import base64
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
import io

import numpy as np
from PIL import Image

from apnet_jax.feed import Split

HEIGHTS = (256, 192, 128, 96)  # in pixels; the largest that fits is used
QUALITY = 60  # of WebP
SAMPLED = 48  # images whose size tells that of all
BATCH = 64


def encode(image: np.ndarray | Image.Image, height: int) -> str:
  """Returns an image as WebP in base 64.

  Args:
    image: uint8 [height, width, 3], or a picture.
    height: height of the copy in pixels; a lower image keeps its size.
  """
  if not isinstance(image, Image.Image):
    image = Image.fromarray(image)
  if image.height > height:
    width = max(1, round(image.width * height / image.height))
    image = image.resize((width, height), Image.Resampling.BICUBIC)
  file = io.BytesIO()
  image.save(file, 'WEBP', quality=QUALITY, method=2)
  return base64.b64encode(file.getvalue()).decode()


def encode_all(split: Split, rows: Sequence[int], height: int) -> list[str]:
  """Returns copies of some images of a split; see `encode`."""
  with futures.ThreadPoolExecutor() as pool:
    return [
      text
      for batch in split.batches(np.asarray(rows, np.int64), BATCH)
      for text in pool.map(lambda image: encode(image, height), batch)
    ]


def bytes_by_height(split: Split, rows: Sequence[int]) -> Iterator[tuple]:
  """Yields each of `HEIGHTS` with the mean size of a copy in bytes.

  Args:
    split: images.
    rows: rows of images, a sample of which is encoded.
  """
  places = np.linspace(0, len(rows) - 1, min(SAMPLED, len(rows)))
  sample = np.asarray(rows)[places.round().astype(int)]
  images = [i for batch in split.batches(sample, BATCH) for i in batch]
  for height in HEIGHTS:
    yield height, np.mean([len(encode(i, height)) for i in images])


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
