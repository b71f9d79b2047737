"""Trains tiny networks on the devices of this process; `test_devices` compares.

python -m tests.faults.train_on_devices OUTPUT.npz
"""

import functools
from functools import partial
import sys

import jax
from jax.sharding import Mesh, PartitionSpec
import numpy as np
import optax

from apnet_jax.feed import Benchmark, Split
from apnet_jax.parallel import devices
from apnet_jax.retrieval import evaluation
from apnet_jax.retrieval.embed import make_embed
from apnet_jax.training.train_step import create_state, train_step
from configs import _variants, common
from tests.tiny import tiny_model, widen

SIZE, CLASSES, IMAGES, STEPS = (24, 16), 8, 16, 20
# Of these, 'official' is a profile, and 'recipe' has none but other losses.
ATTENTIONS = ('none', 'channel', 'spatial', 'official', 'recipe')
GROUPS = (0, 4)  # images; a group takes half a device, one device or two


def make_config(attention, group, dtype):
  config = common.get_config()
  if attention == 'official':
    _variants.official(config)
  elif attention == 'recipe':
    config.model.attention = 'none'
    config.train.update(
      clip_norm=1.0, circle_weight=0.1, center_weight=0.1, ema_decay=0.5
    )
    config.augment.update(jitter=0.5, augmix=3.0)
  else:
    config.model.attention = attention
  config.model.update(
    backbone='resnet14', reduction=1, batch_norm_group=group, dtype=dtype
  )
  config.augment.pad = 2
  config.data.image_size = SIZE
  config.eval.batch_size = 8
  return config


def make_batch(step):
  rng = np.random.default_rng(step)
  return {
    'image': rng.integers(0, 256, (IMAGES, *SIZE, 3), np.uint8),
    'label': np.repeat(rng.permutation(CLASSES), 2).astype(np.int32),
  }


def make_split(seed, people, images_of_each):
  rng = np.random.default_rng(seed)
  count = people * images_of_each
  images = rng.integers(0, 256, (count, *SIZE, 3), np.uint8)

  def batches(rows, batch_size):
    for start in range(0, len(rows), batch_size):
      yield images[rows[start : start + batch_size]]

  pids = np.repeat(np.arange(people), images_of_each)
  return Split(pids, np.full(count, seed), pids.astype(str), batches)


BENCHMARK = Benchmark(make_split(0, 5, 1), make_split(1, 5, 7), 'noise', '')


def make_optimizer(config, learning_rate):
  """Returns plain SGD, so that a comparison of states compares gradients."""
  sgd, limit = optax.sgd(learning_rate), config.train.clip_norm
  return optax.chain(optax.clip_by_global_norm(limit), sgd) if limit else sgd


@functools.cache
def first_state(attention):
  """Returns the first state, which does not depend on groups."""
  config = make_config(attention, 0, 'float32')
  model = tiny_model(config.model, CLASSES)
  optimizer = make_optimizer(config, 1.0)
  state = create_state(model, optimizer, SIZE, 0, config.train)
  return jax.device_get(state)


class Case:
  """A network, its first state, and its step."""

  def __init__(self, attention, group, dtype, learning_rate):
    self.config = make_config(attention, group, dtype)
    self.model = tiny_model(self.config.model, CLASSES, devices.AXIS)
    self.state = first_state(attention)
    optimizer = make_optimizer(self.config, learning_rate)
    self.step = partial(
      train_step,
      model=self.model,
      optimizer=optimizer,
      config=self.config,
      axis_name=devices.AXIS,
    )

  def train(self, state, steps):
    """Returns the last state, and the metrics of each step."""
    state, metrics = devices.replicate(state), []
    step = devices.pmap_step(self.step)
    for k in range(steps):
      state, of_step = step(state, devices.shard_batch(make_batch(k)))
      metrics.append(of_step)
    return jax.device_get((state, metrics))

  def train_by_shard_map(self):
    mesh = Mesh(jax.devices(), (devices.AXIS,))
    step = jax.shard_map(
      self.step,
      mesh=mesh,
      in_specs=(PartitionSpec(), PartitionSpec(devices.AXIS)),
      out_specs=PartitionSpec(),
      check_vma=False,  # with True, gradients are summed over devices twice
    )
    state, metrics = jax.jit(step)(self.state, make_batch(0))
    return jax.device_get((state, [metrics]))

  def figures(self, state):
    """Returns embeddings and figures on images of noise."""
    embed = make_embed(self.model, self.config.eval)
    variables = devices.replicate(
      {'params': state.params, 'batch_stats': state.batch_stats}
    )
    found = evaluation.evaluate(embed, variables, BENCHMARK, self.config.eval)
    figures = found.result.figures('step')
    return [found.query_embeddings, found.gallery_embeddings, figures]


def results():
  """Yields all results with their names."""
  for attention in ATTENTIONS:
    for group in GROUPS:
      name = f'{attention}/{group}'
      case = Case(attention, group, 'float32', learning_rate=1.0)
      state, metrics = case.train(case.state, 1)
      yield f'float32/{name}', (state, metrics)
      if group == GROUPS[0]:
        yield f'retrieval/{name}', case.figures(state)
        yield f'shard_map/{name}', case.train_by_shard_map()
      with jax.enable_x64(True):
        case = Case(attention, group, 'float64', learning_rate=0.05)
        yield f'first/{name}', case.state
        yield f'float64/{name}', case.train(widen(case.state), STEPS)


def main(path):
  arrays = {}
  for name, tree in results():
    for leaf_path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      arrays[name + jax.tree_util.keystr(leaf_path)] = leaf
  np.savez(path, **arrays)


if __name__ == '__main__':
  main(sys.argv[1])
