"""Drawn pedestrians on disk, made where they are missing."""

import dataclasses
import os
import pathlib

from data.raw import MarketLayout
from data.synthetic import draw


@dataclasses.dataclass(frozen=True, eq=False)
class SyntheticLayout(MarketLayout):
  """Draws the set first if its folder is missing or empty."""

  def locate(self, directory: str | os.PathLike) -> pathlib.Path:
    path = pathlib.Path(directory).expanduser()
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
      draw.draw_dataset(path)
    return super().locate(directory)


LAYOUT = SyntheticLayout(
  dataset='synthetic',
  title='the synthetic set',
  homepage='',
  how_to_get=(
    'Delete or empty the folder to have the synthetic set drawn again.'
  ),
)
