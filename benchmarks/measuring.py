"""What both sides of a benchmark share: they measure in the same way.

A side is a process of its own, pinned to some cores. It reads requests from its
standard input and answers on its standard output, a line of JSON each.
"""

import argparse
from collections.abc import Callable, Iterable
import json
import multiprocessing
import os
import pathlib
import re
import sys
import time

import numpy as np

WARM_UP = 4  # batches
MEMORY_SAMPLES = 2  # batches after the timed ones


def serve(measure: Callable[..., dict]) -> None:
  """Answers requests, each a dict of arguments, until there are no more."""
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # what libraries print is no answer
  for line in sys.stdin:
    print(json.dumps(measure(**json.loads(line))), file=answers, flush=True)


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
  """The JPEG and PNG files in and below a folder, in name order."""
  suffixes = ('.jpg', '.jpeg', '.png')
  return sorted(p for p in folder.rglob('*') if p.suffix.lower() in suffixes)


def label(images: list, K: int) -> np.ndarray:
  """Labels for sampling; who is on an image makes no difference to speed."""
  return np.arange(len(images)) // K


def measure(
  batches: Iterable,
  seconds: float,
  images_of: Callable[..., int],
  wait: Callable = lambda batch: None,
) -> dict:
  """Times batches for about so many seconds, after some to warm up.

  Args:
    batches: without end.
    seconds: after which no further batch is begun.
    images_of: number of images of a batch.
    wait: called with a batch; returns when it is there.

  Returns:
    `rate`, images/s, and `memory`, bytes, or None where that is not known.
  """
  batches = iter(batches)
  for _ in range(WARM_UP):
    last = next(batches)
  wait(last)
  images, start = 0, time.perf_counter()
  while time.perf_counter() < start + seconds:
    last = next(batches)
    images += images_of(last)
  wait(last)
  elapsed = time.perf_counter() - start
  samples = []
  for _ in range(MEMORY_SAMPLES):
    last = next(batches)
    wait(last)
    samples.append(_memory())
  memory = None if None in samples else max(samples)
  return {'rate': images / elapsed, 'memory': memory}


def _memory() -> int | None:
  """Bytes of this process and its workers, what they share counted once."""
  workers = [worker.pid for worker in multiprocessing.active_children()]
  try:
    return sum(_proportional_size(pid) for pid in (os.getpid(), *workers))
  except OSError:
    return None


def _proportional_size(pid: int) -> int:
  with open(f'/proc/{pid}/smaps_rollup') as file:
    (line,) = [line for line in file if line.startswith('Pss:')]
  return int(line.split()[1]) * 1024


def add_network(parser: argparse.ArgumentParser) -> None:
  """The arguments that say which network is measured, those of `NETWORK`."""
  add = parser.add_argument
  add('--backbone', default='resnet50', help='(%(default)s)')
  add(
    '--attention', choices=['channel', 'spatial', 'none'], default='channel',
    help='channel: APNet-C; spatial: APNet-S, by RGA-S (%(default)s)',
  )  # fmt: skip
  add('--levels', type=int, default=2, help='of the pyramid (%(default)s)')
  add('--radix', type=int, default=2, help='of the pyramid (%(default)s)')
  add(
    '--dtype', choices=['float32', 'bfloat16'], default='float32',
    help='(%(default)s)',
  )  # fmt: skip
  add(
    '--image-size', type=int, nargs=2, default=(384, 192),
    metavar=('HEIGHT', 'WIDTH'), help='%(default)s',
  )  # fmt: skip


NETWORK = ('backbone', 'attention', 'levels', 'radix', 'dtype', 'image_size')


def network_arguments(args: argparse.Namespace) -> list[str]:
  """The command line that `add_network` reads as these."""
  words = []
  for name in NETWORK:
    value = getattr(args, name)
    values = value if isinstance(value, (list, tuple)) else [value]
    words += ['--' + name.replace('_', '-'), *map(str, values)]
  return words


def describe(args: argparse.Namespace) -> str:
  """The network, in words."""
  height, width = args.image_size
  return (
    f'{args.backbone}, attention {args.attention}, level {args.levels},'
    f' radix {args.radix}, {args.dtype}, images {height}x{width}'
  )


def time_steps(
  step: Callable[[], object],
  wait: Callable[[object], None],
  seconds: float,
  peak: Callable[[], int | None] = lambda: None,
) -> dict:
  """Times steps for about so many seconds, at least three.

  Args:
    step: one step; it may return before it is done.
    wait: returns when what a step returned is there.
    seconds: after which no further step is begun.
    peak: the most bytes that the device held; None for the host's.

  Returns:
    `seconds` of each step; `first`, of the very first, which may compile;
    `memory`, the most that was held while steps were timed, bytes.
  """
  first = time_step(step, wait)
  wait(step())
  pathlib.Path('/proc/self/clear_refs').write_text('5')  # forget the peak
  times = []
  start = time.perf_counter()
  while len(times) < 3 or time.perf_counter() < start + seconds:
    times.append(time_step(step, wait))
  memory = peak() or 1024 * kilobytes('VmHWM')
  return {'seconds': times, 'first': first, 'memory': memory}


def time_step(
  step: Callable[[], object], wait: Callable[[object], None]
) -> float:
  """Seconds of one step, until what it returned is there."""
  start = time.perf_counter()
  wait(step())
  return time.perf_counter() - start


def time_product(
  product: Callable[[], object], wait: Callable[[object], None], size: int
) -> dict:
  """The `rate` of a square matrix product, in multiply-adds/s: the fastest."""
  seconds = time_steps(product, wait, seconds=2)['seconds']
  return {'rate': size**3 / min(seconds)}


def time_traffic(
  run: Callable[[], object], wait: Callable[[object], None], size: int
) -> dict:
  """The `rate` at which so many bytes are read and written: the fastest."""
  return {'rate': size / min(time_steps(run, wait, seconds=1)['seconds'])}


def kilobytes(name: str) -> int:
  """Of this process: VmRSS, what it holds, or VmHWM, the most it held."""
  status = pathlib.Path('/proc/self/status').read_text()
  return int(re.search(rf'{name}:\s+(\d+) kB', status)[1])
