"""Files of PyTorch weights, as dicts from names to numpy arrays.

The libraries that read them are optional: safetensors and huggingface_hub come
with the extra `weights`, PyTorch (for .pth) with the extra `torch`.
"""

from collections.abc import Iterator, Mapping
import importlib
import os
import pathlib
import pickle
import re
import zipfile

import numpy as np

from apnet_jax.errors import UserError

FORMATS = ('.pth', '.pt', '.bin', '.safetensors', '.npz')
HUB = 'hf://'
HUB_SOURCE = re.compile(
  r'hf://(?P<repository>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<file>.+))?'
)
# Arrays of more bytes than these are of no network here; `import_weights` knows
# better.
MOST_BYTES = 4 * 2**30
# What a repository of the Hub may call its weights, best first.
HUB_FILES = ('model.safetensors', 'pytorch_model.bin')


def read_weights(source, most_bytes: int = MOST_BYTES) -> Mapping:
  """Reads a state dict; one that is in memory is returned as it is.

  Nothing in a file is executed: a pickle that wants more than tensors is
  refused.

  Args:
    source: a path, `hf://owner/name`, `hf://owner/name@revision`, either with a
      file's name after a slash, or a dict.
    most_bytes: that the arrays may take; a few kilobytes of a compressed file
      may become any number.

  Raises:
    UserError: the file is not there, is damaged, of an unknown format, too
      large, or wants to run code.
  """
  if isinstance(source, Mapping):
    return source
  source = os.fspath(source)
  path = pathlib.Path(
    _download(source) if source.startswith(HUB) else source
  ).expanduser()
  if not path.is_file():
    raise UserError(f'the weights {source} are not a file.')
  suffix = path.suffix.lower()
  _check_format(suffix, source)
  _check_size(_size_within(path), path, most_bytes)
  if suffix == '.npz':
    return _read_npz(path)
  if suffix == '.safetensors':
    return _read_safetensors(path)
  return _read_torch(path, most_bytes)


def write_weights(path: str | os.PathLike, state_dict: Mapping) -> None:
  """Writes a state dict, as `{'model': ...}` into a .pth.

  Raises:
    UserError: the name says no known format.
  """
  path = pathlib.Path(path).expanduser()
  suffix = path.suffix.lower()
  _check_format(suffix, path)
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f'{path.stem}.part{suffix}')  # whole or not at all
  if suffix == '.npz':
    np.savez(part, **state_dict)
  elif suffix == '.safetensors':
    _library('safetensors.numpy', 'weights').save_file(dict(state_dict), part)
  else:
    torch = _library('torch', 'torch')
    # An array under two names is one tensor under two names.
    tensors = {id(v): torch.tensor(v) for v in state_dict.values()}
    torch.save(
      {'model': {k: tensors[id(v)] for k, v in state_dict.items()}}, part
    )
  part.replace(path)


def _check_format(suffix: str, source) -> None:
  if suffix not in FORMATS:
    raise UserError(f'the weights {source} do not end in one of {FORMATS}.')


def _size_within(path: pathlib.Path) -> int:
  """Bytes that a file will be in memory, by what it says of itself."""
  size = path.stat().st_size
  try:
    if zipfile.is_zipfile(path):  # .npz and .pth are archives
      with zipfile.ZipFile(path) as archive:
        size = max(size, sum(part.file_size for part in archive.infolist()))
  except Exception as error:  # as below
    raise _damaged(path, error) from error
  return size


def _check_size(size: int, path: pathlib.Path, most_bytes: int) -> None:
  if size > most_bytes:
    raise UserError(
      f'the weights {path} take {size:,} bytes: more than the {most_bytes:,}'
      ' that such a network may have.'
    )


def _looks_like_torch(path: pathlib.Path) -> bool:
  """Whether it begins as a zip archive or a pickle does."""
  with path.open('rb') as file:
    return file.read(2).startswith((b'PK', b'\x80'))


def _read_npz(path: pathlib.Path) -> Mapping:
  if not zipfile.is_zipfile(path):
    raise _damaged(path, Exception('it is not a whole .npz archive'))
  try:
    # np.load would leave a file that it opened itself and cannot read open.
    with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
      return dict(arrays)
  except Exception as error:  # zipfile's, zlib's and numpy's own
    raise _damaged(path, error) from error


def _read_safetensors(path: pathlib.Path) -> Mapping:
  safetensors = _library('safetensors.numpy', 'weights')
  try:
    return safetensors.load_file(path)
  except Exception as error:  # safetensors raises its own class
    raise _damaged(path, error) from error


def _read_torch(path: pathlib.Path, most_bytes: int) -> Mapping:
  torch = _library('torch', 'torch')
  try:
    content = torch.load(path, map_location='cpu', weights_only=True)
  except pickle.UnpicklingError as error:
    if not _looks_like_torch(path):
      raise _damaged(path, Exception('it is not a file of PyTorch')) from error
    raise UserError(
      f'the weights {path} are refused: the file holds more than tensors and'
      ' could run code when it is read. If you trust where it comes from, load'
      ' it in PyTorch and save its state_dict() alone.'
    ) from error
  except Exception as error:
    raise _damaged(path, error) from error
  if not isinstance(content, Mapping):
    raise UserError(
      f'the weights {path} hold a {type(content).__name__}, not a state_dict.'
    )
  try:
    # A tensor may be a few numbers that are said to repeat.
    size = sum(4 * tensor.numel() for tensor in _tensors(content))
    arrays = _to_numpy(content) if size <= most_bytes else {}
  except Exception as error:  # tensors of other kinds; dicts without an end
    raise _damaged(path, error) from error
  _check_size(size, path, most_bytes)
  return arrays


def _tensors(content: Mapping) -> Iterator:
  for value in content.values():
    if isinstance(value, Mapping):
      yield from _tensors(value)
    elif hasattr(value, 'detach'):
      yield value


def _to_numpy(content: Mapping) -> Mapping:
  """The tensors of a (nested) dict as arrays; other entries are dropped."""
  arrays = {}
  for name, value in content.items():
    if isinstance(value, Mapping):
      arrays[name] = _to_numpy(value)
    elif hasattr(value, 'detach'):
      value = value.detach()
      # numpy has no bfloat16.
      arrays[name] = (
        value.float() if value.is_floating_point() else value
      ).numpy()
  return arrays


def _download(source: str) -> str:
  """Fetches a file of the Hugging Face Hub into its cache."""
  hub = _library('huggingface_hub', 'weights')
  no_such_file = _library(
    'huggingface_hub.errors', 'weights'
  ).EntryNotFoundError
  match = HUB_SOURCE.fullmatch(source)
  if not match:
    raise UserError(f'{source} is not hf://OWNER/NAME[@REVISION][/FILE].')
  for file in [match['file']] if match['file'] else HUB_FILES:
    try:
      return hub.hf_hub_download(
        match['repository'], file, revision=match['revision']
      )
    except no_such_file as error:
      problem = error
    except Exception as error:  # no network, no such repository, no access
      problem = error
      break
  reason = (str(problem).splitlines() or [''])[0]
  raise UserError(
    f'{source} cannot be fetched from the Hub: {reason}'
  ) from problem


def _library(name: str, extra: str):
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(
      f'this needs {name.split(".")[0]}, which is not installed:'
      f" pip install '.[{extra}]'."
    ) from error


def _damaged(path: pathlib.Path, error: Exception) -> UserError:
  reason = (str(error).splitlines() or [type(error).__name__])[0]
  return UserError(f'the weights {path} cannot be read: {reason}')
