"""The layout of a global batch over micro-batches, processes and devices.

A global batch is a sequence of equal micro-batches. Each micro-batch is cut
into equal consecutive shards, one for each device; the devices of a process are
neighbours. Which images make a micro-batch therefore does not depend on the
number of devices or processes.
"""

import numpy as np

from apnet_jax.errors import UserError


def shard(x, shards: int, micro_batches: int = 1):
  """Cuts an array into one shard for each device or process.

  A shard holds its slices of all micro-batches, concatenated in their order.

  Args:
    x: [batch, ...], a numpy or JAX array; the batch must be a multiple of
      `shards * micro_batches`.
    shards: number of devices, or of processes.
    micro_batches: number of micro-batches in the batch.

  Returns:
    [shards, batch / shards, ...].
  """
  x = x.reshape(micro_batches, shards, -1, *x.shape[1:])
  return x.swapaxes(0, 1).reshape(shards, -1, *x.shape[3:])


def shard_positions(
  images: int, shards: int, micro_batches: int = 1
) -> np.ndarray:
  """Returns the indices of the images of the global batch in each shard.

  Args:
    images: size of the global batch.
    shards: number of devices, or of processes.
    micro_batches: number of micro-batches in the batch.

  Returns:
    int [shards, images / shards].

  Raises:
    UserError: `images` is not a multiple of `shards * micro_batches`.
  """
  if images % (shards * micro_batches):
    into = f' into {micro_batches} micro-batches, each' * (micro_batches > 1)
    raise UserError(
      f'a batch of {images} images (config.train.P times config.train.K) does'
      f' not divide{into} among {shards} processes or devices.'
    )
  return shard(np.arange(images), shards, micro_batches)
