"""What a run starts from: weights in a file, of the Hub, or of another run."""

from collections.abc import Mapping
import os
import pathlib
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from apnet_jax import checkpoint
from apnet_jax.models.torch_weights import (
  DESCRIBED,
  Imported,
  import_weights,
  to_state_dict,
)
from apnet_jax.retrieval import card, evaluation

# Of `config.model`; they change neither weights nor what these compute.
WITHOUT_EFFECT = ('pretrained', 'dtype', 'batch_norm_group')


class Trained(NamedTuple):
  """The network of a run: its configuration, last step and state dict."""

  config: ml_collections.ConfigDict
  step: int
  state_dict: dict[str, np.ndarray]


def is_workdir(source: str) -> bool:
  """Whether `config.model.pretrained` names another run; else it is weights."""
  return os.path.isdir(os.path.expanduser(source))


def read_workdir(workdir: str | os.PathLike, which: str = 'last') -> Trained:
  """Reads the network of a workdir of `train.py`.

  Args:
    workdir: of the run.
    which: of its checkpoints, 'last' or 'best'.

  Raises:
    ValueError: it is no workdir, has no checkpoint, or is damaged.
  """
  with checkpoint.open_for_reading(workdir) as checkpoints:
    config = checkpoint.load_config(workdir)
    classes = checkpoint.load_run(workdir)['num_classes']
    step, _, variables = evaluation.restore_model(
      checkpoints, which, config, classes
    )
  return Trained(config, step, to_state_dict(variables))


def import_pretrained(
  variables: Mapping, model: ml_collections.ConfigDict
) -> Imported:
  """Puts the weights of `model.pretrained` into a network's variables.

  Args:
    variables: of the network; a classifier of another number of identities
      stays as it is, and a note says so.
    model: the `model` part of its configuration.

  Raises:
    ValueError: there are no such weights, or they are of another network; of
      another run it names the fields.
  """
  if not is_workdir(model.pretrained):
    return import_weights(model.pretrained, variables, model)
  workdir = pathlib.Path(model.pretrained).expanduser()
  if not (workdir / 'config.json').is_file():
    raise ValueError(
      f'the folder {workdir} is not a workdir of train.py: it has no'
      ' config.json.'
    )
  trained = read_workdir(workdir)
  try:
    imported = import_weights(trained.state_dict, variables, model)
  except ValueError as error:
    different = _differences(trained.config.model, model, DESCRIBED)
    if not different:
      raise
    raise ValueError(
      'this run has another network:\n' + '\n'.join(different)
    ) from error
  notes = (f'of {trained.config.data.name}, after step {trained.step}',)
  fields = [name for name in model if name not in WITHOUT_EFFECT]
  different = _differences(trained.config.model, model, fields)
  return Imported(imported.variables, (*notes, *different, *imported.notes))


def _differences(theirs, ours, fields) -> list[str]:
  saved = {name: theirs.get(name, 'absent') for name in fields}
  here = {name: ours[name] for name in fields}
  return [
    f'config.model.{name}: {saved[name]!r} there, {here[name]!r} here'
    for name in fields
    if _plain(saved[name]) != _plain(here[name])
  ]


def _plain(value):
  """JSON has no tuples."""
  return list(value) if isinstance(value, tuple) else value


def started_from(source: str) -> dict[str, Any] | None:
  """What run.json and result cards say of `config.model.pretrained`."""
  if not source:
    return None
  if not is_workdir(source):
    return {'weights': source}
  workdir = pathlib.Path(source).expanduser()
  with checkpoint.open_for_reading(workdir) as checkpoints:
    return {
      'workdir': source,
      'step': checkpoints.latest_step,
      'trained_on': card.trained_on(
        checkpoint.load_config(workdir),
        checkpoint.load_run(workdir)['fingerprint'],
      ),
    }
