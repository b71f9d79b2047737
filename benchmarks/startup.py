"""Seconds until the library is imported, and until the demo has trained a step.

`import apnet_jax` is a Python process from its start to its end. The demo is
`python train.py --config=configs/synthetic.py`, from the command until the
first step's loss stands in metrics.jsonl; that every step is logged is all that
is changed. Cold, it has neither images, nor a prepared data set, nor compiled
programs: it draws, prepares and compiles. Warm, it finds what the cold one
left, in a new workdir. Figures are medians of the turns, on two cores if there
are more. Python's bytecode is there in any case, and files that the system has
in memory.
"""

import argparse
from collections.abc import Mapping
import itertools
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

from apnet_jax.retrieval import card  # noqa: E402
from benchmarks import command  # noqa: E402

CORES = 2
# Seconds that are allowed.
LIMITS = {'import apnet_jax': 1.5, 'demo, warm': 25.0, 'demo, cold': 60.0}
# How the line begins that train.py prints after a phase. After the last it
# writes metrics.jsonl.
PHASES = {
  'imports; images drawn': 'synthetic from ',
  'data prepared, opened': '  train ',
  'state made': 'resnet14, attention channel',
  'step compiled, run': None,
}
POLL = 0.01  # seconds


def measure_import() -> float:
  start = time.perf_counter()
  ended = subprocess.run([sys.executable, '-c', 'import apnet_jax'], cwd=ROOT)
  if ended.returncode:
    raise RuntimeError(f'the import ended with code {ended.returncode}.')
  return time.perf_counter() - start


def measure_demo(folder: pathlib.Path) -> dict[str, float]:
  """Seconds of each phase of the demo, with its data and programs in `folder`.

  It is warm if it was measured there before.
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
  """Seconds of each of `PHASES` of a Python program, which is then stopped.

  Raises:
    RuntimeError: it ended without writing a line of `workdir`/metrics.jsonl, or
      did not tell the end of a phase.
  """
  *told, last = PHASES
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
      for phase in told:
        if line.startswith(PHASES[phase]):
          ends[phase] = time.perf_counter() - start
      if len(ends) == len(told):
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
      f'{arguments[0]} did not tell the end of: {", ".join(missing)}.'
    )
  between = itertools.pairwise([0, *(ends[phase] for phase in PHASES)])
  return {phase: end - begin for phase, (begin, end) in zip(PHASES, between)}


def _has_line(file: pathlib.Path) -> bool:
  return file.exists() and file.read_text().endswith('\n')


def measure() -> dict[str, dict[str, float]]:
  """Seconds of one turn, by what was measured, and by phase."""
  seconds = {'import apnet_jax': {'all': measure_import()}}
  with tempfile.TemporaryDirectory() as folder:
    for name in ('demo, cold', 'demo, warm'):
      seconds[name] = measure_demo(pathlib.Path(folder))
  return seconds


def summarize(turns: list[Mapping[str, Mapping[str, float]]]) -> dict:
  """Medians, the limits beside them, of the whole and of the phases."""
  figures = {}
  for name, limit in LIMITS.items():
    whole = [sum(turn[name].values()) for turn in turns]
    figures[name] = {
      'seconds': round(statistics.median(whole), 2),
      'limit': limit,
      'turns': [round(seconds, 2) for seconds in whole],
    }
    if len(turns[0][name]) > 1:
      figures[name]['phases'] = {
        phase: round(statistics.median(turn[name][phase] for turn in turns), 2)
        for phase in turns[0][name]
      }
  return figures


def format_table(figures: Mapping) -> str:
  """What is printed of the figures."""
  lines = [f'{"":26}{"seconds":>10}{"limit":>10}']
  for name, values in figures.items():
    over = '  over the limit' if values['seconds'] > values['limit'] else ''
    lines.append(
      f'{name:26}{values["seconds"]:10.2f}{values["limit"]:10.1f}{over}'
    )
    for phase, seconds in values.get('phases', {}).items():
      lines.append(f'  {phase:24}{seconds:10.2f}')
  return '\n'.join(lines)


def run(args: argparse.Namespace) -> dict:
  """Measures, prints the table and returns the record."""
  # The processes that are started inherit it.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
  print(f'{command.hardware()}; {args.turns} turns', flush=True)
  turns = []
  for _ in range(args.turns):
    turns.append(measure())
    whole = {name: sum(parts.values()) for name, parts in turns[-1].items()}
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


def make_parser() -> argparse.ArgumentParser:
  parser = command.make_parser(__doc__)
  parser.add_argument(
    '--turns', type=int, default=3, help='figures are medians of these (3)'
  )
  return parser


def main(arguments: list[str] | None = None) -> int:
  parser = make_parser()
  args = command.parse(parser, arguments)
  if args.turns < 1:
    parser.error(f'--turns={args.turns} must be at least 1.')
  return command.finish(__file__, lambda: run(args), args.json)


if __name__ == '__main__':
  sys.exit(main())
