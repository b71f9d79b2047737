"""Multi-process runs: start, barriers, agreement to stop, and exit codes."""

from collections.abc import Callable, Iterator
import contextlib
import ctypes
import itertools
import json
import os
import re
import signal
import socket
import sys

import jax
from jax._src import distributed  # its barriers use no device
from jax.experimental import multihost_utils
import ml_collections
import numpy as np

from apnet_jax.config import OF_A_MACHINE, flat
from apnet_jax.errors import UserError, causes, first_line
from apnet_jax.parallel import background, devices

# Seconds without a heartbeat after which a process counts as lost.
HEARTBEAT_TIMEOUT = 30
# Seconds that a failing process waits for others that fail for the same reason.
GRACE = 5
DAY = 24 * 60 * 60  # seconds
LOST_EXIT_CODE = 4  # of a process that has lost another one


class ProcessLostError(RuntimeError):
  """Another process of this run has ended or cannot be reached."""


def start(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Joins the processes of a run; call it before JAX looks for devices.

  Without arguments JAX detects the cluster (Cloud TPU, SLURM and others).
  Outside of a cluster nothing happens. With arguments, it detects nothing.

  Args:
    coordinator_address: HOST:PORT of process 0; the port must be free there.
    num_processes: number of processes.
    process_id: number of this process, from 0.

  Raises:
    UserError: an argument is missing or impossible, or the detection fails.
    ProcessLostError: the other processes do not connect.
  """
  flags = {
    '--coordinator_address': coordinator_address,
    '--num_processes': num_processes,
    '--process_id': process_id,
  }
  missing = [flag for flag, value in flags.items() if value is None]
  if 0 < len(missing) < len(flags):
    raise UserError(
      f'{" and ".join(missing)} missing: give {", ".join(flags)}, all three,'
      ' or none in a cluster that JAX detects.'
    )
  if coordinator_address is not None:
    port = coordinator_address.rpartition(':')[2]
    if ':' not in coordinator_address or not port.isdecimal():
      raise UserError(
        f'--coordinator_address={coordinator_address} is not HOST:PORT.'
      )
  if process_id is not None and num_processes is not None:
    if not 0 <= process_id < num_processes:
      raise UserError(
        f'--process_id={process_id} must be at least 0 and less than'
        f' --num_processes={num_processes}.'
      )
  # `agree_to_stop` decides when to stop. The preemption service of the runtime
  # would replace our handler of SIGTERM.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      coordinator_address,
      num_processes,
      process_id,
      cluster_detection_method=None if missing else 'deactivate',
      heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
    )
  except jax.errors.JaxRuntimeError as error:
    raise ProcessLostError(_lost(error)) from error
  except Exception as error:  # the detection calls libraries of clusters
    # This is how JAX says that it has found no cluster.
    if missing and 'coordinator_address should be defined' in str(error):
      return
    if not missing and not isinstance(error, ValueError):
      raise
    raise UserError(
      f'the processes cannot be started: {error}'
      + (f'\nGive {", ".join(flags)} instead.' if missing else '')
    ) from error
  if is_distributed():
    _exit_with_message_on_abort()
  elif missing and 'JAX_LOCAL_DEVICE_IDS' not in os.environ:
    # JAX gives each task of SLURM or Open MPI one GPU, also a single task.
    for name in ('jax_cuda_visible_devices', 'jax_rocm_visible_devices'):
      jax.config.update(name, os.environ.get(name.upper(), 'all'))


def _exit_with_message_on_abort() -> None:
  """Turns an abort of the runtime into a message and an exit code.

  When a heartbeat fails, the runtime aborts from a C++ thread. Its own hook
  cannot be a Python function, so SIGABRT is caught instead.
  """

  @ctypes.CFUNCTYPE(None, ctypes.c_int)
  def on_abort(_):
    if _exit_code is None:
      reason = RuntimeError('the JAX runtime has aborted, see above')
      print(f'error: {_lost(reason)}', file=sys.stderr, flush=True)
    os._exit(_exit_code or LOST_EXIT_CODE)

  # A handler set by Python's `signal` module would run after the abort.
  ctypes.CDLL(None).signal(signal.SIGABRT, on_abort)
  _kept_alive.append(on_abort)


_exit_code: int | None = None  # of a process that is about to exit
# Callbacks of C++, which must not be garbage-collected.
_kept_alive: list[Callable] = []


def is_distributed() -> bool:
  """Returns whether the run has several processes, without using devices."""
  return distributed.global_state.num_processes > 1


def is_first() -> bool:
  """Returns whether this is process 0, which prints and writes for all."""
  return distributed.global_state.process_id == 0


def this_process() -> str:
  """Returns the name of this process in messages, as 'process 0 of 4'."""
  return f'process {jax.process_index()} of {jax.process_count()}'


def check_processes() -> None:
  """Raises UserError unless all processes have the same number of devices."""
  processes = range(jax.process_count())
  counts = [len(jax.local_devices(process_index=i)) for i in processes]
  if len(set(counts)) > 1:
    raise UserError(
      f'the processes have {counts} devices: each must have the same number.'
    )


def check_same(name: str, value: str, note: str = '') -> None:
  """Raises UserError unless a text is the same in all processes.

  Args:
    name: plural noun for the text in the message, such as 'the images'.
    value: the text in this process.
    note: what else the message of this process says.
  """
  if len(set(gather_texts(value))) > 1:
    raise UserError(
      f'{name} differ between the processes; {this_process()} has {value!r}.'
      + note
    )


def check_same_config(config: ml_collections.ConfigDict) -> None:
  """Raises UserError unless all processes have the same configuration.

  Otherwise each process would train another network without an error. Only the
  fields `OF_A_MACHINE` may differ. All processes must call this function.
  """
  own = {k: v for k, v in flat(config).items() if k not in OF_A_MACHINE}
  fields = [json.loads(text) for text in gather_texts(json.dumps(own))]
  different = [
    f'\n  config.{name}: {", ".join(dict.fromkeys(values))}'
    for name in sorted(set().union(*fields))
    if len(set(values := [repr(one.get(name)) for one in fields])) > 1
  ]
  if different:
    raise UserError(
      'the processes have different configurations:'
      + ''.join(different)
      + '\nStart all processes with the same values of these fields.'
    )


def on_this_machine() -> int:
  """Returns how many processes of the run are on the machine of this one.

  This process counts, too. Machines are told apart by their host names. All
  processes must call this function.
  """
  name = socket.gethostname()
  return gather_texts(name).count(name)


def gather_texts(text: str) -> list[str]:
  """Returns the texts of all processes, in the order of the processes.

  All processes must call this function; a single process gets its own text.
  """
  if jax.process_count() == 1:
    return [text]
  code = np.frombuffer(text.encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(len(code)))
  code = np.pad(code, (0, sizes.max() - len(code)))
  codes = multihost_utils.process_allgather(code)
  return [row[:n].tobytes().decode() for row, n in zip(codes, sizes)]


def first_decides(answer: bool) -> bool:
  """Returns the answer of process 0, in all processes.

  Facts read from a shared disk may differ between processes for a while. If
  work that needs all processes depends on such a fact, process 0 decides. All
  processes must call this function; a single process only gets its answer back.

  Args:
    answer: the answer of this process; only that of process 0 counts.
  """
  return bool(from_first(np.int32(answer)))


def from_first(tree):
  """Returns the arrays of process 0, in all processes.

  All processes must call this function; a single process only gets its arrays
  back.

  Args:
    tree: tree of arrays, whose shapes and types are the same in all processes.
  """
  if jax.process_count() == 1:
    return tree
  return multihost_utils.broadcast_one_to_all(tree)


_barriers = itertools.count()


def wait_for_all() -> None:
  """Waits at a barrier for all processes of the run.

  The n-th calls in all processes belong to the same barrier.

  Raises:
    ProcessLostError: a process has ended, or does not arrive within a day.
  """
  if is_distributed():
    name = f'apnet_jax/{next(_barriers)}'
    with detecting_lost_processes():
      _wait_at_barrier(name, DAY)


def _wait_at_barrier(name: str, seconds: int) -> None:
  """Waits at a barrier of the runtime, in a run of several processes."""
  client = distributed.global_state.client
  wait = client.wait_at_barrier  # type: ignore[union-attr]  # it was started
  # A signal's handler runs only while the main thread is not within C++.
  background.start(lambda: wait(name, seconds * 1000)).result()


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
  """Lets process 0 run the `with` block first, and then all other processes.

  The other processes find the files that process 0 has written. Processes on
  another disk write their own files.
  """
  if not is_first():
    wait_for_all()
  yield
  if is_first():
    wait_for_all()


def local_rows(rows: np.ndarray) -> np.ndarray:
  """Returns the rows that this process computes.

  All processes compute equally many rows. The last row is repeated if the
  number of processes does not divide the number of rows; `gather_rows` drops
  the repetitions.

  Args:
    rows: int [rows], indices of the rows that all processes compute together;
      at least one row.

  Returns:
    int [ceil(rows / processes)].
  """
  each = -(-len(rows) // jax.process_count())
  first = jax.process_index() * each
  return rows[np.minimum(np.arange(first, first + each), len(rows) - 1)]


def gather_rows(share: np.ndarray, rows: int) -> np.ndarray:
  """Joins the results that all processes computed for their `local_rows`.

  Args:
    share: the results of this process, [ceil(rows / processes), ...].
    rows: number of rows of all processes, without repetitions.

  Returns:
    [rows, ...], the same in all processes.
  """
  if jax.process_count() == 1:
    return share
  return multihost_utils.process_allgather(share, tiled=True)[:rows]


# The last step, and the array that tells whether any process asked for a stop.
_asked: tuple[int | None, jax.Array | None] = (None, None)


def agree_to_stop(step: int, wanted: bool) -> bool:
  """Returns whether all processes stop after this step.

  A single process stops at once. Several processes stop together, one step
  after at least one process asked for the stop; all processes must call this
  function after every step.

  Args:
    step: the step that was completed, the same in all processes.
    wanted: True if this process asks for a stop.
  """
  global _asked
  if jax.process_count() == 1:
    return wanted
  # The devices have finished the reduction that the previous step started, so
  # that no process waits for them.
  (last, answer), _asked = _asked, (step, devices.on_any_device(wanted))
  return last == step - 1 and bool(answer)


# Words by which a runtime error shows that another process has caused it.
SIGNS_OF_LOSS = re.compile(
  'Gloo|NCCL|coordination|heartbeat|UNAVAILABLE|Connection (closed|reset)'
)


@contextlib.contextmanager
def detecting_lost_processes() -> Iterator[None]:
  """Turns runtime errors that a lost process causes into ProcessLostError."""
  try:
    yield
  except ProcessLostError:
    raise
  except Exception as error:
    if not is_distributed():
      raise
    for cause in causes(error):
      if isinstance(cause, jax.errors.JaxRuntimeError) and (
        SIGNS_OF_LOSS.search(str(cause))
      ):
        raise ProcessLostError(_lost(cause)) from error
    raise


def _lost(reason: BaseException) -> str:
  return (
    'another process of this run has ended or cannot be reached'
    f' ({first_line(reason)}). Its own output says why. Start all'
    ' processes again: the same command continues from the last checkpoint.'
  )


def exit_with(code: int) -> None:
  """Ends this process at once if the run has several processes.

  The usual exit of Python would wait for the other processes, which may be
  waiting for this process. Processes that fail for the same reason get a few
  seconds to exit together, so that each can print its error. In a run of a
  single process, the function returns.
  """
  global _exit_code
  if not is_distributed():
    return
  _exit_code = code
  sys.stdout.flush()
  sys.stderr.flush()
  try:
    with contextlib.suppress(Exception):
      _wait_at_barrier('apnet_jax/leave', GRACE)
  finally:  # an interruption, too, ends the waiting
    os._exit(code)
