"""Demo for a CPU: training of a small APNet-C on synthetic pedestrians.

python train.py --config=configs/synthetic.py
"""

import pathlib

from apnet_jax.config import get_config as default_config

CURVES = pathlib.Path(__file__).parents[1] / 'docs/records/curves'


def get_config():
  config = default_config()
  config.name = 'synthetic'
  config.model.backbone = 'resnet14'
  config.data.name = 'synthetic'
  config.data.dir = 'datasets/synthetic'
  config.data.prepared_dir = 'datasets/prepared'
  config.data.image_size = (80, 40)
  config.augment.pad = 4
  config.augment.erase = 0.0  # too few epochs to profit from erasing
  config.train.P = 8
  config.train.epochs = 4
  config.train.milestones = (3,)
  config.train.warmup_epochs = 0
  config.train.learning_rate = 1e-3  # nothing is pre-trained
  config.train.eval_every_epochs = 1
  config.eval.pixel_baseline = True
  config.eval.expected_curve = str(CURVES / 'synthetic.json')
  return config
