"""Writes a trained network as a PyTorch state_dict.

  python -m apnet_jax export-weights --ckpt=runs/market --output=market.pth

The suffix chooses the format: .pth (needs PyTorch), .safetensors or .npz.
`--config.model.pretrained=market.pth` reads the same weights back.
"""

from collections.abc import Callable
import re

from absl import flags
import ml_collections
import numpy as np

from apnet_jax import cli
from apnet_jax.models.network_fields import effective_fields
from apnet_jax.models.weight_files import write_weights
from apnet_jax.paper.variants import released_network
from apnet_jax.training.pretrained import read_workdir


def command() -> Callable:
  """Defines the flags of the command; returns its main function."""
  ckpt = flags.DEFINE_string(
    'ckpt', None, 'Workdir of train.py.', required=True
  )
  output = flags.DEFINE_string('output', None, 'File to write.', required=True)
  which = cli.define_which()

  def main(argv):
    cli.no_more_arguments(argv)
    cli.quieten()
    config, step, state_dict = read_workdir(ckpt.value, which.value)
    released = is_released(config.model)
    if released:
      state_dict |= released_copies(state_dict)
    write_weights(output.value, state_dict)
    print(f'wrote {output.value}: {len(state_dict)} arrays after step {step}')
    print(
      'The released APNet code can build this network, and loads a .pth file.'
      if released
      else 'The released APNet code cannot build this network. Layers that it'
      ' or torchvision has too are named as there.'
    )

  return main


def is_released(model: ml_collections.ConfigDict) -> bool:
  """Returns whether the released APNet code can build a network.

  Args:
    model: `config.model` of the network.
  """
  network = effective_fields(model)
  return any(network == released_network(levels) for levels in (0, 1, 2))


def released_copies(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the backbone under its second names in the released code.

  That code registers the stages again as `base_1` (the stem) to `base_5`, and
  loads only files with both names.

  Args:
    state_dict: arrays of the network by name, as `base.conv1.weight`.
  """
  second = {r'^base\.conv1\.': 'base_1.0.', r'^base\.bn1\.': 'base_1.1.'}
  second |= {rf'^base\.layer{i}\.': f'base_{i + 1}.0.' for i in range(1, 5)}
  return {
    re.sub(old, new, name): value
    for old, new in second.items()
    for name, value in state_dict.items()
    if re.match(old, name)
  }
