import functools
from functools import partial
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from apnet_jax.models.apnet import create_model
from apnet_jax.models.heads import Branch, ReidOutput
from apnet_jax.parallel import batch_layout
from apnet_jax.parallel.devices import AXIS
from apnet_jax.training import optim
from apnet_jax.training import train_step as train_step_module
from apnet_jax.training.train_step import (
  TrainState,
  averaged,
  create_state,
  state_shapes,
  train_step,
)
from configs import common
from tests.tiny import difference, tiny_model, widen

SIZE, CLASSES = (80, 40), 6


def make_config(**model):
  config = common.get_config()
  config.model.backbone = 'resnet14'
  config.model.update(model)
  config.data.image_size = SIZE
  return config


def make_batch():
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 256, (8, *SIZE, 3), np.uint8),
    'label': np.repeat(rng.permutation(CLASSES)[:4], 2).astype(np.int32),
  }


# With plain SGD, a comparison of states compares gradients. Adam would amplify
# rounding errors of tiny gradients.
SGD = optax.sgd(1.0)


def plain_sgd(config):
  """Returns SGD, with the clipping of a configuration."""
  limit = config.train.clip_norm
  return optax.chain(optax.clip_by_global_norm(limit), SGD) if limit else SGD


def bind(config, model=None):
  """Returns `step(state, batch)` of one device."""
  return partial(
    train_step,
    model=model or create_model(config.model, CLASSES, AXIS),
    optimizer=plain_sgd(config),
    config=config,
    axis_name=AXIS,
  )


def pmapped(config, devices, model=None):
  """Returns the step, mapped over the first `devices` devices."""
  return jax.pmap(
    bind(config, model),
    axis_name=AXIS,
    in_axes=(None, 0),
    out_axes=None,
    devices=jax.devices()[:devices],
  )


def lay_out(batch, devices, micro_batches=1):
  """Shards a batch over devices, as the step expects it."""
  return jax.tree.map(
    lambda x: batch_layout.shard(x, devices, micro_batches), batch
  )


def step_on(devices, config, state, model=None):
  """Returns state and metrics after one step from a state in numpy arrays."""
  step = pmapped(config, devices, model)
  batch = lay_out(make_batch(), devices, config.train.accumulate)
  return jax.device_get(step(state, batch))


def tiny_config(group, **train):
  config = make_config(
    attention='none', batch_norm_group=group, dtype='float64'
  )
  config.train.update(train)
  return config


def tiny_case(config):
  """Returns a tiny network and its first state in float64."""
  model = tiny_model(config.model, CLASSES, AXIS, config.train.rematerialize)
  state = create_state(model, plain_sgd(config), SIZE, 0, config.train)
  state = widen(jax.device_get(state))
  # A frozen shift, as imported weights may have.
  state.batch_stats['bottleneck']['bias'] = np.linspace(0, 1, 16)
  return model, state


@functools.cache
def tiny_step(devices, group, **train):
  """Returns state and metrics after a float64 step with batch norm groups."""
  config = tiny_config(group, **train)
  model, state = tiny_case(config)
  return step_on(devices, config, state, model)


def test_devices_do_not_change_the_step(x64):
  """A short form of tests/faults/test_devices.py; groups span two devices."""
  expected, expected_metrics = tiny_step(1, 4)
  new, metrics = tiny_step(4, 4)
  assert {x.dtype for x in jax.tree.leaves(new.params)} == {np.dtype('f8')}
  _, old = tiny_case(tiny_config(4))
  moved = optax.tree.norm(optax.tree.sub(old.params, new.params))
  np.testing.assert_allclose(metrics['gradient_norm'], moved, rtol=1e-9)
  assert difference(metrics, expected_metrics) < 1e-9
  assert difference(new, expected) < 1e-9


@pytest.mark.parametrize(
  ('train', 'devices', 'group', 'group_of_batch'),
  [
    ({'accumulate': 2, 'rematerialize': True}, 1, 0, 4),  # 0: a micro-batch
    ({'rematerialize': True}, 1, 4, 4),
  ],
)
def test_less_memory_is_the_same_step(
  train, devices, group, group_of_batch, x64
):
  expected, expected_metrics = tiny_step(1, group_of_batch)
  new, metrics = tiny_step(devices, group, **train)
  assert difference(metrics, expected_metrics) < 1e-9
  assert difference(new, expected) < 1e-9
  bias = new.batch_stats['bottleneck']['bias']
  assert (bias == np.linspace(0, 1, 16)).all()


def recipe_step(devices, accumulate):
  """Returns the state before and after a step with all recipes, and metrics."""
  config = tiny_config(
    2, accumulate=accumulate, clip_norm=0.5, circle_weight=0.1,
    circle_scale=8.0, center_weight=0.1, ema_decay=0.75, soft_margin=True,
  )  # fmt: skip
  config.augment.jitter = 0.5
  model, state = tiny_case(config)
  # After some steps, when neither centres nor the average are new.
  centers = np.random.default_rng(0).normal(size=(CLASSES, 16))
  state = state.replace(step=np.int32(7), centers=(centers,))
  return state, *step_on(devices, config, state, model)


def test_micro_batches_are_the_same_step_with_all_recipes(x64):
  """Soft margin, circle and centre loss, clipping, average, colour jitter."""
  old, expected, expected_metrics = recipe_step(1, accumulate=1)
  _, new, metrics = recipe_step(4, accumulate=2)  # a group spans two devices
  assert difference(metrics, expected_metrics) < 1e-9
  assert difference(new, expected) < 1e-9
  bias = new.batch_stats['bottleneck']['bias']
  assert (bias == np.linspace(0, 1, 16)).all()
  # Each recipe takes part.
  assert metrics['gradient_norm'] > 0.5
  assert metrics['circle'] > 0 and metrics['center'] > 0
  terms = (metrics[name] for name in ('cross_entropy', 'triplet'))
  added = 0.1 * (metrics['circle'] + metrics['center'])
  np.testing.assert_allclose(metrics['loss'], sum(terms) + added, rtol=1e-9)
  moved = np.abs(new.centers[0] - old.centers[0]).max(1) > 0
  assert moved.sum() == 4  # the people of the batch
  before, after, mean = (
    variables['params']['classifier']['kernel']
    for variables in (old.average, {'params': new.params}, new.average)
  )
  np.testing.assert_allclose(mean, 0.75 * before + 0.25 * after, rtol=1e-9)
  assert 0 < np.linalg.norm(after - before) <= 0.5


def test_the_average_of_weights_is_a_mean_and_then_forgets():
  """Mean Teacher: the decay is min(decay, 1 - 1/(t + 1)) after t steps."""
  rng, expected, seen = np.random.default_rng(0), None, []
  start = TrainState(jnp.int32(0), {'w': jnp.ones(2)}, {}, ())
  assert averaged(start, start, 0.75) is None
  # Two steps were skipped: they are no updates.
  state = start.replace(step=2, average=start.trained_variables)
  for t in range(7):
    seen.append(rng.normal(size=2))
    new = state.replace(
      step=state.step + 1,
      params={'w': jnp.array(seen[-1])},
      opt_state=optax.ScaleByAdamState(jnp.int32(t + 1), {}, {}),
    )
    state = new.replace(average=averaged(state, new, 0.75))
    if t < 4:
      expected = np.mean(seen, 0)
    else:
      expected = 0.75 * expected + 0.25 * seen[-1]
    np.testing.assert_allclose(
      state.trained_variables['params']['w'], expected, rtol=1e-5
    )


@pytest.mark.parametrize('bad', ['loss', 'gradient_norm', None])
def test_a_step_counts_if_loss_and_gradient_are_finite(bad):
  config = common.get_config().train
  optimizer = optim.create_optimizer(config, optax.constant_schedule(1.0))
  variables = {'params': {'w': jnp.zeros(2)}, 'batch_stats': {}}
  old = train_step_module.first_state(variables, optimizer, config)
  new = old.replace(step=old.step + 1, params={'w': jnp.ones(2)})
  metrics = {'loss': 1.0, 'gradient_norm': 1.0} | {bad: jnp.inf}
  kept = train_step_module._unless_not_finite(new, old, metrics)
  assert kept.params['w'].tolist() == [bad is None] * 2
  assert kept.step == kept.opt_state[2].count == 1


def test_each_branch_of_the_head_has_centers_for_its_features():
  kernels = {'classifier': {'kernel': jnp.zeros((16, 6))}}
  local = {'classifier': {'kernel': jnp.zeros((2, 8, 6))}}  # of two stripes
  centers = train_step_module._first_centers({**kernels, 'local': local})
  assert [each.shape for each in centers] == [(6, 16), (6, 16)]
  assert len(train_step_module._first_centers(kernels)) == 1


def test_micro_batches_are_the_same_on_any_number_of_devices():
  images = np.arange(12)
  one, two = (batch_layout.shard(images, devices, 3) for devices in (1, 2))
  assert one.tolist() == [list(range(12))]
  assert two.tolist() == [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]


def test_bfloat16_keeps_state_and_losses_in_float32():
  config = make_config(dtype='bfloat16')
  model = create_model(config.model, CLASSES)
  batch = lay_out(make_batch(), 4)
  new, metrics = jax.eval_shape(
    pmapped(config, 4), state_shapes(model, SGD, SIZE, config.train), batch
  )
  dtypes = {x.dtype for x in jax.tree.leaves((new.params, new.batch_stats))}
  assert dtypes == {np.dtype('float32')}
  assert {x.dtype for x in metrics.values()} == {np.dtype('float32')}


def test_initial_state_is_a_function_of_the_seed():
  config = make_config()
  model = tiny_model(config.model, CLASSES)
  first, same, other = (
    jax.tree.leaves(create_state(model, SGD, SIZE, seed, config.train).params)
    for seed in (0, 0, 1)
  )
  assert all(jnp.array_equal(a, b) for a, b in zip(first, same))
  assert not all(jnp.array_equal(a, b) for a, b in zip(first, other))


class Augmented(Exception):
  pass


def key_of_augmentation(step, seed, monkeypatch):
  """Returns the random key of the augmentation in a step."""

  def augment(key, *_):
    raise Augmented(tuple(jax.random.key_data(key).tolist()))

  monkeypatch.setattr(train_step_module, 'augment', augment)
  config = make_config()
  config.seed = seed
  state = TrainState(jnp.int32(step), {}, {}, ())
  step = bind(config, model=types.SimpleNamespace(apply=None))
  with pytest.raises(Augmented) as error:
    jax.vmap(partial(step, state), axis_name=AXIS)(lay_out(make_batch(), 1))
  return error.value.args[0]


def test_each_step_and_seed_augments_in_another_way(monkeypatch):
  keys = {
    key_of_augmentation(step, seed, monkeypatch)
    for step, seed in ((0, 0), (1, 0), (2, 0), (0, 1), (0, 0))
  }
  assert len(keys) == 4


def test_hardest_distances_are_those_of_the_global_branch():
  x = jnp.array([[0.0], [1.0], [3.0], [7.0]])
  branches = tuple(Branch(s * x, jnp.zeros((4, 1, 2))) for s in (1, 5))
  output = ReidOutput(None, None, jnp.zeros((4, 2)), branches)
  labels, config = jnp.array([0, 0, 1, 1]), common.get_config().train
  _, found = jax.vmap(
    lambda one: train_step_module.reid_loss(one, labels, config, AXIS),
    axis_name=AXIS,
  )(jax.tree.map(lambda leaf: leaf[None], output))
  positive, negative = found['hardest_positive'], found['hardest_negative']
  np.testing.assert_allclose(positive[0], (1 + 1 + 4 + 4) / 4, rtol=1e-5)
  np.testing.assert_allclose(negative[0], (3 + 2 + 2 + 6) / 4, rtol=1e-5)
