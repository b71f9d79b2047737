import pathlib

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from apnet_jax.training import optim
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
