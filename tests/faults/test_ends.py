"""Ends of train.py after signals and errors, as a supervisor sees them."""

import os
import signal
import time

import numpy as np
import pytest

from apnet_jax.workdir import lock
from tests.faults.runs import EPOCH, records, state, without_times
from tests.preloaded import PATIENCE


def wait_for(train, reached):
  deadline = time.monotonic() + PATIENCE
  while not reached():
    assert not train.has_ended(), train.printed()[-2000:]
    assert time.monotonic() < deadline, train.printed()[-2000:]
    time.sleep(0.001)


@pytest.fixture(scope='module')
def whole(train, flags, tmp_path_factory):
  """A run of two epochs with a trace of two steps."""
  workdir = tmp_path_factory.mktemp('whole')
  train.start(
    *flags,
    f'--workdir={workdir}',
    f'--config.train.steps={2 * EPOCH}',
    '--profile_steps=2:3',
  )
  assert train.code() == 0, train.printed()[-2000:]
  return workdir, train.printed()


def test_a_trace_is_written_and_told(whole):
  workdir, printed = whole
  (trace,) = (workdir / 'profile').rglob('*.xplane.pb')
  assert trace.stat().st_size > 1000
  assert f'Trace of the steps 2 to 3 in {workdir}/profile' in printed
  first, second = records(workdir)[:2]
  assert 'train/seconds_step' not in first  # the first step is not timed
  for name in ('data', 'step', 'save', 'evaluation'):
    assert second[f'train/seconds_{name}'] >= 0


def test_sigterm_saves_and_the_same_command_goes_on_with_other_devices(
  train, flags, whole, tmp_path
):
  command = (
    *flags,
    f'--workdir={tmp_path}',
    f'--config.train.steps={2 * EPOCH}',
  )
  train.start(*command)
  wait_for(train, lambda: len(records(tmp_path)) >= 2)
  with pytest.raises(ValueError, match=f'in use by process {train.pid} on '):
    with lock.held(tmp_path):
      pass
  os.kill(train.pid, signal.SIGTERM)
  assert train.code() == 143, train.printed()[-2000:]
  step, _ = state(tmp_path, 'last')
  assert 2 <= step < 2 * EPOCH
  assert f'SIGTERM: step {step} is saved; run the same command again' in (
    train.printed()
  )
  train.start(*command, devices=2)
  assert train.code() == 0, train.printed()[-2000:]
  assert f'Resuming after step {step}' in train.printed()
  assert 'Started with devices 1 x cpu, resumes with 2 x cpu' in train.printed()
  losses = [
    [r['train/loss'] for r in records(workdir) if 'train/loss' in r]
    for workdir in (tmp_path, whole[0])
  ]
  np.testing.assert_allclose(*losses, rtol=1e-2)


def test_sigterm_before_and_during_an_evaluation_keeps_the_step(
  train, flags, whole, tmp_path
):
  """The first run saves its last step; the second ends while evaluating it."""
  command = (
    *flags,
    f'--workdir={tmp_path}',
    f'--config.train.steps={2 * EPOCH}',
  )
  train.start(*command)
  wait_for(train, lambda: len(records(tmp_path)) >= 2 * EPOCH)
  os.kill(train.pid, signal.SIGTERM)
  for again in (False, True):
    assert train.code() == 143, train.printed()[-2000:]
    assert (
      f'SIGTERM: step {2 * EPOCH} is saved, but not evaluated yet; run the'
      ' same command again to resume'
    ) in train.printed()
    assert state(tmp_path, 'last')[0] == 2 * EPOCH
    assert len(records(tmp_path)) == 2 * EPOCH  # none of an evaluation
    train.start(*command)
    if not again:
      wait_for(train, lambda: 'Training:' in train.printed())
      os.kill(train.pid, signal.SIGTERM)
  assert train.code() == 0, train.printed()[-2000:]
  assert without_times(tmp_path) == without_times(whole[0])
  cards = [(w / 'result.json').read_text() for w in (tmp_path, whole[0])]
  assert cards[0] == cards[1]


def test_a_signal_while_preparing(train, flags, tmp_path):
  train.start(*flags, f'--workdir={tmp_path}', '--config.data.cache=decoded')
  wait_for(train, lambda: 'prepared in' in train.printed())
  os.kill(train.pid, signal.SIGTERM)
  assert train.code(timeout=60) == 143, train.printed()[-2000:]
  assert records(tmp_path) == []  # it did not wait for a step
  assert 'run the same command again to resume' in train.printed()
  assert 'Traceback' not in train.printed()


def test_a_full_disk_does_not_stop_the_run(train, flags, tmp_path):
  train.start(
    *flags,
    f'--workdir={tmp_path}',
    f'--config.train.steps={2 * EPOCH}',
    largest_file=10_000_000,
  )
  assert train.code() == 2
  for step in (EPOCH, 2 * EPOCH):
    message = f'the checkpoint after step {step} could not be saved: File too'
    assert message in train.printed()
  # Threads of TensorStore print errors, all of them before this line: the run
  # waits for its writers.
  assert train.printed().endswith('It was the last one of this run.\n')
  assert len(records(tmp_path)) == 2 * EPOCH + 1
  assert (tmp_path / 'result.json').exists()
  assert list((tmp_path / 'checkpoints').iterdir()) == []
