"""What is measured of a run as it goes: time, memory, and a profile."""

from collections.abc import Iterator, Mapping
import contextlib
import os
import pathlib
import re
import resource
import sys
import time

import jax

PHASES = ('data', 'save', 'evaluation')


class StepTimer:
  """How fast steps are, and what else takes time; the first step compiles."""

  def __init__(self, batch_size: int):
    self._batch_size = batch_size
    self._start = None

  def fetch(self, batches: Iterator) -> Mapping:
    """The next batch; what it takes is waiting for data."""
    with self.phase('data'):
      return next(batches)

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """What is done within it is one of `PHASES`, and no step."""
    start = time.perf_counter()
    try:
      yield
    finally:
      if self._start is not None:
        self._seconds[name] += time.perf_counter() - start

  def count(self) -> None:
    """Counts a step; time counts from the first on."""
    if self._start is None:
      self._restart()
    else:
      self._steps += 1

  def _restart(self) -> None:
    self._start, self._steps = time.perf_counter(), 0
    self._seconds = dict.fromkeys(PHASES, 0.0)

  def figures(self) -> dict[str, float]:
    """Since they were last asked; 0 if no step was counted.

    `seconds_*` are averages of a step: `step`, and each of `PHASES`. Of the
    time that neither a save nor an evaluation took, `data_wait` is the share in
    which this program waited for a batch. The device works on the step before
    meanwhile, so that it is idle for no more than this.
    """
    total = time.perf_counter() - self._start
    others = self._seconds['save'] + self._seconds['evaluation']
    training = max(total - others, 1e-9)
    seconds = {'step': training - self._seconds['data'], **self._seconds}
    result = {
      'images_per_second': self._steps * self._batch_size / training,
      'data_wait': self._seconds['data'] / training,
    } | {f'seconds_{k}': v / max(self._steps, 1) for k, v in seconds.items()}
    self._restart()
    return result


def memory() -> dict[str, float]:
  """The most bytes that were in use.

  `device_memory` of this process's first device, where its backend tells;
  `process_memory`, resident, otherwise.
  """
  stats = jax.local_devices()[0].memory_stats()
  if stats and 'peak_bytes_in_use' in stats:
    return {'device_memory': stats['peak_bytes_in_use']}
  return {'process_memory': process_memory()}


def process_memory() -> int:
  """The most bytes of this process that were resident."""
  unit = 1 if sys.platform == 'darwin' else 1024  # bytes, or KiB
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def parse_steps(text: str) -> tuple[int, int] | None:
  """Of `--profile_steps=a:b`; None if it is ''.

  Raises:
    ValueError: these are not two steps, the first one first.
  """
  if not text:
    return None
  match = re.fullmatch(r'(\d+):(\d+)', text)
  first, last = map(int, match.groups()) if match else (0, 0)
  if not 1 <= first <= last:
    raise ValueError(
      f'--profile_steps={text} is not a:b, the first and the last step to'
      ' trace, from 1 on.'
    )
  return first, last


class Profile:
  """A trace of some steps in WORKDIR/profile, for XProf.

  Args:
    steps: the first and the last one, both traced; None for no trace.
    workdir: of the run.
    start: steps that are done.
    total: steps of the run.

  Raises:
    ValueError: the run has fewer steps.
  """

  def __init__(
    self,
    steps: tuple[int, int] | None,
    workdir: str | os.PathLike,
    start: int,
    total: int,
  ):
    self.folder = pathlib.Path(workdir) / 'profile'
    self._first, self._last = steps or (0, 0)
    self._stack = contextlib.ExitStack()
    if self._last > total:
      raise ValueError(
        f'--profile_steps={self._first}:{self._last}: the run has'
        f' {total} steps.'
      )
    if steps and self._first <= start:
      print(f'No trace: step {self._first} of --profile_steps is done.')
      self._first = self._last = 0

  def close(self) -> None:
    """Ends the trace of a run that ends within the steps."""
    self._stack.close()

  @contextlib.contextmanager
  def step(self, step: int, before) -> Iterator[None]:
    """What a step does; `before` is what the device works on till then."""
    if step == self._first:
      jax.block_until_ready(before)
      self._stack.enter_context(jax.profiler.trace(str(self.folder)))
    if self._first <= step <= self._last:
      with jax.profiler.StepTraceAnnotation('train', step_num=step):
        yield
    else:
      yield

  def end(self, step: int, result) -> None:
    """Ends the trace if `step` is its last one; `result` is what it makes."""
    if step == self._last:
      jax.block_until_ready(result)
      self._stack.close()

  def describe(self) -> str:
    """Where the trace is, and how to look at it; '' if there is none."""
    if not self._last:
      return ''
    return (
      f'Trace of the steps {self._first} to {self._last} in {self.folder}. To'
      f' look at it: pip install xprof; xprof --logdir={self.folder}'
    )
