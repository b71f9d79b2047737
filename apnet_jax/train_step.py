"""One step of training as a pure function of state and batch."""

from collections.abc import Mapping
from functools import partial

from flax import struct
import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import ml_collections
import optax

from apnet_jax import losses
from apnet_jax.augment import augment
from apnet_jax.models.apnet import initialize


@struct.dataclass
class TrainState:
  """All that a step changes; a plain pytree."""

  step: jax.Array  # int32 []
  params: Mapping
  batch_stats: Mapping
  opt_state: optax.OptState


def create_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  image_size: tuple[int, int],
  seed: int,
) -> TrainState:
  """Initial state; parameters are a function of `seed` alone."""

  def make_state(variables):
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=variables['params'],
      batch_stats=variables['batch_stats'],
      opt_state=optimizer.init(variables['params']),
    )

  return initialize(model, image_size, seed, make_state)


def train_step(
  state: TrainState,
  batch: Mapping[str, jax.Array],
  *,
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  config: ml_collections.ConfigDict,
  axis_name: str,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Augments, computes Eq. (9) and its gradient, and updates the state.

  Runs on each device of `axis_name` with its part of the batch. Batch
  normalisation and mining see the global batch, so that the number of devices
  does not change the result.

  Args:
    state: the same on every device.
    batch: `image` uint8 [images, height, width, 3], `label` int [images].
    model: made with the same `axis_name`.
    optimizer: see `apnet_jax.optim.create_optimizer`.
    config: the whole configuration.
    axis_name: of the mapped axis over devices.

  Returns:
    The next state, and metrics averaged over the global batch.
  """
  images = batch['image'].shape[0]
  positions = lax.axis_index(axis_name) * images + jnp.arange(images)
  key = jax.random.fold_in(jax.random.key(config.seed), state.step)
  inputs = augment(key, batch['image'], positions, config.augment)

  def loss_fn(params):
    output, changed = model.apply(
      {'params': params, 'batch_stats': state.batch_stats},
      inputs,
      train=True,
      mutable=['batch_stats'],
    )
    loss, metrics = reid_loss(output, batch['label'], config.train, axis_name)
    return loss, (changed['batch_stats'], metrics)

  (_, (batch_stats, metrics)), gradients = jax.value_and_grad(
    loss_fn, has_aux=True
  )(state.params)
  gradients, metrics = lax.pmean((gradients, metrics), axis_name)
  metrics['gradient_norm'] = optax.tree.norm(gradients)
  updates, opt_state = optimizer.update(
    gradients, state.opt_state, state.params
  )
  return TrainState(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    batch_stats=batch_stats,
    opt_state=opt_state,
  ), metrics


def reid_loss(
  output, labels: jax.Array, config: ml_collections.ConfigDict, axis_name: str
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Eq. (9) for the images of this device, mined in the global batch.

  The triplet loss is a mean over branches and the cross-entropy one over all
  classifiers, as in fast-reid's `MGN`. Distances among the metrics are those of
  the global branch. The mean of the returned loss over the devices is the loss
  of the batch.
  """
  gather = partial(lax.all_gather, axis_name=axis_name, tiled=True)
  all_hardest = [
    losses.hardest_distances(
      branch.feature, labels, gather(branch.feature), gather(labels)
    )
    for branch in output.branches
  ]
  triplet = sum(
    losses.triplet(hardest, config.margin) for hardest in all_hardest
  ) / len(all_hardest)
  logits = jnp.concatenate([branch.logits for branch in output.branches], 1)
  cross_entropy = losses.cross_entropy(
    logits.reshape(-1, logits.shape[-1]),
    jnp.repeat(labels, logits.shape[1]),
    config.label_smoothing,
    config.smooth_k,
  )
  hardest = all_hardest[0]
  loss = cross_entropy + config.triplet_weight * triplet
  violations = hardest.positive + config.margin > hardest.negative
  return loss, {
    'loss': loss,
    'cross_entropy': cross_entropy,
    'triplet': triplet,
    'accuracy': (output.logits.argmax(-1) == labels).mean(),
    'hardest_positive': hardest.positive.mean(),
    'hardest_negative': hardest.negative.mean(),
    'active_triplets': violations.mean(),
  }
