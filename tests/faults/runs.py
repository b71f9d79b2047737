"""Starts short runs of train.py, and reads their results."""

from collections.abc import Mapping
import json
import pathlib
import re

import jax
import numpy as np

from apnet_jax.workdir.checkpoints import open_for_reading
from tests.preloaded import Preloaded

EPOCH = 5  # steps
SMOKE = (
  '--config=configs/synthetic.py',
  '--config.model.backbone=resnet14',
  '--config.model.attention=none',
  '--config.model.levels=0',
  '--config.data.image_size=(32,16)',
  '--config.train.P=4',
  '--config.train.K=3',
  # On other devices, rounding may change which of two images is the hardest.
  # With small steps, losses stay close after that.
  '--config.train.learning_rate=1e-4',
  '--config.train.log_every_steps=1',
  '--config.train.eval_every_epochs=0',
  '--config.eval.batch_size=16',
)
MEASURED = re.compile('train/(images_per_|data_wait|seconds_|.*_memory)')


class Train(Preloaded):
  """Runs of train.py, one at a time."""

  def __init__(self, folder: pathlib.Path):
    super().__init__(folder, merged=True)

  def start(self, *flags, devices: int = 1, largest_file: int = 0) -> None:
    super().start(
      'train.py', *flags, devices=devices, largest_file=largest_file
    )


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
