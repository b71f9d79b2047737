"""The layout of DukeMTMC-reID: Market-1501's folders and file names."""

from data.raw import Counts, MarketLayout

LAYOUT = MarketLayout(
  dataset='dukemtmc_reid',
  title='DukeMTMC-reID',
  homepage='https://github.com/layumi/DukeMTMC-reID_evaluation',
  how_to_get="""\
DukeMTMC-reID was withdrawn by Duke University in 2019 and cannot be
downloaded. If you still have a copy, and the right to use it, set
--config.data.dir to the folder that holds bounding_box_train, query and
bounding_box_test, or to its parent.""",
  nested=(
    'DukeMTMC-reID',
    'dukemtmc-reid/DukeMTMC-reID',
    'dukemtmc-reid',
    'dukemtmcreid',
    'dukemtmc_reid',
    'duke',
  ),
  # Zheng et al., ICCV 2017. 408 of the gallery's identities are distractors.
  published={
    'train': Counts(16_522, 702, 8),
    'query': Counts(2_228, 702, 8),
    'gallery': Counts(17_661, 1_110, 8),
  },
)
