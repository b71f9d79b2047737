"""Writes a trained network as a PyTorch state_dict.

  python -m apnet_jax export-weights --ckpt=runs/market --output=market.pth

The end of the name says the format: .pth (needs PyTorch), .safetensors or .npz.
`--config.model.pretrained=market.pth` reads it back unchanged.
"""

import re

from absl import flags
import ml_collections
import numpy as np

from apnet_jax import checkpoint, cli
from apnet_jax.models.torch_weights import to_state_dict
from apnet_jax.models.weight_files import write_weights
from apnet_jax.retrieval import evaluation

# `config.model` as the class of the released APNet code builds it.
RELEASED = {
  'backbone': 'resnet50',
  'last_stride': 1,
  'stem_relu': False,
  'se_blocks': False,
  'multi_part': False,
}
RELEASED_ATTENTION = {
  'attention': 'channel',
  'stacked': False,
  'sites': [0, 1, 2, 3, 4],
  'hidden': 8,
}
RELEASED_SPLIT = {
  'levels': 2,
  'radix': 2,
  'order': 'fine_to_coarse',
  'split_attention': 'shared',
  'norm_after_split': True,
}


def command():
  ckpt = flags.DEFINE_string(
    'ckpt', None, 'Workdir of train.py.', required=True
  )
  output = flags.DEFINE_string('output', None, 'File to write.', required=True)
  which = cli.define_which()

  def main(argv):
    cli.no_more_arguments(argv)
    cli.quieten()
    with checkpoint.open_for_reading(ckpt.value) as checkpoints:
      config = checkpoint.load_config(ckpt.value)
      step, _, variables = evaluation.restore_model(
        checkpoints,
        which.value,
        config,
        checkpoint.load_run(ckpt.value)['num_classes'],
      )
    state_dict = to_state_dict(variables)
    released = is_released(config.model)
    if released:
      state_dict |= released_copies(state_dict)
    write_weights(output.value, state_dict)
    print(f'wrote {output.value}: {len(state_dict)} arrays after step {step}')
    print(
      'The released APNet code has this network, and loads it from a .pth.'
      if released
      else 'The released APNet code has no such network; names follow it and'
      ' torchvision where they have the same part.'
    )

  return main


def is_released(model: ml_collections.ConfigDict) -> bool:
  """Whether the released APNet code can build this network."""
  wanted = dict(RELEASED)
  if model.levels > 0 and model.attention != 'none':
    wanted |= RELEASED_ATTENTION
  if model.levels > 1:
    wanted |= RELEASED_SPLIT
  return all(
    (list(model[k]) if k == 'sites' else model[k]) == v
    for k, v in wanted.items()
  )


def released_copies(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The second names under which that code holds its backbone.

  It registers the stages again as `base_1` (the stem) to `base_5`, and its
  loading is strict.
  """
  second = {r'^base\.conv1\.': 'base_1.0.', r'^base\.bn1\.': 'base_1.1.'}
  second |= {rf'^base\.layer{i}\.': f'base_{i + 1}.0.' for i in range(1, 5)}
  return {
    re.sub(old, new, name): value
    for old, new in second.items()
    for name, value in state_dict.items()
    if re.match(old, name)
  }
