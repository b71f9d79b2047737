"""This project's side of `train_step.py` and `inference.py`."""

import argparse
from functools import partial

import jax
import numpy as np

from apnet_jax import optim, parallel
from apnet_jax.models.apnet import create_model
from apnet_jax.retrieval.embed import make_embed_batch
from apnet_jax.train_step import create_state, train_step
from benchmarks import measuring
from configs import common


def make_config(args: argparse.Namespace):
  config = common.get_config()
  config.model.update(
    backbone=args.backbone, levels=args.levels, dtype=args.dtype
  )
  config.data.image_size = tuple(args.image_size)
  config.train.learning_rate = 4e-6
  return config


class Network:
  """What is measured: the step and the embedding as train.py makes them."""

  def __init__(self, args: argparse.Namespace):
    self.config = config = make_config(args)
    model = create_model(config.model, args.classes, parallel.AXIS)
    optimizer = optim.create_optimizer(
      config.train, optim.learning_rate_schedule(config.train, 100)
    )
    self.state = parallel.replicate(
      create_state(model, optimizer, config.data.image_size, seed=0)
    )
    self.step = parallel.pmap_step(
      partial(
        train_step,
        model=model,
        optimizer=optimizer,
        config=config,
        axis_name=parallel.AXIS,
      )
    )
    model = create_model(config.model, args.classes)
    self.embed_batch = make_embed_batch(model, config.eval)

  def images(self, batch: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    shape = (batch, *self.config.data.image_size, 3)
    return rng.integers(0, 256, shape, np.uint8)

  def train_step(self, batch) -> jax.Array:
    self.state, metrics = self.step(self.state, batch)
    return metrics

  def embed(self, images):
    variables = {
      'params': self.state.params,
      'batch_stats': self.state.batch_stats,
    }
    return self.embed_batch(variables, images)


def serve(args: argparse.Namespace) -> None:
  network = Network(args)

  def measure(part: str, batch: int = 0, seconds: float = 0) -> dict:
    if part == 'versions':
      return {'jax': jax.__version__}
    images = network.images(batch)
    label = (np.arange(batch) // 4).astype(np.int32)
    inputs = parallel.split({'image': images, 'label': label})
    step = {
      'train': lambda: network.train_step(inputs),
      'embed': lambda: network.embed(inputs['image']),
    }[part]
    return measuring.time_steps(step, jax.block_until_ready, batch, seconds)

  measuring.serve(measure)


if __name__ == '__main__':
  serve(measuring.make_network_parser(__doc__).parse_args())
