import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from apnet_jax.training import checks, optim
from configs import common

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


def test_schedule_agrees_with_the_released_recipe():
  golden = np.load(GOLDEN / 'schedule.npz')['lr_per_epoch']
  config = common.get_config().train
  schedule = optim.learning_rate_schedule(config, steps_per_epoch=7)
  epochs = np.arange(len(golden))
  first = [float(schedule(7 * epoch)) for epoch in epochs]
  last = [float(schedule(7 * epoch + 6)) for epoch in epochs]
  np.testing.assert_allclose(first, golden, rtol=1e-5)
  np.testing.assert_array_equal(first, last)  # constant within an epoch


def test_no_warmup():
  config = common.get_config().train
  config.warmup_epochs = 0
  schedule = optim.learning_rate_schedule(config, steps_per_epoch=3)
  np.testing.assert_allclose(schedule(0), config.learning_rate)


def test_cosine_schedule_is_eq_5_of_sgdr_after_the_warmup():
  config = common.get_config().train
  config.update(schedule='cosine', epochs=6, warmup_epochs=2)
  schedule = optim.learning_rate_schedule(config, steps_per_epoch=5)
  rates = [float(schedule(step)) for step in range(31)]
  t = (np.arange(10, 31) - 10) / 20
  expected = 4e-4 * (1 + np.cos(np.pi * t)) / 2
  np.testing.assert_allclose(rates[10:], expected, rtol=1e-5, atol=1e-10)
  warm = [4e-4 * 0.01] * 5 + [4e-4 * 0.505] * 5
  np.testing.assert_allclose(rates[:10], warm, rtol=1e-5)
  config.update(milestones=(1, 2), steps=1000)  # without effect
  assert float(optim.learning_rate_schedule(config, 5)(17)) == rates[17]


def test_cosine_needs_an_epoch_after_the_warmup_and_no_step_after_it(tmp_path):
  config = common.get_config()
  config.train.update(schedule='cosine', epochs=10)
  with pytest.raises(
    ValueError, match='train.warmup_epochs=10 leaves no epoch'
  ):
    checks.check(config, tmp_path)
  config.train.update(epochs=20, steps=201)
  with pytest.raises(ValueError, match='train.steps=201 is more than the 200'):
    checks.check_steps(config, 10, tmp_path)
  checks.check_steps(config, 11, tmp_path)


def test_long_gradients_are_scaled_down_before_the_decay():
  """The norm is that of all parameters: here 13, of (3, 4) and (12,)."""
  config = common.get_config().train
  config.update(clip_norm=1.3, weight_decay=0.1)
  gradient = {'a': jnp.array([3.0, 4.0]), 'b': jnp.array([12.0])}
  params = {'a': jnp.array([1.0, -2.0]), 'b': jnp.array([0.5])}

  def moments_of(gradient):
    optimizer = optim.create_optimizer(config, optax.constant_schedule(1.0))
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    return optax.tree.get(state, 'mu')

  moments_of = jax.jit(moments_of)
  mu = moments_of(gradient)
  np.testing.assert_allclose(mu['a'], [0.1 * 0.4, 0.1 * 0.2], rtol=1e-5)
  np.testing.assert_allclose(mu['b'], [0.1 * 1.25], rtol=1e-5)
  mu = moments_of({'a': jnp.array([0.3, 0.4]), 'b': jnp.array([1.19])})
  np.testing.assert_allclose(mu['b'], [0.1 * 1.24], rtol=1e-5)  # norm 1.29


def test_without_a_limit_nothing_is_clipped_and_the_state_is_as_before():
  config = common.get_config().train
  optimizer = optim.create_optimizer(config, optax.constant_schedule(1.0))
  state = optimizer.init({'a': jnp.zeros(2)})
  assert [type(part).__name__ for part in state] == [
    'EmptyState', 'ScaleByAdamState', 'ScaleByScheduleState',
  ]  # fmt: skip


@pytest.mark.parametrize('weight_decay', [0.0, 0.1])
def test_optimizer_is_adam_with_decay_in_the_gradient(weight_decay):
  config = common.get_config().train
  config.weight_decay = weight_decay
  rate = 0.01
  optimizer = optim.create_optimizer(config, optax.constant_schedule(rate))
  rng = np.random.default_rng(0)
  x = rng.standard_normal(5)
  params = {'w': jnp.asarray(x, jnp.float32)}
  state = optimizer.init(params)
  m = v = np.zeros(5)
  for t in range(1, 6):
    gradient = rng.standard_normal(5)
    updates, state = optimizer.update(
      {'w': jnp.asarray(gradient, jnp.float32)}, state, params
    )
    params = optax.apply_updates(params, updates)
    # Kingma and Ba, Algorithm 1, with the decay of torch.optim.Adam.
    gradient = gradient + weight_decay * x
    m = 0.9 * m + 0.1 * gradient
    v = 0.999 * v + 0.001 * gradient**2
    x = x - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(params['w'], x, rtol=1e-4, atol=1e-6)
