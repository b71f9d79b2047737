"""Programs that are compiled in threads, before there is data."""

import os
import subprocess
import sys
import threading

import chex
import jax
import numpy as np
import pytest

from apnet_jax.parallel import devices
from apnet_jax.training import programs
from apnet_jax.training.programs import Programs
from tests.compilation import counting
from tests.fakes import CLASSES, make_feed
from tests.tiny import tiny_config, tiny_model

STEPS_PER_EPOCH = 3


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
  monkeypatch.setattr(programs, 'create_model', tiny_model)


def make_programs(**train):
  config = tiny_config(**train)
  return Programs(config, CLASSES, STEPS_PER_EPOCH), config


def run_steps(made, config, steps=2):
  """Returns the state after some steps from the beginning, and metrics."""
  batches, state = make_feed(config).batches(0), made.random_state()
  for _ in range(steps):
    batch = devices.shard_batch(next(batches), config.train.accumulate)
    state, metrics = made.step(state, batch)
  return jax.device_get((state, metrics))


@pytest.fixture(scope='module')
def expected():
  """State and metrics of two steps without compiling ahead."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(programs, 'create_model', tiny_model)
    return run_steps(*make_programs())


@pytest.mark.parametrize('resumes', [False, True])
def test_compiling_ahead_changes_no_bit(expected, resumes):
  made, config = make_programs()
  made.compile_ahead(1 if resumes else None)
  chex.assert_trees_all_equal(run_steps(made, config), expected)


def test_every_program_is_compiled_once():
  made, config = make_programs(accumulate=1)
  jax.clear_caches()  # earlier tests have compiled the small programs
  with counting() as compiled:
    made.compile_ahead(None)
    made.compile_ahead(None)
    run_steps(made, config)
  assert compiled['jit(_fun)'] == compiled['jit(init)'] == 1


def test_a_run_that_resumes_traces_the_network_once_for_its_shapes(monkeypatch):
  traced, trace = [], programs.state_shapes
  monkeypatch.setattr(
    programs, 'state_shapes', lambda *args: traced.append(1) or trace(*args)
  )
  made, _ = make_programs()
  made.lower_step()
  shapes = made.state_shapes()
  leaves = jax.tree.leaves(shapes)
  shapes.params.clear()  # the tree is the caller's
  assert jax.tree.leaves(made.state_shapes()) == leaves
  assert len(traced) == 1


def test_the_step_is_compiled_in_another_thread(monkeypatch):
  seen = []
  compile_here = jax.stages.Lowered.compile

  def compile_and_tell(lowered):
    seen.append(threading.current_thread())
    return compile_here(lowered)

  monkeypatch.setattr(jax.stages.Lowered, 'compile', compile_and_tell)
  made, config = make_programs()
  made.compile_ahead(None)
  run_steps(made, config)
  assert len(seen) == 2 and threading.main_thread() not in seen


def test_a_run_that_has_ended_compiles_nothing(monkeypatch):
  monkeypatch.delattr(jax.stages.Lowered, 'compile')
  made, _ = make_programs(epochs=2)
  made.compile_ahead(2 * STEPS_PER_EPOCH)


def test_an_error_of_the_compiler_is_raised_by_the_step(monkeypatch):
  made, config = make_programs()
  state = made.random_state()

  def fail(_):
    raise MemoryError('too large')

  monkeypatch.setattr(jax.stages.Lowered, 'compile', fail)
  made.compile_ahead(1)
  batch = devices.shard_batch(next(make_feed(config).batches(0)))
  with pytest.raises(MemoryError, match='too large'):
    made.step(state, batch)


def test_a_failing_command_does_not_wait_for_a_thread():
  code = (
    'import time\n'
    'from apnet_jax import cli\n'
    'from apnet_jax.errors import UserError\n'
    'from apnet_jax.parallel import background\n'
    'background.start(lambda: time.sleep(600))\n'
    'with cli.errors_as_messages():\n'
    "  raise UserError('no such folder')\n"
  )
  ended = subprocess.run(
    [sys.executable, '-c', code],
    env=dict(os.environ, JAX_PLATFORMS='cpu'),
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert (ended.returncode, ended.stderr) == (2, 'error: no such folder\n')


def test_labels_and_images_are_those_of_a_feed():
  made, config = make_programs()
  (_, batch), _ = made.lower_step().args_info
  given = devices.shard_batch(next(make_feed(config).batches(0)))
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
    k: (v.shape, np.dtype(v.dtype)) for k, v in given.items()
  }
