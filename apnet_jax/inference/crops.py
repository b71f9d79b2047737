"""Images in all forms that an embedder takes, cropped to boxes and resized."""

import collections
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
import dataclasses
import os

import numpy as np
from PIL import Image

from apnet_jax import images
from apnet_jax.errors import UserError

ORDERS = ('rgb', 'bgr')  # of the channels of an array
WINDOW = 32  # images that are read ahead


@dataclasses.dataclass(frozen=True)
class Frame:
  """An image that is embedded whole, or its boxes one by one.

  Attributes:
    image: a path, an image of Pillow, or uint8 RGB [height, width, 3].
    name: the image for messages.
    boxes: float [boxes, 4], x1, y1, x2, y2 in pixels of the upright image; None
      for the whole image.
  """

  image: object
  name: str
  boxes: np.ndarray | None = None

  def __len__(self) -> int:
    """Returns the number of embeddings."""
    return 1 if self.boxes is None else len(self.boxes)


def frames(given, boxes=None, order: str = 'rgb') -> list[Frame]:
  """Returns frames of all images and boxes; see `embedder.Embedder`.

  Args:
    given: an image, or a sequence of images.
    boxes: boxes of the image, or a sequence with the boxes of each; or None.
    order: order of the channels of arrays, one of `ORDERS`.

  Raises:
    UserError: an argument has another form. Paths are not read yet.
  """
  if order not in ORDERS:
    raise UserError(f'order={order!r} is not one of {ORDERS}.')
  if single := is_single(given):
    given, boxes = [given], None if boxes is None else [boxes]
  if boxes is not None and len(boxes) != len(given):
    raise UserError(f'boxes of {len(boxes)} images for {len(given)} images.')
  found = []
  for i, image in enumerate(given):
    name = 'the image' if single else f'image {i}'
    if isinstance(image, str | os.PathLike):
      name = str(image)
    own = None if boxes is None else _check_boxes(boxes[i], name)
    found.append(Frame(_check_image(image, name, order), name, own))
  return found


def is_single(given) -> bool:
  """Returns whether this is one image, and not a sequence of images."""
  if isinstance(given, np.ndarray):
    return given.ndim < 4
  return isinstance(given, str | os.PathLike | Image.Image)


def _check_image(image, name: str, order: str):
  if isinstance(image, str | os.PathLike | Image.Image):
    return image
  if not isinstance(image, np.ndarray):
    raise UserError(
      f'{name} is a {type(image).__name__}: give a path, an image of Pillow, or'
      ' an array uint8 [height, width, 3].'
    )
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
    raise UserError(
      f'{name} is {image.dtype} {list(image.shape)}: give uint8 [height, width,'
      ' 3], values from 0 to 255.'
    )
  if not image.size:
    raise UserError(f'{name} has no pixels: {list(image.shape)}.')
  return image[..., ::-1] if order == 'bgr' else image


def _check_boxes(boxes, name: str) -> np.ndarray:
  try:
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
  except (TypeError, ValueError) as error:
    raise UserError(
      f'the boxes of {name} are not [boxes, 4]: give x1, y1, x2, y2 of each.'
    ) from error
  for i in np.flatnonzero(~np.isfinite(boxes).all(1)):
    raise UserError(f'box {i} of {name} is not finite: {boxes[i].tolist()}.')
  return boxes


def clip(
  boxes: np.ndarray, size: tuple[int, int], name: str
) -> list[tuple[int, int, int, int]]:
  """Clips boxes to a frame, and widens them to whole pixels.

  Args:
    boxes: float [boxes, 4], x1, y1, x2, y2.
    size: width and height of the frame in pixels.
    name: the frame for messages.

  Raises:
    UserError: a box has no pixel in the frame.
  """
  limits = np.array([*size, *size])
  outward = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], 1)
  clipped = outward.clip(0, limits).astype(int)
  for i in np.flatnonzero((boxes[:, :2] >= boxes[:, 2:]).any(1)):
    raise UserError(
      f'box {i} of {name} is empty: {boxes[i].tolist()}. Boxes are x1, y1, x2,'
      ' y2, with x1 < x2 and y1 < y2.'
    )
  for i in np.flatnonzero((clipped[:, :2] >= clipped[:, 2:]).any(1)):
    raise UserError(
      f'box {i} of {name} lies outside of it: {boxes[i].tolist()} in'
      f' {size[0]} x {size[1]} pixels.'
    )
  return [tuple(box) for box in clipped.tolist()]


def read(frame: Frame, image_size: tuple[int, int]) -> np.ndarray:
  """Reads a frame, crops it to its boxes and resizes the crops.

  Args:
    frame: the frame.
    image_size: height and width of the result, in pixels.

  Returns:
    uint8 [len(frame), height, width, 3], RGB.

  Raises:
    UserError: the image cannot be read, or a box has no pixel in it.
  """
  image = frame.image
  if isinstance(image, np.ndarray):
    image = Image.fromarray(np.ascontiguousarray(image))
  elif isinstance(image, Image.Image):
    image = _decode(image, frame.name)
  else:
    image = images.read_upright(image)
  if frame.boxes is None:
    return images.resize(image, image_size)[None]
  crops = [
    images.resize(image.crop(box), image_size)
    for box in clip(frame.boxes, image.size, frame.name)
  ]
  return np.array(crops, np.uint8).reshape(-1, *image_size, 3)


def _decode(image: Image.Image, name: str) -> Image.Image:
  try:
    return images.upright(image)
  except Exception as error:  # Pillow's readers raise errors of many classes
    raise UserError(f'{name} cannot be read: {error}') from error


def iterate(
  given: Sequence[Frame],
  image_size: tuple[int, int],
  on_error: Callable[[int, UserError], None] | None = None,
) -> Iterator[np.ndarray]:
  """Yields the crops of frames one by one, read by several threads.

  Args:
    given: the frames.
    image_size: height and width of the crops, in pixels.
    on_error: `on_error(i, error)` is called, from several threads, for a frame
      `i` that cannot be read. Its crops are then black, unless the call raises
      an error. By default the error itself is raised.

  Yields:
    uint8 [height, width, 3], RGB.
  """

  def read_one(i: int) -> np.ndarray:
    try:
      return read(given[i], image_size)
    except UserError as error:
      if on_error is None:
        raise
      on_error(i, error)
      return np.zeros((len(given[i]), *image_size, 3), np.uint8)

  pending = collections.deque()
  with futures.ThreadPoolExecutor() as pool:
    for i in range(len(given)):
      pending.append(pool.submit(read_one, i))
      if len(pending) == WINDOW:
        yield from pending.popleft().result()
    while pending:
      yield from pending.popleft().result()
