"""Initial weights of a run: a file, the Hugging Face Hub, or another run."""

from collections.abc import Mapping
import os
import pathlib
from typing import NamedTuple

import ml_collections
import numpy as np

from apnet_jax import hub
from apnet_jax.config import plain
from apnet_jax.errors import UserError
from apnet_jax.models.torch_weights import (
  WEIGHT_FIELDS,
  Imported,
  import_state_dict,
  normalize_names,
  read_state_dict,
  to_state_dict,
)
from apnet_jax.retrieval import card
from apnet_jax.workdir import pack, restore, run_files
from apnet_jax.workdir.checkpoints import open_for_reading

# Fields of `config.model` that change neither weights nor the computation.
WITHOUT_EFFECT = ('pretrained', 'dtype', 'batch_norm_group')


class TrainedWeights(NamedTuple):
  """A trained network, read from a checkpoint of its run.

  Attributes:
    config: the whole configuration of the run.
    fingerprint: fingerprint of the images that the run was trained on.
    step: step of the checkpoint.
    state_dict: weights by their names in PyTorch.
  """

  config: ml_collections.ConfigDict
  fingerprint: str
  step: int
  state_dict: dict[str, np.ndarray]


# Initial weights of a run, as `read` returns them: of another run; or of a file
# by name.
Weights = TrainedWeights | dict[str, np.ndarray]


def is_workdir(source: str) -> bool:
  """Returns whether a source of initial weights is a trained network.

  A folder is taken for a workdir, and a file that ends in .apnet, here or on
  the Hugging Face Hub, for a packed network; any other source names weights.

  Args:
    source: value of `config.model.pretrained`.
  """
  return os.path.isdir(os.path.expanduser(source)) or pack.is_pack(source)


def read_workdir(
  workdir: str | os.PathLike, which: str = 'last'
) -> TrainedWeights:
  """Reads a trained network from a workdir of `train.py`.

  Args:
    workdir: workdir of the run, or packed network.
    which: checkpoint to read, 'last' or 'best'.

  Raises:
    UserError: the folder is no workdir, has no checkpoint, or is damaged.
  """
  with open_for_reading(workdir) as checkpoints:
    config = run_files.load_config(workdir)
    run = run_files.load_run(workdir)
    step, _, variables = restore.restore_model(
      checkpoints, which, config, run['num_classes']
    )
  state_dict = to_state_dict(variables)
  return TrainedWeights(config, run['fingerprint'], step, state_dict)


def read(source: str, variables: Mapping) -> Weights:
  """Reads initial weights. All processes must call this function.

  Args:
    source: value of `config.model.pretrained`.
    variables: variables of the network that starts from them, arrays or shapes.

  Raises:
    UserError: the weights cannot be read.
  """
  if not is_workdir(source):
    return read_state_dict(source, variables)
  workdir = pathlib.Path(hub.find_network(source))
  if workdir.is_dir() and not (workdir / run_files.CONFIG_FILE).is_file():
    raise UserError(
      f'the folder {workdir} is not a workdir of train.py: it has no'
      ' config.json.'
    )
  return read_workdir(workdir)


def import_pretrained(
  weights: Weights, variables: Mapping, model: ml_collections.ConfigDict
) -> Imported:
  """Puts initial weights into a network's variables.

  Args:
    weights: the weights to put there.
    variables: variables of the network. A classifier for another number of
      identities is not replaced, and a note says so.
    model: the `model` part of the network's configuration.

  Returns:
    The variables with these weights, and notes for the user.

  Raises:
    UserError: the weights belong to another network. If they come from another
      run, the message names the fields that differ.
  """
  if not isinstance(weights, TrainedWeights):
    return import_state_dict(weights, variables, model)
  state_dict = normalize_names(weights.state_dict)
  try:
    imported = import_state_dict(state_dict, variables, model)
  except ValueError as error:
    different = _differences(weights.config.model, model, WEIGHT_FIELDS)
    if not different:
      raise
    raise UserError(
      'the network there is another one. Set these fields as there, or start'
      ' from other weights:\n' + '\n'.join(different)
    ) from error
  notes = (f'of {weights.config.data.name}, after step {weights.step}',)
  fields = [name for name in model if name not in WITHOUT_EFFECT]
  different = _differences(weights.config.model, model, fields)
  return Imported(imported.variables, (*notes, *different, *imported.notes))


def _differences(theirs, ours, fields) -> list[str]:
  saved = {name: theirs.get(name, 'absent') for name in fields}
  here = {name: ours[name] for name in fields}
  return [
    f'config.model.{name}: {saved[name]!r} there, {here[name]!r} here'
    for name in fields
    if plain(saved[name]) != plain(here[name])
  ]


def started_from(source: str, weights: Weights | None) -> dict | None:
  """Returns the origin of initial weights, for run.json and result cards.

  Args:
    source: value of `config.model.pretrained`.
    weights: the weights that were read there; None for random weights.

  Returns:
    For a workdir its path (`workdir`), the step of the checkpoint (`step`) and
    its data set (`trained_on`); for other weights their name (`weights`); None
    for random weights.
  """
  if weights is None:
    return None
  if not isinstance(weights, TrainedWeights):
    return {'weights': source}
  return {
    'workdir': source,
    'step': weights.step,
    'trained_on': card.trained_on(weights.config, weights.fingerprint),
  }
