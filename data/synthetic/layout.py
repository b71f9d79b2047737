"""The layout of the synthetic data set; missing images are drawn."""

import dataclasses
import os
import pathlib

from apnet_jax.errors import UserError
from data.raw import MarketLayout
from data.synthetic import draw


@dataclasses.dataclass(frozen=True, eq=False)
class SyntheticLayout(MarketLayout):
  """Market-1501's layout, for images that are drawn on first use.

  The data set is drawn if its folder is missing or empty.
  """

  def locate(self, directory: str | os.PathLike) -> pathlib.Path:
    path = pathlib.Path(directory).expanduser()
    if draw.is_missing(path):
      try:
        draw.draw_dataset(path)
      except UserError:
        if draw.is_missing(path):
          raise  # otherwise, another process has drawn it meanwhile
    return super().locate(directory)


LAYOUT = SyntheticLayout(
  dataset='synthetic',
  title='the synthetic set',
  homepage='',
  how_to_get=(
    'Delete or empty the folder, and the synthetic set is drawn again.'
  ),
)
