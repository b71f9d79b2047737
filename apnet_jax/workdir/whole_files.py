"""Files that are written whole or not at all."""

from collections.abc import Iterator
import contextlib
import os
import pathlib


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a path to write to, which becomes `path` if the block succeeds.

  Whoever reads `path` finds the file before or after the block, never a part of
  it. After an error, nothing is left; after a kill, `path` with `.part` behind
  its name, which the next call replaces.

  Args:
    path: the file; its folder is made if needed.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f'{path.name}.part')
  try:
    yield part
    part.replace(path)
  except BaseException:
    part.unlink(missing_ok=True)
    raise
