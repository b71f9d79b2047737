"""A trained network in one file, which is read in place of its workdir.

The file is in the safetensors format, so that reading it executes nothing. It
holds the variables of one checkpoint. Its metadata holds the JSON files of the
workdir by their names (`PARTS`), a digest of the variables, and a digest of all
other metadata. A file that was changed or cut off is refused by them.
"""

from collections.abc import Mapping
import copy
import hashlib
import json
import os
import pathlib
from typing import Any

from flax import traverse_util
import jax
import numpy as np
import safetensors
from safetensors.numpy import save

from apnet_jax import hub
from apnet_jax.config import get_config
from apnet_jax.errors import UserError, first_line
from apnet_jax.models.weight_files import PACK_SUFFIX as SUFFIX
from apnet_jax.workdir import json_files
from apnet_jax.writing import whole

VERSION = '2'  # of the format
CHECKPOINT, PREPROCESSING = 'checkpoint.json', 'preprocessing.json'
PARTS = (
  CHECKPOINT, PREPROCESSING, 'config.json', 'run.json', 'threshold.json',
  'result.json',
)  # fmt: skip
_CHANGED = 'it was changed after it was packed'
# Fields that name places of the machine that trained.
PLACES = (
  ('data', 'dir'), ('data', 'prepared_dir'), ('eval', 'expected_curve'),
)  # fmt: skip


def is_pack(path: str | os.PathLike) -> bool:
  """Returns whether a name is that of a packed network, whatever is there."""
  return pathlib.Path(path).suffix == SUFFIX


def write(
  path: str | os.PathLike, variables: Mapping, parts: Mapping[str, Mapping]
) -> None:
  """Writes a packed network whole or not at all.

  Args:
    path: file to write, whose name ends in `SUFFIX`.
    variables: variables of the network.
    parts: contents of JSON files, by names of `PARTS`.

  Raises:
    UserError: the name does not end in `SUFFIX`.
  """
  path = pathlib.Path(path).expanduser()
  check_name(path)
  arrays = {
    '/'.join(names): np.ascontiguousarray(leaf)
    for names, leaf in traverse_util.flatten_dict(dict(variables)).items()
  }
  texts = {
    name: json.dumps(part, allow_nan=False) for name, part in parts.items()
  }
  texts |= {'apnet': VERSION, 'weights': weights_digest(arrays)}
  with whole(path) as part:
    part.write_bytes(save(arrays, {**texts, 'digest': _digest(texts)}))


def check_name(path: str | os.PathLike) -> None:
  """Raises UserError if the name of a file to write lacks `SUFFIX`."""
  if not is_pack(path):
    raise UserError(f'--output={path} must end in {SUFFIX}.')


def config_without_places(config: Mapping) -> dict:
  """Returns a configuration without the paths of the machine that trained.

  Args:
    config: the content of config.json.
  """
  kept = copy.deepcopy(dict(config))
  for section, name in PLACES:
    if name in kept[section]:
      kept[section][name] = ''
  _shorten(kept['model'], 'pretrained')
  kept['compilation_cache_dir'] = get_config().compilation_cache_dir
  return kept


def run_without_places(run: Mapping) -> dict:
  """Returns the facts of a run without the folders of what it started from.

  Args:
    run: the content of run.json, or the entry `checkpoint` of a result card.
  """
  kept = copy.deepcopy(dict(run))
  for name in ('workdir', 'weights'):  # see `pretrained.started_from`
    _shorten(kept.get('started_from'), name)
  return kept


def card_without_places(card: Mapping) -> dict:
  """Returns a result card without the folders of what the run started from.

  Args:
    card: the content of result.json.
  """
  kept = copy.deepcopy(dict(card))
  kept['checkpoint'] = run_without_places(kept['checkpoint'])
  _shorten(kept.get('network'), 'pretrained')
  return kept


def _shorten(fields: Any, name: str) -> None:
  """Replaces a source of initial weights, if it is there, by its last part.

  Names of the Hugging Face Hub tell nothing of a machine, and stay whole.
  """
  source = fields.get(name) if isinstance(fields, dict) else None
  if isinstance(source, str) and not hub.is_source(source):
    # '.' has no last part, and '' would mean random weights.
    fields[name] = pathlib.PurePath(source).name or source


def read_part(path: str | os.PathLike, name: str) -> Any:
  """Reads the content of a JSON file from a packed network.

  Only the header of the file is read.

  Args:
    path: the packed network.
    name: one of `PARTS`.

  Returns:
    The content; None if the network was packed without it.

  Raises:
    UserError: the file is no packed network, or is damaged.
  """
  with _open(path) as file:
    text = file.metadata().get(name)
  return None if text is None else json_files.parse_json(text, f'{path}/{name}')


class PackedCheckpoint:
  """The checkpoint in a packed network, read like `checkpoints.Checkpoints`.

  Args:
    path: the packed network.

  Attributes:
    directory: name of the checkpoint for messages.
    latest_step: step of the checkpoint.

  Raises:
    UserError: the file is no packed network, or is damaged.
  """

  def __init__(self, path: str | os.PathLike):
    self._path = pathlib.Path(path)
    self.directory = self._path / 'checkpoints'
    about = read_part(path, CHECKPOINT)
    if (
      not isinstance(about, dict)
      or not isinstance(about.get('step'), int)
      or about.get('which') not in ('last', 'best')
    ):
      raise _damaged(path, f'its checkpoint is {about!r}')
    self.latest_step, self._which = about['step'], about['which']

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def chosen(self, which: str) -> str:
    """Returns how the checkpoint was chosen when it was packed.

    Raises:
      UserError: 'best' is asked for, and another checkpoint was packed.
    """
    if which == 'best' and self._which != 'best':
      raise UserError(
        f'{self._path} holds the last checkpoint of its run, not the best:'
        ' leave out --which=best, or pack with it.'
      )
    return self._which

  def restore_variables(
    self, which: str, variables: Mapping, averaged: bool = False
  ) -> tuple[int, Mapping]:
    """Reads the variables of the network.

    Args:
      which: see `chosen`.
      variables: `jax.ShapeDtypeStruct`s with the structure, shapes, types and
        sharding of the variables.
      averaged: has no effect. A network is packed as it is used: with the
        average, if its run has kept one.

    Returns:
      The step of the checkpoint, and the variables.

    Raises:
      UserError: the file was changed or cut off, or holds another network.
    """
    del averaged
    self.chosen(which)
    with _open(self._path) as file:
      expected = file.metadata().get('weights')
      try:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
      except Exception as error:  # safetensors raises a class of its own
        raise _damaged(self._path, first_line(error)) from error
    if expected != weights_digest(arrays):
      raise _damaged(self._path, _CHANGED)
    leaves = traverse_util.flatten_dict(dict(variables), sep='/')
    found = {name: (a.shape, a.dtype) for name, a in arrays.items()}
    expected = {name: (s.shape, s.dtype) for name, s in leaves.items()}
    if found != expected:
      different = sorted(
        name
        for name in found.keys() | expected
        if found.get(name) != expected.get(name)
      )
      raise _damaged(
        self._path,
        f'{len(different)} of its arrays do not belong to the network of its'
        f' configuration, as {different[0]}',
      )
    restored = {
      name: jax.device_put(array, leaves[name].sharding)
      for name, array in arrays.items()
    }
    return self.latest_step, traverse_util.unflatten_dict(restored, sep='/')


def _open(path: str | os.PathLike):
  """Opens a packed network and checks its metadata."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f'{path} is not a file.')
  try:
    file = safetensors.safe_open(path, framework='numpy')
  except Exception as error:  # safetensors raises a class of its own
    raise _damaged(path, first_line(error)) from error
  texts = dict(file.metadata() or {})
  version = texts.get('apnet')
  if version is None:
    raise UserError(
      f'{path} is a file of weights, not a network written by the command pack.'
    )
  if version != VERSION:
    raise UserError(
      f'{path} has version {version!r} of its format; this program reads'
      f' version {VERSION}. Pack the network again.'
    )
  if texts.pop('digest', '') != _digest(texts):
    raise _damaged(path, _CHANGED)
  return file


def _digest(texts: Mapping[str, str]) -> str:
  """Returns a hash of texts with their names."""
  text = json.dumps(dict(texts), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def weights_digest(arrays: Mapping[str, np.ndarray]) -> str:
  """Returns a hash of arrays with their names, shapes and types."""
  digest = hashlib.sha256()
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name])
    digest.update(f'{name} {array.shape} {array.dtype}\n'.encode())
    digest.update(array)  # type: ignore[arg-type]  # NumPy: a Buffer from 3.12
  return digest.hexdigest()


def _damaged(path, reason: str) -> UserError:
  return UserError(f'the packed network {path} cannot be read: {reason}.')
