"""A gallery to rank, sharded equally over the devices of this process."""

from collections.abc import Callable, Iterator
import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from apnet_jax.parallel.devices import AXIS, local_mesh


def padded_rows(items: int, tile: int) -> int:
  """Returns the number of rows of an array that is sharded in equal tiles.

  Each device of this process holds the same number of rows, in tiles of equal
  length. A device with `share` items has `ceil(share / tile)` tiles. The length
  of a tile is a multiple of 16.

  Args:
    items: number of items to store, one a row; the other rows are padding.
    tile: greatest length of a tile, a multiple of 16.
  """
  devices = local_mesh().size
  share = max(1, -(-items // devices))
  tiles = -(-share // tile)
  return devices * tiles * 16 * -(-share // (16 * tiles))


def shard_rows(
  make: Callable[[int, int], np.ndarray],
  items: int,
  rows: int,
  fill: float = 0,
) -> jax.Array:
  """Shards the rows of an array over the devices of this process.

  Args:
    make: `make(start, stop)` returns the items from `start` to `stop - 1`,
      float32 [stop - start, ...]. At most 1024 items are made at a time, so
      that the whole array is never held twice.
    items: number of items.
    rows: number of rows of the array; see `padded_rows`.
    fill: value of the rows beyond the items.

  Returns:
    float32 [rows, ...].
  """

  def shard(index: tuple[slice, ...]) -> np.ndarray:
    first, last, _ = index[0].indices(rows)
    return _make_rows(make, items, first, last, fill)

  shape = (rows, *make(0, 0).shape[1:])
  sharding = NamedSharding(local_mesh(), PartitionSpec(AXIS))
  return jax.make_array_from_callback(
    shape,
    sharding,
    shard,  # type: ignore[arg-type]  # index is never None
  )


def iterate_row_tiles(
  make: Callable[[int, int], np.ndarray], items: int, rows: int, tile: int
) -> Iterator[tuple[int, jax.Array]]:
  """Yields the array that `shard_rows` makes, a tile of each device at a time.

  Args:
    make: see `shard_rows`.
    items: number of items.
    rows: number of rows of the whole array; see `padded_rows`.
    tile: greatest length of a tile, as given to `padded_rows`.

  Yields:
    first: the first row of the tile, counted on its device.
    rows: float32 [devices * tile, ...], the tiles of all devices.
  """
  size = local_mesh().size
  share = rows // size
  tile = share // -(-share // tile)
  shape = (size * tile, *make(0, 0).shape[1:])
  sharding = NamedSharding(local_mesh(), PartitionSpec(AXIS))
  for first in range(0, share, tile):

    def shard(index: tuple[slice, ...], first=first) -> np.ndarray:
      device = index[0].indices(shape[0])[0] // tile
      start = device * share + first
      return _make_rows(make, items, start, start + tile, 0)

    yield (
      first,
      jax.make_array_from_callback(
        shape,
        sharding,
        shard,  # type: ignore[arg-type]  # index is never None
      ),
    )


def _make_rows(make, items, first, last, fill) -> np.ndarray:
  """Returns rows `first` to `last - 1` of the array that `shard_rows` makes."""
  array = np.full((last - first, *make(0, 0).shape[1:]), fill, np.float32)
  for start in range(first, min(last, items), 1024):
    stop = min(start + 1024, last, items)
    array[start - first : stop - first] = make(start, stop)
  return array


def empty_columns(rows: int, columns: int) -> jax.Array:
  """Returns zeros [rows, columns], sharded as by `shard_columns`."""
  sharding = NamedSharding(local_mesh(), PartitionSpec(None, AXIS))
  return jnp.zeros((rows, columns), jnp.float32, device=sharding)


def update_columns(function: Callable) -> Callable:
  """Makes a function update the columns that each device holds, in place.

  Args:
    function: called on each device of this process as `function(array, rows,
      bias, *others)`; returns the new array.

  Returns:
    A function of an array that `shard_columns` has made, whose memory is used
    again; of two arrays that are sharded by rows; and of other arguments, which
    are replicated.
  """

  @functools.partial(jax.jit, donate_argnums=0)
  def updated(array, rows, bias, *others):
    columns = PartitionSpec(None, AXIS)
    by_rows = PartitionSpec(AXIS)
    specs = (columns, by_rows, by_rows, *[PartitionSpec()] * len(others))
    return jax.shard_map(
      function,
      mesh=local_mesh(),
      in_specs=specs,
      out_specs=columns,
      check_vma=False,
    )(array, rows, bias, *others)

  return updated


def shard_columns(array: np.ndarray, columns: int, fill: float) -> jax.Array:
  """Shards the columns of a matrix over the devices of this process.

  Args:
    array: [rows, items].
    columns: number of columns after padding; see `padded_rows`.
    fill: value of the columns beyond the items.

  Returns:
    float32 [rows, columns].
  """
  whole = np.full((len(array), columns), fill, np.float32)
  whole[:, : array.shape[1]] = array
  sharding = NamedSharding(local_mesh(), PartitionSpec(None, AXIS))
  return jax.device_put(whole, sharding)


def map_columns(function: Callable) -> Callable:
  """Makes a function run on the columns that each device holds.

  Args:
    function: `function(array, *others)` is called on each device of this
      process. `array` consists of the columns of the device. The result must be
      equal on all devices.

  Returns:
    A function of an array that `shard_columns` has made, and of other
    arguments, which are replicated.
  """

  @jax.jit
  def mapped(array, *others):
    specs = (PartitionSpec(None, AXIS), *[PartitionSpec()] * len(others))
    return jax.shard_map(
      function,
      mesh=local_mesh(),
      in_specs=specs,
      out_specs=PartitionSpec(),
      check_vma=False,
    )(array, *others)

  return mapped
