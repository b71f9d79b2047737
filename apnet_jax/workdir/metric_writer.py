"""Writes the metrics of a run as JSON lines and TensorBoard events."""

from collections.abc import Mapping
import contextlib
import errno
import json
import os
import pathlib
import time

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar
from tqdm import tqdm

from apnet_jax.parallel import processes
from apnet_jax.workdir.metric_reader import METRICS
from apnet_jax.writing import whole


class MetricWriter:
  """Writes `metrics.jsonl` and TensorBoard events into a workdir.

  When the disk is full, records are kept in memory and written as soon as there
  is space. They are lost if the run ends before that.

  Args:
    workdir: an existing folder.
    step: step after which the run resumes; records of later steps are dropped.
    evaluated: whether the checkpoint of this step has its figures. If not, the
      evaluation may be repeated, and its record is dropped too.
  """

  def __init__(
    self, workdir: str | os.PathLike, step: int, evaluated: bool = True
  ):
    path = pathlib.Path(workdir) / METRICS
    text = path.read_text(errors='replace') if path.exists() else ''
    lines = text.splitlines(True)
    last = (step, evaluated)
    kept = [line for line in lines if _moment_of(line) <= last]
    with whole(path) as part:
      part.write_text(''.join(kept))
    self._file = path.open('ab', buffering=0)
    self._size = path.stat().st_size  # of complete lines
    self._unwritten: list[tuple[int, Mapping[str, float]]] = []
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
      json.dumps({'step': step, **metrics}) + '\n'
      for step, metrics in self._unwritten
    ]
    try:
      self._append(''.join(lines).encode())
      written, self._unwritten = self._unwritten, []
      self._events.write(written)
    except OSError as error:
      tqdm.write(f'metrics cannot be written: {error}; the run continues')

  def _append(self, data: bytes) -> None:
    """Appends the data to the file; if that fails, appends nothing and raises.

    Raises:
      OSError: the data cannot be written.
    """
    try:
      if self._file.write(data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
      self._file.truncate(self._size)
      raise
    self._size += len(data)


class _Events:
  """Writes TensorBoard event files.

  TensorBoard reads files in the order of their names, which usually begin with
  the time. The clock may have been moved back, so names begin with a running
  number here.

  Args:
    folder: folder for the files; made if needed.
    first_step: step from which TensorBoard ignores the records of older files.
  """

  def __init__(self, folder: pathlib.Path, first_step: int):
    self._folder, self._first_step = folder, first_step
    self._writer: EventsWriter | None = None
    folder.mkdir(exist_ok=True)

  def write(self, records: list[tuple[int, Mapping[str, float]]]) -> None:
    try:
      if self._writer is None:
        self._writer = self._open()
      for step, metrics in records:
        for name, value in metrics.items():
          _add(self._writer, step=step, summary=scalar(name, value))
        self._first_step = step + 1
      self._writer.flush()
    except OSError:
      self._writer = None  # its file ends within an event
      raise

  def _open(self) -> EventsWriter:
    number = len(list(self._folder.iterdir()))
    writer = EventsWriter(str(self._folder / f'events.{number:06d}'))
    start = SessionLog(status=SessionLog.START)
    _add(writer, step=self._first_step, session_log=start)
    return writer

  def close(self) -> None:
    if self._writer is not None:
      self._writer.close()


def _add(writer: EventsWriter, **fields) -> None:
  writer.write_event(Event(wall_time=time.time(), **fields))


class NullMetricWriter(contextlib.AbstractContextManager):
  """A metric writer that writes nothing, for processes other than the first."""

  def __exit__(self, *_):
    """Does nothing."""

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Does nothing."""


def open_writer(
  workdir: str | os.PathLike, step: int, evaluated: bool
) -> MetricWriter | NullMetricWriter:
  """Opens the metric writer of a run; only process 0 writes."""
  if processes.is_first():
    return MetricWriter(workdir, step, evaluated)
  return NullMetricWriter()


def _moment_of(line: str) -> tuple[float, bool]:
  """Returns the moment at which a record was written.

  Returns:
    The step, infinity if the line is damaged or a crash cut it off; and whether
    the record is that of the evaluation after the step.
  """
  if not line.endswith('\n'):  # the next record would stand on the same line
    return float('inf'), True
  try:
    record = json.loads(line)
    step = float(record['step'])
    return step, any(name.startswith('eval/') for name in record)
  except (ValueError, KeyError, TypeError):
    return float('inf'), True
