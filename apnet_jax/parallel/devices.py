"""Data parallelism: functions mapped over devices, and placement of arrays.

`jax.pmap` maps a function over the batch of this process, whose shape is
[devices, images, ...]. Functions take and return the state as replicated
arrays, which have no axis for the devices.

With several processes, each process holds the whole state on its own devices,
reads and embeds its share of the images, and ranks on its own devices. Only the
training step, `on_any_device` and the functions of `processes` need the other
processes.
"""

from collections.abc import Callable, Sequence
import functools
import pathlib

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from apnet_jax.parallel import batch_layout

AXIS = 'batch'


def pmap_step(
  step: Callable, on: Sequence[jax.Device] | None = None
) -> jax.stages.Wrapped:
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


def lower_step(
  step: jax.stages.Wrapped, state_shapes, batch
) -> jax.stages.Lowered:
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
) -> jax.stages.Wrapped:
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


def local_mesh() -> Mesh:
  """Returns the mesh of the devices of this process, whose axis is `AXIS`."""
  return Mesh(jax.local_devices(), (AXIS,))


def replicated() -> NamedSharding:
  """Returns the sharding of the state: a copy on each local device."""
  return NamedSharding(local_mesh(), PartitionSpec())


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
