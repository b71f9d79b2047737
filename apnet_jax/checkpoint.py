"""Checkpoints with Orbax, and what stands beside them in a workdir.

WORKDIR/config.json      the configuration
WORKDIR/run.json         what was trained on, and with what
WORKDIR/threshold.json   when two images are of one person, if it was chosen
WORKDIR/checkpoints/N/   the state after N steps: the last two and the best
"""

from collections.abc import Mapping
import json
import os
import pathlib
import re
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from apnet_jax import parallel

# These may change when a run goes on; everything else would make it another.
MAY_CHANGE = (
  'compilation_cache_dir',
  'data.allow_other_counts',
  'data.cache',
  'data.dir',  # the fingerprint in run.json tells whether the images changed
  'data.prepared_dir',
  'eval.',
  'train.epochs',
  'train.rematerialize',
  'train.steps',
  'train.log_every_steps',
  'train.eval_every_epochs',
  'train.checkpoint_every_epochs',
)


THRESHOLD = 'threshold.json'
# Lists of numbers, which may be long, go on a line. (Within strings JSON has no
# line breaks.)
NUMBERS = re.compile(r'\[\n[\s\d.,eE+\-nul]*\]')


class Checkpoints:
  """The checkpoints of a workdir, saved in the background."""

  def __init__(self, workdir: str | os.PathLike, read_only: bool = False):
    self.directory = pathlib.Path(workdir).absolute() / 'checkpoints'
    keep = policies.AnyPreservationPolicy(
      [
        policies.LatestN(2),
        policies.BestN(
          n=1, get_metric_fn=_mAP, keep_checkpoints_without_metrics=False
        ),
      ]
    )
    try:
      self._manager = ocp.CheckpointManager(
        self.directory,
        options=ocp.CheckpointManagerOptions(
          preservation_policy=keep,
          best_fn=_mAP,
          create=not read_only,
          read_only=read_only,
        ),
      )
      self._manager.best_step()  # reads the metrics of all of them
    except Exception as error:  # whatever damaged files make Orbax raise
      raise ValueError(
        f'the checkpoints in {self.directory} cannot be opened: a file'
        f' <step>/metrics/metrics is damaged ({_reason(error)}). Delete that'
        ' step to use the others.'
      ) from error

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._manager.close()  # waits for what is being saved

  def save(self, step: int, state, metrics: Mapping[str, float] | None) -> None:
    """Saves in the background; `metrics` has `mAP` if it was evaluated."""
    state = parallel.of_all_processes(state)
    self._manager.save(
      step, args=ocp.args.StandardSave(state), metrics=metrics, force=True
    )

  @property
  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  def step(self, which: str) -> int | None:
    """Of the 'last' checkpoint, or of the 'best' by mAP if one has a mAP."""
    best = self._manager.best_step() if which == 'best' else None
    return self.latest_step if best is None else best

  def restore(self, step: int, state):
    """Returns the state after `step` steps.

    Args:
      step: of a checkpoint.
      state: arrays of the same structure, shapes, types and placement.

    Raises:
      ValueError: the checkpoint cannot be read.
    """
    return self._read(step, ocp.args.StandardRestore(_abstract(state)))

  def restore_variables(self, step: int, variables: Mapping) -> Mapping:
    """Returns `params` and `batch_stats` alone, shaped as `variables`."""
    target = _abstract(variables)
    return self._read(
      step,
      ocp.args.PyTreeRestore(
        target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=True,
      ),
    )

  def _read(self, step: int, args):
    try:
      return self._manager.restore(step, args=args)
    except Exception as error:  # Orbax raises whatever its readers raise
      others = [other for other in self._manager.all_steps() if other != step]
      raise ValueError(
        f'the checkpoint {self.directory / str(step)} cannot be read; it is'
        f' damaged or of another model: {_reason(error)}. Delete it to'
        f' use another one: {", ".join(map(str, others)) or "there is none"}.'
      ) from error


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
  """First line of a message that may fill a screen."""
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
  return any((pathlib.Path(workdir) / 'checkpoints').glob('[0-9]*'))


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
  """The configuration of a workdir; ValueError if the file is damaged."""
  return ml_collections.ConfigDict(read_json(workdir, 'config.json'))


def load_run(workdir: str | os.PathLike) -> dict[str, Any]:
  """The facts in a workdir's run.json; ValueError if the file is damaged."""
  return read_json(workdir, 'run.json')


def read_json(workdir: str | os.PathLike, name: str) -> dict[str, Any]:
  """What `write_json` wrote; ValueError if the file is damaged."""
  path = pathlib.Path(workdir) / name
  try:
    return json.loads(path.read_text())
  except (OSError, json.JSONDecodeError) as error:
    raise ValueError(f'{path} cannot be read: {error}') from error


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
