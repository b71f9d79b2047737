"""Data parallelism: the only file that knows of devices and processes.

`jax.pmap` maps a function over the local part of a batch, laid out as [devices,
images, ...]. State goes in and comes out as one replicated array; nothing is
stacked per device, and nothing is taken from the first.

Of several processes, each holds the whole state on its own devices, reads and
embeds its share of the images, and ranks for itself. Only a step, `gather_rows`
and what waits for others need all of them.
"""

from collections.abc import Callable, Iterator
import contextlib
import ctypes
import functools
import itertools
import os
import re
import signal
import sys
import zlib

import jax
from jax import lax
from jax._src import distributed  # has barriers that use no device
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

AXIS = 'batch'


def pmap_step(step: Callable) -> Callable:
  """Maps `step(state, batch) -> state, metrics`; the old state is donated.

  What `step` returns must be the same on every device, of all processes.
  """
  return jax.pmap(
    step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, donate_argnums=0
  )


def pmap_batch(function: Callable) -> Callable:
  """Maps `function(state, batch) -> values` to [devices, images, ...].

  On the devices of this process: it needs no other.
  """
  return jax.pmap(
    function,
    axis_name=AXIS,
    in_axes=(None, 0),
    devices=jax.local_devices(),
  )


def replicated() -> NamedSharding:
  """The placement of state: whole on every device of this process."""
  return NamedSharding(_mesh(), PartitionSpec())


def replicate(tree):
  """Puts arrays on all devices, laid out as `pmap_step` returns them."""
  return jax.device_put(tree, replicated())


def of_all_processes(tree):
  """The same arrays, as those of all processes: what Orbax wants to save.

  Nothing is copied or sent.
  """
  if jax.process_count() == 1:
    return tree
  everywhere = NamedSharding(Mesh(jax.devices(), (AXIS,)), PartitionSpec())

  def whole(x):
    return jax.make_array_from_single_device_arrays(
      x.shape, everywhere, [shard.data for shard in x.addressable_shards]
    )

  return jax.tree.map(whole, tree)


def split(tree, parts: int = 1):
  """[batch, ...] -> [local devices, batch / local devices, ...].

  A device has its share of each of `parts` consecutive parts of the batch, one
  after the other: what is a part does not depend on the number of devices.
  """
  return lay_out(tree, jax.local_device_count(), parts)


def share_of_batch(images: int) -> int:
  """Images at a time here, if that many are to be on all devices at a time.

  The number is rounded up to a multiple of the devices.
  """
  return -(-images // jax.device_count()) * jax.local_device_count()


def lay_out(tree, devices: int, parts: int):
  """`split` for so many devices."""

  def one(x):
    x = np.reshape(x, (parts, devices, -1, *np.shape(x)[1:]))
    return x.swapaxes(0, 1).reshape(devices, -1, *x.shape[3:])

  return jax.tree.map(one, tree)


# What ranks a gallery: its items lie on all devices, as many on each.


def _mesh() -> Mesh:
  return Mesh(jax.local_devices(), (AXIS,))


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


# Processes.

# A process of which nothing is heard for so long is lost.
HEARTBEAT_TIMEOUT = 30
# How long a process that fails waits for others that fail alike.
GRACE = 5
DAY = 24 * 60 * 60
LOST = 4  # exit code where another process is lost


class ProcessLostError(RuntimeError):
  """Another process of this run has ended or cannot be reached."""


def start(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Joins the processes of a run, before JAX has looked for devices.

  Without arguments, they are those of the cluster in which JAX finds itself
  (Cloud TPU, SLURM and others); outside of one nothing happens.

  Args:
    coordinator_address: HOST:PORT of process 0, the port free there.
    num_processes: how many there are.
    process_id: which of them this is, from 0.

  Raises:
    ValueError: some are missing, or one is not possible.
    ProcessLostError: the others do not come.
  """
  given = {
    '--coordinator_address': coordinator_address,
    '--num_processes': num_processes,
    '--process_id': process_id,
  }
  missing = [flag for flag, value in given.items() if value is None]
  if 0 < len(missing) < len(given):
    raise ValueError(
      f'{" and ".join(missing)} missing: give {", ".join(given)}, all three,'
      ' or none in a cluster that JAX detects.'
    )
  if not missing:
    port = coordinator_address.rpartition(':')[2]
    if ':' not in coordinator_address or not port.isdecimal():
      raise ValueError(
        f'--coordinator_address={coordinator_address} is not HOST:PORT.'
      )
    if not 0 <= process_id < num_processes:
      raise ValueError(
        f'--process_id={process_id} must be at least 0 and less than'
        f' --num_processes={num_processes}.'
      )
  # A stop is agreed upon by `agree_to_stop`. The runtime's own service would
  # take SIGTERM from whoever handles it.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      coordinator_address,
      num_processes,
      process_id,
      heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
    )
  except ValueError as error:
    # So JAX says that it has found no cluster.
    if missing and 'coordinator_address should be defined' in str(error):
      return
    raise ValueError(f'the processes cannot be started: {error}') from error
  except jax.errors.JaxRuntimeError as error:
    raise ProcessLostError(_lost(str(error))) from error
  if several():
    _end_clearly_when_aborted()


def _end_clearly_when_aborted() -> None:
  """Exits with a message where the runtime would abort.

  It does so when a heartbeat fails, from a thread in C++; that function of its
  own which one may give it cannot be one of Python.
  """

  @ctypes.CFUNCTYPE(None, ctypes.c_int)
  def on_abort(_):
    if _leaving is None:
      print(
        f'error: {_lost("the JAX runtime has aborted, see above")}',
        file=sys.stderr,
        flush=True,
      )
    os._exit(_leaving or LOST)

  # Python's own handlers run after the abort.
  ctypes.CDLL(None).signal(signal.SIGABRT, on_abort)
  _kept.append(on_abort)


_leaving: int | None = None  # the exit code
_kept = []  # what C++ calls must not be collected


def several() -> bool:
  """Whether there are other processes; looks for no devices."""
  return distributed.global_state.num_processes > 1


def is_first() -> bool:
  """Whether this is the process that prints and writes."""
  return distributed.global_state.process_id == 0


def this_process() -> str:
  return f'process {jax.process_index()} of {jax.process_count()}'


def check_processes() -> None:
  """Raises ValueError unless all processes have as many devices."""
  processes = range(jax.process_count())
  counts = [len(jax.local_devices(process_index=i)) for i in processes]
  if len(set(counts)) > 1:
    raise ValueError(
      f'the processes have {counts} devices: each must have the same number.'
    )


def check_same(name: str, value: str) -> None:
  """Raises ValueError unless a text is the same in all processes."""
  if jax.process_count() > 1:
    code = np.uint32(zlib.crc32(value.encode()))
    codes = multihost_utils.process_allgather(code)
    if len(set(codes.tolist())) > 1:
      raise ValueError(
        f'{name} differ between the processes; {this_process()} has {value!r}.'
      )


_barriers = itertools.count()


def wait_for_all(timeout: float = DAY) -> None:
  """Waits until all processes are here; they must come here in one order.

  Raises:
    ProcessLostError: one has ended, or does not come within so many seconds.
  """
  if several():
    name = f'apnet_jax/{next(_barriers)}'
    with losses_as_errors():
      distributed.global_state.client.wait_at_barrier(name, int(timeout * 1e3))


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
  """Process 0 runs what is within, then all others do.

  What it leaves in files, the others find; where they do not share its disk,
  they do it themselves.
  """
  if not is_first():
    wait_for_all()
  yield
  if is_first():
    wait_for_all()


def share_of_rows(rows: np.ndarray) -> np.ndarray:
  """What this process does of rows; all have the same number, at least one.

  So the last rows may be done twice: `gather_rows` leaves that out.
  """
  each = -(-len(rows) // jax.process_count())
  first = jax.process_index() * each
  return rows[np.minimum(np.arange(first, first + each), len(rows) - 1)]


def gather_rows(share: np.ndarray, rows: int) -> np.ndarray:
  """What all processes made of `share_of_rows` of so many rows; [rows, ...]."""
  if jax.process_count() == 1:
    return share
  return multihost_utils.process_allgather(share, tiled=True)[:rows]


class _Agreement:
  """Asks all processes at each step, and reads the answer at the next.

  So nobody waits for the devices: they have answered by then.
  """

  def __init__(self):
    self._step, self._answer = None, None

  def __call__(self, step: int, wanted: bool) -> bool:
    if jax.process_count() == 1:
      return wanted
    answer = self._answer if self._step == step - 1 else None
    mine = np.full(jax.local_device_count(), wanted)
    self._step, self._answer = step, _any()(mine)
    return answer is not None and bool(answer)


@functools.cache
def _any() -> Callable:
  """Whether it is true on any device."""
  return jax.pmap(
    lambda x: lax.pmax(x.astype(np.int32), AXIS), axis_name=AXIS, out_axes=None
  )


_agreement = _Agreement()


def agree_to_stop(step: int, wanted: bool) -> bool:
  """Whether all processes stop after this step.

  In one process, if it wants to. Of several, all stop at one step, which is the
  next after one wanted to: they must call this after each step.

  Args:
    step: that has been done, the same in all processes.
    wanted: whether this process has been told to stop.
  """
  return _agreement(step, wanted)


# What tells that an error comes from another process.
SIGNS_OF_LOSS = re.compile(
  'Gloo|NCCL|coordination|heartbeat|UNAVAILABLE|Connection (closed|reset)'
)


@contextlib.contextmanager
def losses_as_errors() -> Iterator[None]:
  """Raises `ProcessLostError` instead of what libraries make of it."""
  try:
    yield
  except ProcessLostError:
    raise
  except Exception as error:
    if not several():
      raise
    cause = error
    while cause is not None:
      if isinstance(cause, jax.errors.JaxRuntimeError) and (
        SIGNS_OF_LOSS.search(str(cause))
      ):
        raise ProcessLostError(_lost(str(cause))) from error
      cause = cause.__cause__ or cause.__context__
    raise


def _lost(reason: str) -> str:
  reason = reason.strip().splitlines()[0][:200]
  return (
    f'another process of this run has ended or cannot be reached ({reason}).'
    ' Its own output says why. Start all of them again: the same command goes'
    ' on from the last checkpoint.'
  )


def finish() -> None:
  """Waits until all processes have done what they do, as reports."""
  wait_for_all()


def leave(code: int) -> None:
  """Ends this process, if it is one of several, without waiting for the others.

  A process that fails alone must not wait: the others wait for it. If all fail
  alike, they leave together, so that each can say why.
  """
  global _leaving
  if not several():
    return
  _leaving = code
  sys.stdout.flush()
  sys.stderr.flush()
  with contextlib.suppress(Exception):
    distributed.global_state.client.wait_at_barrier(
      'apnet_jax/leave', GRACE * 1000
    )
  os._exit(code)
