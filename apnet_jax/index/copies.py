"""Copies the images that a search found into a folder, to look at them."""

from collections.abc import Sequence
import pathlib
import shutil

from apnet_jax.errors import UserError
from apnet_jax.inference import rows


def check_folder(folder: str) -> None:
  """Checks that images can be copied to a folder.

  Raises:
    UserError: the folder exists and is not empty, or is a file.
  """
  path = pathlib.Path(folder)
  if folder and path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise UserError(f'--copy_to={folder} exists: give a new or empty folder.')


def copy_found(results: Sequence[dict], folder: str) -> int:
  """Copies each query and the images found for it into a folder of their own.

  Names begin with the rank and the similarity. Boxes in images are cut out;
  those in videos are left out.

  Args:
    results: entry `results` of a search.
    folder: the folder.

  Returns:
    The number of images found that were copied.

  Raises:
    UserError: an image that was found cannot be read any more.
  """
  count = 0
  for number, result in enumerate(results):
    query = pathlib.Path(result['query'])
    target = pathlib.Path(folder, f'{number:04d}_{query.stem}')
    target.mkdir(parents=True)
    shutil.copyfile(query, target / f'query{query.suffix}')
    for rank, found in enumerate(result['found'], 1):
      name = f'{rank:02d}_{found["similarity"]:.3f}'
      if not rows.is_in_video(found):
        _copy(found, target, name)
        count += 1
  return count


def _copy(found: dict, target: pathlib.Path, name: str) -> None:
  image = pathlib.Path(found['image'])
  if rows.BOX[0] in found:
    picture = rows.read_picture(image, found)
    picture.save(target / f'{name}_{image.stem}.png')
    return
  try:
    shutil.copyfile(image, target / f'{name}_{image.name}')
  except OSError as error:
    raise UserError(f'{image} cannot be copied: {error.strerror}.') from error
