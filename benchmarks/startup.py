"""Times the import of the library and the first training step of the demo.

`import apnet_jax` is timed as a Python process from its start to its end. The
demo is `python train.py --config=configs/synthetic.py`, except that it logs
every step. It is timed from the command until metrics.jsonl has the loss of the
first step. A cold start has no images, no prepared data set and no compiled
programs: it draws, prepares and compiles. A warm start, in a new workdir, finds
all of these.

Figures are medians over the rounds, on two cores if there are more. Python's
bytecode exists in either case, and the system may have files in its cache. CPU
seconds are those of both cores together: a start takes at least half of them.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
import itertools
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

from apnet_jax.retrieval import card  # noqa: E402
from benchmarks import command  # noqa: E402

CORES = 2
# Limits in seconds.
LIMITS = {'import apnet_jax': 1.5, 'demo, warm': 25.0, 'demo, cold': 60.0}
# Phases of the demo, each with the beginning of the line that train.py prints
# at its end. The last phase ends when metrics.jsonl is written.
PHASES = {
  'imports; images drawn': 'synthetic from ',
  'data prepared, opened': '  train ',
  'state made': 'resnet14, attention channel',
  'step compiled, run': None,
}
POLL = 0.01  # seconds


class Start(NamedTuple):
  """The time that a program took to start.

  Attributes:
    phases: seconds of each phase.
    cpu: CPU seconds of all its threads.
  """

  phases: Mapping[str, float]
  cpu: float


def measure_import() -> dict[str, float]:
  """Returns the seconds of a process that imports the library, one phase."""
  start = time.perf_counter()
  ended = subprocess.run([sys.executable, '-c', 'import apnet_jax'], cwd=ROOT)
  if ended.returncode:
    raise RuntimeError(f'the import ended with code {ended.returncode}.')
  return {'all': time.perf_counter() - start}


def measure_demo(folder: pathlib.Path) -> dict[str, float]:
  """Returns the seconds of each phase of the demo.

  Args:
    folder: folder for data and compiled programs. The start is warm if the demo
      ran there before.
  """
  with tempfile.TemporaryDirectory(dir=folder) as workdir:
    flags = {
      'config': 'configs/synthetic.py',
      'workdir': workdir,
      'config.data.dir': folder / 'images',
      'config.data.prepared_dir': folder / 'prepared',
      'config.compilation_cache_dir': folder / 'compiled',
      'config.train.log_every_steps': 1,
    }
    arguments = [f'--{flag}={value}' for flag, value in flags.items()]
    return time_phases(['train.py', *arguments], pathlib.Path(workdir))


def time_phases(
  arguments: list[str], workdir: pathlib.Path
) -> dict[str, float]:
  """Runs a Python program until it logs, and returns the seconds of `PHASES`.

  Args:
    arguments: the program and its arguments.
    workdir: folder in which the program writes metrics.jsonl.

  Raises:
    RuntimeError: the program ended without writing a line of metrics.jsonl, or
      did not print the line that ends a phase.
  """
  *printed, last = PHASES
  ends = {}
  log = workdir / 'stderr.txt'
  start = time.perf_counter()
  with log.open('w') as errors:
    process = subprocess.Popen(
      [sys.executable, *arguments],
      cwd=ROOT,
      env=command.environment(PYTHONUNBUFFERED='1'),
      stdout=subprocess.PIPE,
      stderr=errors,
      text=True,
    )
  try:
    for line in process.stdout:
      for phase in printed:
        if line.startswith(PHASES[phase]):
          ends[phase] = time.perf_counter() - start
      if len(ends) == len(printed):
        break
    while not _has_line(workdir / 'metrics.jsonl'):
      if process.poll() is not None:
        raise RuntimeError(
          f'{arguments[0]} ended with code {process.returncode}:'
          f' {log.read_text()[-2000:]}'
        )
      time.sleep(POLL)
    ends[last] = time.perf_counter() - start
  finally:
    process.kill()
    process.communicate()
  if missing := PHASES.keys() - ends.keys():
    raise RuntimeError(
      f'{arguments[0]} printed no line at the end of: {", ".join(missing)}.'
    )
  between = itertools.pairwise([0, *(ends[phase] for phase in PHASES)])
  return {phase: end - begin for phase, (begin, end) in zip(PHASES, between)}


def _has_line(file: pathlib.Path) -> bool:
  return file.exists() and file.read_text().endswith('\n')


def measure() -> dict[str, Start]:
  """Measures one round: the import, a cold start and a warm start.

  Returns:
    The starts by name of the measurement.
  """
  starts = {'import apnet_jax': _with_cpu(measure_import)}
  with tempfile.TemporaryDirectory() as folder:
    for name in ('demo, cold', 'demo, warm'):
      starts[name] = _with_cpu(partial(measure_demo, pathlib.Path(folder)))
  return starts


def _with_cpu(measurement: Callable[[], Mapping[str, float]]) -> Start:
  """Adds to a measurement the CPU seconds of the program that it runs."""
  before = _cpu_of_ended_programs()
  phases = measurement()
  return Start(phases, _cpu_of_ended_programs() - before)


def _cpu_of_ended_programs() -> float:
  """Returns the CPU seconds of all programs that were started and ended."""
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


def summarize(turns: list[Mapping[str, Start]]) -> dict:
  """Returns medians over rounds, in total and by phase, with their limits.

  Args:
    turns: results of `measure`.
  """
  figures = {}
  for name, limit in LIMITS.items():
    starts = [turn[name] for turn in turns]
    whole = [sum(start.phases.values()) for start in starts]
    figures[name] = {
      'seconds': _median(whole),
      'limit': limit,
      'turns': [round(seconds, 2) for seconds in whole],
      'cpu seconds': _median([start.cpu for start in starts]),
    }
    phases = starts[0].phases
    if len(phases) > 1:
      figures[name]['phases'] = {
        phase: _median([start.phases[phase] for start in starts])
        for phase in phases
      }
  return figures


def _median(seconds: list[float]) -> float:
  return round(statistics.median(seconds), 2)


def format_table(figures: Mapping) -> str:
  """Formats the figures as a table."""
  lines = [f'{"":26}{"seconds":>10}{"limit":>10}{"CPU s":>10}']
  for name, values in figures.items():
    over = '  over the limit' if values['seconds'] > values['limit'] else ''
    lines.append(
      f'{name:26}{values["seconds"]:10.2f}{values["limit"]:10.1f}'
      f'{values["cpu seconds"]:10.2f}{over}'
    )
    for phase, seconds in values.get('phases', {}).items():
      lines.append(f'  {phase:24}{seconds:10.2f}')
  return '\n'.join(lines)


def run(args: argparse.Namespace) -> dict:
  """Runs the benchmark: prints the table and returns the results for JSON."""
  # Processes that are started inherit the affinity.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
  print(f'{command.hardware()}; {args.turns} rounds', flush=True)
  turns = []
  for _ in range(args.turns):
    turns.append(measure())
    whole = {
      name: sum(start.phases.values()) for name, start in turns[-1].items()
    }
    print(
      ', '.join(f'{name}: {value:.2f} s' for name, value in whole.items()),
      flush=True,
    )
  figures = summarize(turns)
  print('\n' + format_table(figures))
  return {
    'versions': {'python': sys.version.split()[0], **card.versions()},
    'figures': figures,
  }


def main(arguments: list[str] | None = None) -> int:
  parser = command.make_parser(__doc__)
  command.add_turns(parser, 3)
  args = command.parse(parser, arguments)
  command.check_at_least(parser, args, turns=1)
  return command.finish(__file__, run, args)


if __name__ == '__main__':
  sys.exit(main())
