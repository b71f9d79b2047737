"""Data parallelism: the only file that knows of devices.

`jax.pmap` maps a function over the local part of a batch, laid out as [devices,
images, ...]. State goes in and comes out as one replicated array; nothing is
stacked per device, and nothing is taken from the first.
"""

from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

AXIS = 'batch'


def pmap_step(step: Callable) -> Callable:
  """Maps `step(state, batch) -> state, metrics`; the old state is donated.

  What `step` returns must be the same on every device.
  """
  return jax.pmap(
    step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, donate_argnums=0
  )


def pmap_batch(function: Callable) -> Callable:
  """Maps `function(state, batch) -> values` to [devices, images, ...]."""
  return jax.pmap(function, axis_name=AXIS, in_axes=(None, 0))


def replicated() -> NamedSharding:
  """The placement of state: whole on every device."""
  return NamedSharding(Mesh(jax.devices(), (AXIS,)), PartitionSpec())


def replicate(tree):
  """Puts arrays on all devices, laid out as `pmap_step` returns them."""
  return jax.device_put(tree, replicated())


def split(tree):
  """[batch, ...] -> [local devices, batch / local devices, ...]."""
  devices = jax.local_device_count()
  return jax.tree.map(
    lambda x: np.reshape(x, (devices, -1, *np.shape(x)[1:])), tree
  )
