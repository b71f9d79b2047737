"""Opens XLA's compilers for accelerators that this machine does not have.

The compiler for TPUs is a documented part of JAX
(`jax.experimental.topologies`). The way to that for GPUs is not, and stands in
one function, `_cuda_devices`.
"""

from collections.abc import Iterator, Sequence
import contextlib
import importlib.util
import os

import jax
from jax.experimental import topologies

from apnet_jax.accelerators.targets import Target
from apnet_jax.errors import UserError, first_line
from apnet_jax.printing import quiet_loggers


def use_no_device() -> None:
  """Hides accelerators from this process, which only compiles for them.

  Call this before anything else uses JAX. Other processes may train on the
  accelerators of this machine meanwhile.
  """
  jax.config.update('jax_platforms', 'cpu')
  os.environ.setdefault('CUDA_VISIBLE_DEVICES', '-1')
  # Errors come as exceptions; the compilers would print them, too.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  # libtpu would ask Google Cloud which TPU this machine has, and lock it.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')


def open_compiler(target: Target) -> Sequence[jax.Device]:
  """Returns devices that programs can be compiled for, but cannot run on.

  Raises:
    UserError: the compiler is not installed, cannot be opened, or does not know
      the target's arrangement.
  """
  platform = target.chip.platform
  if not is_installed(platform):
    raise UserError(
      f'--device={target.name} needs the compiler for {platform.upper()}, which'
      f" is not installed: pip install '.[{platform}]'. No accelerator is"
      ' needed.'
    )
  return {'tpu': _tpu_devices, 'cuda': _cuda_devices}[platform](target)


def is_installed(platform: str) -> bool:
  """Returns whether the compiler for 'tpu' or 'cuda' is installed."""
  if platform == 'tpu':
    return importlib.util.find_spec('libtpu') is not None
  plugins = importlib.util.find_spec('jax_plugins')
  return plugins is not None and any(
    os.path.isdir(os.path.join(folder, name))
    for folder in plugins.submodule_search_locations or ()
    for name in ('xla_cuda12', 'xla_cuda13')
  )


def _tpu_devices(target: Target) -> Sequence[jax.Device]:
  options = {}
  if target.chip.description:
    options['chip_config_name'] = target.chip.description
  try:
    with _silent_stderr():  # libtpu finds no TPU, and says so in many lines
      return topologies.get_topology_desc(
        platform='tpu', topology_name=target.name, **options
      ).devices
  except (jax.errors.JaxRuntimeError, RuntimeError) as error:
    raise UserError(
      f'--device={target.name}: the compiler does not accept it'
      f' ({first_line(error)}).'
    ) from error


def _cuda_devices(target: Target) -> Sequence[jax.Device]:
  """Opens the compiler for a GPU by its description.

  JAX does not document this. The plugin registers its compiler, and then fails
  because it finds no driver. JAX logs the failure, but the compiler stays.
  """
  machines, each = target.arrangement.split('x')
  try:
    with quiet_loggers('jax._src.xla_bridge', 'jax_plugins'):
      return topologies.get_topology_desc(
        platform='cuda',
        target_config=target.chip.description,
        topology=f'1x{machines}x{each}',
      ).devices
  except Exception as error:  # of any kind: nothing promises one
    raise UserError(
      f'--device={target.name}: the compiler for CUDA cannot be opened without'
      f' a GPU by this version of JAX, {jax.__version__}'
      f' ({first_line(error)}). This worked with JAX 0.12.0.1.'
    ) from error


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
  """Silences what C++ libraries print to standard error in a `with` block."""
  kept = os.dup(2)
  try:
    with open(os.devnull, 'w') as nowhere:
      os.dup2(nowhere.fileno(), 2)
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)
