"""The training step, a pure function of state and batch."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from functools import partial
import math
from typing import Any

from flax import struct
import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import ml_collections
import optax

from apnet_jax.models.apnet import lower_initialize, variable_shapes
from apnet_jax.parallel.batch_layout import shard_positions
from apnet_jax.training import losses, optim
from apnet_jax.training.augment import augment


@struct.dataclass
class TrainState:
  """Everything that a training step changes, as a pytree.

  A run without the centre loss has no centres, and one without an average of
  weights has no average: then the field is None, and stands in no checkpoint.
  """

  step: jax.Array  # int32 []
  params: Mapping
  batch_stats: Mapping
  opt_state: optax.OptState
  centers: tuple[jax.Array, ...] | None = None  # [identities, features] each
  average: Mapping | None = None  # of params and batch_stats

  @property
  def trained_variables(self) -> Mapping:
    """The variables to evaluate: the average, or those of the last step."""
    if self.average is not None:
      return self.average
    return {'params': self.params, 'batch_stats': self.batch_stats}


def create_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  image_size: tuple[int, int],
  seed: int,
  config: ml_collections.ConfigDict,
) -> TrainState:
  """Returns the initial state; its random weights depend on `seed` alone.

  Args:
    model: the network.
    optimizer: see `create_optimizer`.
    image_size: height and width of the images in pixels.
    seed: seed of the weights.
    config: the `train` part of a configuration.
  """
  program = lower_create_state(model, optimizer, image_size, config).compile()
  return program(jax.random.key(seed))


def lower_create_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  image_size: tuple[int, int],
  config: ml_collections.ConfigDict,
) -> jax.stages.Lowered:
  """Lowers the program of `create_state`, a function of a random key."""
  make = partial(first_state, optimizer=optimizer, config=config)
  return lower_initialize(model, image_size, make)


def state_shapes(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  image_size: tuple[int, int],
  config: ml_collections.ConfigDict,
) -> TrainState:
  """Returns the shapes and types of a training state; computes no weights."""
  make = partial(first_state, optimizer=optimizer, config=config)
  return jax.eval_shape(make, variable_shapes(model, image_size))


def first_state(
  variables: Mapping,
  optimizer: optax.GradientTransformation,
  config: ml_collections.ConfigDict,
) -> TrainState:
  """Returns the state before the first step, with the given variables."""
  params = variables['params']
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=variables['batch_stats'],
    opt_state=optimizer.init(params),
    centers=_first_centers(params) if config.center_weight > 0 else None,
    average=dict(variables) if config.ema_decay > 0 else None,
  )


def _first_centers(params: Mapping) -> tuple[jax.Array, ...]:
  """Returns the centres of all identities at 0, for each branch of the head.

  Their shapes are those of the classifiers, whose inputs are the features of
  the branch. (Wen et al. state no initial value.)
  """
  kernels = [params['classifier']['kernel']]
  if 'local' in params:
    kernels.append(params['local']['classifier']['kernel'])
  return tuple(
    jnp.zeros((kernel.shape[-1], math.prod(kernel.shape[:-1])), kernel.dtype)
    for kernel in kernels
  )


def train_step(
  state: TrainState,
  batch: Mapping[str, jax.Array],
  *,
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  config: ml_collections.ConfigDict,
  axis_name: str,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Augments a batch, computes the loss and its gradient, updates the state.

  The loss is Eq. (9). The step runs on each device of `axis_name` with the
  device's shard of the batch. Batch normalisation and the mining of hard
  triplets use the global batch, so that the number of devices does not change
  the result. With several micro-batches (`config.train.accumulate`), batch
  normalisation uses one micro-batch of all devices, and mining still uses the
  whole batch.

  Args:
    state: the same on all devices.
    batch: `image` uint8 [images, height, width, 3] and `label` int [images],
      the shard of this device; see `apnet_jax.parallel.devices.shard_batch`.
    model: a model with the same `axis_name`.
    optimizer: see `create_optimizer`.
    config: the whole configuration.
    axis_name: name of the mapped axis over devices.

  Returns:
    The next state, and metrics averaged over the global batch. The metric
    `bad_gradients` has one value for each array of the parameter tree, in the
    order of the leaves: 1 if the gradient is not finite, else 0. If the loss or
    a gradient is not finite and `config.train.not_finite` is 'skip', only the
    step count of the state changes.
  """
  key = jax.random.fold_in(jax.random.key(config.seed), state.step)

  def forward(params, images, positions):
    output, changed = model.apply(
      {'params': params, 'batch_stats': state.batch_stats},
      augment(key, images, positions, config.augment),
      train=True,
      mutable=['batch_stats'],
    )
    return output, changed['batch_stats']

  def loss(output):
    value, metrics = reid_loss(output, batch['label'], config.train, axis_name)
    if state.centers is None:
      return value, (metrics, None)
    center, centers = center_loss(
      output, batch['label'], state.centers, config.train, axis_name
    )
    value += config.train.center_weight * center
    return value, (metrics | {'center': center, 'loss': value}, centers)

  images = _micro_batches(batch['image'], config.train.accumulate)
  gradients, batch_stats, (metrics, centers) = _differentiate(
    forward, loss, state.params, (images, _positions(images, axis_name))
  )
  gradients, metrics = lax.pmean((gradients, metrics), axis_name)
  metrics['gradient_norm'] = optax.tree.norm(gradients)
  metrics['bad_gradients'] = _not_finite(gradients)
  updates, opt_state = optimizer.update(
    gradients, state.opt_state, state.params
  )
  new = TrainState(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    batch_stats=batch_stats,
    opt_state=opt_state,
    centers=centers,
  )
  new = dataclasses.replace(
    new, average=averaged(state, new, config.train.ema_decay)
  )
  if config.train.not_finite == 'skip':
    new = _unless_not_finite(new, state, metrics)
  return new, metrics


def _unless_not_finite(
  new: TrainState, old: TrainState, metrics: Mapping[str, jax.Array]
) -> TrainState:
  """Returns the new state, or the old one after a step that is not finite.

  The old one gets the step count of the new one.
  """
  finite = jnp.isfinite(metrics['loss'] + metrics['gradient_norm'])
  kept = jax.tree.map(partial(jnp.where, finite), new, old)
  opt_state = optim.at_step(kept.opt_state, new.step)
  return dataclasses.replace(kept, step=new.step, opt_state=opt_state)


def averaged(
  state: TrainState, new: TrainState, decay: float
) -> Mapping | None:
  """Returns the exponential moving average of the variables after a step.

  As in Mean Teacher (Tarvainen and Valpola, NeurIPS 2017), the decay after n
  updates is at most 1 - 1/n, so that the first average is a plain mean and the
  initial weights have no share in it. Steps that were skipped or rolled back
  are no updates.

  Args:
    state: the state before the step.
    new: the state after the step, whose average is not read.
    decay: weight of the old average after many steps.

  Returns:
    The average of `params` and `batch_stats`; None if the state has none.
  """
  if state.average is None:
    return None
  updates = optim.updates_done(new.opt_state)
  if updates is None:  # other optimisers do not count
    updates = new.step
  share = jnp.maximum(1 - decay, 1 / updates)
  return jax.tree.map(
    lambda old, value: old + share.astype(old.dtype) * (value - old),
    state.average,
    {'params': new.params, 'batch_stats': new.batch_stats},
  )


def _not_finite(gradients: Mapping) -> jax.Array:
  """Marks the gradient arrays that are not finite, or have no finite norm.

  Returns:
    float [arrays], 1 for such an array, else 0; in the order of the tree.
  """
  norms = [optax.tree.norm(g, squared=True) for g in jax.tree.leaves(gradients)]
  return 1 - jnp.isfinite(jnp.stack(norms)).astype(norms[0].dtype)


def _micro_batches(tree, number: int):
  """Reshapes [images, ...] to [micro_batches, images / micro_batches, ...]."""
  return jax.tree.map(lambda x: x.reshape(number, -1, *x.shape[1:]), tree)


def _positions(images: jax.Array, axis_name: str) -> jax.Array:
  """Returns the positions of this device's images in the global batch.

  Args:
    images: [micro_batches, images, ...].
    axis_name: name of the mapped axis over devices.

  Returns:
    int [micro_batches, images].
  """
  micro_batches, local = images.shape[:2]
  devices = lax.axis_size(axis_name)
  positions = shard_positions(
    micro_batches * local * devices, devices, micro_batches
  )
  mine = jnp.asarray(positions)[lax.axis_index(axis_name)]
  return mine.reshape(micro_batches, local)


def _differentiate(
  forward: Callable, loss: Callable, params: Mapping, inputs: tuple
) -> tuple[Mapping, Mapping, Any]:
  """Differentiates the loss of a batch, with the memory of one micro-batch.

  This is gradient caching (Gao et al., arXiv:2101.06983). First the outputs of
  all micro-batches are computed, and nothing else is stored. Then the loss of
  the whole batch is differentiated with respect to these outputs. Then each
  micro-batch is computed again and backpropagates its share of that gradient.
  A single micro-batch is computed once.

  Args:
    forward: `forward(params, *micro_batch) -> outputs, batch_stats`.
    loss: `loss(outputs of the batch) -> loss, others`.
    params: parameters to differentiate with respect to.
    inputs: arrays [micro_batches, images, ...].

  Returns:
    The gradient, the mean of `batch_stats` over the micro-batches, and the
    other values that `loss` returns.
  """
  gradient_of_loss = jax.grad(loss, has_aux=True)

  def pullback_of(micro_batch):
    return jax.vjp(lambda p: forward(p, *micro_batch), params, has_aux=True)

  number = len(inputs[0])
  if number == 1:
    outputs, pullback, batch_stats = pullback_of([x[0] for x in inputs])
    cotangents, others = gradient_of_loss(outputs)
    return *pullback(cotangents), batch_stats, others

  outputs, batch_stats = lax.map(lambda x: forward(params, *x), inputs)
  outputs = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)
  cotangents, others = gradient_of_loss(outputs)

  def add(gradients, micro_batch_and_cotangents):
    micro_batch, cotangents = micro_batch_and_cotangents
    _, pullback, _ = pullback_of(micro_batch)
    return optax.tree.add(gradients, *pullback(cotangents)), None

  gradients, _ = lax.scan(
    add,
    optax.tree.zeros_like(params),
    (inputs, _micro_batches(cotangents, number)),
  )
  return gradients, jax.tree.map(_mean, batch_stats), others


def _mean(x: jax.Array) -> jax.Array:
  """Averages over the first axis; the mean of equal values is exact."""
  return x[0] + (x - x[0]).mean(0)


def reid_loss(
  output, labels: jax.Array, config: ml_collections.ConfigDict, axis_name: str
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the loss, Eq. (9), of the images of this device.

  Hard triplets are mined in the global batch. The triplet loss is the mean over
  branches, and the cross-entropy is the mean over all classifiers, as in
  fast-reid's `MGN`. A circle loss with a weight is added; it is the mean over
  branches, too. Distances in the metrics are those of the global branch.

  Args:
    output: a `ReidOutput` for the images of this device.
    labels: int [images].
    config: the `train` part of a configuration.
    axis_name: name of the mapped axis over devices.

  Returns:
    The loss, whose mean over the devices is the loss of the batch, and metrics.
  """
  gather = partial(lax.all_gather, axis_name=axis_name, tiled=True)
  all_hardest = [
    losses.hardest_distances(
      branch.feature, labels, gather(branch.feature), gather(labels)
    )
    for branch in output.branches
  ]
  margin = 0 if config.soft_margin else config.margin
  triplet = _mean_of_branches(
    [
      losses.soft_margin_triplet(hardest)
      if config.soft_margin
      else losses.triplet(hardest, margin)
      for hardest in all_hardest
    ]
  )
  logits = jnp.concatenate([branch.logits for branch in output.branches], 1)
  cross_entropy = losses.cross_entropy(
    logits.reshape(-1, logits.shape[-1]),
    jnp.repeat(labels, logits.shape[1]),
    config.label_smoothing,
    config.smooth_k,
  )
  hardest = all_hardest[0]
  loss = cross_entropy + config.triplet_weight * triplet
  added = {}
  if config.circle_weight > 0:
    added['circle'] = _circle_loss(output, labels, config, axis_name)
    loss += config.circle_weight * added['circle']
  violations = hardest.positive + margin > hardest.negative
  return loss, {
    'loss': loss,
    **added,
    'cross_entropy': cross_entropy,
    'triplet': triplet,
    'accuracy': (output.logits.argmax(-1) == labels).mean(),
    'hardest_positive': hardest.positive.mean(),
    'hardest_negative': hardest.negative.mean(),
    'active_triplets': violations.mean(),
  }


def _circle_loss(output, labels, config, axis_name: str) -> jax.Array:
  """Returns the circle loss of this device's images, averaged over branches."""
  gather = partial(lax.all_gather, axis_name=axis_name, tiled=True)
  own = lax.axis_index(axis_name) * len(labels) + jnp.arange(len(labels))
  of_branches = [
    losses.circle(
      branch.feature,
      labels,
      gather(branch.feature),
      gather(labels),
      own,
      config.circle_margin,
      config.circle_scale,
    )
    for branch in output.branches
  ]
  return _mean_of_branches(of_branches)


def center_loss(
  output,
  labels: jax.Array,
  centers: tuple[jax.Array, ...],
  config: ml_collections.ConfigDict,
  axis_name: str,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """Computes the centre loss of this device's images, and the next centres.

  The loss is the mean over branches. All devices move the centres alike, by the
  images of the whole batch.

  Args:
    output: a `ReidOutput` for the images of this device.
    labels: int [images].
    centers: [identities, features] for each branch, the same on all devices.
    config: the `train` part of a configuration.
    axis_name: name of the mapped axis over devices.
  """
  gather = partial(lax.all_gather, axis_name=axis_name, tiled=True)
  of_branches, moved = [], []
  for branch, of_branch in zip(output.branches, centers, strict=True):
    of_branches.append(losses.center(branch.feature, labels, of_branch))
    features = lax.stop_gradient(gather(branch.feature))
    moved.append(
      losses.moved_centers(
        of_branch, features, gather(labels), config.center_rate
      )
    )
  return _mean_of_branches(of_branches), tuple(moved)


def _mean_of_branches(values: Sequence[jax.Array]) -> jax.Array:
  """Returns the mean of a loss over the branches."""
  first, *others = values
  return sum(others, first) / len(values)
