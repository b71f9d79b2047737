"""Starts short runs of train.py, and reads their results."""

from collections.abc import Mapping
import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np

from apnet_jax.workdir.checkpoints import open_for_reading

ROOT = pathlib.Path(__file__).parents[2]
EPOCH = 5  # steps
SMOKE = (
  '--config=configs/synthetic.py',
  '--config.model.backbone=resnet14',
  '--config.model.attention=none',
  '--config.model.levels=0',
  '--config.data.image_size=(32,16)',
  '--config.train.P=4',
  '--config.train.K=3',
  '--config.train.log_every_steps=1',
)
MEASURED = re.compile('train/(images_per_|data_wait|seconds_|.*_memory)')


class Preloaded:
  """Starts `train.py` without repeating its imports; see `preloaded`."""

  def __init__(self, output):
    self._output = output
    self._process = subprocess.Popen(
      [sys.executable, '-m', 'tests.faults.preloaded'],
      cwd=ROOT,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def start(self, *arguments, devices=1, largest_file=0):
    """Starts a run; `largest_file` limits files, in bytes (0 for no limit)."""
    request = {
      'arguments': list(map(str, arguments)),
      'output': str(self._output),
      'devices': devices,
      'largest_file': largest_file,
    }
    self._output.write_text('')
    self._process.stdin.write(json.dumps(request) + '\n')
    self._process.stdin.flush()
    self.pid = int(self._process.stdout.readline())

  def printed(self):
    return self._output.read_text()

  def has_ended(self):
    """Returns whether the run has ended, also if nobody waited for it yet."""
    try:
      state = pathlib.Path(f'/proc/{self.pid}/stat').read_text()
    except FileNotFoundError:
      return True
    return state.rsplit(')', 1)[1].split()[0] in 'ZX'

  def code(self):
    return int(self._process.stdout.readline())

  def close(self):
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()


def records(workdir: pathlib.Path) -> list[dict]:
  """Returns the complete lines of metrics.jsonl."""
  path = workdir / 'metrics.jsonl'
  lines = path.read_text().split('\n')[:-1] if path.exists() else []
  return [json.loads(line) for line in lines]


def without_times(workdir: pathlib.Path) -> list[dict]:
  """Returns `records` without times and memory."""
  return [
    {k: v for k, v in record.items() if not MEASURED.match(k)}
    for record in records(workdir)
  ]


def state(
  workdir: pathlib.Path, which: str
) -> tuple[int, Mapping[str, np.ndarray]]:
  """Returns the step of a checkpoint, and its arrays by name."""
  with open_for_reading(workdir) as checkpoints:
    step = checkpoints.step(which)
    state = checkpoints._manager.restore(step)
  leaves = jax.tree_util.tree_leaves_with_path(state)
  return step, {
    jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves
  }
