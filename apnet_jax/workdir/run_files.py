"""The files config.json and run.json, which tie a workdir to one run.

WORKDIR/config.json      the configuration
WORKDIR/run.json         the data set, initial weights, devices and software
WORKDIR/threshold.json   the similarity threshold, if one was chosen
WORKDIR/checkpoints/     see `checkpoints`
WORKDIR/run.lock         the process that trains here; see `lock`

A packed network (`pack`) is read like the workdir that it was made of.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import os
import pathlib
from typing import Any

import ml_collections

from apnet_jax.config import (
  NO_EFFECT_ON_FIGURES,
  NO_EFFECT_ON_RESULT,
  flat,
  get_config,
)
from apnet_jax.errors import EnvironmentFieldError, UserError, first_line
from apnet_jax.workdir import json_files, pack
from apnet_jax.workdir.json_files import write_json

CONFIG_FILE, RUN_FILE = 'config.json', 'run.json'
THRESHOLD_FILE, RESULT_FILE = 'threshold.json', 'result.json'
# Fields that may change when a run resumes. Any other change makes another run.
# (The fingerprint in run.json tells whether the images of data.dir changed.)
MAY_CHANGE = (
  *NO_EFFECT_ON_RESULT,
  'eval.',
  'train.epochs',  # except with a schedule that depends on it
  'train.steps',
)


def claim_workdir(
  workdir: str | os.PathLike, config: ml_collections.ConfigDict, run: Mapping
) -> None:
  """Writes config.json and run.json, or checks that they belong to this run.

  Args:
    workdir: made if it does not exist.
    config: the whole configuration.
    run: the content of run.json; `fingerprint` and `num_classes` must not
      change when a run resumes.

  Raises:
    UserError: the workdir belongs to another configuration or data set.
  """
  path = pathlib.Path(workdir)
  if can_resume(workdir):  # otherwise nothing can be lost
    _check_same_run(workdir, config, run)
  else:
    write_json(path / RUN_FILE, run)
    # They belong to a network that is gone.
    for name in (THRESHOLD_FILE, RESULT_FILE):
      (path / name).unlink(missing_ok=True)
  write_json(path / CONFIG_FILE, config.to_dict())


def _check_same_run(workdir, config, run) -> None:
  saved, given = load_config(workdir), flat(config)
  different = _differences(
    saved, given, lambda name: not _may_change(name, given)
  )
  saved_run = load_run(workdir)
  different += [
    f'  {name}: {saved_run.get(name)!r} there, {run[name]!r} here'
    for name in ('fingerprint', 'num_classes')
    if saved_run.get(name) != run[name]
  ]
  if different:
    raise UserError(
      f'--workdir={workdir} holds a run of another configuration:\n'
      + '\n'.join(different)
      + '\nGive another --workdir, or delete this one.'
    )
  for name in ('devices', 'versions'):
    if saved_run.get(name) != run[name]:
      print(
        f'Started with {name} {saved_run.get(name)}, resumes with'
        f' {run[name]}: results may differ in the last bits.'
      )
  if rules := _differences(saved, given, _changes_figures):
    print(
      'The rules of evaluation have changed, so that the mAP of earlier'
      ' checkpoints, which tells the best one, does not compare with later'
      ' ones:\n' + '\n'.join(rules)
    )


def can_resume(workdir: str | os.PathLike) -> bool:
  """Returns whether a workdir holds a checkpoint to resume from."""
  return last_step(workdir) is not None


def last_step(workdir: str | os.PathLike) -> int | None:
  """Returns the step of the last whole checkpoint of a workdir, if any."""
  folders = checkpoint_folders(pathlib.Path(workdir) / 'checkpoints')
  return max((int(folder.name) for folder in folders), default=None)


def checkpoint_folders(directory: pathlib.Path) -> list[pathlib.Path]:
  """Returns the folders of whole checkpoints, which are named by their step."""
  return [path for path in directory.glob('*') if path.name.isdigit()]


def _differences(
  saved: ml_collections.ConfigDict,
  given: Mapping[str, Any],
  matters: Callable[[str], bool],
) -> list[str]:
  """Returns a line for each field with another value than when the run began.

  Args:
    saved: the configuration of the run.
    given: all fields of the configuration to resume with, by path.
    matters: `matters(name)` tells whether a field is compared.
  """
  # A field that did not exist when the run began had today's default.
  fields = flat(get_config()) | flat(saved)
  return [
    f'  config.{name}: {fields.get(name, "absent")!r} there,'
    f' {given.get(name, "absent")!r} here'
    for name in sorted(fields.keys() | given.keys())
    if fields.get(name) != given.get(name) and matters(name)
  ]


def read_file(source: str | os.PathLike, name: str) -> dict[str, Any] | None:
  """Reads a JSON file of a workdir or of a packed network.

  Returns:
    The content; None if there is no such file.

  Raises:
    UserError: the file is damaged.
  """
  path = pathlib.Path(source, name)
  if pack.is_pack(source):
    content = pack.read_part(source, name)
    return None if content is None else json_files.check_fields(content, path)
  return json_files.read_fields(path) if path.exists() else None


def _read_required(source: str | os.PathLike, name: str) -> dict[str, Any]:
  content = read_file(source, name)
  if content is None:
    raise UserError(f'{pathlib.Path(source, name)} is missing.')
  return content


def _may_change(name: str, given: Mapping[str, Any]) -> bool:
  """Returns whether a run may resume with another value of a field.

  Args:
    name: path of the field.
    given: all fields of the configuration to resume with, by path.
  """
  if name == 'train.epochs' and given['train.schedule'] == 'cosine':
    return False
  return name.startswith(MAY_CHANGE)


def _changes_figures(name: str) -> bool:
  """Returns whether a field, by path, changes the figures of an evaluation."""
  return name.startswith('eval.') and not name.startswith(NO_EFFECT_ON_FIGURES)


def load_config(workdir: str | os.PathLike) -> ml_collections.ConfigDict:
  """Loads the configuration of a workdir; nothing in it is evaluated as code.

  That of a packed network names no folders: it may come from a stranger, and
  compiled programs, which are executed, are read from one of them.

  Raises:
    UserError: the file is damaged.
  """
  content = _read_required(workdir, CONFIG_FILE)
  with naming_damaged_file(pathlib.Path(workdir) / CONFIG_FILE):
    if pack.is_pack(workdir):
      content = pack.config_without_places(content)
    return ml_collections.ConfigDict(content)


def load_full_config(workdir: str | os.PathLike) -> ml_collections.ConfigDict:
  """Loads the configuration of a workdir, with defaults for newer fields.

  Raises:
    UserError: the file is damaged.
  """
  config, saved = get_config(), load_config(workdir)
  with naming_damaged_file(pathlib.Path(workdir) / CONFIG_FILE):
    config.update(saved)
  return config


def load_run(workdir: str | os.PathLike) -> dict[str, Any]:
  """Loads run.json of a workdir; raises UserError if the file is damaged."""
  path = pathlib.Path(workdir) / RUN_FILE
  run = _read_required(workdir, RUN_FILE)
  for name, kind in (('num_classes', int), ('fingerprint', str)):
    if not isinstance(run.get(name), kind) or isinstance(run[name], bool):
      raise UserError(f'{path} is damaged: {name} is {run.get(name)!r}.')
  return run


@contextlib.contextmanager
def naming_damaged_file(path: str | os.PathLike) -> Iterator[None]:
  """Re-raises any exception as a UserError that names the damaged file.

  The file was valid when the run began. If fields are missing now, or values
  are wrong, it was changed since. A value that only needs another environment
  is no damage.
  """
  try:
    yield
  except EnvironmentFieldError:
    raise
  except Exception as error:  # a wrong value may fail anywhere
    raise UserError(f'{path} is damaged: {first_line(error)}') from error
