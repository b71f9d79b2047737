"""Adam with coupled weight decay, warm-up and step decay (Section IV.B)."""

import jax
import jax.numpy as jnp
import ml_collections
import optax


def learning_rate_schedule(
  config: ml_collections.ConfigDict, steps_per_epoch: int
) -> optax.Schedule:
  """Returns the learning rate as a function of the step, constant in an epoch.

  The rate is `learning_rate * decay_factor^(milestones passed)`, times a linear
  warm-up from `warmup_factor` in epoch 0 to 1 in epoch `warmup_epochs`.

  Args:
    config: the `train` part of a configuration.
    steps_per_epoch: number of optimiser steps in an epoch.
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
  """Returns Adam with coupled weight decay, as in `torch.optim.Adam`.

  The decay is part of the gradient (`optax.adamw` would decouple it). It acts
  on all parameters, biases and batch normalisation included, as is usual in
  re-identification.

  Args:
    config: the `train` part of a configuration.
    schedule: learning rate as a function of the step.
  """
  return optax.chain(
    optax.add_decayed_weights(config.weight_decay),
    optax.scale_by_adam(),
    optax.scale_by_learning_rate(schedule),
  )


def at_step(opt_state: optax.OptState, step: jax.Array) -> optax.OptState:
  """Returns an optimiser state whose learning-rate schedule is at a step.

  The moments and the update count of Adam are unchanged.

  Args:
    opt_state: state of an optimiser made by `create_optimizer`.
    step: int32 [], number of steps done.
  """

  def is_of_schedule(path, _):
    return getattr(path[-1], 'tuple_name', '') == 'ScaleByScheduleState'

  return optax.tree.set(opt_state, is_of_schedule, count=step)
