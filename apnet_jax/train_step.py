"""One step of training as a pure function of state and batch."""

from collections.abc import Callable, Mapping
from functools import partial

from flax import struct
import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import ml_collections
import optax

from apnet_jax import losses, optim
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
  make = partial(first_state, optimizer=optimizer)
  return initialize(model, image_size, seed, make)


def first_state(
  variables: Mapping, optimizer: optax.GradientTransformation
) -> TrainState:
  """The state before the first step, with the variables of a model."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=variables['params'],
    batch_stats=variables['batch_stats'],
    opt_state=optimizer.init(variables['params']),
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
  """Augments, computes Eq. (9) and its gradient, and updates the state.

  Runs on each device of `axis_name` with its part of the batch. Batch
  normalisation and mining see the global batch, so that the number of devices
  does not change the result. With `config.train.accumulate` parts, batch
  normalisation sees the global images of a part, and mining still all.

  Args:
    state: the same on every device.
    batch: `image` uint8 [images, height, width, 3], `label` int [images], laid
      out by `apnet_jax.parallel.split`.
    model: made with the same `axis_name`.
    optimizer: see `apnet_jax.optim.create_optimizer`.
    config: the whole configuration.
    axis_name: of the mapped axis over devices.

  Returns:
    The next state, and metrics averaged over the global batch. Of these,
    `bad_gradients` is [parameters], in the order of their tree: 1 where a
    gradient is not finite. If the loss or a gradient is not, and
    `config.train.not_finite` is 'skip', the state is as before, one step later.
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
    return reid_loss(output, batch['label'], config.train, axis_name)

  images = _cut(batch['image'], config.train.accumulate)
  gradients, batch_stats, metrics = _differentiate(
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
  )
  if config.train.not_finite == 'skip':
    finite = jnp.isfinite(metrics['loss'] + metrics['gradient_norm'])
    kept = jax.tree.map(partial(jnp.where, finite), new, state)
    opt_state = optim.at_step(kept.opt_state, new.step)
    new = kept.replace(step=new.step, opt_state=opt_state)
  return new, metrics


def _not_finite(gradients: Mapping) -> jax.Array:
  """1 for each array that is not finite or whose norm overflows, else 0."""
  norms = [optax.tree.norm(g, squared=True) for g in jax.tree.leaves(gradients)]
  return 1 - jnp.isfinite(jnp.stack(norms)).astype(norms[0].dtype)


def _cut(tree, parts: int):
  """[images, ...] -> [parts, images / parts, ...]."""
  return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), tree)


def _positions(images: jax.Array, axis_name: str) -> jax.Array:
  """Of images [parts, images, ...] in the global batch; [parts, images]."""
  parts, local = images.shape[:2]
  devices = lax.axis_size(axis_name)
  shares = jnp.arange(parts) * devices + lax.axis_index(axis_name)
  return shares[:, None] * local + jnp.arange(local)


def _differentiate(
  forward: Callable, loss: Callable, params: Mapping, inputs: tuple
) -> tuple[Mapping, Mapping, dict[str, jax.Array]]:
  """Gradient of one loss of all parts, with the memory of one part.

  Gradient caching (Gao et al., arXiv:2101.06983): the outputs of all parts come
  first, and nothing else is kept of them; then the gradient of the loss by
  these outputs; then each part is computed again, and goes back with its share
  of it. A single part is computed once.

  Args:
    forward: `forward(params, *inputs of a part) -> outputs, batch_stats`.
    loss: `loss(outputs of all parts) -> loss, metrics`.
    params: what the gradient is by.
    inputs: arrays [parts, images, ...].

  Returns:
    The gradient, the mean of `batch_stats` over the parts, and the metrics.
  """
  gradient_of_loss = jax.grad(loss, has_aux=True)

  def pullback_of(part):
    return jax.vjp(lambda p: forward(p, *part), params, has_aux=True)

  parts = len(inputs[0])
  if parts == 1:
    outputs, pullback, batch_stats = pullback_of([x[0] for x in inputs])
    cotangents, metrics = gradient_of_loss(outputs)
    return *pullback(cotangents), batch_stats, metrics

  outputs, batch_stats = lax.map(lambda part: forward(params, *part), inputs)
  outputs = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)
  cotangents, metrics = gradient_of_loss(outputs)

  def add(gradients, part_and_cotangents):
    part, cotangents = part_and_cotangents
    _, pullback, _ = pullback_of(part)
    return optax.tree.add(gradients, *pullback(cotangents)), None

  gradients, _ = lax.scan(
    add, optax.tree.zeros_like(params), (inputs, _cut(cotangents, parts))
  )
  return gradients, jax.tree.map(_mean, batch_stats), metrics


def _mean(x: jax.Array) -> jax.Array:
  """Over the first axis; what is equal there, as a frozen shift, stays so."""
  return x[0] + (x - x[0]).mean(0)


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
