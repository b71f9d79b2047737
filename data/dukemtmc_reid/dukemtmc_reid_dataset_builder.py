"""DukeMTMC-reID: 1,404 identities and 408 distractors, eight cameras."""

from data import reid_builder
from data.dukemtmc_reid import layout


class Builder(reid_builder.ReidBuilder):
  """Builder of DukeMTMC-reID, which was withdrawn: it only reads copies."""

  LAYOUTS = (layout.LAYOUT,)
