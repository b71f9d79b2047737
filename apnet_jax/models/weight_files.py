"""Reads and writes files of PyTorch weights as dicts of numpy arrays.

Two libraries are optional. The extra `weights` installs huggingface_hub; the
extra `torch` installs PyTorch for .pth.
"""

from collections.abc import Iterator, Mapping
import os
import pathlib
import pickle
import re
import zipfile

import numpy as np
import safetensors.numpy

from apnet_jax import hub
from apnet_jax.errors import UserError, first_line
from apnet_jax.optional import import_optional
from apnet_jax.writing import whole

FORMATS = ('.pth', '.pt', '.bin', '.safetensors', '.npz')
PACK_SUFFIX = '.apnet'  # of a packed network, which `workdir.pack` reads
# Default limit on the size of weights, more than any network here needs.
# `read_state_dict` sets a tighter one for its network.
MAX_BYTES = 4 * 2**30
# Usual names of weights in a repository of the Hub, in the order of preference.
HUB_FILES = ('model.safetensors', 'pytorch_model.bin')


def read_weights(source, max_bytes: int = MAX_BYTES) -> Mapping:
  """Reads a state dict from a file.

  No code in a file is executed: a pickle of anything but tensors is refused.

  Args:
    source: a path, `hf://owner/name` or `hf://owner/name@revision` on the
      Hugging Face Hub, where '/file' may follow, or a dict.
    max_bytes: limit on the size of the arrays in memory. A compressed file of a
      few kilobytes could otherwise fill the memory.

  Returns:
    A dict from names to numpy arrays, which is nested if the dict in the file
    is. If `source` is a dict, the function returns that dict unchanged.

  Raises:
    UserError: the file is missing, damaged, too large, in an unknown format, or
      contains code; or a library that reads it is not installed.
  """
  if isinstance(source, Mapping):
    return source
  source = os.fspath(source)
  path = pathlib.Path(
    hub.download(source, HUB_FILES) if hub.is_source(source) else source
  ).expanduser()
  if not path.is_file():
    raise UserError(f'the weights {source} are not a file.')
  suffix = suffix_of(path)
  _check_format(suffix, source)
  _check_size(_unpacked_size(path), path, max_bytes)
  if suffix == '.npz':
    return _read_npz(path)
  if suffix == '.safetensors':
    return _read_safetensors(path)
  return _read_torch(path, max_bytes)


def suffix_of(path: pathlib.Path) -> str:
  """Returns the suffix that tells the format of a file of weights."""
  # MoCo's files are called .pth.tar, those of torchreid .pth.tar-60 after epoch
  # 60. They are no archives of tar.
  return pathlib.Path(re.sub(r'\.tar(-\d+)?$', '', path.name.lower())).suffix


def write_weights(path: str | os.PathLike, state_dict: Mapping) -> None:
  """Writes a state dict to a file atomically.

  A failure leaves no incomplete file under the given name.

  Args:
    path: file to write; its suffix determines the format. A .pth file contains
      `{'model': state_dict}`.
    state_dict: dict from names to numpy arrays.

  Raises:
    UserError: the suffix is not one of `FORMATS`, or a library that writes the
      file is not installed.
  """
  path = pathlib.Path(path).expanduser()
  suffix = path.suffix.lower()
  _check_format(suffix, path)
  with whole(path) as part:
    if suffix == '.npz':
      with part.open('wb') as file:  # np.savez would add to the name
        np.savez(file, **state_dict)
    elif suffix == '.safetensors':
      safetensors.numpy.save_file(dict(state_dict), part)
    else:
      torch = import_optional('torch', 'torch')
      # An array with two names becomes one tensor, which is stored once.
      tensors = {id(v): torch.tensor(v) for v in state_dict.values()}
      torch.save(
        {'model': {k: tensors[id(v)] for k, v in state_dict.items()}}, part
      )


def _check_format(suffix: str, source) -> None:
  if suffix not in FORMATS:
    raise UserError(f'the weights {source} do not end in one of {FORMATS}.')


def _unpacked_size(path: pathlib.Path) -> int:
  """Returns the size in bytes that a file declares for its contents."""
  size = path.stat().st_size
  try:
    if zipfile.is_zipfile(path):  # .npz and .pth files are zip archives
      with zipfile.ZipFile(path) as archive:
        size = max(size, sum(entry.file_size for entry in archive.infolist()))
  except Exception as error:  # zipfile raises many classes of errors
    raise _damaged(path, error) from error
  return size


def _check_size(size: int, path: pathlib.Path, max_bytes: int) -> None:
  if size > max_bytes:
    raise UserError(
      f'the weights {path} take {size:,} bytes: more than the {max_bytes:,}'
      ' that this network allows.'
    )


def _looks_like_torch(path: pathlib.Path) -> bool:
  """Returns whether a file begins like a zip archive or a pickle."""
  with path.open('rb') as file:
    return file.read(2).startswith((b'PK', b'\x80'))


def _read_npz(path: pathlib.Path) -> Mapping:
  if not zipfile.is_zipfile(path):
    raise _damaged(path, Exception('it is not a whole .npz archive'))
  try:
    # Opened here, because np.load does not close a file that it fails to read.
    with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
      return dict(arrays)
  except Exception as error:  # zipfile, zlib and numpy raise different classes
    raise _damaged(path, error) from error


def _read_safetensors(path: pathlib.Path) -> Mapping:
  try:
    return safetensors.numpy.load_file(path)
  except Exception as error:  # safetensors raises a class of its own
    raise _damaged(path, error) from error


def _read_torch(path: pathlib.Path, max_bytes: int) -> Mapping:
  torch = import_optional('torch', 'torch')
  try:
    content = torch.load(path, map_location='cpu', weights_only=True)
  except pickle.UnpicklingError as error:
    if not _looks_like_torch(path):
      raise _damaged(path, Exception('it is not a file of PyTorch')) from error
    raise UserError(
      f'the weights {path} are refused: the file contains more than tensors and'
      ' could run code when it is read. If you trust its source, load it in'
      ' PyTorch and save only its state_dict(). (Files of torchreid hold a'
      ' number of NumPy; torch.save(torch.load(FILE, weights_only=False)'
      "['state_dict'], NEW) leaves it out.)"
    ) from error
  except Exception as error:
    raise _damaged(path, error) from error
  if not isinstance(content, Mapping):
    raise UserError(
      f'the weights {path} contain a {type(content).__name__}, not a'
      ' state_dict.'
    )
  try:
    # An expanded tensor has more elements than the file stores.
    size = sum(4 * tensor.numel() for tensor in _tensors(content))
    arrays = _to_numpy(content) if size <= max_bytes else {}
  # Of sparse tensors, of dicts that contain themselves, and others.
  except Exception as error:
    raise _damaged(path, error) from error
  _check_size(size, path, max_bytes)
  return arrays


def _tensors(content: Mapping) -> Iterator:
  """Yields the tensors of a (nested) dict."""
  for value in content.values():
    if isinstance(value, Mapping):
      yield from _tensors(value)
    elif hasattr(value, 'detach'):
      yield value


def _to_numpy(content: Mapping) -> Mapping:
  """Converts the tensors of a (nested) dict to arrays; drops other entries."""
  arrays = {}
  for name, value in content.items():
    if isinstance(value, Mapping):
      arrays[name] = _to_numpy(value)
    elif hasattr(value, 'detach'):
      value = value.detach()
      # To float32, because numpy has no bfloat16.
      arrays[name] = (
        value.float() if value.is_floating_point() else value
      ).numpy()
  return arrays


def _damaged(path: pathlib.Path, error: Exception) -> UserError:
  """Returns the UserError to raise for a file that cannot be read.

  Args:
    path: the file.
    error: the cause, whose message becomes part of the returned error.
  """
  return UserError(f'the weights {path} cannot be read: {first_line(error)}')
