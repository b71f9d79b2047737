"""Writes a trained network as a PyTorch state_dict.

  python -m apnet_jax export-weights --ckpt=runs/market --output=market.pth

The suffix chooses the format: .pth (needs PyTorch), .safetensors or .npz.
`--config.model.pretrained=market.pth` reads the same weights back.
"""

from collections.abc import Callable

from absl import flags

from apnet_jax import cli, hub
from apnet_jax.models.torch_weights import released_copies
from apnet_jax.models.weight_files import write_weights
from apnet_jax.paper.variants import is_released
from apnet_jax.training.pretrained import read_workdir


def command() -> Callable:
  """Defines the absl flags of this command, and returns its `main(argv)`."""
  ckpt = flags.DEFINE_string('ckpt', None, cli.CKPT_HELP, required=True)
  output = flags.DEFINE_string('output', None, 'File to write.', required=True)
  which = cli.define_which()

  def main(argv):
    cli.no_more_arguments(argv)
    cli.quieten()
    source = hub.find_network(ckpt.value)
    config, _, step, state_dict = read_workdir(source, which.value)
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
