"""Measures time and memory of this project's training steps and embeddings.

`benchmarks/versus.py` starts this program as a process, sends requests as lines
of JSON to its standard input, and reads the answers from its output.
"""

import argparse
import functools
import sys

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from apnet_jax.accelerators.traced_programs import TracedPrograms
from apnet_jax.errors import UserError
from apnet_jax.models.apnet import create_model
from apnet_jax.parallel import devices
from apnet_jax.parallel.devices import AXIS
from apnet_jax.retrieval.embed import make_embed_batch
from apnet_jax.training import optim, programs
from apnet_jax.training.train_step import create_state
from benchmarks import measuring
from benchmarks.work import compiler_figures
from configs import common

CLASSES = 751  # identities of Market-1501
K = 4  # images of each identity


def make_config(args: argparse.Namespace):
  """Returns the configuration for flags of `measuring.add_network`."""
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
  """The training step and the embedding, made as train.py makes them."""

  def __init__(self, config):
    self.config = config
    config.train.learning_rate = 4e-6  # random images teach nothing
    model, optimizer, self.train = programs.make_step(
      config, CLASSES, optim.learning_rate_schedule(config.train, 100)
    )
    self.state = devices.replicate(
      create_state(model, optimizer, config.data.image_size, 0, config.train)
    )
    model = create_model(config.model, CLASSES)
    self.embed = make_embed_batch(model, config.eval)

  def batch(self, images: int) -> dict[str, np.ndarray]:
    """Returns a batch of random images and labels, sharded over the devices.

    Args:
      images: number of images.
    """
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

  def count(self, program: str, images: int) -> dict[str, float]:
    """Counts the multiply-adds of a program for one image.

    Args:
      program: 'train' or 'embed'.
      images: size of the batch.

    Returns:
      `image`: multiply-adds of an image. `pyramid`: those of its pyramids.
    """
    without = self.config.copy_and_resolve_references()
    without.model.levels = 0
    whole, rest = (
      TracedPrograms.of(config, CLASSES).multiply_adds(program, images) / images
      for config in (self.config, without)
    )
    return {'image': whole, 'pyramid': whole - rest}

  def compiled(self, program: str, images: int) -> dict[str, int]:
    """Returns the compiler's figures of a program; see `compiler_figures`.

    Args:
      program: 'train' or 'embed'.
      images: size of the batch.
    """
    batch = self.batch(images)
    return compiler_figures(
      self.embed.lower(self.variables, batch['image'])
      if program == 'embed'
      else self.train.lower(self.state, batch)
    )

  def exchange(self, name: str, images: int):
    """Returns a function that runs one data exchange between devices.

    A training step contains all of these exchanges.

    Args:
      name: 'gradients', their average; 'statistics', averages of batch
        normalisation; or 'features', gathering of features and labels.
      images: size of the global batch.
    """
    devices = jax.local_device_count()
    average = functools.partial(lax.pmean, axis_name=AXIS)
    features = len(self.state.params['bottleneck']['scale'])
    share = images // devices
    exchange, arrays = {
      'gradients': (average, self.state.params),
      'statistics': (average_statistics, statistics(self.state.batch_stats)),
      'features': (
        gather_features,
        (np.zeros((share, features), np.float32), np.zeros(share, np.int32)),
      ),
    }[name]
    arrays = jax.tree.map(lambda x: np.stack([x] * devices), arrays)
    arrays = jax.pmap(lambda x: x)(arrays)  # puts them on the devices
    exchange = jax.pmap(exchange, AXIS)
    return lambda: exchange(arrays)

  def product_rate(self) -> dict:
    """Times a large matrix product."""
    size = 2048 if jax.default_backend() == 'cpu' else 8192
    x = jnp.ones((size, size), self.config.model.dtype)
    product = jax.jit(jnp.matmul)
    return measuring.time_product(
      lambda: product(x, x), jax.block_until_ready, size
    )

  def memory_rate(self) -> dict:
    """Times the addition of 1 to an array far larger than any cache.

    Returns:
      `rate`: bytes/s of the fastest repetition.
    """
    x = jnp.ones(2**26)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def run():
      nonlocal x
      x = add(x)
      return x

    times = measuring.time_steps(run, jax.block_until_ready, seconds=1)
    return {'rate': 2 * x.nbytes / min(times['seconds'])}


def statistics(batch_stats) -> list[jax.Array]:
  """Returns the running means and variances of all layers, without biases."""
  leaves = jax.tree.leaves_with_path(batch_stats)
  return [leaf for path, leaf in leaves if path[-1].key != 'bias']


def average_statistics(arrays):
  """Averages batch statistics over the devices, one array after the other.

  There are as many averages as in a forward and a backward pass.

  Args:
    arrays: means and variances of all layers.
  """
  before = 0.0
  for array in (*arrays, *arrays[::-1]):
    before = lax.pmean(array + before, AXIS)[0]
  return before


def gather_features(arrays):
  """Gathers the features and labels of all devices, as triplet mining does.

  Args:
    arrays: features and labels of the images of a device.

  Returns:
    The gradient with respect to the features of the device, and all labels.
  """
  gather = functools.partial(lax.all_gather, axis_name=AXIS, tiled=True)
  features, labels = arrays
  gathered, back = jax.vjp(gather, features)
  return back(gathered), gather(labels)


def device_peak() -> int | None:
  """Returns the peak memory of the device in bytes, if it is known."""
  stats = jax.local_devices()[0].memory_stats()  # None on the CPU
  return stats and stats['peak_bytes_in_use']


def serve(network: Network) -> None:
  """Answers requests to measure a network, until the standard input ends.

  `train` and `embed` time one program for some seconds; `step` times a single
  training step.
  """

  def measure(task: str, **request) -> dict:
    images = request.get('batch', K)
    match task:
      case 'versions':
        return {'jax': jax.__version__}
      case 'device':
        device = jax.devices()[0]
        return {'device': f'{jax.device_count()} x {device.device_kind}'}
      case 'product rate':
        return network.product_rate()
      case 'memory rate':
        return network.memory_rate()
      case 'work':
        return network.count(request['program'], images)
      case 'compiled':
        return network.compiled(request['program'], images)
      case 'exchange':
        run = network.exchange(request['exchange'], images)
      case _:
        function = network.run_embed if task == 'embed' else network.run_train
        batch = network.batch(images)

        def run():
          return function(batch)

    if task == 'step':
      return {'seconds': measuring.time_step(run, jax.block_until_ready)}
    return measuring.time_steps(
      run, jax.block_until_ready, request['seconds'], device_peak
    )

  measuring.serve(measure)


def parse() -> argparse.Namespace:
  """Reads the command line."""
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
  except UserError as error:
    sys.exit(str(error))
  serve(network)
