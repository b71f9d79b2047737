"""Measures this project's input pipeline: encoded images to float batches."""

import argparse
import contextlib
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from apnet_jax.training.augment import augment
from benchmarks import command, measuring
from configs import common
from data import decoding, records


class Pipeline:
  """The input pipeline of a training run, and its measurements.

  Args:
    split: images of the training set.
    labels: label of each image.
    config: the whole configuration.
  """

  def __init__(self, split: records.Records, labels: np.ndarray, config):
    self.split = split
    self.labels = labels
    self.config = config
    self.positions = jnp.arange(config.train.P * config.train.K)
    # Writes over the old batch, which a training step no longer needs.
    self.augment_in_place = jax.jit(
      lambda key, images, old: self.augment(key, images),
      donate_argnums=2,
      keep_unused=True,
    )
    self.augment_anew = jax.jit(
      lambda key, images, _: self.augment(key, images)
    )

  def augment(self, key, images):
    """Augments a batch of images by random transforms.

    Args:
      key: JAX random key.
      images: uint8 [batch, height, width, 3].

    Returns:
      float32 [batch, height, width, 3].
    """
    return augment(key, images, self.positions, self.config.augment)

  def measure(self, task: str, seconds: float = 0) -> dict:
    """Measures one task of the input pipeline.

    Args:
      task: a task of `input_pipeline.py`, or 'versions'.
      seconds: how long to measure.

    Returns:
      The measured rate and memory, or the versions of packages.
    """
    if task == 'versions':
      return command.versions('tensorflow-cpu', 'tensorflow', 'jax', 'numpy')
    if task == 'decode':
      return self.decode_one_by_one()
    batches = records.train_batches(
      self.split, self.labels, self.config, first_step=0
    )
    images = (batch['image'] for batch in batches)
    if task == 'all':
      images = self.augmented(self.augment_in_place, images)
    elif task == 'all, new memory':
      images = self.augmented(self.augment_anew, images)
    return measuring.time_batches(images, seconds, len, jax.block_until_ready)

  def augmented(self, function, batches):
    """Yields augmented batches.

    Args:
      function: function of a random key, a batch and the augmented batch
        before, whose memory the result may use.
      batches: uint8 batches.
    """
    key = jax.random.key(self.config.seed)
    out = jnp.zeros((len(self.positions), *self.config.data.image_size, 3))
    for step, images in enumerate(batches):
      out = function(jax.random.fold_in(key, step), images, out)
      yield out

  def decode_one_by_one(self) -> dict:
    """Times the decoding of all images on one core; `rate` is in images/s."""
    encoded = self.split.encoded.numpy()
    start = time.perf_counter()
    for image in encoded:
      decoding.decode(image)
    seconds = time.perf_counter() - start
    return {'rate': len(encoded) / seconds, 'memory': None}


def open_pipeline(folder: pathlib.Path, config) -> Pipeline:
  """Opens an input pipeline with all images of a folder in memory.

  Args:
    folder: folder of JPEG or PNG files.
    config: the whole configuration. `config.data.cache` decides whether the
      images are kept encoded or decoded.
  """
  paths = measuring.list_images(folder)
  labels = measuring.label(paths, config.train.K)
  split = records.Records(
    encoded=records.to_variable([path.read_bytes() for path in paths]),
    pids=labels,
    camids=np.zeros_like(labels),
    paths=np.array([path.name for path in paths]),
  )
  return Pipeline(
    records.apply_cache(split, 'train', config.data), labels, config
  )


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--images', type=pathlib.Path)
  parser.add_argument('--image-size', nargs=2, type=int)
  parser.add_argument('--cache')
  args = parser.parse_args()
  config = common.get_config()
  config.data.image_size = tuple(args.image_size)
  config.data.cache = args.cache
  with contextlib.redirect_stdout(sys.stderr):  # answers go to stdout
    pipeline = open_pipeline(args.images, config)
  measuring.serve(pipeline.measure)


if __name__ == '__main__':
  main()
