"""Trains a person re-identification network and evaluates it.

  python train.py --config=configs/market.py --config.data.dir=DIR

The same command goes on where a run was stopped. Any field of the configuration
can be changed: --config.train.epochs=60. Fields: configs/common.py.
--init_from=WORKDIR fine-tunes what another run has trained, on other people.

Exit codes: 2, a mistake of the user, or no room for the last checkpoint; 3, a
loss or a gradient is not finite; 4, another process of the run is lost; 130 and
143, SIGINT and SIGTERM, after one checkpoint was saved. A second signal ends
the run at once.
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
INIT_FROM = flags.DEFINE_string(
  'init_from',
  '',
  'Starts from the last checkpoint of another workdir, or from a file of'
  ' weights; the same as --config.model.pretrained.',
)
PROFILE_STEPS = flags.DEFINE_string(
  'profile_steps',
  '',
  'As 10:12: writes a trace of these steps, the last included, for XProf into'
  ' WORKDIR/profile.',
)
PROCESSES = cli.define_processes()


def main(argv):
  cli.no_more_arguments(argv)
  cli.quieten()
  cli.start_processes(*PROCESSES)
  config = CONFIG.value
  if INIT_FROM.value:
    if config.model.pretrained not in ('', INIT_FROM.value):
      raise ValueError(
        f'--init_from={INIT_FROM.value} and --config.model.pretrained='
        f'{config.model.pretrained} are two things to start from: give one.'
      )
    config.model.pretrained = INIT_FROM.value
  cli.cache_compilation(config.compilation_cache_dir)

  from apnet_jax import lock, observe, trainer
  from apnet_jax.interruption import Interruption
  from data import datasets

  profile_steps = observe.parse_steps(PROFILE_STEPS.value)

  config.data.name = datasets.find(config.data.name).name  # in full
  workdir = WORKDIR.value or f'runs/{config.name}'
  trainer.check(config, workdir)  # before minutes go into preparing the data
  # eval.py finds the images from any folder.
  for field in ('dir', 'prepared_dir'):
    if config.data[field]:
      path = pathlib.Path(config.data[field]).expanduser()
      config.data[field] = str(path.absolute())

  with lock.held(workdir):  # likewise
    with Interruption():
      from data import pipeline

      feed = pipeline.load(config)
    trainer.train(config, feed, workdir, profile_steps)


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  cli.run(main)
