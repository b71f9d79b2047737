"""Checkpoints of a workdir, saved by Orbax in the background.

WORKDIR/checkpoints/N/                  the state after N steps
WORKDIR/checkpoints/N/metrics/metrics   its figures, once it is evaluated
WORKDIR/checkpoints/N.damaged/          a checkpoint that could not be read

A state is saved before it is evaluated, so that a run that ends during an
evaluation loses nothing. Each save deletes older checkpoints, but keeps the one
before it, the best by mAP, and the last scheduled one, to which a run may have
to roll back. (A signal saves one off schedule.) Each records whether it was
scheduled, since the schedule may change when a run resumes. A best one that the
last save has surpassed is deleted at the end of the run.
"""

from collections.abc import Callable, Iterable, Mapping
import contextlib
import dataclasses
from functools import partial
import json
import logging
import os
import pathlib
import re
import shutil
import sys
import time
import types

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies
from tqdm import tqdm

from apnet_jax.errors import UserError, causes, first_line
from apnet_jax.parallel import devices, processes
from apnet_jax.printing import quiet_loggers
from apnet_jax.workdir.json_files import write_json
from apnet_jax.workdir.pack import PackedCheckpoint, is_pack
from apnet_jax.workdir.run_files import CONFIG_FILE, checkpoint_folders

# Seconds that a save may take. If one process cannot write its part, Orbax has
# the others wait at a barrier for so long (by default 20 minutes). A save that
# is merely slower is given up, too: 300 s suffice for 1 GB at 4 MB/s.
SAVE_TIMEOUT = 300
# Words by which an error shows that the time for a save is over.
TIMED_OUT = re.compile(
  'DEADLINE_EXCEEDED|Timed out while waiting|but timed out after'
)


class Checkpoints:
  """The checkpoints of a workdir, ordered by their steps and not by a clock.

  A checkpoint that cannot be saved is given up: the run continues, and older
  checkpoints stay until a newer one is whole.

  Args:
    workdir: workdir of the run.
    read_only: whether to write nothing, so that another process may train in
      the workdir.
    is_scheduled: `is_scheduled(step)` tells whether the run saves a checkpoint
      after that step even without a signal.

  Attributes:
    directory: the folder of the checkpoints.
    failure: the reason if the last save failed, else None.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    read_only: bool = False,
    is_scheduled: Callable[[int], bool] = lambda step: True,
  ):
    self.directory = pathlib.Path(workdir).absolute() / 'checkpoints'
    self.failure: str | None = None
    self._read_only = read_only
    self._is_scheduled = is_scheduled
    self._saving: int | None = None  # step
    # By step: whether its checkpoint was scheduled.
    self._scheduled: dict[int, bool] = {}
    if not read_only:
      self._set_aside_damaged_figures()
    self._keep = policies.AnyPreservationPolicy(
      [
        policies.LatestN(2),
        _KeepOne(self._latest_scheduled),
        _KeepOne(self._best),
      ]
    )
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=self._keep,
        create=not read_only,
        read_only=read_only,
        cleanup_tmp_directories=not read_only,  # of a run that was killed
        # Orbax would fail on damaged figures; `figures` accepts them.
        lightweight_initialize=read_only,
        # Processes would wait for each other even where there is none to save.
        save_root_metadata=not read_only,
        async_options=ocp.options.AsyncOptions(timeout_secs=SAVE_TIMEOUT),
      ),
    )

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    self._finish()
    if kind is None and processes.is_first() and not self._read_only:
      self._delete_surpassed()
    self._manager.close()
    if self.failure and kind is None:
      raise OSError(f'{self.failure}. It was the last one of this run.')

  def save(self, step: int, state, *, not_finite: int = 0) -> None:
    """Saves a state in the background, after the previous save has ended.

    If a save fails, a message is printed and `failure` is set.

    Args:
      step: number of steps that led to the state.
      state: a pytree of arrays. If it is a dataclass, fields that are None are
        not saved, so that a field that is new changes no checkpoint.
      not_finite: number of steps of the run so far whose loss or gradient was
        not finite.
    """
    self._finish()
    self._saving = step
    self._scheduled[step] = bool(self._is_scheduled(step))
    state = devices.as_global_arrays(_present(state))
    try:
      self._manager.save(
        step,
        args=ocp.args.StandardSave(state),
        force=True,
        custom_metadata={
          'not_finite': not_finite,
          'scheduled': self._scheduled[step],
        },
      )
    except Exception as error:  # Orbax raises whatever its writers raise
      self._give_up(error)

  def add_figures(self, step: int, figures: Mapping[str, float]) -> None:
    """Adds the figures of an evaluation to a checkpoint, for `best`.

    Waits for the save in progress. If the checkpoint could not be saved, this
    does nothing; if the figures cannot be written, a message is printed.

    Args:
      step: step of the checkpoint.
      figures: figures by name, with `mAP`.
    """
    self._finish()
    if not processes.is_first() or step not in self._manager.all_steps():
      return
    try:
      write_json(self._figures_file(step), figures)
    except OSError as error:
      tqdm.write(
        f'the figures after step {step} could not be saved:'
        f' {error.strerror}; the run continues'
      )

  def _delete_surpassed(self) -> None:
    """Deletes what the policies would delete at the next save.

    This is also what a run left that was killed between saving and deleting.
    """
    infos = [
      types.SimpleNamespace(step=step, metrics=None)
      for step in sorted(self._manager.all_steps())
    ]
    kept = self._keep.should_preserve(
      infos, context=policies.PreservationContext()
    )
    for info, is_kept in zip(infos, kept):
      if not is_kept:
        # If a kill ends the deletion, Orbax cleans up this name.
        part = self.directory / f'{info.step}.orbax-checkpoint-tmp'
        with contextlib.suppress(OSError):
          (self.directory / str(info.step)).rename(part)
        shutil.rmtree(part, ignore_errors=True)

  def wait(self) -> int | None:
    """Waits for the save in progress; returns the step of the last checkpoint.

    Returns:
      See `latest_step`.
    """
    self._finish()
    return self.latest_step

  def _finish(self) -> None:
    if self._saving is None:
      return
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      self._give_up(error)
    else:
      self._saving, self.failure = None, None

  def _give_up(self, error: Exception) -> None:
    """Reports a failed save, and frees the disk space that it took."""
    step, self._saving = self._saving, None
    own = _own_cause(error)
    reason = _reason(own) if own else _others_may_have_failed()
    self.failure = (
      f'the checkpoint after step {step} could not be saved: {reason}'
    )
    # The array writer and the metadata writer may both have failed. Orbax has
    # raised one error, and would raise the other in the next save.
    for _ in range(2):
      with contextlib.suppress(Exception):  # no public method waits for both
        self._manager._checkpointer.wait_until_finished()
    # Writers that are still running make its folders again.
    for _ in range(5):
      for part in self.directory.glob(f'{step}.*tmp*'):
        shutil.rmtree(part, ignore_errors=True)
      time.sleep(0.1)
    # Orbax already counts the checkpoints as gone that this one replaces.
    self._manager.reload()
    message = f'{self.failure}; the run continues to the next one'
    if processes.is_first():
      tqdm.write(message)
    elif own:  # process 0, which prints for all, may not know the reason
      tqdm.write(f'{processes.this_process()}: {message}', file=sys.stderr)

  @property
  def latest_step(self) -> int | None:
    """The step of the last checkpoint, None if there is none."""
    return self._manager.latest_step()

  @property
  def latest_scheduled_step(self) -> int | None:
    """The step of the last checkpoint that was scheduled when it was saved.

    None if there is none.
    """
    return self._latest_scheduled(self._manager.all_steps())

  def _latest_scheduled(self, steps: Iterable[int]) -> int | None:
    return max(filter(self._was_scheduled, steps), default=None)

  def _was_scheduled(self, step: int) -> bool:
    """Returns whether a checkpoint was scheduled when it was saved.

    Where that is not recorded, as by an earlier version, today's schedule
    decides.
    """
    if step not in self._scheduled:
      try:
        recorded = self._read_metadata(step).get('scheduled')
      except UserError:  # only reading the checkpoint tells that it is damaged
        recorded = None
      if recorded is None:
        recorded = self._is_scheduled(step)
      self._scheduled[step] = bool(recorded)
    return self._scheduled[step]

  def chosen(self, which: str) -> str:
    """Returns `which` unchanged: a workdir has both checkpoints.

    A packed network has one of them, see `pack.py`.
    """
    return which

  def step(self, which: str) -> int | None:
    """Returns the step of the 'last' or the 'best' checkpoint.

    The best checkpoint has the highest mAP; if none was evaluated, the last
    counts as the best.

    Returns:
      The step; None if there is no checkpoint.
    """
    return next(iter(self.candidates(which)), None)

  def candidates(self, which: str) -> list[int]:
    """Returns the steps of all checkpoints, in the order to try them.

    If the first checkpoint is damaged, the next may replace it.

    Args:
      which: 'last' orders by step, latest first; 'best' orders by mAP, highest
        first.
    """
    return sorted(
      self._manager.all_steps(),
      key=self._quality if which == 'best' else None,
      reverse=True,
    )

  def figures(self, step: int) -> Mapping[str, float] | None:
    """Returns the figures of a checkpoint.

    Returns:
      Figures by name, with `mAP`. None if the checkpoint was not evaluated, or
      if its figures are damaged; then a message says so.
    """
    path = self._figures_file(step)
    try:
      figures = json.loads(path.read_text())
      float(figures['mAP'])
      return figures
    except FileNotFoundError:
      return None
    except (OSError, ValueError, KeyError, TypeError):
      tqdm.write(f'{path} is damaged: its mAP is unknown.')
      return None

  def _best(self, steps: Iterable[int]) -> int | None:
    return max(steps, key=self._quality, default=None)

  def _quality(self, step: int) -> tuple[float, int]:
    """Returns the sort key of a checkpoint: mAP (-1 if unknown), step."""
    figures = self.figures(step)
    return -1.0 if figures is None else float(figures['mAP']), step

  def _figures_file(self, step: int) -> pathlib.Path:
    # Orbax would write here, but only together with the state.
    return self.directory / str(step) / 'metrics' / 'metrics'

  def _set_aside_damaged_figures(self) -> None:
    """Renames damaged figures, which Orbax would fail to read."""
    for folder in checkpoint_folders(self.directory):
      path = self._figures_file(int(folder.name))
      if self.figures(int(folder.name)) is None:
        # Another process may be faster.
        with contextlib.suppress(FileNotFoundError):
          path.rename(path.with_name('metrics.damaged'))

  def _set_aside(self, step: int, reason: str) -> None:
    """Renames a damaged checkpoint, so that its step can be saved again."""
    path = self.directory / str(step)
    aside = path.with_name(f'{step}.damaged')
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):  # of a checkpoint that is gone
      path.rename(aside)
    print(
      f'The checkpoint after step {step} is damaged and was moved to {aside}:'
      f' {reason}',
      flush=True,
    )

  def restore(self, step: int, state):
    """Restores the state saved after `step` steps.

    Args:
      step: step of a checkpoint.
      state: a pytree of arrays, or of `jax.ShapeDtypeStruct`s, with the
        structure, shapes, types and sharding of the state to restore.

    Returns:
      The pytree of arrays.

    Raises:
      UserError: the checkpoint cannot be read.
    """
    present = _present(state)
    found = self._read(step, ocp.args.StandardRestore(_abstract(present)))
    return found if present is state else dataclasses.replace(state, **found)

  def restore_latest(self, state):
    """Restores the last state that can be read.

    Later checkpoints, which are damaged, are renamed to N.damaged.

    Args:
      state: see `restore`.

    Returns:
      The state, and the number of steps so far that were not finite.

    Raises:
      UserError: no checkpoint can be read. Then none is renamed.
    """

    def read(step):
      not_finite = self._read_metadata(step).get('not_finite', 0)
      return self.restore(step, state), not_finite

    _, found, damaged = self._first_whole('last', read)
    if processes.is_first():
      for later, reason in damaged:
        self._set_aside(later, reason)
    processes.wait_for_all()
    self._manager.reload()
    return found

  def _read_metadata(self, step: int) -> Mapping:
    """Returns what `save` recorded with a checkpoint, besides its state.

    The file is read without Orbax, which would read more than this.

    Raises:
      UserError: the file cannot be read.
    """
    path = self.directory / str(step) / '_CHECKPOINT_METADATA'
    try:
      metadata = json.loads(path.read_text())
    except (OSError, ValueError) as error:
      raise UserError(f'{path} cannot be read: {error}') from error
    return metadata.get('custom_metadata') or {}

  def restore_variables(
    self, which: str, variables: Mapping, averaged: bool = False
  ) -> tuple[int, Mapping]:
    """Restores the variables of the network alone, without optimiser state.

    Args:
      which: 'last' or 'best'. If that checkpoint is damaged, the next of
        `candidates` is restored and a message says so.
      variables: parts of the state, such as `params` and `batch_stats`, as
        arrays or as `jax.ShapeDtypeStruct`s, with the structure, shapes, types
        and sharding of the variables to restore.
      averaged: whether to restore their average, which the run has kept.

    Returns:
      The step of the checkpoint, and the variables.

    Raises:
      UserError: no checkpoint can be read.
    """
    target = _abstract({'average': variables} if averaged else variables)
    args = ocp.args.PyTreeRestore(
      target,
      restore_args=ocp.checkpoint_utils.construct_restore_args(target),
      partial_restore=True,
    )
    read = partial(self._read, args=args)
    step, found, damaged = self._first_whole(which, read)
    for other, reason in damaged:
      print(
        f'The checkpoint after step {other} is damaged; the one after step'
        f' {step} is used: {reason}',
        flush=True,
      )
    return step, found['average'] if averaged else found

  def _first_whole(self, which: str, read: Callable):
    """Reads the first checkpoint of `candidates` that is not damaged.

    Process 0 says which checkpoints there are, since a run may save and delete
    some while the processes look. All processes must call this function.

    Args:
      which: 'last' or 'best'.
      read: `read(step)` reads a checkpoint; raises UserError if it is damaged.

    Returns:
      The step of the checkpoint, the result of `read`, and a list with (step,
      reason) of each damaged checkpoint before it.

    Raises:
      UserError: all checkpoints are damaged; or processes have read different
        ones, since only some of them could read the first.
    """
    damaged = []
    mine = np.asarray(self.candidates(which), np.int32)
    count = int(processes.from_first(np.int32(len(mine))))
    steps = processes.from_first(np.resize(mine, count))
    for step in steps.tolist():
      try:
        found = read(step)
      except UserError as error:
        damaged.append((step, str(error)))
        continue
      # Orbax has waited here for all processes, whatever steps they have read.
      processes.check_same(
        'the checkpoints that can be read',
        f'step {step}',
        note=_reasons(damaged) + '\nStart all processes again.',
      )
      return step, found, damaged
    raise UserError(
      f'no checkpoint in {self.directory} can be read:{_reasons(damaged)}\nTo'
      ' start again, delete that folder.'
    )

  def _read(self, step: int, args):
    try:
      return self._manager.restore(step, args=args)
    except Exception as error:  # Orbax raises whatever its readers raise
      raise UserError(
        f'{self.directory / str(step)} cannot be read; it is damaged or of'
        f' another model: {_reason(error)}'
      ) from error


def _present(state):
  """Returns the fields of a dataclass that are not None, by name.

  Args:
    state: a pytree; one that is no dataclass is returned unchanged.
  """
  if not dataclasses.is_dataclass(state):
    return state
  values = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
  return {name: value for name, value in values.items() if value is not None}


@dataclasses.dataclass
class _KeepOne:
  """An Orbax policy that keeps the checkpoint whose step `choose` returns."""

  choose: Callable[[list[int]], int | None]

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    del context
    steps = [each.step for each in checkpoints]
    chosen = self.choose(steps)
    return [step == chosen for step in steps]


def _reasons(damaged: list[tuple[int, str]]) -> str:
  return ''.join(f'\n  {reason}' for _, reason in damaged)


def open_for_reading(
  workdir: str | os.PathLike,
) -> Checkpoints | PackedCheckpoint:
  """Opens the checkpoints of a finished or running workdir.

  Args:
    workdir: workdir of a run, or packed network.

  Raises:
    UserError: the folder is no workdir, or holds no whole checkpoint; or the
      packed network is damaged.
  """
  path = pathlib.Path(workdir)
  if is_pack(path):
    return PackedCheckpoint(path)
  if not (path / CONFIG_FILE).is_file():
    problem = 'it has no config.json' if path.exists() else 'it does not exist'
    if path.is_file():
      problem = 'it is a file, but not one of the command pack'
    raise UserError(
      f'--ckpt={workdir} is not a workdir of train.py: {problem}.'
    )
  if (path / 'checkpoints').is_dir():
    # Orbax warns of each folder that it may not change.
    with quiet_loggers('absl', least=logging.ERROR):
      checkpoints = Checkpoints(workdir, read_only=True)
    if checkpoints.latest_step is not None:
      return checkpoints
  raise UserError(f'{path / "checkpoints"} holds no whole checkpoint.')


def _own_cause(error: Exception) -> BaseException | None:
  """Returns why this process could not save its part of a checkpoint.

  After a failure, Orbax still waits for the other processes, and raises that
  this has timed out. The reason lies behind that error.

  Returns:
    The error, or the one behind it; None if this process has only waited for
    others.
  """
  if not processes.is_distributed():
    return error
  own = (e for e in causes(error) if not TIMED_OUT.search(str(e)))
  return next(own, None)


def _others_may_have_failed() -> str:
  return (
    f'not all processes have written their parts within {SAVE_TIMEOUT} s.'
    ' Another process may have failed to write its part: its own output says'
    ' why'
  )


def _reason(error: BaseException) -> str:
  """Returns the message of the operating system behind an error, in one line.

  For other errors, this is the first line of their own message.
  """
  if code := re.search(r"os_error_code='(\d+)'", str(error)):
    return os.strerror(int(code[1]))
  return first_line(error)


def _abstract(tree):
  return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
