"""The compiler's figures of a program, without running it."""

import jax


def compiler_figures(lowered: jax.stages.Lowered) -> dict[str, int]:
  """Compiles a program and returns the compiler's figures.

  Returns:
    `flops`: all operations, of which a multiply-add is two. `bytes`: bytes that
    fused loops read and write. `temporary`: bytes of temporary values.
  """
  compiled = lowered.compile()
  analysis = compiled.cost_analysis()
  return {
    'flops': int(analysis['flops']),
    'bytes': int(analysis['bytes accessed']),
    'temporary': compiled.memory_analysis().temp_size_in_bytes,
  }
