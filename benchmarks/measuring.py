"""Measures different implementations in the same way.

Each implementation runs in a process of its own. It reads requests from its
standard input and writes answers to its standard output, one line of JSON each.
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
  """Answers requests until the standard input ends.

  Args:
    measure: returns the answer; its arguments are the items of the request.
  """
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # what libraries print must not mix with the answers
  for line in sys.stdin:
    print(json.dumps(measure(**json.loads(line))), file=answers, flush=True)


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the JPEG and PNG files in and below a folder, in name order."""
  suffixes = ('.jpg', '.jpeg', '.png')
  return sorted(p for p in folder.rglob('*') if p.suffix.lower() in suffixes)


def label(images: list, K: int) -> np.ndarray:
  """Returns labels by which every K consecutive images show one identity.

  True labels would not change the speed.
  """
  return np.arange(len(images)) // K


def time_batches(
  batches: Iterable,
  seconds: float,
  images_of: Callable[..., int],
  wait: Callable = lambda batch: None,
) -> dict:
  """Times an endless sequence of batches, after a warm-up.

  Args:
    batches: the endless sequence.
    seconds: time after which no further batch is started.
    images_of: returns the number of images in a batch.
    wait: blocks until a batch is computed.

  Returns:
    `rate`: images/s. `memory`: bytes of the process and its workers, or None
    where that is unknown.
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
  """Returns the memory of this process and its workers in bytes.

  Pages that several processes share count once. The result is None if the
  memory is unknown.
  """
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
  """Adds the flags in `NETWORK`, which choose the network to measure."""
  add = parser.add_argument
  add('--backbone', default='resnet50', help='backbone (%(default)s)')
  add(
    '--attention', choices=['channel', 'spatial', 'none'], default='channel',
    help='channel: APNet-C; spatial: APNet-S, with RGA-S (%(default)s)',
  )  # fmt: skip
  add('--levels', type=int, default=2, help='pyramid levels (%(default)s)')
  add('--radix', type=int, default=2, help='pyramid radix (%(default)s)')
  add(
    '--dtype', choices=['float32', 'bfloat16'], default='float32',
    help='precision of convolutions (%(default)s)',
  )  # fmt: skip
  add(
    '--image-size', type=int, nargs=2, default=(384, 192),
    metavar=('HEIGHT', 'WIDTH'), help='size of the images (%(default)s)',
  )  # fmt: skip


NETWORK = ('backbone', 'attention', 'levels', 'radix', 'dtype', 'image_size')


def network_arguments(args: argparse.Namespace) -> list[str]:
  """Converts the network's settings to the flags of `add_network`."""
  words = []
  for name in NETWORK:
    value = getattr(args, name)
    values = value if isinstance(value, (list, tuple)) else [value]
    words += ['--' + name.replace('_', '-'), *map(str, values)]
  return words


def describe(args: argparse.Namespace) -> str:
  """Returns a text that describes the network's settings."""
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
  """Times at least three steps, after two that warm up.

  Args:
    step: starts one step and returns its result, which may be computed later.
    wait: blocks until the result of a step is computed.
    seconds: time after which no further step is started.
    peak: returns the peak memory of the device in bytes; if None, the peak of
      this process is taken.

  Returns:
    `seconds`: time of each step. `first`: seconds of the very first step, which
    may compile. `memory`: peak memory of the timed steps, in bytes.
  """
  first = time_step(step, wait)
  wait(step())
  pathlib.Path('/proc/self/clear_refs').write_text('5')  # resets the peak
  times = []
  start = time.perf_counter()
  while len(times) < 3 or time.perf_counter() < start + seconds:
    times.append(time_step(step, wait))
  memory = peak() or 1024 * kilobytes('VmHWM')
  return {'seconds': times, 'first': first, 'memory': memory}


def time_step(
  step: Callable[[], object], wait: Callable[[object], None]
) -> float:
  """Returns the seconds from the start of a step to its result."""
  start = time.perf_counter()
  wait(step())
  return time.perf_counter() - start


def time_product(
  product: Callable[[], object], wait: Callable[[object], None], size: int
) -> dict:
  """Times the product of two square matrices.

  Args:
    product: multiplies the matrices.
    wait: blocks until the product is computed.
    size: rows and columns of each matrix.

  Returns:
    `rate`: multiply-adds/s of the fastest repetition.
  """
  seconds = time_steps(product, wait, seconds=2)['seconds']
  return {'rate': size**3 / min(seconds)}


def kilobytes(name: str) -> int:
  """Returns the resident memory of this process in kB.

  Args:
    name: `VmRSS` for the present value, `VmHWM` for the peak.
  """
  status = pathlib.Path('/proc/self/status').read_text()
  return int(re.search(rf'{name}:\s+(\d+) kB', status)[1])
