"""Trains a person re-identification network and evaluates it.

  python train.py --config=configs/market.py --config.data.dir=DIR

The same command resumes a run that was stopped. Flags change fields of the
configuration, as --config.train.epochs=60; apnet_jax/config.py lists them all.
--init_from=WORKDIR fine-tunes the network of another run on other people.

Exit codes: 2, a mistake of the user, the last checkpoint could not be saved, or
the memory of a device is full; 3, a loss or a gradient is not finite; 4,
another process of the run is lost; 130 and 143, SIGINT and SIGTERM, which first
save a checkpoint. A second signal ends the run at once.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from apnet_jax import cli
from apnet_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
  'config', help_string='Configuration file, as configs/market.py.'
)
WORKDIR = flags.DEFINE_string(
  'workdir', '', 'Folder for checkpoints and logs. Default: runs/<config.name>.'
)
INIT_FROM = flags.DEFINE_string(
  'init_from',
  '',
  'Workdir of another run, whose last checkpoint the training starts from, or a'
  ' file of weights. The same as --config.model.pretrained.',
)
PROFILE_STEPS = flags.DEFINE_string(
  'profile_steps',
  '',
  'First and last step to trace, as 10:12. The trace is written to'
  ' WORKDIR/profile, for XProf; of several processes, that of process I to'
  ' WORKDIR/profile/process_I.',
)
PROCESSES = cli.define_processes()


def absolute(path: str) -> str:
  """Returns the absolute form of a path; '' stays."""
  return str(pathlib.Path(path).expanduser().absolute()) if path else ''


def main(argv):
  cli.no_more_arguments(argv)
  cli.quieten()
  cli.start_processes(*PROCESSES)
  config = CONFIG.value
  if INIT_FROM.value:
    if config.model.pretrained not in ('', INIT_FROM.value):
      raise UserError(
        f'--init_from={INIT_FROM.value} and --config.model.pretrained='
        f'{config.model.pretrained} name different weights: give one of them.'
      )
    config.model.pretrained = INIT_FROM.value

  from apnet_jax.parallel import devices
  from apnet_jax.training import checks, profiling, trainer
  from apnet_jax.training.programs import Programs
  from apnet_jax.workdir import lock, run_files
  from apnet_jax.workdir.interruption import Interruption
  from data import datasets, listing

  devices.keep_compiled_programs(config.compilation_cache_dir)
  profile_steps = profiling.parse_steps(PROFILE_STEPS.value)
  sets = datasets.single_sets(config.data)
  config.data.name = ','.join(sets)  # full names
  if not (WORKDIR.value or config.name):
    raise UserError('give --workdir: this configuration has no config.name.')
  workdir = WORKDIR.value or f'runs/{config.name}'
  # Before the data are prepared for minutes.
  weights = checks.check(config, workdir)
  # eval.py then finds the images from any current folder.
  config.data.dir = ','.join(absolute(part.dir) for part in sets.values())
  config.data.prepared_dir = absolute(config.data.prepared_dir)

  with lock.held(workdir):
    with Interruption() as interruption, interruption.at_once():
      # While TFDS is imported, it replaces `__import__` for all threads.
      from data import pipeline

      listings = listing.read_to_train(config)
      identities, steps_per_epoch = listing.training_size(
        listings, config.train
      )
      checks.check_steps(config, steps_per_epoch, workdir)
      programs = Programs(config, identities, steps_per_epoch)
      programs.compile_ahead(run_files.last_step(workdir))
      feed = pipeline.load(config, listings)
    trainer.train(config, feed, workdir, profile_steps, programs, weights)


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  cli.run(main, resumes=True)
