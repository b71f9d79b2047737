"""Your own images: a CSV file, or a folder for each identity."""

from data import reid_builder
from data.folder import layout


class Builder(reid_builder.ReidBuilder):
  """TFDS builder of data sets of the user's own images."""

  LAYOUTS = (layout.LAYOUT,)
