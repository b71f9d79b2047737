"""This project's side of what measures a network."""

import argparse
import sys

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from apnet_jax.models.apnet import create_model
from apnet_jax.parallel import devices
from apnet_jax.parallel.devices import AXIS
from apnet_jax.retrieval.embed import make_embed_batch
from apnet_jax.training import optim, run
from apnet_jax.training.train_step import create_state
from benchmarks import measuring
from benchmarks.work import Work, compiler_figures
from configs import common

CLASSES = 751  # identities of Market-1501
K = 4  # images of an identity


def make_config(args: argparse.Namespace):
  """The configuration of the arguments of `measuring.add_network`."""
  config = common.get_config()
  config.model.update(
    backbone=args.backbone,
    attention=args.attention,
    levels=args.levels,
    radix=args.radix,
    dtype=args.dtype,
  )
  config.data.image_size = tuple(args.image_size)
  return config


class Network:
  """What is measured: the step and the embedding as train.py makes them."""

  def __init__(self, config):
    self.config = config
    config.train.learning_rate = 4e-6  # random images are no use to learn
    model, optimizer, self.train = run.make_step(
      config, CLASSES, optim.learning_rate_schedule(config.train, 100)
    )
    self.state = devices.replicate(
      create_state(model, optimizer, config.data.image_size, seed=0)
    )
    model = create_model(config.model, CLASSES)
    self.embed = make_embed_batch(model, config.eval)

  def batch(self, images: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (images, *self.config.data.image_size, 3)
    label = (np.arange(images) // K).astype(np.int32)
    return devices.shard_batch(
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

  def count(self, part: str, images: int) -> dict[str, float]:
    """Multiply-adds of an `image`, and of them those of its `pyramid`."""
    without = self.config.copy_and_resolve_references()
    without.model.levels = 0
    whole, rest = (
      Work(config, CLASSES).multiply_adds(part, images) / images
      for config in (self.config, without)
    )
    return {'image': whole, 'pyramid': whole - rest}

  def compiled(self, part: str, images: int) -> dict[str, int]:
    """What the compiler says of a part, which is the one that runs."""
    batch = self.batch(images)
    return compiler_figures(
      self.embed.lower(self.variables, batch['image'])
      if part == 'embed'
      else self.train.lower(self.state, batch)
    )

  def exchange(self, what: str, images: int):
    """A function that moves between devices what a step does, and no more."""
    devices = jax.local_device_count()
    features = len(self.state.params['bottleneck']['scale'])
    share = images // devices
    move, arrays = {
      'gradients': (average_gradients, self.state.params),
      'statistics': (average_statistics, statistics(self.state.batch_stats)),
      'features': (
        gather_features,
        (np.zeros((share, features), np.float32), np.zeros(share, np.int32)),
      ),
    }[what]
    arrays = jax.tree.map(lambda x: np.stack([x] * devices), arrays)
    arrays = jax.pmap(lambda x: x)(arrays)  # to where they belong
    moved = jax.pmap(move, AXIS)
    return lambda: moved(arrays)

  def ceiling(self) -> dict:
    size = 2048 if jax.default_backend() == 'cpu' else 8192
    x = jnp.ones((size, size), self.config.model.dtype)
    product = jax.jit(jnp.matmul)
    return measuring.time_product(
      lambda: product(x, x), jax.block_until_ready, size
    )

  def memory_ceiling(self) -> dict:
    x = jnp.ones(2**26)  # far beyond what a cache holds
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def run():
      nonlocal x
      x = add(x)
      return x

    return measuring.time_traffic(run, jax.block_until_ready, 2 * x.nbytes)


def average_gradients(gradients):
  return lax.pmean(gradients, AXIS)


def statistics(batch_stats) -> list[jax.Array]:
  """Means and variances of all layers, without the shifts that are frozen."""
  leaves = jax.tree.leaves_with_path(batch_stats)
  return [leaf for path, leaf in leaves if path[-1].key != 'bias']


def average_statistics(arrays):
  """Forth and back; each waits for the one before, as in a step."""
  before = 0.0
  for array in (*arrays, *arrays[::-1]):
    before = lax.pmean(array + before, AXIS)[0]
  return before


def gather_features(arrays):
  """What mining needs, and the way back of its gradient."""

  def gather(x):
    return lax.all_gather(x, AXIS, tiled=True)

  features, labels = arrays
  gathered, back = jax.vjp(gather, features)
  return back(gathered), gather(labels)


def device_peak() -> int | None:
  stats = jax.local_devices()[0].memory_stats()  # None on the CPU
  return stats and stats['peak_bytes_in_use']


def serve(network: Network) -> None:
  def measure(part: str, **request) -> dict:
    images = request.get('batch', K)
    match part:
      case 'versions':
        return {'jax': jax.__version__}
      case 'device':
        device = jax.devices()[0]
        return {'device': f'{jax.device_count()} x {device.device_kind}'}
      case 'ceiling':
        return network.ceiling()
      case 'memory ceiling':
        return network.memory_ceiling()
      case 'work':
        return network.count(request['of'], images)
      case 'compiled':
        return network.compiled(request['of'], images)
      case 'exchange':
        run = network.exchange(request['of'], images)
      case _:
        function = network.run_embed if part == 'embed' else network.run_train
        batch = network.batch(images)

        def run():
          return function(batch)

    if part == 'step':  # one of `train`
      return {'seconds': measuring.time_step(run, jax.block_until_ready)}
    return measuring.time_steps(
      run, jax.block_until_ready, request['seconds'], device_peak
    )

  measuring.serve(measure)


def parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__)
  measuring.add_network(parser)
  parser.add_argument('--batch-norm-group', type=int, default=0)
  return parser.parse_args()


if __name__ == '__main__':
  args = parse()
  config = make_config(args)
  config.model.batch_norm_group = args.batch_norm_group
  try:
    network = Network(config)
  except ValueError as error:  # what the configuration has wrong
    sys.exit(str(error))
  serve(network)
