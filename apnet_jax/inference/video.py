"""Frames of a video, decoded by PyAV in their order."""

from PIL import Image

from apnet_jax.errors import UserError, first_line
from apnet_jax.optional import import_optional


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
      stream = self._container.streams.video[0]
    except (OSError, IndexError, self._av.FFmpegError) as error:
      raise UserError(
        f'{path} cannot be read as a video: {first_line(error)}'
      ) from error
    stream.thread_type = 'AUTO'
    self._stream = self._container.decode(stream)
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
    if turned := getattr(frame, 'rotation', 0):
      image = image.rotate(turned, expand=True)
    self._image = image
    return image
