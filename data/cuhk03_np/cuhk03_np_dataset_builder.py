"""CUHK03 in the 767/700 split: boxes by a detector or by hand."""

from data import reid_builder
from data.cuhk03_np import layout


class Builder(reid_builder.ReidBuilder):
  """Builder of CUHK03-NP; configurations: detected, labeled."""

  LAYOUTS = layout.LAYOUTS
