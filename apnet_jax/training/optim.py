"""Adam with coupled weight decay, warm-up and decay (Section IV.B)."""

from functools import partial

import jax
import jax.numpy as jnp
import ml_collections
import optax


def learning_rate_schedule(
  config: ml_collections.ConfigDict, steps_per_epoch: int
) -> optax.Schedule:
  """Returns the learning rate as a function of the step.

  The rate is `learning_rate`, times a linear warm-up from `warmup_factor` in
  epoch 0 to 1 in epoch `warmup_epochs`, times a decay:

  - `schedule='step'`: `decay_factor^(milestones passed)`. The rate is constant
    in an epoch.
  - `schedule='cosine'`: `(1 + cos(pi t)) / 2`, where t grows with each step
    from 0 after the warm-up to 1 at the end of `epochs`.

  Args:
    config: the `train` part of a configuration. For the cosine, `epochs` must
      be more than `warmup_epochs`; see `checks.check_warmup`.
    steps_per_epoch: number of optimiser steps in an epoch.
  """
  kinds = {'step': _decay_at_milestones, 'cosine': _cosine_after_warmup}
  decay = kinds[config.schedule](config, steps_per_epoch)
  epochs = config.warmup_epochs

  def schedule(step):
    epoch = step // steps_per_epoch
    progress = jnp.minimum(epoch / epochs, 1.0) if epochs else 1.0
    warmup = config.warmup_factor * (1 - progress) + progress
    return config.learning_rate * warmup * decay(step)

  return schedule


def _decay_at_milestones(
  config: ml_collections.ConfigDict, steps_per_epoch: int
) -> optax.Schedule:
  milestones = jnp.array(tuple(config.milestones), jnp.int32)

  def decay(step):
    passed = (step // steps_per_epoch >= milestones).sum()
    return config.decay_factor**passed

  return decay


def _cosine_after_warmup(
  config: ml_collections.ConfigDict, steps_per_epoch: int
) -> optax.Schedule:
  epochs = config.epochs - config.warmup_epochs
  decay = optax.cosine_decay_schedule(1.0, epochs * steps_per_epoch)
  first = config.warmup_epochs * steps_per_epoch
  return lambda step: decay(jnp.maximum(step - first, 0))


def create_optimizer(
  config: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """Returns Adam with coupled weight decay, as in `torch.optim.Adam`.

  The decay is part of the gradient (`optax.adamw` would decouple it). It acts
  on all parameters, biases and batch normalisation included, as is usual in
  re-identification. `clip_norm` limits the norm of the gradient before that.

  Args:
    config: the `train` part of a configuration.
    schedule: learning rate as a function of the step.
  """
  adam = (
    optax.add_decayed_weights(config.weight_decay),
    optax.scale_by_adam(),
    optax.scale_by_learning_rate(schedule),
  )
  if config.clip_norm > 0:
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), *adam)
  return optax.chain(*adam)


def updates_done(opt_state: optax.OptState) -> jax.Array | None:
  """Returns the number of updates in the moments of Adam, int32 [].

  Steps that were skipped or rolled back are not among them.

  Returns:
    None if the optimiser is not Adam.
  """
  adam = partial(_is_field_of, 'ScaleByAdamState')
  return optax.tree.get(opt_state, 'count', filtering=adam)


def at_step(opt_state: optax.OptState, step: jax.Array) -> optax.OptState:
  """Returns an optimiser state whose learning-rate schedule is at a step.

  The moments and the update count of Adam are unchanged.

  Args:
    opt_state: state of an optimiser made by `create_optimizer`.
    step: int32 [], number of steps done.
  """
  schedule = partial(_is_field_of, 'ScaleByScheduleState')
  return optax.tree.set(opt_state, schedule, count=step)


def _is_field_of(state: str, path: tuple, _) -> bool:
  """Returns whether a path in an optimiser state ends in a field of a class."""
  return getattr(path[-1], 'tuple_name', '') == state
