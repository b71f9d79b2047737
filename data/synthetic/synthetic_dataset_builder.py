"""Drawn pedestrians in Market-1501's layout, made where they are missing."""

import pathlib

from data.market1501 import market1501_dataset_builder
from data.synthetic import draw


class Builder(market1501_dataset_builder.Builder):
  """Builder of the synthetic set; draws it first if the folder is empty."""

  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Delete or empty the folder to have the synthetic set drawn again.'
  )

  @classmethod
  def locate(cls, directory: str) -> pathlib.Path:
    path = pathlib.Path(directory).expanduser()
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
      draw.draw_dataset(path)
    return super().locate(directory)
