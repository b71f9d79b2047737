"""Two processes of two devices compute the same as one of four devices."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from apnet_jax.workdir import restore, run_files
from apnet_jax.workdir.checkpoints import open_for_reading
from tests.compilation import xla_flags
from tests.parallel.test_parallel import free_port
from tests.preloaded import PATIENCE

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 2  # a step of two processes takes half a minute on the CPU
# Seconds in which a lost process ends the others; see docs/reliability.md.
STATED = 60


@pytest.fixture(scope='module')
def flags(raw, tmp_path_factory):
  """Flags of train.py, with folders for prepared data and compiled programs."""
  root = tmp_path_factory.mktemp('processes')
  return (
    '--config=configs/synthetic.py',
    f'--config.data.dir={raw}',
    '--config.data.allow_other_counts=True',
    f'--config.data.prepared_dir={root / "prepared"}',
    f'--config.compilation_cache_dir={root / "cache"}',
    '--config.model.backbone=resnet14',
    '--config.model.attention=none',
    '--config.model.dtype=float64',
    '--config.data.image_size=(32,16)',
    '--config.train.P=4',
    '--config.train.K=2',
    '--config.train.log_every_steps=1',
    '--config.train.eval_every_epochs=0',
    '--config.eval.batch_size=16',
  )


def start(devices, *arguments):
  return subprocess.Popen(
    [sys.executable, *map(str, arguments)],
    cwd=ROOT,
    env=dict(os.environ, XLA_FLAGS=xla_flags(devices), JAX_ENABLE_X64='1'),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def start_two(*arguments):
  address = f'--coordinator_address=localhost:{free_port()}'
  return [
    start(2, *arguments, address, '--num_processes=2', f'--process_id={i}')
    for i in range(2)
  ]


def outputs(*processes, codes):
  ended = [process.communicate(timeout=PATIENCE) for process in processes]
  errors = [err[-3000:] for _, err in ended]
  assert [process.returncode for process in processes] == codes, errors
  return ended


def losses(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  records = [json.loads(line) for line in lines]
  return {r['step']: r['train/loss'] for r in records if 'train/loss' in r}


def variables(workdir):
  """Returns the variables of the last checkpoint."""
  config = run_files.load_config(workdir)
  run = run_files.load_run(workdir)
  with jax.enable_x64(True):
    with open_for_reading(workdir) as checkpoints:
      step, _, found = restore.restore_model(
        checkpoints, 'last', config, run['num_classes']
      )
  assert step == STEPS
  return jax.device_get(found)


def distance(tree, expected):
  """Returns the relative distance of two trees of arrays."""
  one, other = (
    np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(t)])
    for t in (tree, expected)
  )
  return np.linalg.norm(one - other) / np.linalg.norm(other)


def kill_in_mid_run(command, victim):
  """Kills one of two processes.

  Returns the exit code, errors and seconds until the end of the other.
  """
  processes = start_two(*command, '--config.train.steps=100000')
  progress = ''
  while ' 1/' not in progress:
    read = os.read(processes[0].stderr.fileno(), 1000).decode()
    assert read, progress
    progress += read
  processes[victim].send_signal(signal.SIGKILL)
  killed = time.monotonic()
  survivor = processes[1 - victim]
  _, err = survivor.communicate(timeout=PATIENCE)
  seconds = time.monotonic() - killed
  processes[victim].communicate()
  return survivor.returncode, err, seconds


@pytest.fixture(scope='module')
def workdirs(flags, tmp_path_factory):
  """Workdirs of a run in one process, and of a resumed run in two."""
  root = tmp_path_factory.mktemp('runs')
  command = ('train.py', *flags)
  steps = f'--config.train.steps={STEPS}'
  one = start(4, *command, steps, f'--workdir={root / "one"}')
  outputs(one, codes=[0])
  command += (f'--workdir={root / "two"}',)
  begun = start_two(*command, f'--config.train.steps={STEPS - 1}')
  outputs(*begun, codes=[0, 0])
  two = start_two(*command, steps)
  (out, _), (other_out, other_err) = outputs(*two, codes=[0, 0])
  assert 'Rank-1' in out and 'in 2 processes' in out
  assert f'Resuming after step {STEPS - 1}' in out
  assert other_out == ''
  assert 'Training' not in other_err and 'Traceback' not in other_err
  return root / 'one', root / 'two'


def test_losses_and_parameters_agree(workdirs):
  """Computes in float64, since Adam amplifies rounding errors of gradients."""
  one, two = workdirs
  assert losses(one).keys() == losses(two).keys() == {*range(1, STEPS + 1)}
  for step, loss in losses(one).items():
    assert losses(two)[step] == pytest.approx(loss, rel=1e-6), step
  expected, found = variables(one), variables(two)
  for name in ('params', 'batch_stats'):
    assert distance(found[name], expected[name]) < 1e-6, name


def test_figures_agree(workdirs):
  one, two = (
    json.loads((workdir / 'result.json').read_text())['figures']
    for workdir in workdirs
  )
  assert two.pop('cmc') == pytest.approx(one.pop('cmc'), abs=1e-6)
  assert two == pytest.approx(one, abs=1e-6)


def test_eval_in_two_processes_finds_what_training_found(workdirs, tmp_path):
  _, two = workdirs
  command = ('eval.py', f'--ckpt={two}', f'--report={tmp_path / "report"}')
  (out, _), (other_out, _) = outputs(*start_two(*command), codes=[0, 0])
  assert 'Rank-1' in out and other_out == ''
  trained = json.loads((two / 'result.json').read_text())
  card = json.loads((tmp_path / 'report' / 'result.json').read_text())
  assert card['figures'] == trained['figures']


@pytest.mark.parametrize('victim', [0, 1])
def test_the_death_of_a_process_ends_the_other(flags, tmp_path, victim):
  command = ('train.py', *flags, f'--workdir={tmp_path}')
  code, err, seconds = kill_in_mid_run(command, victim)
  assert code == 4, err[-3000:]
  assert 'error: another process of this run has ended' in err
  assert seconds < STATED
