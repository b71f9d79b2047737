"""Compiles a program of a small network for a device that is not there.

  python -m tests.compilers.compile_program DEVICE PROGRAM FOLDER

The program is 'train' or 'embed'. FOLDER receives `program.txt`, the compiled
program, and `facts.json`.
"""

import json
import pathlib
import sys

import jax

from apnet_jax.accelerators import fit, program_cost, topology
from apnet_jax.accelerators.targets import find_target
from apnet_jax.accelerators.traced_programs import TracedPrograms
from tests.fakes import small_config

IMAGES = 10  # of each device


def main(device: str, program: str, folder: pathlib.Path) -> None:
  """Compiles a program, and writes its text and facts about it."""
  target = find_target(device)
  topology.use_no_device()
  devices = topology.open_compiler(target)
  config = small_config()
  config.model.update(levels=2, dtype='bfloat16')
  config.data.image_size = (128, 64)
  config.augment.update(pad=10, erase=0.5)
  programs = TracedPrograms.of(config, 751, devices)
  compiled = fit.compile_for(target, programs.lower(program, IMAGES))
  (folder / 'program.txt').write_text(compiled.as_text())
  inputs = program_cost.size_of(programs.inputs(program, IMAGES))
  state = programs.states['train']
  convolutions = [
    leaf
    for path, leaf in jax.tree.leaves_with_path(state.params)
    if path[-1].key == 'kernel' and leaf.ndim == 4
  ]
  kernels = [leaf for leaf in convolutions if leaf.shape[0] > 1]
  norms = [
    path
    for path, _ in jax.tree.leaves_with_path(state.batch_stats)
    if path[-1].key == 'var'
  ]
  facts = {
    'devices': len(devices),
    'hosts': len({d.process_index for d in devices}),
    'state': program_cost.size_of(state),
    'arrays of the state': len(jax.tree.leaves(state)),
    'kernels': len(kernels),
    'bytes of kernels': program_cost.size_of(kernels),
    'convolutions': len(convolutions),
    'bytes of convolutions': program_cost.size_of(convolutions),
    'batch normalisations': len(norms),
    'memory': program_cost.as_dict(
      program_cost.memory_of(compiled, inputs // programs.devices[program])
    ),
    'operations': 2 * programs.multiply_adds(program, IMAGES),
    'bytes': program_cost.bytes_accessed(compiled),
  }
  (folder / 'facts.json').write_text(json.dumps(facts))


if __name__ == '__main__':
  main(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]))
