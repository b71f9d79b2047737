"""Signals that end a run."""

import dataclasses
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types

import chex
import jax
import pytest

from apnet_jax import __main__, cli
from apnet_jax.training import programs, run, trainer
from apnet_jax.workdir.checkpoints import Checkpoints
from apnet_jax.workdir.interruption import SIGNALS, Interrupted, Interruption
from tests.fakes import make_feed, sending
from tests.tiny import tiny_config, tiny_model


@pytest.fixture(scope='module', autouse=True)
def tiny():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(programs, 'create_model', tiny_model)
    yield


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run without signals: configuration, feed, workdir and summary."""
  config = tiny_config(epochs=3, eval_every_epochs=1)
  feed, workdir = make_feed(config), tmp_path_factory.mktemp('whole')
  return config, feed, workdir, trainer.train(config, feed, workdir)


def steps_saved(workdir):
  with Checkpoints(workdir, read_only=True) as checkpoints:
    return sorted(checkpoints.candidates('last'))


def records(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.mark.parametrize('signum', SIGNALS)
def test_a_signal_saves_the_step_and_the_run_goes_on(
  signum, whole, tmp_path, capfd, monkeypatch
):
  config, feed, workdir, summary = whole
  stopping = dataclasses.replace(feed, batches=sending(feed.batches, signum, 4))
  before = [signal.getsignal(each) for each in SIGNALS]
  saved, save = [], Checkpoints.save
  monkeypatch.setattr(
    Checkpoints,
    'save',
    lambda self, step, *args, **kwargs: [
      saved.append(step),
      save(self, step, *args, **kwargs),
    ],
  )
  with pytest.raises(Interrupted) as error:
    trainer.train(config, stopping, tmp_path / 'run')
  assert error.value.code == 128 + signum
  assert 'step 5 is saved' in str(error.value)
  assert saved == [3, 5] == steps_saved(tmp_path / 'run')  # one checkpoint
  assert 'a second signal stops it at once' in capfd.readouterr().err
  assert [signal.getsignal(each) for each in SIGNALS] == before
  resumed = trainer.train(config, feed, tmp_path / 'run')
  chex.assert_trees_all_equal(resumed.state, summary.state)
  assert resumed.card == summary.card
  steps = [r['step'] for r in records(tmp_path / 'run')]
  assert steps == [r['step'] for r in records(workdir)]


def evaluations(workdir):
  """Returns the records of evaluations, and the figures of checkpoints."""
  with Checkpoints(workdir, read_only=True) as checkpoints:
    steps = checkpoints.candidates('best')
    figures = [(step, checkpoints.figures(step)) for step in steps]
  return [r for r in records(workdir) if 'eval/mAP' in r], figures


def test_a_signal_before_an_evaluation_does_not_wait_for_it(whole, tmp_path):
  config, feed, workdir, summary = whole
  batches = sending(feed.batches, signal.SIGTERM, 5)
  stopping = dataclasses.replace(feed, batches=batches)
  with pytest.raises(Interrupted, match='step 6 is saved, but not evaluated'):
    trainer.train(config, stopping, tmp_path)
  assert steps_saved(tmp_path) == [3, 6]
  assert [r['step'] for r in records(tmp_path)] == [1, 2, 3, 3, 4, 5, 6]
  resumed = trainer.train(config, feed, tmp_path)
  chex.assert_trees_all_equal(resumed.state, summary.state)
  assert evaluations(tmp_path) == evaluations(workdir)


def test_a_library_may_replace_the_interruption_by_an_error():
  with pytest.raises(Interrupted, match='SIGTERM') as caught:
    with Interruption() as interruption, interruption.at_once():
      try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
      except Interrupted:
        raise ValueError('an extension has lost the exception') from None
  assert caught.value.code == 143
  with pytest.raises(ValueError, match='a mistake'):
    with Interruption() as interruption, interruption.at_once():
      raise ValueError('a mistake')


def test_a_signal_ends_an_evaluation_at_once(whole, tmp_path, monkeypatch):
  """The last step is saved; the next runs evaluate it and train no more."""
  config, feed, workdir, summary = whole
  config = config.copy_and_resolve_references()
  config.train.eval_every_epochs = 0
  query = dataclasses.replace(
    feed.query, batches=sending(feed.query.batches, signal.SIGTERM, 0)
  )
  stopping = dataclasses.replace(feed, query=query)
  with pytest.raises(Interrupted, match='step 9 is saved, but not evaluated'):
    trainer.train(config, stopping, tmp_path)
  assert steps_saved(tmp_path)[-1] == 9
  before = records(tmp_path)
  assert before[-1]['step'] == 9
  assert not any('eval/mAP' in r for r in before)

  class Killed(BaseException):
    pass

  def kill(*_):
    raise Killed

  with monkeypatch.context() as patch:
    patch.setattr(Checkpoints, 'add_figures', kill)
    with pytest.raises(Killed):  # the figures are logged and not yet saved
      trainer.train(config, feed, tmp_path)
  for _ in range(2):
    resumed = trainer.train(config, feed, tmp_path)
    assert resumed.card == summary.card
    assert records(tmp_path) == [*before, evaluations(workdir)[0][-1]]
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert checkpoints.figures(9)['mAP'] == summary.card['figures']['mAP']


@pytest.mark.parametrize('has_figures', [True, False])
def test_the_first_process_decides_what_to_evaluate(
  has_figures, whole, tmp_path, monkeypatch
):
  """A process may not see the files as process 0 does, which decides once."""
  config, feed, workdir, _ = whole
  shutil.copytree(workdir, tmp_path / 'run')
  seen, added = [], []
  if has_figures:
    monkeypatch.setattr(Checkpoints, 'figures', lambda *_: None)
  # What process 0 answers: does the run start anew, and is it evaluated?
  answers = iter([False, has_figures])
  monkeypatch.setattr(
    run.processes,
    'first_decides',
    lambda own: seen.append(own) or next(answers),
  )
  monkeypatch.setattr(
    Checkpoints, 'add_figures', lambda self, step, _: added.append(step)
  )
  trainer.train(config, feed, tmp_path / 'run')
  assert seen == [False, not has_figures]
  assert added == ([] if has_figures else [9])
  # The record of a repeated evaluation replaces the first one.
  assert records(tmp_path / 'run') == records(workdir)


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
    (KeyboardInterrupt(), 130, 'error: interrupted\n'),
    (
      Interrupted(signal.SIGTERM, 'step 5 is saved'),
      143,
      'SIGTERM: step 5 is saved; run the same command again to resume',
    ),
    (FloatingPointError('step 3'), 3, 'error: step 3'),
    (
      jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory: 9 GB'),
      2,
      'full (RESOURCE_EXHAUSTED: Out of memory: 9 GB). In training, --config',
    ),
  ],
)
def test_a_supervisor_reads_the_exit_code(error, code, message, capsys):
  with pytest.raises(SystemExit) as exit, cli.errors_as_messages():
    raise error
  assert exit.value.code == code
  assert message in capsys.readouterr().err


def test_only_a_command_that_saves_its_work_says_that_it_resumes(
  capsys, monkeypatch
):
  with pytest.raises(SystemExit), cli.errors_as_messages(resumes=True):
    raise KeyboardInterrupt
  assert 'interrupted; run the same command again' in capsys.readouterr().err
  said = {}
  monkeypatch.setattr(
    cli, 'run', lambda name, resumes=False: said.update({name: resumes})
  )
  monkeypatch.setattr(
    importlib,
    'import_module',
    lambda name: types.SimpleNamespace(
      __name__=name, command=lambda: name.split('.')[-1]
    ),
  )
  for name in __main__.COMMANDS:
    monkeypatch.setattr(sys, 'argv', ['apnet_jax', name])
    __main__.main()
  assert [name for name, resumes in said.items() if resumes] == ['embed']
  assert len(said) == len(__main__.COMMANDS)
