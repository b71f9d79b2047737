"""Drawn pedestrians in Market-1501's layout, made where they are missing."""

import pathlib

from data.market1501 import market1501_dataset_builder
from data.synthetic import draw


class Builder(market1501_dataset_builder.Builder):
  """Builder of the synthetic set; draws it first if there is no folder."""

  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Delete or empty the folder to have the synthetic set drawn again.'
  )

  @classmethod
  def locate(cls, directory: str) -> pathlib.Path:
    path = pathlib.Path(directory).expanduser()
    if not path.exists():
      draw.draw_dataset(path)
    return super().locate(directory)
