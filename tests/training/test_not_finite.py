"""Losses and gradients that are not finite, with a network of two layers."""

import dataclasses
import json
import os
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from apnet_jax.training import checks, losses, programs, run, trainer
from apnet_jax.training.train_step import train_step
from apnet_jax.workdir.checkpoints import Checkpoints
from apnet_jax.workdir.interruption import Interrupted
from tests.fakes import make_feed
from tests.tiny import tiny_config, tiny_model

LOSS, GRADIENT = -1, -2  # labels that make loss or gradient not finite


@pytest.fixture(autouse=True)
def poison(monkeypatch):
  """Makes the loss or the gradient NaN in steps with one of the two labels."""
  cross_entropy = losses.cross_entropy

  def poisoned(logits, labels, *args):
    loss = cross_entropy(logits, labels, *args)
    loss += jnp.where((labels == LOSS).any(), jnp.nan, 0)
    bad = (labels == GRADIENT).any()
    return loss + jnp.sqrt(jnp.where(bad, 0 * logits.sum(), 1)) - (1 - bad)

  monkeypatch.setattr(losses, 'cross_entropy', poisoned)
  monkeypatch.setattr(programs, 'create_model', tiny_model)


def make_config(**train):
  return tiny_config(**{'epochs': 4, 'log_every_steps': 2} | train)


def feed_with(config, bad, at=None, does=None):
  """Makes a feed with `bad` labels by step; calls `does` before step `at`."""
  feed = make_feed(config)

  def batches(first):
    for step, batch in enumerate(feed.batches(first), first + 1):
      if step == at:
        does()
      if step in bad:
        batch['label'][3] = bad[step]
      yield batch

  return dataclasses.replace(feed, batches=batches)


def records(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  records = [json.loads(line) for line in lines]
  measured = ('seconds_', 'images_per', 'data_wait', 'memory')
  return [
    {k: v for k, v in r.items() if not any(m in k for m in measured)}
    for r in records
  ]


def restore(workdir, step, like):
  with Checkpoints(workdir, read_only=True) as checkpoints:
    return checkpoints.restore(step, like)


def counts(state):
  """Returns the counts of Adam's updates and of the schedule's steps."""
  found = optax.tree.get_all_with_path(state.opt_state, 'count')
  return {path[-1].tuple_name: int(count) for path, count in found}


def is_finite(state):
  return all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize(
  ('bad', 'message'),
  [
    (LOSS, 'first the cross-entropy, which is nan'),
    (GRADIENT, 'first the gradient of classifier/kernel'),
  ],
)
def test_stop_says_what_was_bad_and_keeps_the_checkpoint(
  bad, message, tmp_path
):
  """The bad state is not saved, even if nothing is logged before the save."""
  config = make_config(log_every_steps=100)
  with pytest.raises(FloatingPointError) as error:
    trainer.train(config, feed_with(config, {6: bad}), tmp_path)
  assert f'step 6 is not finite, {message}' in str(error.value)
  assert f'after step 3 is kept: {tmp_path}/checkpoints/3' in str(error.value)
  for i in range(8):
    assert f'5_{i}.jpg' in str(error.value)
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step == 3
    state = run.Run(config, make_feed(config)).programs.random_state()
    assert is_finite(checkpoints.restore(3, state))


def test_a_run_that_diverges_stops(tmp_path):
  """Here no label makes the loss NaN."""
  config = make_config(learning_rate=1e30)
  with pytest.raises(FloatingPointError, match='step [23] is not finite') as e:
    trainer.train(config, feed_with(config, {}), tmp_path)
  assert 'No checkpoint was saved yet' in str(e.value)


def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
  """The only step is finite, but its update is not."""
  config = make_config(steps=1)

  def step_to_infinity(*args, **kwargs):
    state, metrics = train_step(*args, **kwargs)
    params = jax.tree.map(lambda x: x / 0, state.params)
    return state.replace(params=params), metrics

  monkeypatch.setattr(programs, 'train_step', step_to_infinity)
  with pytest.raises(
    FloatingPointError, match='weights after step 1 are not'
  ) as error:
    trainer.train(config, feed_with(config, {}), tmp_path)
  # No policy would save them.
  assert 'config.train.not_finite' not in str(error.value)
  assert not any((tmp_path / 'checkpoints').iterdir())


def test_a_skipped_update_is_not_applied(tmp_path):
  config = make_config(not_finite='skip', steps=4)
  before = trainer.train(config, feed_with(config, {}), tmp_path).state
  config.train.steps = 5
  bad = feed_with(config, {5: GRADIENT})
  after = trainer.train(config, bad, tmp_path).state
  for part in ('params', 'batch_stats'):
    chex.assert_trees_all_equal(getattr(after, part), getattr(before, part))
  chex.assert_trees_all_equal(after.opt_state[1], before.opt_state[1])
  assert counts(after) == {'ScaleByAdamState': 4, 'ScaleByScheduleState': 5}
  assert int(after.step) == 5
  last = [r for r in records(tmp_path) if r['step'] == 5]
  assert {'step': 5, 'train/not_finite': 1} in last
  # The step was logged too, without the values that are NaN.
  assert any('train/learning_rate' in r for r in last)
  assert all(np.isfinite(v) for r in last for v in r.values())


def test_rolling_back_takes_the_last_checkpoint_and_other_batches(
  tmp_path, capsys
):
  config = make_config(not_finite='roll_back', steps=5)
  state = trainer.train(config, feed_with(config, {5: LOSS}), tmp_path).state
  third = restore(tmp_path, 3, state)
  chex.assert_trees_all_equal(state.params, third.params)
  chex.assert_trees_all_equal(state.opt_state[1], third.opt_state[1])
  assert counts(state) == {'ScaleByAdamState': 3, 'ScaleByScheduleState': 5}
  assert int(state.step) == 5
  assert 'moments are those after 3 steps' in capsys.readouterr().out


class Killed(BaseException):
  pass


def kill():
  raise Killed


def terminate():
  os.kill(os.getpid(), signal.SIGTERM)


def test_rolling_back_after_the_period_of_checkpoints_has_changed(
  tmp_path, capsys
):
  """The checkpoint after step 3 is none of a period of six steps."""
  config = make_config(not_finite='roll_back', steps=5)
  with pytest.raises(Killed):
    trainer.train(config, feed_with(config, {}, 5, kill), tmp_path)
  config.train.checkpoint_every_epochs = 2
  trainer.train(config, feed_with(config, {5: LOSS}), tmp_path)
  assert 'moments are those after 3 steps' in capsys.readouterr().out


def test_rolling_back_to_the_start(tmp_path):
  config = make_config(not_finite='roll_back', steps=2)
  state = trainer.train(config, feed_with(config, {2: LOSS}), tmp_path).state
  first, _ = run.Run(config, make_feed(config)).initial_state()
  chex.assert_trees_all_equal(state.params, first.params)
  assert counts(state) == {'ScaleByAdamState': 0, 'ScaleByScheduleState': 2}


@pytest.mark.parametrize(
  ('policy', 'end'), [('skip', kill), ('roll_back', terminate)]
)
def test_a_stopped_run_with_bad_steps_goes_on_to_the_same_end(
  policy, end, tmp_path
):
  """A run does not roll back to a checkpoint saved by a signal."""
  config = make_config(not_finite=policy)
  bad = {2: GRADIENT, 5: LOSS, 9: LOSS}
  whole = trainer.train(config, feed_with(config, bad), tmp_path / 'whole')
  assert is_finite(whole.state)
  for at in (4, 8):
    with pytest.raises((Killed, Interrupted)):
      trainer.train(config, feed_with(config, bad, at, end), tmp_path / 'run')
  resumed = trainer.train(config, feed_with(config, bad), tmp_path / 'run')
  chex.assert_trees_all_equal(resumed.state, whole.state)
  assert records(tmp_path / 'run') == records(tmp_path / 'whole')
  found = [r for r in records(tmp_path / 'run') if 'train/not_finite' in r]
  assert [(r['step'], r['train/not_finite']) for r in found] == [
    (2, 1), (5, 2), (9, 3),
  ]  # fmt: skip


def test_the_limit_holds_over_restarts(tmp_path):
  config = make_config(not_finite='skip', not_finite_limit=1)
  feed = feed_with(config, {2: LOSS}, at=5, does=kill)
  with pytest.raises(Killed):
    trainer.train(config, feed, tmp_path)
  feed = feed_with(config, {2: LOSS, 6: LOSS})
  with pytest.raises(FloatingPointError) as error:
    trainer.train(config, feed, tmp_path)
  assert 'step 6' in str(error.value)
  assert 'number 2 of such steps' in str(error.value)
  assert 'config.train.not_finite_limit=1' in str(error.value)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('not_finite', 'stay', "config.train.not_finite='stay' is not one of"),
    ('not_finite_limit', -1, 'config.train.not_finite_limit=-1 must be at'),
  ],
)
def test_bad_fields_are_named(field, value, message, tmp_path):
  config = make_config(**{field: value})
  with pytest.raises(ValueError, match=message):
    checks.check(config, tmp_path)
