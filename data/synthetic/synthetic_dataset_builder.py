"""Drawn pedestrians in Market-1501's layout, made where they are missing."""

from data import reid_builder
from data.synthetic import layout


class Builder(reid_builder.ReidBuilder):
  """Builder of the synthetic set."""

  LAYOUTS = (layout.LAYOUT,)
