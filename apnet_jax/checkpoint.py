"""Checkpoints with Orbax, and what stands beside them in a workdir.

WORKDIR/config.json      the configuration
WORKDIR/run.json         what was trained on, and with what
WORKDIR/threshold.json   when two images are of one person, if it was chosen
WORKDIR/checkpoints/N/   the state after N steps: the last two, the best, and
                         the last that no signal, but the schedule, has saved
WORKDIR/checkpoints/N.damaged/   one that could not be read
WORKDIR/run.lock         which process trains here
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
from functools import partial
import json
import os
import pathlib
import re
import shutil
import time
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies
from tqdm import tqdm

from apnet_jax import parallel

# These may change when a run goes on; everything else would make it another.
MAY_CHANGE = (
  'compilation_cache_dir',
  'data.allow_other_counts',
  'data.bad_images',
  'data.cache',
  'data.dir',  # the fingerprint in run.json tells whether the images changed
  'data.prepared_dir',
  'eval.',
  'train.epochs',
  'train.rematerialize',
  'train.steps',
  'train.not_finite',  # and its limit
  'train.log_every_steps',
  'train.eval_every_epochs',
  'train.checkpoint_every_epochs',
)


# Of a file from elsewhere: the largest of ours are cards with a figure for each
# query.
MOST_JSON = 64 * 2**20
DEEPEST_JSON = 20
THRESHOLD = 'threshold.json'
# Lists of numbers, which may be long, go on a line. (Within strings JSON has no
# line breaks.)
NUMBERS = re.compile(r'\[\n[\s\d.,eE+\-nul]*\]')


class Checkpoints:
  """The checkpoints of a workdir, saved in the background.

  They are known and ordered by their steps alone, not by a clock. One that
  cannot be saved is given up: the run goes on to the next, and what is older
  stays until a newer one is whole.

  Args:
    workdir: of the run.
    read_only: whether nothing is written, as beside a run that goes on.
    is_regular: whether a checkpoint is due after so many steps, which one that
      a signal brings about is not.

  Attributes:
    failure: why the last save has failed; None if it has not.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    read_only: bool = False,
    is_regular: Callable[[int], bool] = lambda step: True,
  ):
    self.directory = pathlib.Path(workdir).absolute() / 'checkpoints'
    self.failure = None
    self._is_regular, self._saving = is_regular, None
    if not read_only:
      self._set_aside_without_metrics()
    keep = policies.AnyPreservationPolicy(
      [
        policies.LatestN(2),
        _LatestRegular(is_regular),
        policies.BestN(
          n=1, get_metric_fn=_mAP, keep_checkpoints_without_metrics=False
        ),
      ]
    )
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=keep,
        best_fn=_mAP,
        create=not read_only,
        read_only=read_only,
        cleanup_tmp_directories=not read_only,  # of a run that was killed
        lightweight_initialize=read_only,  # `candidates` bears damaged metrics
      ),
    )

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    self._finish()
    self._manager.close()
    if self.failure and kind is None:
      raise OSError(f'{self.failure}. It was the last one of this run.')

  def save(
    self,
    step: int,
    state,
    metrics: Mapping[str, float] | None,
    not_finite: int = 0,
  ) -> None:
    """Saves in the background, and says if the save before has failed.

    Args:
      step: that the state is after.
      state: a pytree of arrays.
      metrics: have `mAP`; None if it was not evaluated.
      not_finite: steps of the run whose loss or gradient was not finite.
    """
    self._finish()
    self._saving = step
    state = parallel.of_all_processes(state)
    try:
      self._manager.save(
        step,
        args=ocp.args.StandardSave(state),
        metrics=metrics,
        force=True,
        custom_metadata={'not_finite': not_finite},
      )
    except Exception as error:  # Orbax raises whatever its writers raise
      self._give_up(error)

  def wait(self) -> int | None:
    """Waits for what is being saved; returns the last whole step, if any."""
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
    """Says that a save has failed, and frees the room that it took."""
    step, self._saving = self._saving, None
    self.failure = (
      f'the checkpoint after step {step} could not be saved: {_reason(error)}'
    )
    # Writers that are still under way make its folders again.
    for _ in range(5):
      for part in self.directory.glob(f'{step}.*tmp*'):
        shutil.rmtree(part, ignore_errors=True)
      time.sleep(0.1)
    self._manager.reload()  # it has forgotten those that the new one replaces
    tqdm.write(f'{self.failure}; the run goes on to the next one')

  @property
  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  @property
  def latest_regular_step(self) -> int | None:
    """The last that was due; it is kept, as it may be rolled back to."""
    steps = filter(self._is_regular, self._manager.all_steps())
    return max(steps, default=None)

  def step(self, which: str) -> int | None:
    """Of the 'last' checkpoint, or of the 'best' by mAP if one has a mAP."""
    return next(iter(self.candidates(which)), None)

  def candidates(self, which: str) -> list[int]:
    """Steps of all checkpoints, the one that is wanted first.

    What else there is follows, as long as it may stand in for a damaged one.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    if which == 'best':
      maps = {step: self._read_mAP(step) for step in steps}
      steps.sort(key=maps.get, reverse=True)
    return steps

  def _read_mAP(self, step: int) -> float:
    """-1 if it was not evaluated."""
    try:
      return _mAP(json.loads(self._metrics_file(step).read_text()))
    except FileNotFoundError:
      return -1.0
    except (OSError, ValueError, KeyError, TypeError):
      print(f'{self._metrics_file(step)} is damaged: its mAP is not known.')
      return -1.0

  def _metrics_file(self, step: int) -> pathlib.Path:
    return self.directory / str(step) / 'metrics' / 'metrics'

  def _set_aside_without_metrics(self) -> None:
    """Sets those aside whose metrics are damaged; Orbax reads them all."""
    steps = [int(path.name) for path in _steps_in(self.directory)]
    damaged = []
    for step in steps:
      try:
        json.loads(self._metrics_file(step).read_text())
      except FileNotFoundError:
        pass  # not evaluated
      except (OSError, ValueError) as error:
        damaged.append((step, f'its metrics cannot be read: {error}'))
    if damaged and len(damaged) == len(steps):
      raise ValueError(_none_is_whole(self.directory, damaged))
    for step, reason in damaged:
      self._set_aside(step, reason)

  def _set_aside(self, step: int, reason: str) -> None:
    """Renames a checkpoint, so that it is none and its step can be saved."""
    path = self.directory / str(step)
    aside = path.with_name(f'{step}.damaged')
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):  # another process was faster
      path.rename(aside)
    print(
      f'The checkpoint after step {step} is damaged, and now lies in {aside}:'
      f' {reason}',
      flush=True,
    )

  def restore(self, step: int, state):
    """Returns the state after `step` steps.

    Args:
      step: of a checkpoint.
      state: arrays of the same structure, shapes, types and placement.

    Raises:
      ValueError: the checkpoint cannot be read.
    """
    return self._read(step, ocp.args.StandardRestore(_abstract(state)))

  def restore_latest(self, state):
    """Returns the last state that is whole, and its count `not_finite`.

    Damaged ones after it are set aside; see `restore`.

    Raises:
      ValueError: no checkpoint can be read. Then none is touched.
    """

    def read(step):
      return self.restore(step, state), self._read_not_finite(step)

    _, found, damaged = self._first_whole('last', read)
    for later, reason in damaged:
      self._set_aside(later, reason)
    if damaged:
      self._manager.reload()
    return found

  def _read_not_finite(self, step: int) -> int:
    """By the file alone: Orbax reads more, and some of it in vain."""
    path = self.directory / str(step) / '_CHECKPOINT_METADATA'
    try:
      metadata = json.loads(path.read_text())
    except (OSError, ValueError) as error:
      raise ValueError(f'{path} cannot be read: {error}') from error
    return (metadata.get('custom_metadata') or {}).get('not_finite', 0)

  def restore_variables(
    self, which: str, variables: Mapping
  ) -> tuple[int, Mapping]:
    """Returns a step, and `params` and `batch_stats` alone after it.

    Args:
      which: 'last' or 'best'. Where that one is damaged, it is said, and the
        next of `candidates` is read.
      variables: arrays of the same structure, shapes, types and placement.

    Raises:
      ValueError: no checkpoint can be read.
    """
    target = _abstract(variables)
    args = ocp.args.PyTreeRestore(
      target,
      restore_args=ocp.checkpoint_utils.construct_restore_args(target),
      partial_restore=True,
    )
    read = partial(self._read, args=args)
    step, variables, damaged = self._first_whole(which, read)
    for other, reason in damaged:
      print(
        f'The checkpoint after step {other} is damaged; that after step {step}'
        f' is read: {reason}',
        flush=True,
      )
    return step, variables

  def _first_whole(self, which: str, read: Callable):
    """The step, what was read of it, and what was damaged, with reasons."""
    damaged = []
    for step in self.candidates(which):
      try:
        return step, read(step), damaged
      except ValueError as error:
        damaged.append((step, str(error)))
    raise ValueError(_none_is_whole(self.directory, damaged))

  def _read(self, step: int, args):
    try:
      return self._manager.restore(step, args=args)
    except Exception as error:  # Orbax raises whatever its readers raise
      raise ValueError(
        f'{self.directory / str(step)} cannot be read; it is damaged or of'
        f' another model: {_reason(error)}'
      ) from error


@dataclasses.dataclass
class _LatestRegular:
  """A policy of Orbax: keeps the last checkpoint that was due."""

  is_regular: Callable[[int], bool]

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    del context
    steps = [each.step for each in checkpoints]
    last = max(filter(self.is_regular, steps), default=None)
    return [step == last for step in steps]


def _none_is_whole(
  directory: pathlib.Path, damaged: list[tuple[int, str]]
) -> str:
  reasons = ''.join(f'\n  {reason}' for _, reason in damaged)
  return (
    f'no checkpoint in {directory} can be read:{reasons}\nTo begin anew, delete'
    ' that folder.'
  )


def _steps_in(directory: pathlib.Path) -> list[pathlib.Path]:
  """The folders of whole checkpoints, with no other names."""
  return [path for path in directory.glob('*') if path.name.isdigit()]


def open_for_reading(workdir: str | os.PathLike) -> Checkpoints:
  """Opens the checkpoints of a finished or running workdir.

  Raises:
    ValueError: there are none.
  """
  path = pathlib.Path(workdir)
  if not (path / 'config.json').is_file():
    raise ValueError(
      f'--ckpt={workdir} is not a workdir of train.py: it has no config.json.'
    )
  if (path / 'checkpoints').is_dir():
    checkpoints = Checkpoints(workdir, read_only=True)
    if checkpoints.latest_step is not None:
      return checkpoints
  raise ValueError(f'{path / "checkpoints"} holds no whole checkpoint.')


def _reason(error: Exception) -> str:
  """First line of a message that may fill a screen, or what the system says."""
  if code := re.search(r"os_error_code='(\d+)'", str(error)):
    return os.strerror(int(code[1]))
  return (str(error).splitlines() or [''])[0][:200] or type(error).__name__


def claim_workdir(
  workdir: str | os.PathLike, config: ml_collections.ConfigDict, run: Mapping
) -> None:
  """Writes config.json and run.json, or checks that they are of this run.

  Args:
    workdir: made if it does not exist.
    config: the whole configuration.
    run: facts of the run; `fingerprint` and `num_classes` must stay the same.

  Raises:
    ValueError: the workdir belongs to another configuration or data set.
  """
  path = pathlib.Path(workdir)
  if is_begun(workdir):  # else nothing can be lost
    different = _differences(load_config(workdir), config)
    saved_run = load_run(workdir)
    different += [
      f'  {name}: {saved_run.get(name)!r} there, {run[name]!r} here'
      for name in ('fingerprint', 'num_classes')
      if saved_run.get(name) != run[name]
    ]
    if different:
      raise ValueError(
        f'--workdir={workdir} holds a run of another configuration:\n'
        + '\n'.join(different)
        + '\nGive another --workdir, or delete this one.'
      )
    for name in ('devices', 'versions'):
      if saved_run.get(name) != run[name]:
        print(
          f'Started with {name} {saved_run.get(name)}, goes on with'
          f' {run[name]}: results may differ in the last bits.'
        )
  else:
    write_json(path, 'run.json', run)
    (path / THRESHOLD).unlink(missing_ok=True)  # of a network that is gone
  write_json(path, 'config.json', config.to_dict())


def is_begun(workdir: str | os.PathLike) -> bool:
  """Whether a workdir has a checkpoint to go on from."""
  return bool(_steps_in(pathlib.Path(workdir) / 'checkpoints'))


def _differences(
  saved: ml_collections.ConfigDict, given: ml_collections.ConfigDict
) -> list[str]:
  saved, given = _leaves(saved), _leaves(given)
  return [
    f'  config.{name}: {saved.get(name, "absent")!r} there,'
    f' {given.get(name, "absent")!r} here'
    for name in sorted(saved.keys() | given.keys())
    if saved.get(name) != given.get(name) and not name.startswith(MAY_CHANGE)
  ]


def load_config(workdir: str | os.PathLike) -> ml_collections.ConfigDict:
  """The configuration of a workdir; ValueError if the file is damaged.

  It is data: nothing in it is evaluated.
  """
  content = read_json(workdir, 'config.json')
  with blaming(workdir, 'config.json'):
    return ml_collections.ConfigDict(content)


def load_run(workdir: str | os.PathLike) -> dict[str, Any]:
  """The facts in a workdir's run.json; ValueError if the file is damaged."""
  run = read_json(workdir, 'run.json')
  for name, kind in (('num_classes', int), ('fingerprint', str)):
    if not isinstance(run.get(name), kind) or isinstance(run[name], bool):
      raise ValueError(
        f'{pathlib.Path(workdir) / "run.json"} is damaged: {name} is'
        f' {run.get(name)!r}.'
      )
  return run


@contextlib.contextmanager
def blaming(workdir: str | os.PathLike, name: str) -> Iterator[None]:
  """Makes what a file of a workdir leads to a ValueError about that file.

  A configuration was checked when its run began: if fields are missing, or
  values wrong, the file has changed since.
  """
  try:
    yield
  except Exception as error:  # wherever strange values come to light
    raise ValueError(
      f'{pathlib.Path(workdir) / name} is damaged: {_reason(error)}'
    ) from error


def read_json(workdir: str | os.PathLike, name: str) -> dict[str, Any]:
  """What `write_json` wrote; ValueError if the file is damaged."""
  path = pathlib.Path(workdir) / name
  content = parse_json(path)
  if not isinstance(content, dict):
    raise ValueError(f'{path} is damaged: it holds no fields.')
  return content


def parse_json(path: pathlib.Path) -> Any:
  """What a JSON file holds.

  Raises:
    ValueError: it cannot be read, is larger than `MOST_JSON`, or deeper than
      `DEEPEST_JSON`, which would be too deep for whoever walks it.
  """
  try:
    if path.stat().st_size > MOST_JSON:
      raise ValueError(f'it is larger than {MOST_JSON:,} bytes')
    content = json.loads(path.read_text())
    if _is_deep(content):
      raise ValueError('it is too deep')
    return content
  except (OSError, ValueError, RecursionError) as error:
    raise ValueError(f'{path} cannot be read as JSON: {error}') from error


def _is_deep(content) -> bool:
  level = [content]
  for _ in range(DEEPEST_JSON):
    level = [
      child
      for value in level
      if isinstance(value, dict | list)
      for child in (value.values() if isinstance(value, dict) else value)
    ]
  return bool(level)


def write_json(workdir: str | os.PathLike, name: str, content: Mapping) -> None:
  """Writes a JSON file into a folder, made if need be, whole or not at all."""
  path = pathlib.Path(workdir) / name
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_suffix('.part')
  text = json.dumps(content, indent=2, allow_nan=False)
  part.write_text(NUMBERS.sub(lambda m: ' '.join(m[0].split()), text) + '\n')
  part.replace(path)


def _leaves(config: ml_collections.ConfigDict, prefix='') -> dict[str, Any]:
  leaves = {}
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      leaves |= _leaves(value, f'{prefix}{name}.')
    else:
      # JSON has no tuples.
      leaves[prefix + name] = list(value) if isinstance(value, tuple) else value
  return leaves


def _mAP(metrics: Mapping[str, float]) -> float:
  return metrics['mAP']


def _abstract(tree):
  return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
