"""CUHK03 in the 767/700 split, with boxes by a detector or drawn by hand."""

from data import reid_builder
from data.cuhk03_np import layout


class Builder(reid_builder.ReidBuilder):
  """TFDS builder of CUHK03-NP; its configurations are detected and labeled."""

  LAYOUTS = layout.LAYOUTS
