"""APNet-C on Market-1501, as the paper trains it (Section IV.B).

  python train.py --config=configs/market.py --config.data.dir=DIR

DIR holds `bounding_box_train`, `query` and `bounding_box_test`. The paper used
two RTX 2080 Ti and reports 90.5 mAP, 96.2 Rank-1 and 98.8 Rank-5 (Table II),
starting from weights pre-trained on ImageNet and probably on a gallery without
the 2,798 distractors; see docs/reproducing.md.
"""

from configs import common


def get_config(variant: str = 'paper'):
  if variant != 'paper':
    raise ValueError(
      f'configs/market.py:{variant}: {variant!r} is not one of (paper).'
    )
  config = common.get_config()
  config.name = 'market'
  config.data.name = 'market1501'
  config.data.dir = 'datasets/market1501'
  return config
