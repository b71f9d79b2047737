"""How tests, and the programs that they start, compile for the CPU.

Most of the tests' time is compilation. Level 0 compiles a training step in a
quarter of level 1's time, but steps and evaluations then take ten times as
long: it is for the tests' own process, level 1 for commands.
"""

import collections
from collections.abc import Iterator
import contextlib
import importlib.metadata

COMPILED = '/jax/core/compile/backend_compile_duration'


def xla_flags(devices: int = 1, optimization: int = 1) -> str:
  """Returns XLA_FLAGS that compile fast, for some number of CPU devices."""
  flags = [
    f'--xla_force_host_platform_device_count={devices}',
    f'--xla_backend_optimization_level={optimization}',
  ]
  # XLA ends the process at a flag that it does not know.
  if importlib.metadata.version('jaxlib').startswith('0.10.'):
    # The older code generator takes two thirds of the newer one's time.
    flags.append('--xla_cpu_use_fusion_emitters=false')
  return ' '.join(flags)


@contextlib.contextmanager
def counting() -> Iterator[collections.Counter]:
  """Counts the programs that are compiled, by name."""
  import jax  # not before XLA_FLAGS are set

  programs = collections.Counter()

  def listen(event, seconds, fun_name='', **_):
    del seconds
    if event == COMPILED:
      programs[fun_name] += 1

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield programs
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
