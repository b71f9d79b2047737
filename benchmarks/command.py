"""What the commands share: flags, the processes they ask, and the record."""

import argparse
from collections.abc import Callable, Iterable, Mapping
import contextlib
import datetime
import json
import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys

from tqdm import tqdm

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Queries, gallery, features.
SIZES = {'market': (3368, 15_913, 2048), 'msmt17': (11_659, 82_161, 2048)}
# They choose kernels of OpenBLAS, which may slow numpy.
SLOW = ('OPENBLAS_CORETYPE', 'OPENBLAS_L2_SIZE')
# Of processes that run a network. They share a GPU, and JAX would take most of
# its memory when it starts. On a CPU the C library gives what a step has freed
# back to the system, which clears it again page by page: huge pages are fewer.
NETWORK_ENVIRONMENT = {
  'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
  'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1',
}


def read_size(text: str) -> tuple[int, ...]:
  """A named size, or QUERIESxGALLERYxFEATURES."""
  if text in SIZES:
    return SIZES[text]
  if not re.fullmatch(r'[1-9]\d*x[1-9]\d*x[1-9]\d*', text):
    raise argparse.ArgumentTypeError(
      f'{text!r} is none of {", ".join(SIZES)} and not QUERIESxGALLERYxFEATURES'
    )
  return tuple(map(int, text.split('x')))


def make_parser(description: str) -> argparse.ArgumentParser:
  """With the flag that all commands have."""
  parser = argparse.ArgumentParser(
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--json', type=pathlib.Path, metavar='FILE', help='where the record goes'
  )
  return parser


def add_size(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--size',
    type=read_size,
    default='market',
    metavar='market|msmt17|QxGxD',
    help='queries, gallery, features (market: 3368x15913x2048)',
  )


def parse(
  parser: argparse.ArgumentParser, arguments: list[str] | None
) -> argparse.Namespace:
  args = parser.parse_args(arguments)
  if args.json is not None and not args.json.parent.is_dir():
    parser.error(f'--json={args.json}: no such folder.')
  return args


def finish(
  script: str, run: Callable[[], dict], json_file: pathlib.Path | None
) -> int:
  """Runs a benchmark and writes its record; returns the exit code.

  A `RuntimeError` of `run` is a message and exit code 2.
  """
  script = pathlib.Path(script).name
  try:
    record = run()
  except RuntimeError as error:
    print(f'{script}: error: {error}', file=sys.stderr)
    return 2
  head = {
    'command': f'python benchmarks/{script} {shlex.join(sys.argv[1:])}'.strip(),
    'hardware': hardware(),
    'date': datetime.date.today().isoformat(),
  }
  if json_file is not None:
    json_file.write_text(json.dumps(head | record, indent=1) + '\n')
  return 0


def hardware() -> str:
  """The processor, in words, and the width of its vectors, which decides."""
  name, flags = 'an unknown processor', []
  with contextlib.suppress(OSError):
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    pairs = (line.split(':', 1) for line in lines if ':' in line)
    values = dict(map(str.strip, pair) for pair in pairs)
    name = values.get('model name', name)
    flags = values.get('flags', '').split()
  for flag, vectors in (('avx512f', 'AVX-512'), ('avx2', 'AVX2')):
    if flag in flags:
      name += f' with {vectors}'
      break
  return f'{count_cores(len(os.sched_getaffinity(0)))} of {name}'


def count_cores(number: int) -> str:
  return f'{number} core{"s" if number > 1 else ""}'


def environment(without: Iterable[str] = (), **more: str) -> dict[str, str]:
  """This process's, without some variables and with some more."""
  return {k: v for k, v in os.environ.items() if k not in without} | more


class Side:
  """A process that measures when asked: a module that calls `measuring.serve`.

  Args:
    module: in benchmarks/.
    arguments: of its command line.
    environment: of the process.
    cores: that it is pinned to; None for all.
  """

  def __init__(
    self,
    module: str,
    arguments: list[str],
    environment: Mapping[str, str],
    cores: set[int] | None = None,
  ):
    self.process = subprocess.Popen(
      [sys.executable, '-m', f'benchmarks.{module}', *arguments],
      cwd=ROOT,
      env=environment,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    if cores is not None:  # before it starts threads: it is still importing
      os.sched_setaffinity(self.process.pid, cores)

  def ask(self, **request) -> dict:
    """Asks and waits for the answer; RuntimeError if the process ended."""
    with contextlib.suppress(BrokenPipeError):
      print(json.dumps(request), file=self.process.stdin, flush=True)
    answer = self.process.stdout.readline()
    if not answer:
      code = self.process.wait()
      raise RuntimeError(
        f'{self.process.args[2]} ended with code {code}; see above for why.'
      )
    return json.loads(answer)

  def close(self) -> None:
    with contextlib.suppress(BrokenPipeError):
      self.process.stdin.close()
    self.process.wait()
    self.process.stdout.close()


def take_turns(
  sides: Mapping[str, Side], turns: int, **request
) -> dict[str, list[float]]:
  """Seconds of what is asked of all sides, of each turn.

  Two turns before, the first of which compiles, are not among them. The order
  is reversed every other turn, so that a machine that grows slower or faster
  favours none.
  """
  seconds = {name: [] for name in sides}
  order = list(sides)
  for _ in tqdm(range(2 + turns), 'Taking turns', unit='', leave=False):
    for name in order:
      seconds[name].append(sides[name].ask(**request)['seconds'])
    order.reverse()
  return {name: values[2:] for name, values in seconds.items()}


def compare(seconds: list[float], base: list[float]) -> dict[str, float]:
  """Ratios of what was timed in the same turn: median and quartiles."""
  ratios = [a / b for a, b in zip(seconds, base)]
  low, median, high = statistics.quantiles(ratios, n=4, method='inclusive')
  ratios = {'ratio': median, 'lower quartile': low, 'upper quartile': high}
  return {name: round(value, 4) for name, value in ratios.items()}
