"""Makes densenet169.npz and inception_v3.npz.

Needs torch and torchvision, and of this repository `recipe.py` alone. From its
root: `python -m tests.golden.make_backbones`.

A file holds what torchvision's network gives in eval mode, with its own
strides, for two images: of each stage, 0 to 4, `pooled<stage>` [2, channels] is
the mean of the map and `map<stage>` [2, height, width, 8] its first channels.
"""

from functools import partial
import pathlib

import numpy as np
import torch
from torchvision import models

from tests.golden import recipe

SEED = 5
CHANNELS = 8  # that are kept of a map
# Model, size of the images, and the module that ends each stage.
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
  """Arrays [2, height, width, channels], one for each stage."""
  make, size, ends = BACKBONES[name]
  model = make().train(train)
  state = {
    key: torch.tensor(recipe.state_dict_value(key, tuple(value.shape)))
    for key, value in model.state_dict().items()
  }
  model.load_state_dict(state)
  maps = []
  for end in ends:
    # The ReLU that follows DenseNet's norm5 is no module of its own.
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
