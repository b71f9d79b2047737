"""Chooses the data sets to evaluate on, according to the flags of eval.py."""

from collections.abc import Mapping, Sequence

import ml_collections

from apnet_jax import cli
from apnet_jax.errors import FieldError, UserError, naming_flags
from apnet_jax.parallel import processes
from data import datasets
from data.prepare import Prepared, prepare

# The flags of eval.py that set fields of the configuration.
FLAGS = {
  'data.dir': '--data_dir',
  'data.name': '--dataset',
  'data.test_fraction': '--test_fraction',
  'data.allow_other_counts': '--allow_other_counts',
  'data.pattern': '--pattern',
  'data.folders_are_people': '--folders_are_people',
  'data.ignore_cameras': '--ignore_cameras',
}


def choose(
  config: ml_collections.ConfigDict,
  names: Sequence[str],
  directories: Sequence[str],
  allow_other_counts: bool | None = None,
  test_fraction: float | None = None,
  pattern: str | None = None,
  ignore_cameras: bool | None = None,
  folders_are_people: bool | None = None,
) -> dict[str, ml_collections.ConfigDict]:
  """Returns a configuration for each data set to evaluate on, by name.

  Args:
    config: the whole configuration of the training run.
    names: values of --dataset; empty for the data sets of the training.
    directories: values of --data_dir: one for all data sets, or one for each;
      empty for the folders of the training.
    allow_other_counts: value of --allow_other_counts. None keeps the value of
      the training on its own data set, and is False on other data sets.
    test_fraction: value of --test_fraction, for own images. None keeps the
      value of the training on its own data set, and is 1 on other data sets,
      because none of their people were trained on.
    pattern: value of --pattern, for own images. None keeps the value of the
      training on its own data set, and is '' on other data sets.
    ignore_cameras: value of --ignore_cameras. None keeps the value of the
      training on its own data set, and is False on other data sets.
    folders_are_people: value of --folders_are_people, for own images. None
      keeps the value of the training on own images, and is False if it was on
      other data sets.

  A warning is printed if a test fraction above that of the training may test
  people who were trained on.

  Returns:
    Whole configurations, by the names in `names`.

  Raises:
    UserError: the flags contradict each other, one is for own images and there
      are none, or there is no such data set.
  """
  if not names:
    names = config.data.name.split(',')
  elif not directories:
    raise UserError('--dataset needs --data_dir, the folder of its images.')
  with naming_flags(FLAGS):
    full = datasets.full_names(names)
    if directories:
      directories = datasets.directory_of_each(names, directories)
    own_flags = {
      'test_fraction': test_fraction,
      'pattern': pattern,
      'folders_are_people': folders_are_people,
    }
    for name, value in own_flags.items():
      if value not in (None, '') and 'folder' not in full:
        raise FieldError(f'data.{name}', f'={value!r} is for own images.')
  trained = datasets.single_sets(config.data)
  chosen = {}
  for i, name in enumerate(names):
    chosen[name] = config.copy_and_resolve_references()
    data = chosen[name].data
    if full[i] in trained:
      data.update(trained[full[i]])
    else:
      data.update(
        name=full[i],
        allow_other_counts=False,
        test_fraction=1.0,
        pattern='',
        folders_are_people=False,
        ignore_cameras=False,
      )
    if directories:
      data.dir = directories[i]
    own = full[i] == 'folder'
    flags = {
      'allow_other_counts': allow_other_counts,
      'ignore_cameras': ignore_cameras,
      **(own_flags if own else {}),
    }
    fraction = data.test_fraction
    data.update({k: v for k, v in flags.items() if v is not None})
    if own and data.test_fraction > fraction:
      cli.warn(
        f"--test_fraction={data.test_fraction:g} is more than the training's"
        f' {fraction:g}: if the images of the training are split by it, some of'
        ' the same people were trained on.'
      )
  return chosen


def prepare_all(
  configs: Mapping[str, ml_collections.ConfigDict],
) -> dict[str, Prepared]:
  """Prepares all data sets, so that errors occur before the first evaluation.

  Args:
    configs: whole configurations, by name.

  Raises:
    UserError: see `data.prepare.prepare`; the message names flags of eval.py.
      Or images for `config.eval.multi_query` are missing.
    OSError: prepared files cannot be written.
  """
  with naming_flags(FLAGS), processes.first_before_others():
    prepared = {name: prepare(one.data) for name, one in configs.items()}
    for name, config in configs.items():
      if config.eval.multi_query:
        prepared[name].layout.more_queries(prepared[name].dataset)
    return prepared
