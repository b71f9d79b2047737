"""Trains and evaluates the runs of a plan, and keeps their results.

A results folder holds a workdir for each run, and the file results.jsonl with a
line for each evaluation. The folder is all that machines need to share: a run
is claimed by a lock in its workdir, which the training process inherits, so
that the claim lasts as long as either process. (NFS does not inherit locks.
There, train.py's own lock keeps a second training out of the workdir.)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from typing import IO, Any

import ml_collections

from apnet_jax.errors import UserError
from apnet_jax.workdir import run_files
from apnet_jax.workdir.json_files import read_json
from benchmarks.ablation_plan import Run
from benchmarks.command import ROOT, hardware
from data import datasets

RESULTS_FILE = 'results.jsonl'
CLAIM_FILE, LOG_FILE = 'claim.lock', 'log.txt'
# Exit codes of train.py and eval.py after a signal.
INTERRUPTED = (130, 143)
# Flags whose values are folders of this machine.
FOLDERS = r'(--config\.data\.(?:prepared_)?dir|--data_dir|--ckpt|--workdir)=.*'


@dataclasses.dataclass(frozen=True)
class Target:
  """Images that a trained network is evaluated on, beside its own data set.

  Attributes:
    dataset: name of the data set, as eval.py takes it.
    directory: folder of the images.
    allow_other_counts: whether the counts may differ from the published ones.
  """

  dataset: str
  directory: pathlib.Path
  allow_other_counts: bool = False

  @property
  def label(self) -> str:
    """Name of the folder, which stands in results and tables."""
    return self.directory.name

  @property
  def full_name(self) -> str:
    """Name of the data set in result cards, as `dukemtmc_reid` for `duke`.

    Raises:
      FieldError: there is no such data set.
    """
    return datasets.find(self.dataset).name

  @property
  def file_name(self) -> str:
    """Name of the files of its evaluation, without a suffix."""
    return f'{self.full_name.replace("/", "_")}-{self.label}'

  def configure(
    self, config: ml_collections.ConfigDict
  ) -> ml_collections.ConfigDict:
    """Returns a run's configuration with these images, as eval.py makes it."""
    from data.targets import choose  # imports TensorFlow

    return choose(
      config,
      [self.dataset],
      [str(self.directory)],
      self.allow_other_counts or None,
    )[self.dataset]

  def is_of(self, line: Mapping[str, Any]) -> bool:
    """Returns whether a line of results.jsonl is about these images.

    Folders of two data sets may have the same name. Lines of earlier versions
    have the name of the data set in the result card alone.
    """
    dataset = line.get('target_dataset') or line['card']['dataset']
    return (line['target'], dataset) == (self.label, self.full_name)


class Results:
  """The results folder of a table.

  Args:
    folder: the folder; made when something is written.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder

  @property
  def file(self) -> pathlib.Path:
    """The file with a line for each evaluation."""
    return self.folder / RESULTS_FILE

  def workdir(self, run: Run) -> pathlib.Path:
    """Returns the workdir of a run."""
    return self.folder / run.name

  def read(self) -> list[dict[str, Any]]:
    """Returns the finished evaluations, in the order of their lines."""
    return read_lines(self.file)

  def has(self, run: Run, target: Target | None = None) -> bool:
    """Returns whether a run has a result on its own images or on a target."""
    return any(
      target.is_of(line) if target else line['target'] is None
      for line in self.read()
      if line['configuration'] == run.hash
    )

  def missing(self, run: Run, targets: Sequence[Target]) -> list[Target | None]:
    """Returns what a run has no result on; None means its own images."""
    return [one for one in (None, *targets) if not self.has(run, one)]

  def append(self, line: Mapping[str, Any]) -> None:
    """Adds a line to the results, whole or not at all."""
    append_line(self.file, line)


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads a file with a JSON object on each line; a missing file is empty.

  A last line that was being written when its process was killed is left out.

  Raises:
    UserError: another line is damaged.
  """
  if not path.exists():
    return []
  *lines, last = path.read_text().split('\n')
  lines += [last] * _is_whole(last)
  try:
    return [json.loads(line) for line in lines if line.strip()]
  except ValueError as error:
    raise UserError(f'{path} is damaged: {error}') from error


def _is_whole(last: str) -> bool:
  """Returns whether text after the last line end is a line, as of an editor."""
  try:
    return isinstance(json.loads(last), dict)
  except ValueError:
    return False


def append_line(path: pathlib.Path, line: Mapping[str, Any]) -> None:
  """Adds a JSON object as a line to a file that several processes write.

  The rest of a line that a killed process has left is removed.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  data = (json.dumps(line, allow_nan=False) + '\n').encode()
  with path.open('ab+') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    file.seek(0)
    before = file.read()
    end = before.rfind(b'\n') + 1
    if _is_whole(before[end:].decode(errors='replace')):
      data = b'\n' + data
    else:
      file.truncate(end)
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def claim(workdir: pathlib.Path) -> Iterator[IO | None]:
  """Claims a run for this process, and for processes that inherit the file.

  Args:
    workdir: workdir of the run; made if needed.

  Yields:
    The locked file, or None if another process has claimed the run.

  Raises:
    UserError: the file system has no locks.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  with (workdir / CLAIM_FILE).open('a') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      yield None
      return
    except OSError as error:
      raise UserError(
        f'{workdir} cannot be locked ({error.strerror}): put --results on a'
        ' file system with locks.'
      ) from error
    yield file


def is_claimed(workdir: pathlib.Path) -> bool:
  """Returns whether a process works on a run."""
  if not workdir.exists():
    return False
  with claim(workdir) as file:
    return file is None


class Interrupted(KeyboardInterrupt):
  """A signal ended a run, which has saved a checkpoint if it had begun.

  Attributes:
    code: exit code for this program.
  """

  def __init__(self, code: int):
    super().__init__('interrupted')
    self.code = code


def execute(
  command: Sequence[str], log: pathlib.Path, claimed: IO
) -> tuple[int, list[int]]:
  """Runs a command and passes signals on to it.

  Args:
    command: the command.
    log: file that its output is added to.
    claimed: the locked file of the run, which the command inherits.

  Returns:
    Its exit code, and the signals that were passed on. It may have ended before
    it could save a checkpoint, or as if there had been no signal.

  Raises:
    Interrupted: a signal ended the command.
  """
  with log.open('ab') as output:
    process = subprocess.Popen(
      command,
      stdout=output,
      stderr=subprocess.STDOUT,
      env=os.environ | {'TQDM_DISABLE': '1'},
      pass_fds=[claimed.fileno()],
      start_new_session=True,  # a terminal's SIGINT comes from here alone
    )
    with _passing_signals_to(process) as passed:
      code = process.wait()
  if code in INTERRUPTED:
    raise Interrupted(code)
  return code, passed


@contextlib.contextmanager
def _passing_signals_to(process: subprocess.Popen) -> Iterator[list[int]]:
  """Passes SIGINT and SIGTERM on to a process; yields a list of them."""
  passed = []

  def pass_on(number, _):
    passed.append(number)
    process.send_signal(number)

  before = {
    number: signal.signal(number, pass_on)
    for number in (signal.SIGINT, signal.SIGTERM)
  }
  try:
    yield passed
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def train_command(run: Run, workdir: pathlib.Path) -> list[str]:
  """Returns the command that trains or resumes a run."""
  script = str(ROOT / 'train.py')
  return [sys.executable, script, *run.words, f'--workdir={workdir}']


def evaluate_command(
  target: Target, workdir: pathlib.Path, card: pathlib.Path
) -> list[str]:
  """Returns the command that evaluates a trained run on other images."""
  return [
    sys.executable,
    str(ROOT / 'eval.py'),
    f'--ckpt={workdir}',
    f'--dataset={target.dataset}',
    f'--data_dir={target.directory}',
    *['--allow_other_counts'] * target.allow_other_counts,
    f'--json={card}',
  ]


def shown(command: Sequence[str]) -> str:
  """Returns a command as it stands in results: without folders of a machine."""
  words = [pathlib.Path(word).name for word in command[:2]]
  for word in command[2:]:
    if word.startswith(('--workdir=', '--json=')):
      continue
    if word.startswith('--config.model.pretrained=/'):
      word = '--config.model.pretrained=WORKDIR'
    word = word.replace(f'--config={ROOT}/', '--config=')
    words.append(re.sub(FOLDERS, r'\1=DIR', word))
  return shlex.join(['python', *words[1:]])


def do_run(run: Run, targets: Sequence[Target], results: Results) -> str:
  """Does what is missing of a run, unless another process works on it.

  Returns:
    'done' if it was done before, 'claimed' if another process works on it,
    'finished', or 'failed'.

  Raises:
    Interrupted: a signal ended the run; the same call resumes it.
  """
  if not results.missing(run, targets):
    return 'done'
  with claim(results.workdir(run)) as claimed:
    if claimed is None:
      return 'claimed'
    missing = results.missing(run, targets)  # another may just have done it
    if not missing:
      return 'done'
    finished = all(_evaluate(run, one, results, claimed) for one in missing)
    return 'finished' if finished else 'failed'


def _evaluate(
  run: Run, target: Target | None, results: Results, claimed: IO
) -> bool:
  """Makes the result of a claimed run on its own images, or on a target.

  Args:
    run: the run.
    target: other images, for a run that is trained; None trains the run.
    results: where the result is added.
    claimed: the locked file of the run.

  Returns:
    Whether the command succeeded.

  Raises:
    Interrupted: a signal came; a result that was reached all the same is kept.
  """
  workdir = results.workdir(run)
  card = workdir / 'result.json'
  command, name = train_command(run, workdir), 'train'
  if target:
    name = target.file_name
    card = workdir / 'evaluations' / f'{name}.json'
    command = evaluate_command(target, workdir, card)
  with timed(workdir / f'{name}-sessions.jsonl', workdir) as seconds:
    code, signals = execute(command, workdir / LOG_FILE, claimed)
  if code == 0:
    results.append(result_line(run, target, command, workdir, card, seconds()))
  if signals:
    raise Interrupted(128 + signals[0])
  return code == 0


@contextlib.contextmanager
def timed(
  sessions: pathlib.Path, workdir: pathlib.Path
) -> Iterator[Callable[[], int]]:
  """Counts the time of a command over all sessions that worked on it.

  A session that was killed has left no end. It counts until the last change of
  a file in the workdir.

  Args:
    sessions: file with a line for each session.
    workdir: workdir of the run.

  Yields:
    A function that returns the seconds so far.
  """
  before = _seconds(sessions, _last_change(workdir))
  start = time.time()
  append_line(sessions, {'start': start})
  try:
    yield lambda: round(before + time.time() - start)
  finally:
    append_line(sessions, {'end': time.time()})


def _seconds(sessions: pathlib.Path, last_change: float) -> float:
  """Returns the seconds of past sessions; the last may have no end."""
  total, start = 0.0, None
  for line in read_lines(sessions):
    if 'start' in line:
      start = line['start']
    elif start is not None:
      total, start = total + line['end'] - start, None
  return total if start is None else total + max(0.0, last_change - start)


def _last_change(workdir: pathlib.Path) -> float:
  return max(
    (path.stat().st_mtime for path in workdir.glob('*')), default=time.time()
  )


def result_line(
  run: Run,
  target: Target | None,
  command: Sequence[str],
  workdir: pathlib.Path,
  card: pathlib.Path,
  seconds: int,
) -> dict[str, Any]:
  """Returns the line of results.jsonl about an evaluation."""
  facts = run_files.load_run(workdir)
  return {
    'variant': run.variant,
    'seed': run.seed,
    'target': target.label if target else None,
    'target_dataset': target.full_name if target else None,
    'images': ','.join(
      pathlib.Path(folder).name
      for folder in datasets.directories(run.config.data)
    ),
    'recipe': run.recipe,
    'configuration': run.hash,
    'command': shown(command),
    'commit': commit(),
    'hardware': f'{hardware()}; {facts["devices"]}',
    'date': datetime.date.today().isoformat(),
    'seconds': seconds,
    'card': without_paths(read_json(card)),
  }


def without_paths(card: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a result card without folders of this machine and names of images.

  The diagnosis lists the hardest queries by the names of their images.
  """
  kept = {
    k: v for k, v in card.items() if k not in ('diagnosis', 'verification')
  }
  checkpoint = dict(kept['checkpoint'])
  source = checkpoint.get('started_from')
  if source and 'workdir' in source:
    checkpoint['started_from'] = source | {'workdir': 'WORKDIR'}
  network = dict(kept['network'])
  if str(network.get('pretrained')).startswith('/'):
    network['pretrained'] = 'WORKDIR'
  return kept | {'checkpoint': checkpoint, 'network': network}


def commit() -> str:
  """Returns the commit of this project, with '+' if files were changed."""
  head = _git('rev-parse', '--short=12', 'HEAD')
  changed = _git('status', '--porcelain', '--untracked-files=no')
  return (head or 'unknown') + ('+' if changed else '')


def _git(*arguments: str) -> str:
  result = subprocess.run(
    ['git', *arguments], cwd=ROOT, capture_output=True, text=True
  )
  return result.stdout.strip()
