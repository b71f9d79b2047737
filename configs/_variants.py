"""The variants that every benchmark has: `configs/NAME.py:VARIANT`."""

import ml_collections

from apnet_jax.config import get_config as default_config
from apnet_jax.errors import UserError
from apnet_jax.paper import fields


def get_config(
  name: str, dataset: str, variant: str
) -> ml_collections.ConfigDict:
  """Returns the configuration of a benchmark.

  Args:
    name: name of the configuration file.
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
  """The defaults, which are the paper's."""


def spatial(config):
  """The recipe of RGA, "whose settings" the paper uses for APNet-S."""
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
  """The recipe of the released code, which departs from the paper.

  docs/reproducing.md lists the departures.
  """
  config.profile = 'official'
  for section in fields.FIELDS:
    config[section].update(fields.released(section))


VARIANTS = {'paper': paper, 'spatial': spatial, 'official': official}
