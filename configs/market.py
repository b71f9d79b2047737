"""Market-1501, in the paper's settings (Section IV.B) or the released code's.

  python train.py --config=configs/market.py --config.data.dir=DIR

DIR holds `bounding_box_train`, `query` and `bounding_box_test`. Variants, as in
`--config=configs/market.py:official`:

  paper     APNet-C, channel attention at 384x192. Table II, level 2: 90.5 mAP,
            96.2 Rank-1, 98.8 Rank-5.
  spatial   APNet-S, spatial attention at 256x128. Table II, level 2: 89.0 mAP,
            96.1 Rank-1, 98.7 Rank-5.
  official  APNet-C as the released PyTorch code has it, which departs from the
            paper in its architecture and recipe; the published figures come
            from this code.

The paper used two RTX 2080 Ti and started from weights pre-trained on ImageNet
(`--config.model.pretrained`); its gallery was probably without the 2,798
distractors. See docs/reproducing.md; `python -m apnet_jax explain` prints what
a variant is and where it differs from the paper.
"""

from configs import common


def get_config(variant: str = 'paper'):
  config = common.get_config()
  config.name = 'market'
  config.data.name = 'market1501'
  config.data.dir = 'datasets/market1501'
  if variant not in VARIANTS:
    raise ValueError(
      f'configs/market.py:{variant}: {variant!r} is not one of'
      f' ({", ".join(VARIANTS)}).'
    )
  VARIANTS[variant](config)
  return config


def paper(config):
  """As in configs/common.py."""


def spatial(config):
  """The recipe of RGA, "whose settings" the paper adopts for APNet-S."""
  config.model.attention = 'spatial'
  config.data.image_size = (256, 128)
  # RGA trains 600 epochs in which each identity gives K images; an epoch here
  # is about four of those (12,936 images; 751 x 4), so all its numbers are
  # divided by 4: warm-up 20, half the rate at 80, 120, ..., 360.
  config.train.epochs = 150
  config.train.learning_rate = 8e-4
  config.train.warmup_epochs = 5
  config.train.milestones = tuple(range(20, 91, 10))
  config.train.decay_factor = 0.5


def official(config):
  """Every departure of the released code (docs/reproducing.md)."""
  config.profile = 'official'
  model = config.model
  model.stem_relu = False
  model.sites = (0, 1, 2, 3, 4)
  model.order = 'fine_to_coarse'
  model.split_attention = 'shared'
  model.norm_after_split = True
  model.hidden = 8
  model.batch_norm_group = 40
  config.augment.erase_fill = (0.485, 0.456, 0.406)
  config.train.smooth_k = 751
  config.train.weight_decay = 1e-3


VARIANTS = {'paper': paper, 'spatial': spatial, 'official': official}
