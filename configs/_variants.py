"""The variants that every benchmark has: `configs/NAME.py:VARIANT`."""

import ml_collections

from configs import common


def get_config(
  name: str, dataset: str, variant: str
) -> ml_collections.ConfigDict:
  """The configuration of a benchmark.

  Args:
    name: of the configuration's file.
    dataset: `config.data.name`.
    variant: one of `VARIANTS`.

  Raises:
    ValueError: there is no such variant.
  """
  config = common.get_config()
  config.name = name
  config.data.name = dataset
  config.data.dir = f'datasets/{dataset.split("/")[0]}'
  if variant not in VARIANTS:
    raise ValueError(
      f'configs/{name}.py:{variant}: {variant!r} is not one of'
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
  # is about four of those on Market-1501 (12,936 images; 751 x 4), so all its
  # numbers are divided by 4: warm-up 20, half the rate at 80, 120, ..., 360.
  # (On CUHK03-NP an epoch is 2.4 of those, on MSMT17 7.8.)
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
