"""Tools of all benchmarks: flags, processes that measure, and result files."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import datetime
from importlib import metadata
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
# Queries, gallery images, features.
SIZES = {'market': (3368, 15_913, 2048), 'msmt17': (11_659, 82_161, 2048)}
# Variables that choose kernels of OpenBLAS, and may slow numpy down.
OPENBLAS_VARIABLES = ('OPENBLAS_CORETYPE', 'OPENBLAS_L2_SIZE')
# For processes that run a network. They share a GPU, and JAX would allocate
# most of its memory at the start. On a CPU, the C library returns the memory
# that a step frees to the system, which clears it again page by page; with huge
# pages there are fewer pages to clear.
NETWORK_ENVIRONMENT = {
  'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
  'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1',
}
# Variables that list the GPUs, or the TPU chips, that a process may use.
VISIBLE = ('CUDA_VISIBLE_DEVICES', 'TPU_VISIBLE_CHIPS')
# A TPU also wants the arrangement of its chips and processes.
ONE_TPU = {
  'TPU_CHIPS_PER_PROCESS_BOUNDS': '1,1,1',
  'TPU_PROCESS_BOUNDS': '1,1,1',
}


def read_size(text: str) -> tuple[int, ...]:
  """Parses a size: a name in `SIZES`, or QUERIESxGALLERYxFEATURES.

  Returns:
    The numbers of queries, gallery images and features.
  """
  if text in SIZES:
    return SIZES[text]
  if not re.fullmatch(r'[1-9]\d*x[1-9]\d*x[1-9]\d*', text):
    raise argparse.ArgumentTypeError(
      f'{text!r} is neither {" nor ".join(SIZES)} nor QUERIESxGALLERYxFEATURES'
    )
  return tuple(map(int, text.split('x')))


def make_parser(description: str) -> argparse.ArgumentParser:
  """Returns a parser with the flag that all benchmarks have, --json."""
  parser = argparse.ArgumentParser(
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--json', type=pathlib.Path, metavar='FILE', help='file for the record'
  )
  return parser


def add_size(parser: argparse.ArgumentParser) -> None:
  """Adds the flag --size: numbers of queries, gallery images and features."""
  parser.add_argument(
    '--size',
    type=read_size,
    default='market',
    metavar='market|msmt17|QxGxD',
    help='numbers of queries, gallery images and features (market:'
    ' 3368x15913x2048)',
  )


def add_turns(
  parser: argparse.ArgumentParser, default: int, what: str = 'everything'
) -> None:
  """Adds the flag --turns, the number of rounds.

  Args:
    parser: parser to extend.
    default: default number of rounds.
    what: object that each round measures once, for the text of --help.
  """
  parser.add_argument(
    '--turns',
    type=int,
    default=default,
    help=f'number of rounds; each measures {what} once (%(default)s)',
  )


def parse(
  parser: argparse.ArgumentParser, arguments: list[str] | None
) -> argparse.Namespace:
  """Parses the command line and checks --json; a mistake ends the program.

  Args:
    parser: parser of the benchmark.
    arguments: command line; None for that of this process.
  """
  args = parser.parse_args(arguments)
  if args.json is not None and not args.json.parent.is_dir():
    parser.error(f'--json={args.json}: no such folder.')
  if args.json is not None and args.json.is_dir():
    parser.error(f'--json={args.json} is a folder: give a file.')
  return args


def check_at_least(
  parser: argparse.ArgumentParser, args: argparse.Namespace, **minima: int
) -> None:
  """Ends the program with code 2 if a flag, or one of its values, is too small.

  Args:
    parser: parser of the flags.
    args: values of the flags.
    **minima: the smallest allowed value by name of the flag.
  """
  for name, minimum in minima.items():
    value = getattr(args, name)
    if min(value if isinstance(value, (list, tuple)) else [value]) < minimum:
      flag = '--' + name.replace('_', '-')
      parser.error(f'{flag}={value}: must be at least {minimum}.')


def check_peak_memory(parser: argparse.ArgumentParser) -> None:
  """Ends the program with code 2 where peak memory cannot be measured."""
  if not pathlib.Path('/proc/self/clear_refs').exists():
    parser.error('the peak memory of a process is known on Linux only.')


def finish(
  script: str,
  run: Callable[[argparse.Namespace], dict],
  args: argparse.Namespace,
) -> int:
  """Runs a benchmark and writes its results to the file `args.json`, if given.

  Args:
    script: file of the benchmark.
    run: function that measures, prints the figures and returns the results. Its
      `RuntimeError` or `UserError` is printed as a message.
    args: values of the flags.

  Returns:
    The exit code: 0, or 2 after such an error.
  """
  # This imports JAX, which not all processes that measure may have.
  from apnet_jax.errors import UserError

  script = pathlib.Path(script).name
  try:
    record = run(args)
  except (RuntimeError, UserError) as error:
    print(f'{script}: error: {error}', file=sys.stderr)
    return 2
  head = {
    'command': f'python benchmarks/{script} {shlex.join(sys.argv[1:])}'.strip(),
    'hardware': hardware(),
    'date': datetime.date.today().isoformat(),
  }
  if args.json is not None:
    args.json.write_text(json.dumps(head | record, indent=1) + '\n')
  return 0


def hardware() -> str:
  """Returns the number of cores, the processor and its vector instructions.

  The width of the vectors decides how fast matrix products are.
  """
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


def versions(*packages: str) -> dict[str, str]:
  """Returns the versions of packages; those not installed are left out."""
  found = {}
  for name in packages:
    with contextlib.suppress(metadata.PackageNotFoundError):
      found[name] = metadata.version(name)
  return found


def count_cores(number: int) -> str:
  """Returns '1 core', '2 cores' and so on."""
  return f'{number} core{"s" if number > 1 else ""}'


def environment(without: Iterable[str] = (), **more: str) -> dict[str, str]:
  """Returns this process's environment with some variables removed or set."""
  return {k: v for k, v in os.environ.items() if k not in without} | more


def network_environment() -> dict[str, str]:
  """Returns the variables for a process that runs a network on one device.

  This project uses all devices that it sees, PyTorch and a matrix product only
  one: they are comparable on one. It is the first that this process may use.
  Without GPU or TPU, the variables change nothing.
  """
  first = {name: os.environ.get(name, '0').split(',')[0] for name in VISIBLE}
  return NETWORK_ENVIRONMENT | ONE_TPU | first


def absolute(path: str) -> str:
  """Returns a path for a `MeasuringProcess`, which runs in another folder.

  Args:
    path: path of a file or folder. A text of another kind, such as hf://...,
      stays as it is.
  """
  return os.path.abspath(path) if os.path.exists(path) else path


class MeasuringProcess(contextlib.AbstractContextManager):
  """A subprocess that measures on request, in the project's folder.

  It ends with the context.

  Args:
    module: a module in benchmarks/ that calls `measuring.serve`.
    arguments: command line of the module.
    environment: environment variables of the process.
    cores: cores to pin the process to; None for all.
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
    """Sends a request and waits for the answer.

    Args:
      **request: items of the request, which are sent as JSON.

    Raises:
      RuntimeError: the process has ended.
    """
    with contextlib.suppress(BrokenPipeError):
      print(json.dumps(request), file=self.process.stdin, flush=True)
    answer = self.process.stdout.readline()
    if not answer:
      code = self.process.wait()
      raise RuntimeError(
        f'{self.process.args[2]} ended with code {code}; the reason is printed'
        ' above.'
      )
    return json.loads(answer)

  def __exit__(self, *error) -> None:
    with contextlib.suppress(BrokenPipeError):
      self.process.stdin.close()
    self.process.wait()
    self.process.stdout.close()


@contextlib.contextmanager
def serve_networks(
  module: str, arguments: list[str], names: Iterable[str]
) -> Iterator[dict[str, MeasuringProcess]]:
  """Yields a process for each of several networks, which ends afterwards.

  Each uses the same device.

  Args:
    module: see `MeasuringProcess`.
    arguments: command line of the module, without `--serve NAME`.
    names: values of --serve.

  Yields:
    The processes by name.
  """
  with contextlib.ExitStack() as stack:
    yield {
      name: stack.enter_context(
        MeasuringProcess(
          module,
          [*arguments, '--serve', name],
          environment(**network_environment()),
        )
      )
      for name in names
    }


def time_in_turns(
  processes: Mapping[str, MeasuringProcess], turns: int, **request
) -> dict[str, list[float]]:
  """Times the same request in several processes, one after the other.

  Two rounds of warm-up come before, the first of which compiles. The order is
  reversed in every other round: a machine that grows slower or faster then
  favours no process.

  Args:
    processes: processes by name.
    turns: number of rounds that count.
    **request: the request, whose answer has `seconds`.

  Returns:
    Seconds of each round, by name of the process.
  """
  seconds = {name: [] for name in processes}
  order = list(processes)
  for _ in tqdm(range(2 + turns), 'Timing in turns', unit='', leave=False):
    for name in order:
      seconds[name].append(processes[name].ask(**request)['seconds'])
    order.reverse()
  return {name: values[2:] for name, values in seconds.items()}


def compare(seconds: list[float], base: list[float]) -> dict[str, float]:
  """Compares two lists of times, round by round.

  Args:
    seconds: times, one per round.
    base: times of the same rounds, by which `seconds` is divided.

  Returns:
    Median and quartiles of the ratios.
  """
  ratios = [a / b for a, b in zip(seconds, base)]
  low, median, high = statistics.quantiles(ratios, n=4, method='inclusive')
  ratios = {'ratio': median, 'lower quartile': low, 'upper quartile': high}
  return {name: round(value, 4) for name, value in ratios.items()}
