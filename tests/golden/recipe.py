"""Weights and inputs behind the golden arrays: each depends on its name."""

import zlib

import numpy as np


def state_dict_value(key: str, shape: tuple[int, ...]) -> np.ndarray:
  """float32 value of a PyTorch state_dict entry.

  Kernels of convolutions are [out, in, height, width].
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
  """float32 [batch, height, width, channels]."""
  shape = (batch, channels, height, width)
  values = np.random.default_rng(seed).standard_normal(shape)
  return values.astype(np.float32).transpose(0, 2, 3, 1)
