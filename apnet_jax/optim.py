"""Adam with coupled weight decay, warm-up and step decay (Section IV.B)."""

import jax
import jax.numpy as jnp
import ml_collections
import optax


def learning_rate_schedule(
  config: ml_collections.ConfigDict, steps_per_epoch: int
) -> optax.Schedule:
  """Learning rate of a step; constant within an epoch.

  `learning_rate * decay_factor^(milestones passed)`, times a linear warm-up
  that starts at `warmup_factor` in epoch 0 and reaches 1 in `warmup_epochs`.

  Args:
    config: the `train` part of a configuration.
    steps_per_epoch: optimiser steps of an epoch.
  """
  milestones = jnp.array(tuple(config.milestones), jnp.int32)

  def schedule(step):
    epoch = step // steps_per_epoch
    progress = jnp.minimum(epoch / max(config.warmup_epochs, 1), 1.0)
    if config.warmup_epochs == 0:
      progress = 1.0
    warmup = config.warmup_factor * (1 - progress) + progress
    passed = (epoch >= milestones).sum()
    return config.learning_rate * warmup * config.decay_factor**passed

  return schedule


def create_optimizer(
  config: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """`torch.optim.Adam(weight_decay=...)`: the decay is part of the gradient.

  It acts on every parameter, biases and batch normalisation included, as in the
  recipes of the field. (`optax.adamw` would decouple it.)
  """
  return optax.chain(
    optax.add_decayed_weights(config.weight_decay),
    optax.scale_by_adam(),
    optax.scale_by_learning_rate(schedule),
  )


def at_step(opt_state: optax.OptState, step: jax.Array) -> optax.OptState:
  """The same moments, with the learning rate of a run after `step` steps.

  How many updates the moments are of is another count, which stays.
  """

  def is_of_schedule(path, _):
    return getattr(path[-1], 'tuple_name', '') == 'ScaleByScheduleState'

  return optax.tree.set(opt_state, is_of_schedule, count=step)
