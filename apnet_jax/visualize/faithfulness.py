"""ROAD: whether the regions that a map marks matter to the network.

Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution
Methods, ICML 2022. The pixels of a region are replaced by noisy linear
interpolation, which hides them without leaving the shape of the region behind,
as black pixels would. If the region matters, the target falls.

The region of a map is compared with the same region at a random place: only
where it lies is different, not its shape or size.
"""

import numpy as np
from PIL import Image
from scipy import sparse
from scipy.sparse.linalg import splu

SHARE = 0.2  # share of the pixels that are replaced
NOISE = 2.55  # standard deviation of the noise, 0.01 of the range of pixels
# Weights of a pixel's neighbours, by their distance in rows and columns.
WEIGHTS = {
  (row, column): 1 / 6 if 0 in (row, column) else 1 / 12
  for row in (-1, 0, 1)
  for column in (-1, 0, 1)
  if (row, column) != (0, 0)
}


def enlarge(values: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
  """Resizes a map bilinearly to the size of its image.

  Args:
    values: float [height, width].
    image_size: height and width in pixels.

  Returns:
    float32 [image height, image width].
  """
  height, width = image_size
  image = Image.fromarray(np.asarray(values, np.float32))
  return np.array(image.resize((width, height), Image.Resampling.BILINEAR))


def attended_region(
  values: np.ndarray,
  image_size: tuple[int, int],
  rng: np.random.Generator,
  share: float = SHARE,
) -> np.ndarray | None:
  """Returns the pixels of an image that a map gives the largest values.

  Of pixels with equal values, those that are still needed are drawn: a map that
  is 0 in most places says nothing about the order of these.

  Args:
    values: map, float [height, width].
    image_size: height and width of the image in pixels.
    rng: source of the order of equal values.
    share: share of the pixels to choose.

  Returns:
    bool [image height, image width]; None if the map is the same everywhere and
    chooses none.
  """
  if values.max() == values.min():
    return None
  region = np.zeros(image_size, bool)
  drawn = rng.permutation(region.size)
  falling = -enlarge(values, image_size).ravel()[drawn]
  order = drawn[np.argsort(falling, kind='stable')]
  region.flat[order[: round(share * region.size)]] = True
  return region


def move(region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Moves a region by a random distance; what leaves on a side enters opposite.

  Args:
    region: bool [height, width].
    rng: source of the distance.
  """
  return np.roll(region, rng.integers(region.shape), (0, 1))


def replace(
  image: np.ndarray, region: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Replaces the pixels of a region by noisy linear interpolation.

  Each new pixel is the weighted mean of its eight neighbours, old or new, plus
  normal noise.

  Args:
    image: float or uint8 [height, width, channels], values in 0..255.
    region: bool [height, width], which must leave a pixel as it is.
    rng: source of the noise.

  Returns:
    float32 [height, width, channels].
  """
  height, width = region.shape
  result = np.array(image, np.float32)
  rows, columns = np.nonzero(region)
  count = len(rows)
  number = np.full(region.shape, -1)
  number[region] = np.arange(count)
  total = np.zeros(count)
  known = np.zeros((count, image.shape[-1]))
  entries = []
  for (down, right), weight in WEIGHTS.items():
    near_row, near_column = rows + down, columns + right
    inside = (0 <= near_row) & (near_row < height)
    inside &= (0 <= near_column) & (near_column < width)
    here = np.flatnonzero(inside)
    near = near_row[here], near_column[here]
    total[here] += weight
    old = ~region[near]
    known[here[old]] += weight * result[near][old]
    entries.append((here[~old], number[near][~old], weight))
  sizes = [len(here) for here, _, _ in entries]
  matrix = sparse.csc_array(
    (
      np.concatenate(
        [total, -np.repeat([weight for *_, weight in entries], sizes)]
      ),
      (
        np.concatenate([np.arange(count), *(here for here, _, _ in entries)]),
        np.concatenate([np.arange(count), *(near for _, near, _ in entries)]),
      ),
    ),
    shape=(count, count),
  )
  # The matrix is symmetric and positive definite: pivots need no search.
  factors = splu(
    matrix,
    permc_spec='MMD_AT_PLUS_A',
    diag_pivot_thresh=0,
    options={'SymmetricMode': True},
  )
  noise = rng.normal(0, NOISE, known.shape)
  result[region] = factors.solve(known) + noise
  return result
