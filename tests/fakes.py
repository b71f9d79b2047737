"""A data set of coloured noise, fed without TensorFlow."""

import itertools
import os

import jax
import numpy as np

from apnet_jax.feed import Feed, Split
from configs import common

# The last feature map must not be smaller than a 3x3 kernel: XLA's CPU backend
# would then use a slow loop.
SIZE, CLASSES = (80, 40), 6


def small_config(**train):
  """Returns a configuration that trains for some steps within seconds."""
  config = common.get_config()
  config.name = 'small'
  config.model.backbone = 'resnet14'
  config.model.levels = 1
  config.data.name = 'noise'
  config.data.image_size = SIZE
  config.compilation_cache_dir = ''
  config.augment.update(pad=2, erase=0.1)  # the images are small
  config.train.update(
    P=4, K=2, epochs=2, log_every_steps=1, warmup_epochs=0,
    learning_rate=1e-3,
  )  # fmt: skip
  config.train.update(train)
  config.eval.batch_size = 8
  return config


def draw_state(shapes, seed):
  """Draws the arrays of a state, which compiles nothing; counts are 0.

  Args:
    shapes: tree of `jax.ShapeDtypeStruct`, as of `state_shapes`.
    seed: seed of the numbers.
  """
  rng = np.random.default_rng(seed)

  def draw(leaf):
    if np.issubdtype(leaf.dtype, np.integer):
      value = np.zeros(leaf.shape, leaf.dtype)
    else:
      value = rng.standard_normal(leaf.shape, leaf.dtype)
    return jax.device_put(value, leaf.sharding)

  return jax.tree.map(draw, shapes)


def image(pid, camid, seed, size=SIZE):
  """Returns a colour of the identity plus noise, uint8 [height, width, 3]."""
  colour = np.random.default_rng(pid).integers(60, 200, 3)
  rng = np.random.default_rng([camid, *np.atleast_1d(seed)])
  noise = rng.integers(-150, 150, (*size, 3))
  return (colour + noise).clip(0, 255).astype(np.uint8)


def make_split(pids, camids, seed=0, size=SIZE):
  def batches(rows, batch_size):
    images = [image(pids[r], camids[r], seed + int(r), size) for r in rows]
    for start in range(0, len(images), batch_size):
      yield np.stack(images[start : start + batch_size])

  paths = np.array([f'{p}_{c}.jpg' for p, c in zip(pids, camids)])
  return Split(np.asarray(pids), np.asarray(camids), paths, batches)


def make_feed(config, steps_per_epoch=3):
  """Returns a feed of images of the configuration's size."""
  images, size = config.train.P * config.train.K, tuple(config.data.image_size)

  def batches(first):
    for step in itertools.count(first):
      rng = np.random.default_rng([config.seed, step])
      labels = rng.choice(CLASSES, config.train.P, replace=False)
      labels = np.repeat(labels, config.train.K).astype(np.int32)
      yield {
        'image': np.stack(
          [image(label, 0, [step, i], size) for i, label in enumerate(labels)]
        ),
        'label': labels,
      }

  people = np.arange(100, 105)
  return Feed(
    query=make_split(people, np.zeros(5, int), size=size),
    gallery=make_split(
      np.concatenate([people, people, [0, 0, -1]]),
      np.repeat([1, 2, 1], [5, 5, 3]),
      size=size,
    ),
    fingerprint='noise',
    summary='noise',
    num_classes=CLASSES,
    steps_per_epoch=steps_per_epoch,
    batches=batches,
    batch_names=lambda k: [f'{k}_{i}.jpg' for i in range(images)],
  )


def sending(batches, signum, count):
  """Yields the same batches, and sends a signal before number `count`."""

  def send(*args):
    for i, batch in enumerate(batches(*args)):
      if i == count:
        os.kill(os.getpid(), signum)
      yield batch

  return send
