"""Data parallelism: functions mapped over devices, and placement of arrays.

`jax.pmap` maps a function over the batch of this process, whose shape is
[devices, images, ...]. Functions take and return the state as replicated
arrays, which have no axis for the devices.

With several processes, each process holds the whole state on its own devices,
reads and embeds its share of the images, and ranks on its own devices. Only the
training step, `on_any_device` and the functions of `processes` need the other
processes.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
import pathlib

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from apnet_jax.parallel import batch_layout

AXIS = 'batch'


def pmap_step(
  step: Callable, on: Sequence[jax.Device] | None = None
) -> Callable:
  """Maps `step(state, batch) -> state, metrics` over all devices.

  The old state is donated, so that its memory is used again. The results of
  `step` must be equal on all devices of all processes.

  Args:
    step: function of the state and the images of one device.
    on: devices to compile for; None for those of all processes.

  Returns:
    A function of the replicated state and the batch of this process, [devices,
    images, ...]. It returns the replicated state and metrics.
  """
  return jax.pmap(
    step,
    axis_name=AXIS,
    in_axes=(None, 0),
    out_axes=None,
    donate_argnums=0,
    devices=on,
  )


def lower_step(step: Callable, state_shapes, batch) -> jax.stages.Lowered:
  """Lowers a mapped step before its state exists.

  After `compile()`, the first call of the step finds the compiled program. With
  several processes pmap lowers arrays only, so that zeros stand for the state.

  Args:
    step: function that `pmap_step` returned.
    state_shapes: tree with the shapes and types of the state.
    batch: arrays [devices, images, ...] of the shapes and types of a batch.
  """
  zeros = jax.tree.map(
    lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), state_shapes
  )
  return step.lower(replicate(zeros), batch)


def pmap_batch(
  function: Callable, on: Sequence[jax.Device] | None = None
) -> Callable:
  """Maps `function(state, batch) -> values` over the devices of this process.

  No other process takes part.

  Args:
    function: function of the state and the images of one device.
    on: devices to compile for; None for those of this process.

  Returns:
    A function of the replicated state and a batch [devices, images, ...]. It
    returns values [devices, ...].
  """
  return jax.pmap(
    function,
    axis_name=AXIS,
    in_axes=(None, 0),
    devices=jax.local_devices() if on is None else on,
  )


@functools.cache
def _any() -> Callable:
  return jax.pmap(
    lambda x: lax.pmax(x.astype(np.int32), AXIS), axis_name=AXIS, out_axes=None
  )


def on_any_device(value: bool) -> jax.Array:
  """Returns whether a value is true in at least one process.

  All processes must call this function.

  Args:
    value: the value in this process.

  Returns:
    An integer scalar, 0 or 1, which the devices compute asynchronously.
  """
  return _any()(np.full(jax.local_device_count(), value))


def replicated() -> NamedSharding:
  """Returns the sharding of the state: a copy on each local device."""
  return NamedSharding(_mesh(), PartitionSpec())


def replicate(tree):
  """Copies arrays to all local devices, sharded as `pmap_step` returns them."""
  return jax.device_put(tree, replicated())


def replicated_shapes(shapes):
  """Adds the replicated sharding to a tree of `jax.ShapeDtypeStruct`."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated()),
    shapes,
  )


def as_global_arrays(tree):
  """Turns replicated arrays into global arrays, which Orbax needs for saving.

  No data is copied or sent.

  Args:
    tree: arrays with a copy on each device of this process.

  Returns:
    The same arrays, declared as replicated over the devices of all processes.
  """
  if jax.process_count() == 1:
    return tree
  everywhere = NamedSharding(Mesh(jax.devices(), (AXIS,)), PartitionSpec())

  def as_global(x):
    return jax.make_array_from_single_device_arrays(
      x.shape, everywhere, [shard.data for shard in x.addressable_shards]
    )

  return jax.tree.map(as_global, tree)


def shard_batch(tree, micro_batches: int = 1):
  """Splits the batch of this process into one shard for each of its devices.

  Args:
    tree: arrays [batch, ...].
    micro_batches: number of micro-batches in the batch; see `batch_layout`.

  Returns:
    Arrays [devices, batch / devices, ...].
  """
  devices = jax.local_device_count()
  return jax.tree.map(
    lambda x: batch_layout.shard(np.asarray(x), devices, micro_batches), tree
  )


def local_batch_size(images: int) -> int:
  """Returns the number of images of a global batch that this process computes.

  Args:
    images: size of the global batch, which is rounded up to a multiple of the
      number of devices.
  """
  return -(-images // jax.device_count()) * jax.local_device_count()


def keep_compiled_programs(folder: str) -> None:
  """Keeps compiled JAX programs in a folder between runs; '' keeps none."""
  if folder:
    path = pathlib.Path(folder).expanduser()
    jax.config.update('jax_compilation_cache_dir', str(path))


def describe() -> str:
  """Returns a text with the numbers of devices and processes, for the user."""
  found = f'{jax.device_count()} x {jax.devices()[0].device_kind}'
  processes = jax.process_count()
  return found if processes == 1 else f'{found} in {processes} processes'


# The gallery is sharded over the devices of this process, equally.


def _mesh() -> Mesh:
  return Mesh(jax.local_devices(), (AXIS,))


def padded_rows(items: int, tile: int) -> int:
  """Returns the number of rows of an array that is sharded in equal tiles.

  Each device of this process holds the same number of rows, in tiles of equal
  length. A device with `share` items has `ceil(share / tile)` tiles. The length
  of a tile is a multiple of 16.

  Args:
    items: number of items to store, one a row; the other rows are padding.
    tile: greatest length of a tile, a multiple of 16.
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
  sharding = NamedSharding(_mesh(), PartitionSpec(AXIS))
  return jax.make_array_from_callback(shape, sharding, shard)


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
  size = _mesh().size
  share = rows // size
  tile = share // -(-share // tile)
  shape = (size * tile, *make(0, 0).shape[1:])
  sharding = NamedSharding(_mesh(), PartitionSpec(AXIS))
  for first in range(0, share, tile):

    def shard(index: tuple[slice, ...], first=first) -> np.ndarray:
      device = index[0].indices(shape[0])[0] // tile
      start = device * share + first
      return _make_rows(make, items, start, start + tile, 0)

    yield first, jax.make_array_from_callback(shape, sharding, shard)


def _make_rows(make, items, first, last, fill) -> np.ndarray:
  """Returns rows `first` to `last - 1` of the array that `shard_rows` makes."""
  array = np.full((last - first, *make(0, 0).shape[1:]), fill, np.float32)
  for start in range(first, min(last, items), 1024):
    stop = min(start + 1024, last, items)
    array[start - first : stop - first] = make(start, stop)
  return array


def empty_columns(rows: int, columns: int) -> jax.Array:
  """Returns zeros [rows, columns], sharded as by `shard_columns`."""
  sharding = NamedSharding(_mesh(), PartitionSpec(None, AXIS))
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
      function, mesh=_mesh(), in_specs=specs, out_specs=columns, check_vma=False
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
  sharding = NamedSharding(_mesh(), PartitionSpec(None, AXIS))
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
      mesh=_mesh(),
      in_specs=specs,
      out_specs=PartitionSpec(),
      check_vma=False,
    )(array, *others)

  return mapped
