"""Copies the images that a search found into a folder, to look at them."""

from collections.abc import Sequence
import dataclasses
import io
import os
import pathlib

from apnet_jax.errors import UserError
from apnet_jax.inference import rows
from apnet_jax.writing import check_place

LONGEST = 255  # bytes of a name, on Linux and macOS


def check_folder(folder: str) -> None:
  """Checks that images can be copied to a folder.

  Raises:
    UserError: the folder exists and is not empty, is a file, or cannot be made.
  """
  path = pathlib.Path(folder)
  if folder and path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise UserError(f'--copy_to={folder} exists: give a new or empty folder.')
  if folder:
    check_place(path, f'--copy_to={folder}')


@dataclasses.dataclass
class Copied:
  """Counts of the images that a search has copied and left out.

  Attributes:
    copies: number of images found that were copied.
    in_videos: number of boxes in videos, which were left out.
    images: number of image files that were to be copied, queries included.
    unreadable: error messages by path, of those that cannot be read any more.
  """

  copies: int = 0
  in_videos: int = 0
  images: int = 0
  unreadable: dict[str, str] = dataclasses.field(default_factory=dict)


def copy_found(results: Sequence[dict], folder: str) -> Copied:
  """Copies each query and the images found for it into a folder of their own.

  Names begin with the rank and the similarity. Boxes in images are cut out.
  Those in videos are left out, and so are images that cannot be read any more.

  Args:
    results: entry `results` of a search.
    folder: the folder.
  """
  done, paths = Copied(), set()
  for number, result in enumerate(results):
    query = pathlib.Path(result['query'])
    target = pathlib.Path(folder, _name(f'{number:04d}_', query.stem))
    target.mkdir(parents=True)
    paths.add(result['query'])
    _copy({'image': result['query']}, target / f'query{query.suffix}', done)
    for rank, found in enumerate(result['found'], 1):
      if rows.is_in_video(found):
        done.in_videos += 1
        continue
      paths.add(found['image'])
      image = pathlib.Path(found['image'])
      suffix = '.png' if rows.BOX[0] in found else image.suffix
      before = f'{rank:02d}_{found["similarity"]:.3f}_'
      name = _name(before, image.stem, suffix)
      done.copies += _copy(found, target / name, done)
  done.images = len(paths)
  return done


def _name(before: str, stem: str, suffix: str = '') -> str:
  """Returns a name whose middle is cut off where the system has no room."""
  while stem and len(os.fsencode(before + stem + suffix)) > LONGEST:
    stem = stem[:-1]
  return before + stem + suffix


def _copy(found: dict, path: pathlib.Path, done: Copied) -> bool:
  """Copies an image or cuts out its box; returns False if it is unreadable."""
  try:
    content = _read(found)
  except UserError as error:
    done.unreadable[found['image']] = str(error)
    return False
  path.write_bytes(content)  # a full disk is an error, and no reason to go on
  return True


def _read(found: dict) -> bytes:
  """Returns the content of an image file, or of a PNG file of its box.

  Raises:
    UserError: it cannot be read.
  """
  if rows.BOX[0] in found:
    file = io.BytesIO()
    rows.read_picture(found['image'], found).save(file, 'png')
    return file.getvalue()
  try:
    return pathlib.Path(found['image']).read_bytes()
  except OSError as error:
    raise UserError(
      f'{found["image"]} cannot be read: {error.strerror}'
    ) from error
