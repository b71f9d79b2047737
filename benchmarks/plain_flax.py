"""A plain re-identification network in Flax, to compare this project with.

It is what a user of Flax writes: a ResNet-50 with last stride 1 of `nn.Conv`
and `nn.BatchNorm`, a BN neck and a classifier, and a training step of
`jax.value_and_grad` and Optax. Augmentation and losses are this project's, so
that only the network and the step differ.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import ml_collections
import optax

from apnet_jax.accelerators.traced_programs import (
  TracedPrograms,
  devices_of_process,
)
from apnet_jax.models.normalization import normalize
from apnet_jax.parallel import devices
from apnet_jax.parallel.devices import AXIS
from apnet_jax.training import losses
from apnet_jax.training.augment import augment

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 1))


class Block(nn.Module):
  """A bottleneck block of ResNet-50."""

  width: int
  stride: int
  conv: Any
  norm: Any

  @nn.compact
  def __call__(self, x):
    y = nn.relu(self.norm()(self.conv(self.width, (1, 1))(x)))
    y = self.conv(
      self.width, (3, 3), (self.stride, self.stride), padding=[(1, 1)] * 2
    )(y)
    y = self.conv(4 * self.width, (1, 1))(nn.relu(self.norm()(y)))
    y = self.norm()(y)
    if x.shape != y.shape:
      strides = (self.stride, self.stride)
      x = self.norm()(self.conv(4 * self.width, (1, 1), strides)(x))
    return nn.relu(x + y)


class PlainResNet50(nn.Module):
  """ResNet-50 with a BN neck and a classifier.

  Attributes:
    num_classes: number of identities.
    dtype: type that convolutions compute in.
    axis_name: name of the mapped axis over devices; None for one device.
  """

  num_classes: int
  dtype: Any
  axis_name: str | None = None

  @nn.compact
  def __call__(self, images, train):
    """Returns features, embeddings and logits of normalised images."""
    conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
    norm = partial(
      nn.BatchNorm,
      use_running_average=not train,
      momentum=0.9,
      epsilon=1e-5,
      dtype=self.dtype,
      axis_name=self.axis_name,
    )
    x = conv(64, (7, 7), (2, 2), padding=[(3, 3)] * 2)(
      images.astype(self.dtype)
    )
    x = nn.relu(norm()(x))
    x = nn.max_pool(x, (3, 3), (2, 2), padding=[(1, 1)] * 2)
    for width, blocks, stride in STAGES:
      for block in range(blocks):
        x = Block(width, 1 if block else stride, conv, norm)(x)
    feature = x.mean((1, 2), dtype=jnp.float32)
    embedding = norm(dtype=jnp.float32, use_bias=False)(feature)
    return feature, embedding, nn.Dense(self.num_classes, False)(embedding)


class PlainState(NamedTuple):
  """The training state."""

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: optax.OptState


def plain_programs(
  config: ml_collections.ConfigDict,
  num_classes: int,
  on: Sequence[jax.Device] | None = None,
) -> TracedPrograms:
  """Returns the training step and the embedding of the plain network.

  Args:
    config: the whole configuration; its network has no effect, except for
      `model.dtype`.
    num_classes: number of identities.
    on: devices to compile for; None for the first of this process.
  """
  on = jax.local_devices()[:1] if on is None else on
  of_process = devices_of_process(on)
  size = tuple(config.data.image_size)
  dtype = jnp.dtype(config.model.dtype)
  optimizer = optax.chain(
    optax.add_decayed_weights(config.train.weight_decay),
    optax.adam(config.train.learning_rate),
  )
  alone = PlainResNet50(num_classes, dtype)
  state = jax.eval_shape(partial(_first_state, alone, optimizer, size))
  step = partial(
    _step,
    model=PlainResNet50(num_classes, dtype, AXIS),
    optimizer=optimizer,
    config=config,
  )
  return TracedPrograms(
    {
      'train': devices.pmap_step(step, on),
      'embed': devices.pmap_batch(partial(_embed, alone), of_process),
    },
    {
      'train': state,
      'embed': {'params': state.params, 'batch_stats': state.batch_stats},
    },
    {'train': len(on), 'embed': len(of_process)},
    size,
  )


def _first_state(model, optimizer, size) -> PlainState:
  variables = model.init(jax.random.key(0), jnp.zeros((1, *size, 3)), False)
  params = variables['params']
  return PlainState(
    jnp.zeros((), jnp.int32),
    params,
    variables['batch_stats'],
    optimizer.init(params),
  )


def _step(state, batch, *, model, optimizer, config):
  key = jax.random.fold_in(jax.random.key(config.seed), state.step)
  images = len(batch['image'])
  positions = lax.axis_index(AXIS) * images + jnp.arange(images)
  images = augment(key, batch['image'], positions, config.augment)

  def loss(params):
    (feature, _, logits), changed = model.apply(
      {'params': params, 'batch_stats': state.batch_stats},
      images,
      True,
      mutable=['batch_stats'],
    )
    gather = partial(lax.all_gather, axis_name=AXIS, tiled=True)
    hardest = losses.hardest_distances(
      feature, batch['label'], gather(feature), gather(batch['label'])
    )
    value = losses.triplet(hardest, config.train.margin)
    value += losses.cross_entropy(
      logits, batch['label'], config.train.label_smoothing
    )
    return value, changed['batch_stats']

  (value, batch_stats), gradients = jax.value_and_grad(loss, has_aux=True)(
    state.params
  )
  value, gradients = lax.pmean((value, gradients), AXIS)
  updates, opt_state = optimizer.update(
    gradients, state.opt_state, state.params
  )
  params = optax.apply_updates(state.params, updates)
  return PlainState(state.step + 1, params, batch_stats, opt_state), value


def _embed(model, variables, images):
  images = normalize(images)
  embeddings = sum(
    model.apply(variables, x, False)[1] for x in (images, images[:, :, ::-1])
  )
  return embeddings / jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
