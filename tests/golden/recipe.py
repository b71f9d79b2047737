"""Weights and inputs of the golden arrays, made from names and seeds."""

import zlib

import numpy as np


def state_dict_value(key: str, shape: tuple[int, ...]) -> np.ndarray:
  """Returns the float32 value of an entry of a PyTorch state_dict.

  Args:
    key: name of the entry; random values depend on it alone.
    shape: shape in PyTorch's layout, for convolutions [out, in, height, width].
  """
  z = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
  if key.endswith('running_var'):
    value = 1 + 0.2 * np.abs(z)
  elif key.endswith('running_mean'):
    value = 0.1 * z
  elif key.endswith('num_batches_tracked'):
    value = np.zeros(shape)
  elif key.endswith('bias'):
    value = 0.1 * z
  elif len(shape) >= 2:
    value = z * np.sqrt(1.0 / np.prod(shape[1:]))
  else:
    value = 1 + 0.1 * z
  return value.astype(np.float32)


def images(
  seed: int, batch: int, height: int, width: int, channels: int = 3
) -> np.ndarray:
  """Returns random images, float32 [batch, height, width, channels]."""
  shape = (batch, channels, height, width)
  values = np.random.default_rng(seed).standard_normal(shape)
  return values.astype(np.float32).transpose(0, 2, 3, 1)
