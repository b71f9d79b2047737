"""Measures a run: speed, waiting times, memory, and a profile of steps."""

from collections.abc import Iterator, Mapping
import contextlib
import os
import pathlib
import re
import resource
import sys
import time

import jax

from apnet_jax.errors import UserError
from apnet_jax.parallel import processes

PHASES = ('data', 'save', 'evaluation')


class StepTimer:
  """Measures the times of training steps and of the phases between them.

  The first step is not measured, because it includes compilation.

  Args:
    batch_size: number of images in a step.
  """

  def __init__(self, batch_size: int):
    self._batch_size = batch_size
    self._measures = False  # until the first step has ended
    self._restart()

  def fetch(self, batches: Iterator) -> Mapping:
    """Returns the next batch; its time counts as waiting for data."""
    with self.phase('data'):
      return next(batches)

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """Adds the time of the block to the phase `name`, one of `PHASES`."""
    start = time.perf_counter()
    try:
      yield
    finally:
      if self._measures:
        self._seconds[name] += time.perf_counter() - start

  def count(self) -> None:
    """Counts a step; time is measured from the end of the first step."""
    if self._measures:
      self._steps += 1
    else:
      self._measures = True
      self._restart()

  def _restart(self) -> None:
    self._start, self._steps = time.perf_counter(), 0
    self._seconds = dict.fromkeys(PHASES, 0.0)

  def figures(self) -> dict[str, float]:
    """Returns the speed and average times of the steps since the last call.

    Returns:
      `images_per_second`: number of images trained on per second.
      `data_wait`: fraction of the time spent waiting for batches. The device
      may still compute the previous step meanwhile, so it idles for at most
      this fraction.
      `seconds_step` and, for each of `PHASES`, `seconds_PHASE`: averages in
      seconds per step.
      The time of saves and evaluations counts only for their own phases. After
      the first step, which is not measured, theirs are the only entries.
    """
    total = time.perf_counter() - self._start
    others = {k: self._seconds[k] for k in ('save', 'evaluation')}
    training = max(total - sum(others.values()), 1e-9)
    speed, seconds = {}, others
    if self._steps:
      seconds = {'step': training - self._seconds['data'], **self._seconds}
      speed = {
        'images_per_second': self._steps * self._batch_size / training,
        'data_wait': self._seconds['data'] / training,
      }
    each = max(self._steps, 1)
    self._restart()
    return speed | {f'seconds_{k}': v / each for k, v in seconds.items()}


def memory() -> dict[str, float]:
  """Returns the peak memory use of this process in bytes, as one entry.

  The entry is `device_memory`, the memory of the first device, if JAX reports
  that. Otherwise it is `process_memory`, the resident memory.
  """
  stats = jax.local_devices()[0].memory_stats()
  if stats and 'peak_bytes_in_use' in stats:
    return {'device_memory': stats['peak_bytes_in_use']}
  return {'process_memory': process_memory()}


def process_memory() -> int:
  """Returns the peak resident memory of this process in bytes."""
  unit = 1 if sys.platform == 'darwin' else 1024  # bytes, or KiB
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def parse_steps(text: str) -> tuple[int, int] | None:
  """Parses the value of `--profile_steps`, as a:b; returns None for ''.

  Raises:
    UserError: the text is not a first and a last step.
  """
  if not text:
    return None
  match = re.fullmatch(r'(\d+):(\d+)', text)
  first, last = map(int, match.groups()) if match else (0, 0)
  if not 1 <= first <= last:
    raise UserError(
      f'--profile_steps={text} is not a:b, the first and the last step to'
      ' trace, from 1 on.'
    )
  return first, last


class Profile:
  """A profiler that traces some steps into WORKDIR/profile, for XProf.

  Of several processes, each traces into a folder of its own in that folder,
  such as `process_0`: JAX names traces by the second and the machine, so that
  processes of a machine would write to the same file.

  Args:
    steps: the first and the last step to trace, inclusive; None for no trace.
    workdir: workdir of the run.
    start: number of steps that are done already. If the first step to trace is
      among these, nothing is traced.
    total: number of steps of the run.

  Raises:
    UserError: the last step to trace is beyond the end of the run.
  """

  def __init__(
    self,
    steps: tuple[int, int] | None,
    workdir: str | os.PathLike,
    start: int,
    total: int,
  ):
    self.folder = pathlib.Path(workdir) / 'profile'
    if processes.is_distributed():
      self.folder /= f'process_{jax.process_index()}'
    self._first, self._last = steps or (0, 0)
    self._stack = contextlib.ExitStack()
    if self._last > total:
      raise UserError(
        f'--profile_steps={self._first}:{self._last}: the run has'
        f' {total} steps.'
      )
    if steps and self._first <= start:
      print(f'No trace: step {self._first} of --profile_steps is done.')
      self._first = self._last = 0

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._stack.close()  # if the run ends within the traced steps

  @contextlib.contextmanager
  def step(self, step: int, before) -> Iterator[None]:
    """Traces the block if `step` is to be traced.

    Args:
      step: number of the step.
      before: arrays of the previous step, which the device may still compute.
        The trace starts when they are ready.
    """
    if step == self._first:
      jax.block_until_ready(before)
      self._stack.enter_context(jax.profiler.trace(str(self.folder)))
    if self._first <= step <= self._last:
      with jax.profiler.StepTraceAnnotation('train', step_num=step):
        yield
    else:
      yield

  def end(self, step: int, result) -> None:
    """Ends the trace if `step` is the last one to trace.

    Args:
      step: number of the step.
      result: arrays that the step returned; the trace ends when they are ready.
    """
    if step == self._last:
      jax.block_until_ready(result)
      self._stack.close()

  def describe(self) -> str:
    """Returns instructions for viewing the trace; '' if there is none."""
    if not self._last:
      return ''
    others = ''
    if processes.is_distributed():
      others = ', those of the other processes beside it'
    return (
      f'Trace of the steps {self._first} to {self._last} in {self.folder}'
      f'{others}. To look at it: pip install xprof; xprof'
      f' --logdir={self.folder}'
    )
