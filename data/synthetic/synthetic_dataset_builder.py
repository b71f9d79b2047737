"""Synthetic pedestrians in Market-1501's layout."""

from data import reid_builder
from data.synthetic import layout


class Builder(reid_builder.ReidBuilder):
  """TFDS builder of the synthetic data set."""

  LAYOUTS = (layout.LAYOUT,)
