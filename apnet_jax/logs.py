"""Metrics of a run: one JSON line a record, and TensorBoard events."""

from collections.abc import Mapping
import contextlib
import json
import os
import pathlib

from tensorboardX import SummaryWriter

from apnet_jax import parallel


class MetricWriter:
  """Writes `metrics.jsonl` and TensorBoard events into a workdir.

  Args:
    workdir: exists.
    step: where the run goes on; what was written of later steps is dropped.
  """

  def __init__(self, workdir: str | os.PathLike, step: int):
    path = pathlib.Path(workdir) / 'metrics.jsonl'
    lines = path.read_text().splitlines(True) if path.exists() else []
    kept = [line for line in lines if _step_of(line) <= step]
    part = path.with_suffix('.part')
    part.write_text(''.join(kept))
    part.replace(path)
    self._file = path.open('a', buffering=1)  # a line at a time
    self._events = SummaryWriter(
      str(pathlib.Path(workdir) / 'tensorboard'), purge_step=step + 1
    )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._file.close()
    self._events.close()

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes the metrics after `step` steps; names may hold a `/`."""
    record = {'step': step} | {k: float(v) for k, v in metrics.items()}
    self._file.write(json.dumps(record) + '\n')
    for name, value in metrics.items():
      self._events.add_scalar(name, value, step)
    self._events.flush()


class Silence:
  """In place of a `MetricWriter`, in a process that does not write."""

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes nothing."""


def open_writer(
  workdir: str | os.PathLike, step: int
) -> contextlib.AbstractContextManager[MetricWriter | Silence]:
  """The `MetricWriter` of a run; of several processes, the first has it."""
  if parallel.is_first():
    return MetricWriter(workdir, step)
  return contextlib.nullcontext(Silence())


def _step_of(line: str) -> float:
  """Step of a record; of none if the line was cut off by a crash."""
  try:
    return json.loads(line)['step']
  except (json.JSONDecodeError, KeyError):
    return float('inf')
