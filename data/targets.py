"""The data sets that eval.py evaluates on, as its flags choose them."""

from collections.abc import Mapping, Sequence

import ml_collections

from apnet_jax.errors import UserError, naming_flags
from apnet_jax.parallel import processes
from data import datasets
from data.prepare import Prepared, prepare

# The flag of eval.py that sets a field.
FLAGS = {
  'data.dir': '--data_dir',
  'data.name': '--dataset',
  'data.test_fraction': '--test_fraction',
  'data.allow_other_counts': '--allow_other_counts',
}


def choose(
  config: ml_collections.ConfigDict,
  names: Sequence[str],
  directories: Sequence[str],
  allow_other_counts: bool | None = None,
  test_fraction: float | None = None,
) -> dict[str, ml_collections.ConfigDict]:
  """Returns the configuration of each data set to evaluate on, by its name.

  Args:
    config: the whole configuration of the run.
    names: values of --dataset; empty for the data set trained on.
    directories: values of --data_dir, one for all names or one for each; empty
      for the folder trained on.
    allow_other_counts: None for the value of the training on its own data set,
      and for False on others.
    test_fraction: None for the value of the training on its own data set, and
      for 1 on others, whose people were not trained on.

  Raises:
    UserError: the flags do not fit each other, or there is no such data set.
  """
  if not names:
    names = [config.data.name]
  elif not directories:
    raise UserError('--dataset needs --data_dir, the folder of its images.')
  if len(directories) not in (0, 1, len(names)):
    raise UserError(
      f'--data_dir is given {len(directories)} times for {len(names)} data sets'
      f' ({", ".join(names)}): give it once, or once for each.'
    )
  with naming_flags(FLAGS):
    full = [datasets.find(name).name for name in names]
  if len(set(full)) < len(full):
    raise UserError(f'--dataset={",".join(names)} names a data set twice.')
  if len(directories) == 1:
    directories = list(directories) * len(names)
  chosen = {}
  for i, name in enumerate(names):
    chosen[name] = config.copy_and_resolve_references()
    data = chosen[name].data
    if directories:
      data.dir = directories[i]
    if full[i] != config.data.name:
      data.update(name=full[i], allow_other_counts=False, test_fraction=1.0)
    if allow_other_counts is not None:
      data.allow_other_counts = allow_other_counts
    if test_fraction is not None:
      data.test_fraction = test_fraction
  return chosen


def prepare_all(
  configs: Mapping[str, ml_collections.ConfigDict],
) -> dict[str, Prepared]:
  """Prepares all data sets, so that mistakes show before the work begins."""
  with naming_flags(FLAGS), processes.first_before_others():
    return {name: prepare(config.data) for name, config in configs.items()}
