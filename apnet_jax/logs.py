"""Metrics of a run: one JSON line a record, and TensorBoard events."""

from collections.abc import Mapping
import errno
import json
import os
import pathlib
import time

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar
from tqdm import tqdm

from apnet_jax import parallel


class MetricWriter:
  """Writes `metrics.jsonl` and TensorBoard events into a workdir.

  What a full disk has no room for is kept, and written as soon as there is. It
  is lost if the run ends before.

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
    self._file = path.open('ab', buffering=0)
    self._size = path.stat().st_size  # of whole lines
    self._unwritten = []
    self._events = _Events(path.parent / 'tensorboard', step + 1)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def close(self) -> None:
    self._flush()
    self._file.close()
    self._events.close()

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes the metrics after `step` steps; names may hold a `/`."""
    metrics = {k: float(v) for k, v in metrics.items()}
    self._unwritten.append((step, metrics))
    self._flush()

  def _flush(self) -> None:
    lines = [
      json.dumps({'step': step} | metrics) + '\n'
      for step, metrics in self._unwritten
    ]
    try:
      self._append(''.join(lines).encode())
      written, self._unwritten = self._unwritten, []
      self._events.write(written)
    except OSError as error:
      tqdm.write(f'metrics cannot be written: {error}; the run goes on')

  def _append(self, data: bytes) -> None:
    """Appends all of it, or nothing and an `OSError`."""
    try:
      if self._file.write(data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
      self._file.truncate(self._size)
      raise
    self._size += len(data)


class _Events:
  """TensorBoard's events, which it reads in the order of their files' names.

  So these begin with a number: the clock may have been moved back.

  Args:
    folder: made if need be.
    first_step: TensorBoard forgets what earlier files say from here on.
  """

  def __init__(self, folder: pathlib.Path, first_step: int):
    self._folder, self._first_step = folder, first_step
    self._writer = None
    folder.mkdir(exist_ok=True)

  def write(self, records: list[tuple[int, Mapping[str, float]]]) -> None:
    try:
      if self._writer is None:
        self._open()
      for step, metrics in records:
        for name, value in metrics.items():
          self._add(step=step, summary=scalar(name, value))
        self._first_step = step + 1
      self._writer.flush()
    except OSError:
      self._writer = None  # its file is cut off within an event
      raise

  def _open(self) -> None:
    number = len(list(self._folder.iterdir()))
    self._writer = EventsWriter(str(self._folder / f'events.{number:06d}'))
    start = SessionLog(status=SessionLog.START)
    self._add(step=self._first_step, session_log=start)

  def _add(self, **fields) -> None:
    self._writer.write_event(Event(wall_time=time.time(), **fields))

  def close(self) -> None:
    if self._writer is not None:
      self._writer.close()


class Silence:
  """In place of a `MetricWriter`, in a process that does not write."""

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes nothing."""

  def close(self) -> None:
    """Nothing is open."""


def open_writer(
  workdir: str | os.PathLike, step: int
) -> MetricWriter | Silence:
  """The `MetricWriter` of a run; of several processes, the first has it."""
  return MetricWriter(workdir, step) if parallel.is_first() else Silence()


def _step_of(line: str) -> float:
  """Step of a record; of none if the line was cut off by a crash."""
  try:
    return json.loads(line)['step']
  except (json.JSONDecodeError, KeyError):
    return float('inf')
