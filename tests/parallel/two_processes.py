"""The program of one of two processes that `test_parallel` starts.

  python -m tests.parallel.two_processes FOLDER

It needs the environment variables of a cluster and prints its results as JSON.
"""

import contextlib
import io
import json
import pathlib
import resource
import signal
import sys
import time
import unittest.mock

import jax
from jax import lax
import numpy as np

from apnet_jax.errors import UserError
from apnet_jax.models import apnet
from apnet_jax.parallel import devices, processes
from apnet_jax.training import checks, trainer
from apnet_jax.workdir import checkpoints, run_files
from tests.compilation import counting
from tests.fakes import CLASSES, make_feed, small_config


def step(state, batch):
  """Adds the sum over all devices to the state; gathers all images."""
  total = lax.psum(batch.sum(), devices.AXIS)
  images = lax.all_gather(batch, devices.AXIS, tiled=True)
  return state + total, {'images': images}


def train():
  """Runs two steps with the share of a batch that this process reads.

  The step is compiled before its state exists.
  """
  share = np.arange(8.0).reshape(2, 4)[jax.process_index()]
  batch, mapped = devices.shard_batch(share), devices.pmap_step(step)
  with counting() as compiled:
    devices.lower_step(
      mapped, jax.ShapeDtypeStruct((), np.float32), np.zeros_like(batch)
    ).compile()
    state = devices.replicate(np.float32(0))
    for _ in range(2):
      state, metrics = mapped(state, batch)
  whole = devices.as_global_arrays(state)
  return {
    'state': float(state),
    'images': metrics['images'].tolist(),
    'devices': len(whole.sharding.device_set),
    'whole': float(whole),
    'compiled': compiled['jit(_fun)'],
  }


def embed(rows):
  """Embeds the share of this process on its devices; gathers all shares."""
  share = processes.local_rows(np.arange(rows))
  double = devices.pmap_batch(lambda factor, x: factor * x)
  local = np.repeat(share, 2)[:, None]  # a multiple of two devices
  done = np.asarray(double(np.float32(2), devices.shard_batch(local)))
  done = done.reshape(-1, 2)
  return processes.gather_rows(done, rows)[:, 0].tolist()


def on_machines(*names):
  """Counts the processes on this machine, one process on each of `names`."""
  name = names[jax.process_index()]
  with unittest.mock.patch('socket.gethostname', lambda: name):
    return processes.on_this_machine()


def prepare(folder):
  """Returns the order in which the processes prepare."""
  order = folder / 'order.txt'
  with processes.first_before_others():
    if processes.is_first():
      time.sleep(0.2)
    with order.open('a') as file:
      file.write(f'{jax.process_index()}')
  processes.wait_for_all()
  return order.read_text()


def check(**fields):
  """Returns the error of the checks before training, if any."""
  config = small_config()
  config.update_from_flattened_dict(fields)
  try:
    checks.check(config, 'nowhere')
  except ValueError as error:
    return str(error)


def restore(workdir):
  """Restores a state while the processes see different checkpoints.

  Process 1 does not see the last one, then cannot read it; last, it is damaged.

  Returns:
    The step that was restored first; the error of the second attempt; the step
    that was restored last; the folders of checkpoints with files in them.
  """

  def state(step):
    return devices.replicate({'w': np.full((4, 1000), step, np.float32)})

  with checkpoints.Checkpoints(workdir) as saving:
    saving.save(1, state(1))
    saving.save(2, state(2))
  with checkpoints.Checkpoints(workdir) as restoring:
    if not processes.is_first():
      restoring.candidates = lambda which: [1]
    seen, _ = restoring.restore_latest(state(0))
  error = None
  with checkpoints.Checkpoints(workdir) as restoring:
    read = restoring.restore

    def read_or_fail(step, state):
      if step == 2 and not processes.is_first():
        raise UserError('the disk is gone')
      return read(step, state)

    restoring.restore = read_or_fail
    try:
      restoring.restore_latest(state(0))
    except UserError as different:
      error = str(different)
  folder = workdir / 'checkpoints'
  if processes.is_first():
    (folder / '2/default/manifest.ocdbt').write_bytes(b'')
  processes.wait_for_all()
  with checkpoints.Checkpoints(workdir) as restoring:
    found, _ = restoring.restore_latest(state(0))
  processes.wait_for_all()
  files = sorted(folder.glob('*/default/manifest.ocdbt'))
  steps = [float(state['w'][0, 0]) for state in (seen, found)]
  return steps[0], error, steps[1], [file.parts[-3] for file in files]


def start(folder):
  """Begins a run with the weights of another one, whose last checkpoint is bad.

  Returns:
    What run.json tells about the weights.
  """
  config, source, workdir = small_config(), folder / 'source', folder / 'begun'
  model = apnet.create_model(config.model, CLASSES)
  shapes = apnet.variable_shapes(model, tuple(config.data.image_size))
  variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  trainer.claim(source, config, make_feed(config), weights=None)
  with checkpoints.Checkpoints(source) as saving:
    for step in (1, 2):
      saving.save(step, devices.replicate(variables))
  if processes.is_first():
    (source / 'checkpoints/2/default/manifest.ocdbt').write_bytes(b'')
  processes.wait_for_all()
  config.model.pretrained = str(source)
  with contextlib.redirect_stdout(io.StringIO()):
    weights = checks.check(config, workdir)
  trainer.claim(workdir, config, make_feed(config), weights)
  return run_files.load_run(workdir)['started_from']


def save(workdir):
  """Saves while process 1 cannot write, while none can, and again.

  Returns:
    The failure of the first save; the last step and the failure after the
    second, and after the third.
  """
  noise = np.random.default_rng(0).standard_normal((4, 500_000), np.float32)
  state = devices.replicate({'w': noise})
  checkpoints.SAVE_TIMEOUT = 2
  with contextlib.suppress(OSError), checkpoints.Checkpoints(workdir) as first:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if jax.process_index() == 1:  # which still can write its standard error
      resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    first.save(1, state)
    first.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  checkpoints.SAVE_TIMEOUT = 30
  with checkpoints.Checkpoints(workdir) as second:
    with contextlib.redirect_stderr(io.StringIO()):  # it may be a file, too
      resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
      second.save(2, state)
      found = [second.wait(), bool(second.failure)]
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    second.save(3, state)
    return first.failure, found, [second.wait(), bool(second.failure)]


def interrupt(folder):
  """Interrupts process 0 while it waits; returns whether it stops to wait."""
  mark = folder / 'interrupted'

  def stop_waiting(*_):
    raise InterruptedError

  if processes.is_first():
    signal.signal(signal.SIGALRM, stop_waiting)
    signal.setitimer(signal.ITIMER_REAL, 1)
    with contextlib.suppress(InterruptedError):
      processes.wait_for_all()
    mark.touch()
  else:
    until = time.monotonic() + 20
    while not mark.exists() and time.monotonic() < until:
      time.sleep(0.1)
    seen = mark.exists()
    processes.wait_for_all()
  return processes.is_first() or seen


def stop():
  """Sends SIGTERM to process 1 in step 5; returns the step that all stop at."""
  told = []
  signal.signal(signal.SIGTERM, lambda *_: told.append(None))
  for k in range(1, 20):
    if k == 5 and jax.process_index() == 1:
      signal.raise_signal(signal.SIGTERM)
    if processes.agree_to_stop(k, bool(told)):
      return k


def main(folder):
  processes.start()
  found = {
    'is_first': processes.is_first(),
    'train': train(),
    'embed': {rows: embed(rows) for rows in (1, 2, 5)},
    'decide': [
      processes.first_decides(answer == jax.process_index())
      for answer in (0, 1)
    ],
    'machine': [on_machines('a', 'a'), on_machines('a', 'b')],
    'prepare': prepare(pathlib.Path(folder)),
    'check': [
      check(**{'train.P': 3}),
      check(**{'model.batch_norm_group': 3}),
      check(**{'seed': jax.process_index(), 'train.learning_rate': 0.5}),
      check(**{'data.dir': f'/disk{jax.process_index()}'}),
    ],
    'restore': restore(pathlib.Path(folder) / 'restore'),
    'start': start(pathlib.Path(folder)),
    'save': save(pathlib.Path(folder)),
    'interrupt': interrupt(pathlib.Path(folder)),
    'stop': stop(),
  }
  print(json.dumps(found))
  processes.wait_for_all()


if __name__ == '__main__':
  main(sys.argv[1])
