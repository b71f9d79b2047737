"""Signals that end a run."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import chex
import pytest

from apnet_jax import cli
from apnet_jax.training import run, trainer
from apnet_jax.workdir.checkpoints import Checkpoints
from apnet_jax.workdir.interruption import SIGNALS, Interrupted, Interruption
from tests.fakes import make_feed
from tests.tiny import tiny_config, tiny_model


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
  monkeypatch.setattr(run, 'create_model', tiny_model)


def sending(batches, signum, count):
  """Yields the same batches, and sends a signal before number `count`."""

  def send(*args):
    for i, batch in enumerate(batches(*args)):
      if i == count:
        os.kill(os.getpid(), signum)
      yield batch

  return send


def steps_saved(workdir):
  with Checkpoints(workdir, read_only=True) as checkpoints:
    return sorted(checkpoints.candidates('last'))


def records(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.mark.parametrize('signum', SIGNALS)
def test_a_signal_saves_the_step_and_the_run_goes_on(
  signum, tmp_path, capfd, monkeypatch
):
  config = tiny_config(epochs=3, eval_every_epochs=1)
  feed = make_feed(config)
  whole = trainer.train(config, feed, tmp_path / 'whole')
  stopping = dataclasses.replace(feed, batches=sending(feed.batches, signum, 4))
  before = [signal.getsignal(each) for each in SIGNALS]
  saved, save = [], Checkpoints.save
  monkeypatch.setattr(
    Checkpoints,
    'save',
    lambda self, step, *args: [saved.append(step), save(self, step, *args)],
  )
  with pytest.raises(Interrupted) as error:
    trainer.train(config, stopping, tmp_path / 'run')
  assert error.value.code == 128 + signum
  assert 'step 5 is saved' in str(error.value)
  assert saved == [3, 5] == steps_saved(tmp_path / 'run')  # one checkpoint
  assert 'a second signal ends at once' in capfd.readouterr().err
  assert [signal.getsignal(each) for each in SIGNALS] == before
  resumed = trainer.train(config, feed, tmp_path / 'run')
  chex.assert_trees_all_equal(resumed.state, whole.state)
  assert resumed.card == whole.card
  steps = [r['step'] for r in records(tmp_path / 'run')]
  assert steps == [r['step'] for r in records(tmp_path / 'whole')]


def test_a_signal_ends_an_evaluation_at_once(tmp_path):
  """No checkpoint is saved, since it would lack its evaluation."""
  config = tiny_config(epochs=3, eval_every_epochs=2)
  feed = make_feed(config)
  query = dataclasses.replace(
    feed.query, batches=sending(feed.query.batches, signal.SIGTERM, 0)
  )
  with pytest.raises(Interrupted, match='nothing more was saved'):
    trainer.train(config, dataclasses.replace(feed, query=query), tmp_path)
  assert steps_saved(tmp_path) == [3]
  assert not any('eval/mAP' in r for r in records(tmp_path))


def test_a_signal_before_an_evaluation_does_not_wait_for_it(tmp_path):
  config = tiny_config(epochs=3, eval_every_epochs=2)
  feed = make_feed(config)
  batches = sending(feed.batches, signal.SIGTERM, 5)
  feed = dataclasses.replace(feed, batches=batches)
  with pytest.raises(Interrupted, match='step 3 is saved'):
    trainer.train(config, feed, tmp_path)
  assert steps_saved(tmp_path) == [3]


def test_without_steps_to_finish_a_signal_ends_at_once():
  with Interruption(), pytest.raises(Interrupted) as error:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
  assert error.value.code == 143


def test_the_second_signal_ends_at_once():
  code = (
    'import itertools, time\n'
    'from apnet_jax.workdir.interruption import Interruption\n'
    'with Interruption() as interruption, interruption.deferred():\n'
    "  print('ready', flush=True)\n"
    '  while not interruption.wanted(1): time.sleep(0.01)\n'
    "  print('noted', flush=True)\n"
    '  time.sleep(60)\n'
  )
  with subprocess.Popen(
    [sys.executable, '-c', code],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  ) as process:
    for line in ('ready\n', 'noted\n'):
      assert process.stdout.readline() == line
      process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    assert process.wait(30) == -signal.SIGTERM
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
  ('error', 'code', 'message'),
  [
    (KeyboardInterrupt(), 130, 'interrupted; the same command resumes'),
    (
      Interrupted(signal.SIGTERM, 'step 5 is saved'),
      143,
      'SIGTERM: step 5 is saved; the same command resumes',
    ),
    (FloatingPointError('step 3'), 3, 'error: step 3'),
  ],
)
def test_a_supervisor_reads_the_exit_code(error, code, message, capsys):
  with pytest.raises(SystemExit) as exit, cli.errors_as_messages():
    raise error
  assert exit.value.code == code
  assert message in capsys.readouterr().err
