"""Trains a person re-identification network and evaluates it.

  python train.py --config=configs/market.py --config.data.dir=DIR

The same command goes on where a run was stopped. Any field of the configuration
can be changed: --config.train.epochs=60. Fields: configs/common.py.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from apnet_jax import cli

CONFIG = config_flags.DEFINE_config_file(
  'config', help_string='Configuration file, as configs/market.py.'
)
WORKDIR = flags.DEFINE_string(
  'workdir', '', 'Gets checkpoints and logs; default: runs/<config.name>.'
)
PROCESSES = cli.define_processes()


def main(argv):
  cli.no_more_arguments(argv)
  cli.quieten()
  cli.start_processes(*PROCESSES)
  config = CONFIG.value
  cli.cache_compilation(config.compilation_cache_dir)

  from apnet_jax import trainer
  from data import datasets

  config.data.name = datasets.find(config.data.name).name  # in full
  workdir = WORKDIR.value or f'runs/{config.name}'
  trainer.check(config, workdir)  # before minutes go into preparing the data
  # eval.py finds the images from any folder.
  for field in ('dir', 'prepared_dir'):
    if config.data[field]:
      path = pathlib.Path(config.data[field]).expanduser()
      config.data[field] = str(path.absolute())

  from data import pipeline

  feed = pipeline.load(config)
  trainer.train(config, feed, workdir)


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  cli.run(main)
