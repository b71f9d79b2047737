"""Runs train.py again and again, without importing its packages each time.

  python -m tests.faults.preloaded

Each line of the input is a JSON object that describes a run: `arguments` of
train.py; `output`, a file for its output; `devices`, the number of devices;
`largest_file`, a limit on file sizes in bytes, or 0. Each run is a new process,
forked after the imports and before any computation. A line with its process id
is printed when it starts, and a line with its exit code when it has ended.
"""

import json
import os
import pathlib
import resource
import runpy
import sys

from apnet_jax.training import trainer  # noqa: F401 - not to be imported each time
from data import pipeline  # noqa: F401

TRAIN = pathlib.Path(__file__).parents[2] / 'train.py'


def run(
  arguments: list[str], output: str, devices: int, largest_file: int
) -> None:
  os.environ['XLA_FLAGS'] = (
    f'--xla_force_host_platform_device_count={devices}'
    ' --xla_backend_optimization_level=1'
  )
  if largest_file:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
  with open(output, 'w') as file:
    for descriptor in (1, 2):
      os.dup2(file.fileno(), descriptor)
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  sys.argv = ['train.py', *arguments]
  runpy.run_path(str(TRAIN), run_name='__main__')


def main() -> None:
  for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if pid == 0:
      run(**request)
      return
    print(pid, flush=True)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == '__main__':
  main()
