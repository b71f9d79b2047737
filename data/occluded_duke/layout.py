"""The layout of Occluded-DukeMTMC: Market-1501's folders and file names."""

from data.raw import Counts, MarketLayout

LAYOUT = MarketLayout(
  dataset='occluded_duke',
  title='Occluded-DukeMTMC',
  homepage='https://github.com/lightas/Occluded-DukeMTMC-Dataset',
  how_to_get="""\
Occluded-DukeMTMC is made from DukeMTMC-reID, which Duke University withdrew in
2019, by the lists at https://github.com/lightas/Occluded-DukeMTMC-Dataset.
If you still have DukeMTMC-reID, and the right to use it, make the data set from
it and set --config.data.dir to the folder Occluded_Duke or its parent.""",
  nested=(
    'Occluded_Duke',
    'Occluded-DukeMTMC',
    'Occluded-DukeMTMC-reID',
    'occluded_duke',
    'occluded-duke',
  ),
  # Miao et al., ICCV 2019.
  published={
    'train': Counts(15_618, 702, 8),
    'query': Counts(2_210, 519, 8),
    'gallery': Counts(17_661, 1_110, 8),
  },
)
