"""Short tests of several processes; tests/faults/test_processes.py trains."""

import contextlib
import json
import os
import pathlib
import random
import socket
import subprocess
import sys

import numpy as np
import pytest

from apnet_jax import cli
from apnet_jax.errors import UserError
from apnet_jax.parallel import devices, processes
from tests.preloaded import PATIENCE

ROOT = pathlib.Path(__file__).parents[2]
PORTS = range(10_000, 30_000)  # systems draw from higher ones for any socket


def free_port():
  """Returns a port that hardly anybody takes before the caller's processes."""
  first = random.SystemRandom().randrange(len(PORTS))  # not a test's seed
  for i in range(len(PORTS)):
    port = PORTS[(first + i) % len(PORTS)]
    with socket.socket() as free, contextlib.suppress(OSError):
      free.bind(('localhost', port))
      return port
  raise AssertionError('no port is free')


def slurm(port, tasks, task):
  """Returns the environment variables of a task of SLURM."""
  return {
    'JAX_COORDINATOR_PORT': f'{port}',
    'SLURM_JOB_ID': '1',
    'SLURM_STEP_NODELIST': 'localhost',
    'SLURM_NTASKS': f'{tasks}',
    'SLURM_PROCID': f'{task}',
    'SLURM_LOCALID': f'{task}',
  }


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """The results of two processes of two devices, started as by SLURM."""
  folder = tmp_path_factory.mktemp('processes')
  flags = {'XLA_FLAGS': '--xla_force_host_platform_device_count=2'}
  port = free_port()
  processes = [
    subprocess.Popen(
      [sys.executable, '-m', 'tests.parallel.two_processes', folder],
      cwd=ROOT,
      env=os.environ | flags | slurm(port, 2, i),
      stdout=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0]
  return [json.loads(out.splitlines()[-1]) for out in outputs]


def test_only_one_process_is_the_first(two):
  assert [found['is_first'] for found in two] == [True, False]


def test_a_step_sees_the_images_of_all_processes(two):
  for found in two:
    assert found['train'] == {
      'state': 56.0,
      'images': [float(i) for i in range(8)],
      'devices': 4,
      'whole': 56.0,
      'compiled': 1,
    }


def test_processes_share_rows(two):
  for found in two:
    for rows, values in found['embed'].items():
      assert values == [2.0 * i for i in range(int(rows))]


def test_the_first_process_decides(two):
  assert [found['decide'] for found in two] == [[True, False]] * 2


def test_processes_on_one_machine_are_counted(two):
  assert [found['machine'] for found in two] == [[2, 1]] * 2
  assert processes.on_this_machine() == 1


def test_the_first_process_prepares_before_others(two):
  assert [found['prepare'] for found in two] == ['01', '01']


def test_wrong_combinations_are_errors_in_each_process(two):
  for found in two:
    batch, group, seeds, fits = found['check']
    assert 'config.train.K=2 = 6 images does not divide among 4' in batch
    assert 'config.model.batch_norm_group=3 does not fit 8 images' in group
    assert 'different configurations:\n  config.seed: 0, 1\nStart' in seeds
    assert fits is None


def test_a_process_that_cannot_save_halts_no_other_for_long(two):
  """It says why; the other one says where to look. The next save succeeds."""
  failures = [found['save'][0] for found in two]
  assert 'within 2 s. Another process may have failed' in failures[0]
  assert failures[1].endswith('step 1 could not be saved: File too large')
  assert [found['save'][2] for found in two] == [[3, False]] * 2


def test_a_disk_that_is_full_for_all_costs_one_checkpoint(two):
  assert [found['save'][1] for found in two] == [[None, True]] * 2


def test_a_damaged_checkpoint_is_set_aside_once(two):
  after = [found['restore'][2:] for found in two]
  assert after == [[1, ['1', '2.damaged']]] * 2


def test_processes_restore_the_same_checkpoint(two):
  """That which process 0 sees; an error if one of them cannot read it."""
  assert [found['restore'][0] for found in two] == [2, 2]
  for i, found in enumerate(two):
    message = found['restore'][1]
    assert 'differ between the processes' in message
    assert f"process {i} of 2 has 'step {2 - i}'" in message
  assert 'the disk is gone' in message  # of process 1


def test_processes_start_together_from_another_run(two):
  """run.json names the checkpoint that was read, not a damaged one."""
  for found in two:
    assert pathlib.Path(found['start']['workdir']).name == 'source'
    assert found['start']['step'] == 1
    assert found['start']['trained_on']['fingerprint'] == 'noise'


def test_a_signal_reaches_a_process_that_waits(two):
  assert [found['interrupt'] for found in two] == [True, True]


def test_processes_stop_at_the_same_step(two):
  """They stop at the step after SIGTERM has reached one of them."""
  assert [found['stop'] for found in two] == [6, 6]


def test_one_process_stops_when_it_wants_to():
  assert not processes.agree_to_stop(1, False)
  assert processes.agree_to_stop(2, True)


def test_outside_of_a_cluster_nothing_is_started(monkeypatch):
  monkeypatch.setattr(
    'jax._src.xla_bridge.backends_are_initialized', lambda: False
  )
  processes.start()
  assert processes.is_first() and not processes.is_distributed()


@pytest.mark.parametrize('with_flags', [False, True])
def test_a_single_task_of_slurm_uses_all_gpus(with_flags):
  port = free_port()
  flags = f"'localhost:{port}', 1, 0" if with_flags else ''
  code = (
    'import jax\n'
    'from apnet_jax.parallel import processes\n'
    f'processes.start({flags})\n'
    'assert not processes.is_distributed()\n'
    'print(processes.distributed.global_state.num_processes,'
    " jax.config.values['jax_cuda_visible_devices'])\n"
  )
  output = subprocess.check_output(
    [sys.executable, '-c', code],
    cwd=ROOT,
    env=os.environ | slurm(port, 1, 0),
    text=True,
  )
  assert output.split() == ['1', 'all']


def test_a_detection_that_fails_names_the_flags(monkeypatch):
  def fail(*_, **__):
    raise KeyError('no service account')

  monkeypatch.setattr('jax.distributed.initialize', fail)
  with pytest.raises(UserError, match='(?s)no service account.*--process_id'):
    processes.start()


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    (
      ('localhost:1234', None, None),
      '--num_processes and --process_id missing',
    ),
    ((None, 2, 1), '--coordinator_address missing: give .* all three'),
    (('localhost', 2, 1), '--coordinator_address=localhost is not HOST:PORT'),
    (('localhost:port', 2, 1), 'address=localhost:port is not HOST:PORT'),
    (('localhost:1234', 2, 2), '--process_id=2 .* --num_processes=2'),
    (('localhost:1234', 2, -1), '--process_id=-1 must be at least 0'),
  ],
)
def test_wrong_flags_are_named(given, message):
  with pytest.raises(ValueError, match=message):
    processes.start(*given)


def test_a_lost_process_is_told_from_other_errors(monkeypatch):
  monkeypatch.setattr(processes.distributed.global_state, 'num_processes', 2)
  lost = devices.jax.errors.JaxRuntimeError('Gloo all-reduce failed: closed')
  with pytest.raises(
    processes.ProcessLostError, match='Gloo all-reduce failed'
  ):
    with processes.detecting_lost_processes():
      try:
        raise lost
      except Exception as error:
        raise ValueError('the checkpoint cannot be read') from error
  with pytest.raises(processes.ProcessLostError, match='Gloo'):
    with processes.detecting_lost_processes():
      try:
        raise lost
      except Exception:
        raise ValueError('cannot be closed')  # noqa: B904 - has a context only
  with pytest.raises(ValueError, match='mine'):
    with processes.detecting_lost_processes():
      raise ValueError('mine')


def test_a_lost_process_has_an_exit_code(capsys):
  with pytest.raises(SystemExit) as exit, cli.errors_as_messages():
    raise processes.ProcessLostError('gone')
  assert exit.value.code == 4
  assert 'error: gone' in capsys.readouterr().err


def test_a_step_donates_the_old_state():
  step = devices.pmap_step(lambda state, batch: (state + 1, {}))
  old = devices.replicate(np.zeros(3, np.float32))
  new, _ = step(old, np.zeros((4, 1), np.float32))
  assert old.is_deleted() and new.tolist() == [1, 1, 1]


def test_batches_are_rounded_up():
  assert [devices.local_batch_size(n) for n in (1, 7, 8, 9)] == [4, 8, 8, 12]
