"""Occluded-DukeMTMC: DukeMTMC-reID, split so that all queries are occluded."""

from data import reid_builder
from data.occluded_duke import layout


class Builder(reid_builder.ReidBuilder):
  """TFDS builder of Occluded-DukeMTMC, which reads existing copies only."""

  LAYOUTS = (layout.LAYOUT,)
