"""Images in all forms that an embedder takes, cropped to boxes and resized."""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
import dataclasses
import math
import os
import threading

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

  image: str | os.PathLike | Image.Image | np.ndarray
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
    is_list = given.ndim == 1 and given.dtype.kind in 'OSU'  # of paths
    return given.ndim < 4 and not is_list
  if isinstance(given, str | bytes | bytearray | os.PathLike | Image.Image):
    return True
  # A file is iterable, but its lines are no images.
  return hasattr(given, 'read') or not isinstance(given, Iterable)


def _check_image(image, name: str, order: str):
  if isinstance(image, Image.Image) and image.mode == 'F':
    raise UserError(
      f'{name} is an image of Pillow of mode F, whose values have no fixed'
      ' range: give mode L or RGB, values from 0 to 255.'
    )
  if isinstance(image, str | os.PathLike | Image.Image):
    return image
  if not isinstance(image, np.ndarray):
    raise UserError(
      f'{name} is a {type(image).__name__}: give a path, an image of Pillow'
      ' (`PIL.Image.open` reads open files), or a NumPy array uint8 [height,'
      ' width, 3].'
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
  problem = f'the boxes of {name} are not [boxes, 4]'
  try:
    boxes = np.atleast_2d(np.asarray(boxes, np.float64))  # one, [4], is enough
  except (TypeError, ValueError) as error:
    raise UserError(f'{problem}: give x1, y1, x2, y2 of each.') from error
  if not boxes.size:
    return boxes.reshape(-1, 4)
  # Detections may have more columns: scores and classes.
  if boxes.ndim != 2 or boxes.shape[1] != 4:
    raise UserError(
      f'{problem}, but {list(boxes.shape)}: give x1, y1, x2, y2 of each.'
    )
  for i in np.flatnonzero(~np.isfinite(boxes).all(1)):
    raise UserError(f'box {i} of {name} is not finite: {boxes[i].tolist()}.')
  return boxes


def crop(
  image: Image.Image, box: np.ndarray, image_size: tuple[int, int], name: str
) -> np.ndarray:
  """Crops an image to a box and resizes the crop; see `cut_out`.

  Returns:
    uint8 [height, width, 3], of `image_size`.
  """
  return images.resize(cut_out(image, box, name), image_size)


def cut_out(
  image: Image.Image, box: Sequence[float] | np.ndarray, name: str
) -> Image.Image:
  """Cuts a box out of an image.

  Args:
    image: image of mode RGB.
    box: x1, y1, x2, y2 in pixels; clipped to the image and widened to whole
      pixels.
    name: the box for messages.

  Raises:
    UserError: the box is not finite, or has no pixel in the image.
  """
  (width, height), (x1, y1, x2, y2) = image.size, map(float, box)
  if not all(map(math.isfinite, (x1, y1, x2, y2))):
    raise UserError(f'{name} is not finite: {[x1, y1, x2, y2]}.')
  if x1 >= x2 or y1 >= y2:
    raise UserError(
      f'{name} is empty: {[x1, y1, x2, y2]}. Boxes are x1, y1, x2, y2, with'
      ' x1 < x2 and y1 < y2.'
    )
  left, top = max(0, math.floor(x1)), max(0, math.floor(y1))
  right, bottom = min(width, math.ceil(x2)), min(height, math.ceil(y2))
  if left >= right or top >= bottom:
    raise UserError(
      f'{name} lies outside of it: {[x1, y1, x2, y2]} in {width} x {height}'
      ' pixels.'
    )
  return image.crop((left, top, right, bottom))


def _decode(frame: Frame, lock: threading.Lock) -> Image.Image:
  """Returns the image of a frame in its own size, upright and of mode RGB."""
  if isinstance(frame.image, np.ndarray):
    return Image.fromarray(np.ascontiguousarray(frame.image))
  if not isinstance(frame.image, Image.Image):
    return images.read_upright(frame.image)
  try:
    with lock:  # Pillow decodes an image, and parses its EXIF, at its first use
      return images.upright(frame.image)
  except Exception as error:  # Pillow's readers raise errors of many classes
    raise UserError(f'{frame.name} cannot be read: {error}') from error


def read(
  frame: Frame, image_size: tuple[int, int], lock: threading.Lock
) -> list[np.ndarray | UserError]:
  """Reads a frame, crops it to its boxes and resizes the crops.

  Args:
    frame: the frame.
    image_size: height and width of the crops, in pixels.
    lock: held while an image of Pillow is decoded. Frames of one image share
      it.

  Returns:
    For the image or each box uint8 [height, width, 3], RGB; or an error, if the
    image cannot be read or the box has no pixel in it.
  """
  try:
    image = _decode(frame, lock)
    if frame.boxes is None:
      return [images.resize(image, image_size)]
  except UserError as error:
    return [error] * len(frame)
  crops: list[np.ndarray | UserError] = []
  for i, box in enumerate(frame.boxes):
    try:
      crops.append(crop(image, box, image_size, f'box {i} of {frame.name}'))
    except UserError as error:
      crops.append(error)
  return crops


def iterate(
  given: Sequence[Frame],
  image_size: tuple[int, int],
  on_error: Callable[[int, UserError], None] | None = None,
) -> Iterator[np.ndarray]:
  """Yields the crops of frames one by one, read by several threads.

  Args:
    given: the frames.
    image_size: height and width of the crops, in pixels.
    on_error: `on_error(row, error)` is called for a crop that cannot be read,
      counted over all frames. The crop is then black, unless the call raises an
      error. By default the error itself is raised.

  Yields:
    uint8 [height, width, 3], RGB.
  """
  row = 0
  for found in _read_ahead(given, image_size):
    for crop in found:
      if isinstance(crop, UserError):
        if on_error is None:
          raise crop
        on_error(row, crop)
        crop = np.zeros((*image_size, 3), np.uint8)
      yield crop
      row += 1


def _read_ahead(given, image_size) -> Iterator[list]:
  """Yields the results of `read` in order, `WINDOW` of them read ahead."""
  pending: collections.deque[futures.Future] = collections.deque()
  shared = threading.Lock()  # of what needs none
  locks: dict[int, threading.Lock] = collections.defaultdict(threading.Lock)
  with futures.ThreadPoolExecutor() as pool:
    for frame in given:
      image = frame.image
      lock = locks[id(image)] if isinstance(image, Image.Image) else shared
      pending.append(pool.submit(read, frame, image_size, lock))
      if len(pending) == WINDOW:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()
