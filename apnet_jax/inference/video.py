"""Frames of a video, decoded by PyAV, or of a sequence of image files."""

import glob
import os
import re

from PIL import Image

from apnet_jax import images
from apnet_jax.errors import UserError, first_line
from apnet_jax.optional import import_optional

# Stands for the number of an image in the names of a sequence: %d, or %06d with
# zeros before it.
NUMBER = re.compile(r'%(?:0(\d+))?d')


def is_sequence(path: str) -> bool:
  """Tells whether a path is the pattern of a sequence, as DIR/%06d.jpg."""
  return bool(NUMBER.search(path)) and not os.path.exists(path)


class ImageSequence:
  """The images of a sequence, whose names have their numbers.

  Args:
    pattern: path of the images, with `NUMBER` in place of the number.

  Raises:
    UserError: there is no image of such a name.
  """

  def __init__(self, pattern: str):
    if not glob.glob(NUMBER.sub('*', glob.escape(pattern))):
      raise UserError(f'no image matches {pattern}.')
    self._pattern, self._number = pattern, -1
    self._image: Image.Image | None = None

  def read(self, number: int) -> Image.Image:
    """Returns the image of a number as an upright image of mode RGB.

    Raises:
      UserError: the file does not exist, or see `images.read_image`.
    """
    if number != self._number or self._image is None:
      path = NUMBER.sub(lambda m: f'{number:0{m[1] or 0}d}', self._pattern)
      with images.strict_pillow():
        self._number, self._image = number, images.read_upright(path)
    return self._image


class Frames:
  """The frames of a video.

  Args:
    path: path of the video.

  Raises:
    UserError: PyAV is not installed, or the file is no video.
  """

  def __init__(self, path: str):
    self._av, self._path = import_optional('av', 'video'), path
    try:
      self._container = self._av.open(path)
    except (OSError, self._av.FFmpegError) as error:
      raise UserError(
        f'{path} cannot be read as a video: {first_line(error)}'
      ) from error
    streams = self._container.streams.video
    if not streams:
      raise UserError(
        f'{path} cannot be read as a video: it has no video stream.'
      )
    streams[0].thread_type = 'AUTO'
    self._stream = self._container.decode(streams[0])
    self._number, self._image, self._end = -1, None, ''

  def read(self, number: int) -> Image.Image:
    """Returns a frame as an upright image of mode RGB.

    Args:
      number: number of the frame from 0, not below that of the last call.

    Raises:
      UserError: the video ends or cannot be decoded before this frame.
    """
    if number == self._number and self._image is not None:
      return self._image
    frame = None
    while self._number < number and not self._end:
      try:
        frame = next(self._stream)
        self._number += 1
      except StopIteration:
        self._end = f'it has {self._number + 1:,} frames'
      except self._av.FFmpegError as error:
        self._end = first_line(error)
    if self._end:
      raise UserError(
        f'frame {number} (from 0) of {self._path} cannot be read: {self._end}'
      )
    assert frame is not None  # the number is above that of the last call
    image = frame.to_image()
    if frame.rotation:
      image = image.rotate(frame.rotation, expand=True)
    self._image = image
    return image
