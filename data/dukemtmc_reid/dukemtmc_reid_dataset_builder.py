"""DukeMTMC-reID: 1,404 identities and 408 distractors, eight cameras."""

from data import reid_builder
from data.dukemtmc_reid import layout


class Builder(reid_builder.ReidBuilder):
  """TFDS builder of DukeMTMC-reID, which reads existing copies only."""

  LAYOUTS = (layout.LAYOUT,)
