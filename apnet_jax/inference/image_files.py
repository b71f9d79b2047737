"""Embeds groups of image files, some of which may be unreadable."""

from collections.abc import Callable, Container, Sequence
import dataclasses
import os

import numpy as np

from apnet_jax import images
from apnet_jax.errors import UserError

NAMED = 10  # unreadable images that a warning lists


@dataclasses.dataclass(frozen=True)
class Embedded:
  """Embeddings of those image files of a group that could be read.

  Attributes:
    paths: the files that could be read, in the order of the group.
    embeddings: float32 [paths, features], of length 1.
    unreadable: error messages by path, of the files that could not be read.
  """

  paths: list
  embeddings: np.ndarray
  unreadable: dict


def embed_files(
  embedder: Callable[..., np.ndarray],
  *groups: Sequence,
  optional: Container = (),
) -> list[Embedded]:
  """Embeds groups of image files in one call.

  Args:
    embedder: an `Embedder`.
    *groups: lists of paths.
    optional: paths of the files that are left out if they cannot be read.

  Returns:
    The embeddings of each group.

  Raises:
    UserError: a file that is not optional cannot be read, or no file of a group
      can.
  """
  paths = [path for group in groups for path in group]
  errors: dict[int, str] = {}

  def on_error(row, error):
    if paths[row] not in optional:
      raise error
    errors[row] = str(error)

  with images.strict_pillow():
    embeddings = embedder(paths, on_error=on_error, progress=True)
  embedded, start = [], 0
  for group in groups:
    rows = range(start, start + len(group))
    start = rows.stop
    readable = [row for row in rows if row not in errors]
    if not readable:
      raise _none_readable(len(group), errors[rows.start])
    unreadable = {paths[row]: errors[row] for row in rows if row in errors}
    embedded.append(
      Embedded(
        [paths[row] for row in readable], embeddings[readable], unreadable
      )
    )
  return embedded


def check_files(
  paths: Sequence, image_size: tuple[int, int], optional: Container
) -> tuple[list, list[str]]:
  """Reads image files once, to find those that cannot be read.

  Args:
    paths: the files.
    image_size: height and width to resize images to, in pixels.
    optional: paths of the files that are left out if they cannot be read.

  Returns:
    The files that can be read, and the error messages of the others.

  Raises:
    UserError: a file that is not optional cannot be read, or none can.
  """
  readable, errors = [], []
  for path in paths:
    try:
      with images.strict_pillow():
        images.read_image(path, image_size)
    except UserError as error:
      if path not in optional:
        raise
      errors.append(str(error))
    else:
      readable.append(path)
  if not readable:
    raise _none_readable(len(paths), errors[0])
  return readable, errors


def describe_unreadable(embedded: Sequence[Embedded]) -> str:
  """Returns a warning that counts the unreadable images, else ''.

  Args:
    embedded: groups of images; the first `NAMED` of their unreadable files are
      named.
  """
  # Groups may share files.
  errors: dict[str | os.PathLike, str] = {}
  paths: set[str | os.PathLike] = set()
  for group in embedded:
    errors.update(group.unreadable)
    paths.update(group.paths, group.unreadable)
  return list_unreadable(list(errors.values()), len(paths))


def _none_readable(count: int, first: str) -> UserError:
  return UserError(f'none of {count} images can be read. The first: {first}')


def list_unreadable(errors: Sequence[str], images: int) -> str:
  """Returns a warning that counts and names unreadable images, else ''.

  Args:
    errors: error messages.
    images: number of all images.
  """
  if not errors:
    return ''
  return name_first(
    f'{len(errors):,} of {images:,} images could not be read and were'
    ' left out:',
    errors,
  )


def name_first(heading: str, items: Sequence[str]) -> str:
  """Returns a heading and the first `NAMED` items, each on a line."""
  more = len(items) - NAMED
  return '\n'.join(
    [
      heading,
      *(f'  {item}' for item in items[:NAMED]),
      *[f'  and {more:,} more'] * (more > 0),
    ]
  )
