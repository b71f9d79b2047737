"""MSMT17: 4,101 identities, fifteen cameras, four days."""

from data import reid_builder
from data.msmt17 import layout


class Builder(reid_builder.ReidBuilder):
  """TFDS builder of MSMT17; its configurations are trainval and train."""

  LAYOUTS = layout.LAYOUTS
