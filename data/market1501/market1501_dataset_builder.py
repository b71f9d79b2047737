"""Market-1501: 1,501 identities, six cameras in front of a supermarket."""

from data import reid_builder
from data.market1501 import layout


class Builder(reid_builder.ReidBuilder):
  """TFDS builder of Market-1501."""

  LAYOUTS = (layout.LAYOUT,)
