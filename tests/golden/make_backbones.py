"""Makes densenet169.npz and inception_v3.npz from torchvision's networks.

  python -m tests.golden.make_backbones

Run it from the root of the repository. It needs torch and torchvision, and
imports only `recipe.py`.

A file contains the maps of a network with its original strides, in eval mode,
for two images. For each stage, 0 to 4, `pooled<stage>` [2, channels] is the
mean over positions, and `map<stage>` [2, height, width, 8] has the first
channels.
"""

from functools import partial
import pathlib

import numpy as np
import torch
from torchvision import models

from tests.golden import recipe

SEED = 5
CHANNELS = 8  # number of channels of a map that a file contains
# Network, height and width of the images, and the last module of each stage.
BACKBONES = {
  'densenet169': (
    models.densenet169,
    (96, 64),
    [
      'features.pool0',
      'features.denseblock1',
      'features.denseblock2',
      'features.denseblock3',
      'features.norm5',
    ],
  ),
  'inception_v3': (
    partial(
      models.inception_v3,
      aux_logits=False,
      init_weights=False,
      transform_input=True,
    ),
    (107, 91),
    ['maxpool1', 'Conv2d_4a_3x3', 'Mixed_5d', 'Mixed_6e', 'Mixed_7c'],
  ),
}


def stage_maps(name, train=False, dtype=torch.float32):
  """Returns the map of each stage, [2, height, width, channels]."""
  make, size, ends = BACKBONES[name]
  model = make().train(train)
  state = {
    key: torch.tensor(recipe.state_dict_value(key, tuple(value.shape)))
    for key, value in model.state_dict().items()
  }
  model.load_state_dict(state)
  maps = []
  for end in ends:
    # The ReLU after DenseNet's norm5 is not a module.
    copy = torch.relu if end == 'features.norm5' else torch.clone
    model.get_submodule(end).register_forward_hook(
      lambda module, inputs, output, copy=copy: maps.append(copy(output))
    )
  images = torch.tensor(recipe.images(SEED, 2, *size), dtype=dtype)
  with torch.no_grad():
    model.to(dtype)(images.permute(0, 3, 1, 2))
  return [value.permute(0, 2, 3, 1).numpy() for value in maps]


def main():
  for name, (_, size, _) in BACKBONES.items():
    arrays = {'seed': SEED, 'size': size}
    for stage, value in enumerate(stage_maps(name)):
      arrays[f'pooled{stage}'] = value.mean((1, 2))
      arrays[f'map{stage}'] = value[..., :CHANNELS]
    path = pathlib.Path(__file__).with_name(f'{name}.npz')
    np.savez_compressed(path, **arrays)


if __name__ == '__main__':
  main()
