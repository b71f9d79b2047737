"""The recipe of a run: the configuration fields that change its result."""

from collections.abc import Mapping
import hashlib
import itertools
import json
from typing import Any

import ml_collections

from apnet_jax import hub
from apnet_jax.config import (
  NO_EFFECT_ON_FIGURES,
  NO_EFFECT_ON_RESULT,
  flat,
  get_config,
  plain,
)
from apnet_jax.errors import UserError
from apnet_jax.models.network_fields import NETWORK_FIELDS, effective_fields
from apnet_jax.paper.fields import FIELDS
from apnet_jax.training import pretrained
from apnet_jax.workdir import run_files

# Entry of run.json: the result of `of_source` when the run began.
SOURCE_RECIPE = 'source_recipe'
# Fields, or beginnings of their names, that belong to no recipe.
NOT_IN_RECIPE = (
  *NO_EFFECT_ON_RESULT,
  *NO_EFFECT_ON_FIGURES,
  'name',
  'profile',  # a label of the other fields
)
# Fields that stay in a recipe when they have no effect, because the hashes of
# docs/records/ablations contain them.
_ALWAYS_IN = ('train.milestones', 'train.decay_factor')


def relevant_fields(
  config: ml_collections.ConfigDict, run: Mapping | None = None
) -> dict[str, Any]:
  """Returns the fields that change the result of a run, by dotted name.

  Fields without an effect are left out, so that two configurations of the same
  training have the same hash. So are defaults: the hash stays the same when a
  later version adds fields.

  Args:
    config: the whole configuration of the run.
    run: the content of run.json, if the run has begun. It is then not an error
      if another run that it started from is gone.
  """
  unused = unused_fields(config)
  return {
    name: value
    for name, value in changed_fields(config, run).items()
    if name not in unused
  }


def changed_fields(
  config: ml_collections.ConfigDict, run: Mapping | None = None
) -> dict[str, Any]:
  """Returns the fields that are no defaults and may change a result.

  Beside `relevant_fields` these are fields of training without an effect in
  this configuration, which have one if another field is changed.

  Args:
    config: the whole configuration of the run.
    run: see `relevant_fields`.
  """
  network = effective_fields(config.model)
  values = {
    name: value for name, value in flat(config).items() if changes_result(name)
  }
  for name in NETWORK_FIELDS:
    values[f'model.{name}'] = plain(network.get(name))
  values['model.pretrained'] = _weights(config.model.pretrained, run)
  default = default_fields()
  return {
    name: value
    for name, value in values.items()
    if value not in (None, default.get(name))
  }


def changes_result(name: str) -> bool:
  """Returns whether a field, by dotted name, may change the result of a run."""
  return not name.startswith(NOT_IN_RECIPE)


def unused_fields(config: ml_collections.ConfigDict) -> set[str]:
  """Returns the dotted names of fields without an effect in a configuration.

  For example, without the circle loss its margin has none.
  """
  fields = itertools.chain(*FIELDS.values())
  unused = {field.field for field in fields if not field.used(config)}
  return unused.difference(_ALWAYS_IN)


def default_fields() -> dict[str, Any]:
  """Returns the default of every configuration field, by dotted name."""
  return flat(get_config())


def _weights(source: str, run: Mapping | None) -> str:
  """Returns a text that tells initial weights from others, on any machine.

  Args:
    source: value of `config.model.pretrained`.
    run: see `relevant_fields`.
  """
  if run is None:
    trained = of_source(source)
  elif SOURCE_RECIPE in run:
    trained = run[SOURCE_RECIPE]
  else:  # a run of an earlier version, whose source may be gone
    try:
      trained = of_source(source)
    except UserError:
      trained = None
    if not trained and _was_run(source, run):
      return f'{source}, whose recipe is not known'
  return f'run {trained}' if trained else source


def _was_run(source: str, run: Mapping) -> bool:
  """Returns whether initial weights came from another run, which may be gone.

  Args:
    source: value of `config.model.pretrained`.
    run: the content of run.json.
  """
  started = run.get('started_from')
  named = isinstance(started, Mapping) and 'workdir' in started
  return named or pretrained.is_workdir(source)


def of_source(source: str) -> str | None:
  """Returns a hash of the recipe of the run that gives the initial weights.

  Args:
    source: value of `config.model.pretrained`.

  Returns:
    The hash; None if the source is not a workdir or packed network.

  Raises:
    UserError: the workdir or packed network cannot be read.
  """
  if not pretrained.is_workdir(source):
    return None
  workdir = hub.find_network(source)
  trained = run_files.load_full_config(workdir)
  return digest(relevant_fields(trained, run_files.load_run(workdir)))


def digest(fields: Mapping[str, Any]) -> str:
  """Returns a hash of fields, which does not depend on their order."""
  text = json.dumps(fields, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]
