"""The demo: a small APNet-C on drawn pedestrians, for a CPU.

  python train.py --config=configs/synthetic.py
"""

from configs import common


def get_config():
  config = common.get_config()
  config.name = 'synthetic'
  config.model.backbone = 'resnet14'
  config.data.name = 'synthetic'
  config.data.dir = 'datasets/synthetic'
  config.data.prepared_dir = 'datasets/prepared'
  config.data.image_size = (96, 48)
  config.augment.pad = 4
  config.train.P = 8
  config.train.epochs = 8
  config.train.milestones = (6,)
  config.train.warmup_epochs = 1
  config.train.eval_every_epochs = 4
  config.eval.pixel_baseline = True
  return config
