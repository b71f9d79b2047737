"""Variants of the configurations, which `configs/NAME.py:VARIANT` selects."""

import ml_collections

from apnet_jax.config import get_config as default_config
from apnet_jax.errors import UserError
from apnet_jax.paper import fields


def get_config(
  name: str, dataset: str, variant: str
) -> ml_collections.ConfigDict:
  """Returns the configuration of a benchmark.

  Args:
    name: name of the configuration file, without folder and suffix.
    dataset: value of `config.data.name`.
    variant: one of `VARIANTS`.

  Raises:
    UserError: there is no such variant.
  """
  config = default_config()
  config.name = name
  config.data.name = dataset
  config.data.dir = f'datasets/{dataset.split("/")[0]}'
  if variant not in VARIANTS:
    raise UserError(
      f'configs/{name}.py:{variant}: {variant!r} is not one of'
      f' ({", ".join(VARIANTS)}).'
    )
  VARIANTS[variant](config)
  return config


def paper(config):
  """Leaves a configuration unchanged: the defaults are the paper's settings."""


def spatial(config):
  """Changes a configuration to APNet-S: spatial attention and RGA's settings.

  The paper says that APNet-S uses the settings of RGA (Zhang et al., CVPR
  2020).
  """
  config.model.attention = 'spatial'
  config.data.image_size = (256, 128)
  # RGA trains for 600 epochs, each with K images of every identity. Its warm-up
  # ends at epoch 20; the learning rate is halved at 80, 120, ..., 360. On
  # Market-1501, an epoch here has about four times as many images (12,936 over
  # 751 x 4), so that these numbers are divided by 4. (The ratio is 2.4 on
  # CUHK03-NP, 5.9 on DukeMTMC-reID and 7.8 on MSMT17.)
  config.train.epochs = 150
  config.train.learning_rate = 8e-4
  config.train.warmup_epochs = 5
  config.train.milestones = tuple(range(20, 91, 10))
  config.train.decay_factor = 0.5


def official(config):
  """Changes a configuration to the network and recipe of the released code.

  docs/reproducing.md lists its differences from the paper.
  """
  config.profile = 'official'
  for section in fields.FIELDS:
    config[section].update(fields.released(section, config))


VARIANTS = {'paper': paper, 'spatial': spatial, 'official': official}
