"""A workdir with a tiny network whose embeddings tell images apart."""

import flax
import jax
import numpy as np

from apnet_jax.inference import embedder
from apnet_jax.models.apnet import initialize
from apnet_jax.models.normalization import normalize
from apnet_jax.workdir import json_files, restore
from apnet_jax.workdir.checkpoints import Checkpoints
from tests.tiny import tiny_config, tiny_model

CLASSES, STEP = 3, 7
THRESHOLD = {
  'threshold': 0.25, 'wanted_fpr': 0.1, 'step': STEP, 'feature': 'embedding',
  'flip': True, 'dataset': 'noise', 'fingerprint': 'x',
}  # fmt: skip


def write_workdir(folder, seed=0):
  """Writes a workdir; returns its configuration and variables.

  The statistics of the BN neck are those of noise, as after a training. (The
  features of random weights would all have nearly one direction.)
  """
  config = tiny_config()
  config.data.update(dir='/somewhere/a', prepared_dir='/somewhere/b')
  config.eval.expected_curve = '/somewhere/c'
  model = tiny_model(config.model, CLASSES)
  size = tuple(config.data.image_size)
  variables = flax.core.unfreeze(initialize(model, size, seed))
  noise = np.random.default_rng(seed).integers(0, 256, (32, *size, 3), np.uint8)
  noise = noise // np.arange(1, 33, dtype=np.uint8)[:, None, None, None]
  feature = jax.jit(model.apply)(variables, normalize(noise)).feature
  variables['batch_stats']['bottleneck'] |= {
    'mean': feature.mean(0), 'var': feature.var(0),
  }  # fmt: skip
  json_files.write_json(folder / 'config.json', config.to_dict())
  run = {'num_classes': CLASSES, 'fingerprint': 'x'}
  json_files.write_json(folder / 'run.json', run)
  with Checkpoints(folder) as checkpoints:
    checkpoints.save(STEP, variables)
  return config, variables


def use_tiny_networks(patch):
  """Makes workdirs restore tiny networks while a `MonkeyPatch` lasts."""
  for module in (restore, embedder):
    patch.setattr(module, 'create_model', tiny_model)
