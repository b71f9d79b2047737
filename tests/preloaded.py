"""Runs Python programs one after the other, without importing packages anew.

`Preloaded` starts a server, `python -m tests.preloaded`, which has imported
what the commands of this repository take seconds to import. It forks a process
for each program, before JAX has started its backend, so that XLA_FLAGS and
flags of the command line are the program's own.

Each line of the server's input is a JSON object: `arguments`, those of Python;
`environment`, variables to set; `output` and `errors`, files for what the
program prints; `largest_file` in bytes, 0 for no limit. The server prints a
line with the program's process id, and one with its exit code when it has
ended.
"""

import gc
import importlib
import json
import os
import pathlib
import resource
import runpy
import select
import signal
import subprocess
import sys

from apnet_jax.__main__ import COMMANDS
from tests.compilation import xla_flags

ROOT = pathlib.Path(__file__).parents[1]
PATIENCE = 280  # seconds; programs take a fraction of it on an idle machine
# None of them defines flags of the command line.
PACKAGES = (
  *COMMANDS.values(),
  'apnet_jax.training.trainer',
  'apnet_jax.visualize.report',
  'data.pipeline',
  'data.targets',
)


class Preloaded:
  """A server that runs one Python program at a time.

  Args:
    folder: an existing folder for what programs print.
    merged: whether standard output and standard error go to one file.

  Attributes:
    pid: process id of the program that was started last.
  """

  def __init__(self, folder: pathlib.Path, merged: bool = False):
    self._output = folder / 'out.txt'
    self._errors = self._output if merged else folder / 'err.txt'
    self._process = subprocess.Popen(
      [sys.executable, '-m', 'tests.preloaded'],
      cwd=ROOT,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def start(self, *arguments, devices: int = 1, largest_file: int = 0) -> None:
    """Starts a program: a script, `-m` module or `-c` code, and arguments."""
    request = {
      'arguments': list(map(str, arguments)),
      'environment': {'XLA_FLAGS': xla_flags(devices)},
      'output': str(self._output),
      'errors': str(self._errors),
      'largest_file': largest_file,
    }
    for file in (self._output, self._errors):
      file.write_text('')
    self._process.stdin.write(json.dumps(request) + '\n')
    self._process.stdin.flush()
    self.pid = int(self._process.stdout.readline())

  def printed(self) -> str:
    """Returns standard output so far, with the errors if they are merged."""
    return self._output.read_text()

  def errors(self) -> str:
    """Returns standard error so far."""
    return self._errors.read_text()

  def has_ended(self) -> bool:
    """Returns whether the program has ended, even before `code` was called."""
    try:
      state = pathlib.Path(f'/proc/{self.pid}/stat').read_text()
    except FileNotFoundError:
      return True
    return state.rsplit(')', 1)[1].split()[0] in 'ZX'

  def code(self, timeout: float = PATIENCE) -> int:
    """Waits for the program; returns its exit code, as `subprocess` does."""
    answers = self._process.stdout
    if not select.select([answers], [], [], timeout)[0]:
      os.kill(self.pid, signal.SIGKILL)
      answers.readline()
      raise TimeoutError(f'{timeout} s are over: {self.printed()[-2000:]}')
    return int(answers.readline())

  def run(self, *arguments) -> tuple[int, str, str]:
    """Runs a program; returns its exit code, output and errors."""
    self.start(*arguments)
    return self.code(), self.printed(), self.errors()

  def close(self) -> None:
    """Ends the server."""
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()


def execute(arguments: list[str]) -> None:
  """Executes what `python ARGUMENTS` would, in this process."""
  if arguments[0] == '-c':
    sys.argv = ['-c', *arguments[2:]]
    exec(arguments[1], {'__name__': '__main__'})
  elif arguments[0] == '-m':
    sys.argv = arguments[1:]
    runpy.run_module(arguments[1], run_name='__main__', alter_sys=True)
  else:
    sys.argv = arguments
    sys.path[0] = str((ROOT / arguments[0]).parent)
    runpy.run_path(str(ROOT / arguments[0]), run_name='__main__')


def prepare(
  environment: dict[str, str], output: str, errors: str, largest_file: int
) -> None:
  """Gives this process its environment, files and limit."""
  os.environ.update(environment)
  if largest_file:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
  appending = os.O_WRONLY | os.O_APPEND  # both may be one file
  os.dup2(os.open(output, appending), 1)
  os.dup2(os.open(errors, appending), 2)
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def main() -> None:
  for name in PACKAGES:
    importlib.import_module(name)
  gc.collect()
  gc.freeze()  # else each program ends with a second of garbage collection
  for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if pid == 0:
      arguments = request.pop('arguments')
      prepare(**request)
      execute(arguments)
      return
    print(pid, flush=True)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == '__main__':
  main()
