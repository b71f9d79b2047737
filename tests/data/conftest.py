"""Fixtures: a tiny synthetic data set, and its configuration."""

import pytest

from configs import common
from data.synthetic import draw


@pytest.fixture(scope='session')
def drawn(tmp_path_factory):
  """A raw folder in Market-1501's layout; tests that change it copy it."""
  root = tmp_path_factory.mktemp('drawn') / 'raw'
  draw.draw_dataset(
    root,
    train_identities=5,
    test_identities=3,
    distractors=3,
    junk=2,
    progress=False,
  )
  return root


@pytest.fixture(scope='session')
def make_config():
  """A function that returns the configuration of a small data set."""

  def make(raw, prepared):
    config = common.get_config()
    config.data.name = 'market1501'
    config.data.dir = str(raw)
    config.data.allow_other_counts = True
    config.data.prepared_dir = str(prepared)
    config.data.image_size = (32, 16)
    config.train.P = 2
    config.train.K = 4
    return config

  return make
