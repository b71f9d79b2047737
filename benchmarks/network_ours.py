"""This project's side of train_step.py and inference.py."""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from apnet_jax import cli, complexity, optim, parallel, trainer
from apnet_jax.models.apnet import create_model
from apnet_jax.retrieval.embed import make_embed_batch
from apnet_jax.train_step import create_state
from benchmarks import measuring
from configs import common

CLASSES = 751  # identities of Market-1501
K = 4  # images of an identity


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
    model, optimizer, self.train = trainer.make_step(
      config, CLASSES, optim.learning_rate_schedule(config.train, 100)
    )
    self.state = parallel.replicate(
      create_state(model, optimizer, config.data.image_size, seed=0)
    )
    model = create_model(config.model, CLASSES)
    self.embed = make_embed_batch(model, config.eval)

  def batch(self, images: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (images, *self.config.data.image_size, 3)
    label = (np.arange(images) // K).astype(np.int32)
    return parallel.split(
      {'image': rng.integers(0, 256, shape, np.uint8), 'label': label}
    )

  def run_train(self, batch) -> jax.Array:
    self.state, metrics = self.train(self.state, batch)
    return metrics

  def run_embed(self, batch) -> jax.Array:
    return self.embed(self.variables, batch['image'])

  @property
  def variables(self):
    state = self.state
    return {'params': state.params, 'batch_stats': state.batch_stats}

  def count(self, part: str) -> float:
    """Multiply-adds of an image, counted from the traced computation."""
    batch = self.batch(images := K * jax.device_count())
    traced = {
      'train': lambda: jax.make_jaxpr(self.train)(self.state, batch),
      'embed': lambda: jax.make_jaxpr(self.embed)(
        self.variables, batch['image']
      ),
    }[part]()
    devices = jax.device_count()
    return devices * complexity.count_jaxpr(traced) / images

  def ceiling(self) -> dict:
    size = 2048 if jax.default_backend() == 'cpu' else 8192
    x = jnp.ones((size, size), self.config.model.dtype)
    product = jax.jit(jnp.matmul)
    return measuring.time_product(
      lambda: product(x, x), jax.block_until_ready, size
    )


def device_peak() -> int | None:
  stats = jax.local_devices()[0].memory_stats()  # None on the CPU
  return stats and stats['peak_bytes_in_use']


def serve(args: argparse.Namespace) -> None:
  cli.keep_memory()  # as train.py and eval.py do
  network = Network(args)

  def measure(part: str, **request) -> dict:
    match part:
      case 'versions':
        return {'jax': jax.__version__}
      case 'device':
        device = jax.devices()[0]
        return {'device': f'{jax.device_count()} x {device.device_kind}'}
      case 'ceiling':
        return network.ceiling()
      case 'work':
        return {'image': network.count(request['of'])}
    run = {'train': network.run_train, 'embed': network.run_embed}[part]
    batch = network.batch(request['batch'])
    return measuring.time_steps(
      lambda: run(batch),
      jax.block_until_ready,
      request['seconds'],
      device_peak,
    )

  measuring.serve(measure)


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  measuring.add_network(parser)
  serve(parser.parse_args())
