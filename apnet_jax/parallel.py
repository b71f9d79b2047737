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
  return NamedSharding(_mesh(), PartitionSpec())


def replicate(tree):
  """Puts arrays on all devices, laid out as `pmap_step` returns them."""
  return jax.device_put(tree, replicated())


def split(tree, parts: int = 1):
  """[batch, ...] -> [local devices, batch / local devices, ...].

  A device has its share of each of `parts` consecutive parts of the batch, one
  after the other: what is a part does not depend on the number of devices.
  """
  return lay_out(tree, jax.local_device_count(), parts)


def lay_out(tree, devices: int, parts: int):
  """`split` for so many devices."""

  def one(x):
    x = np.reshape(x, (parts, devices, -1, *np.shape(x)[1:]))
    return x.swapaxes(0, 1).reshape(devices, -1, *x.shape[3:])

  return jax.tree.map(one, tree)


# What ranks a gallery: its items lie on all devices, as many on each.


def _mesh() -> Mesh:
  return Mesh(jax.devices(), (AXIS,))


def padded(items: int, tile: int) -> int:
  """Items on all devices with padding: equal whole tiles on each device.

  A device has `ceil(share / tile)` tiles for its share, each a multiple of 16
  long and at most `tile`, which is one too.
  """
  devices = _mesh().size
  share = max(1, -(-items // devices))
  tiles = -(-share // tile)
  return devices * tiles * 16 * -(-share // (16 * tiles))


def shard_rows(
  make: Callable[[int, int], np.ndarray],
  items: int,
  rows: int,
  fill: float = 0,
) -> jax.Array:
  """Lays the rows of an array on all devices.

  Args:
    make: `make(start, stop)` returns these items, float32 [stop - start, ...].
      It is asked for few at a time, so that there is no second array of all.
    items: their number.
    rows: of the array, as of `padded`.
    fill: the value of rows beyond the items.
  """
  shape = make(0, 0).shape[1:]

  def shard(index: tuple[slice, ...]) -> np.ndarray:
    first, last, _ = index[0].indices(rows)
    array = np.full((last - first, *shape), fill, np.float32)
    for start in range(first, min(last, items), 1024):
      stop = min(start + 1024, last, items)
      array[start - first : stop - first] = make(start, stop)
    return array

  sharding = NamedSharding(_mesh(), PartitionSpec(AXIS))
  return jax.make_array_from_callback((rows, *shape), sharding, shard)


def shard_columns(array: np.ndarray, columns: int, fill: float) -> jax.Array:
  """Lays [rows, items] on all devices by columns, as float32 and padded."""
  whole = np.full((len(array), columns), fill, np.float32)
  whole[:, : array.shape[1]] = array
  sharding = NamedSharding(_mesh(), PartitionSpec(None, AXIS))
  return jax.device_put(whole, sharding)


def map_columns(function: Callable) -> Callable:
  """Maps `function(array, *others)` to the columns that each device has.

  The others are whole on every device. So must be the result, and the same.
  """

  @jax.jit
  def mapped(array, *others):
    specs = (PartitionSpec(None, AXIS), *[PartitionSpec()] * len(others))
    return jax.shard_map(
      function,
      mesh=_mesh(),
      in_specs=specs,
      out_specs=PartitionSpec(),
      check_vma=False,
    )(array, *others)

  return mapped
