"""Time and memory of k-reciprocal re-ranking, beside its original form.

The original (Zhong et al., CVPR 2017) is numpy: all distances of all images,
sorted, and loops over images. This project's makes the re-ranked distances a
block of queries at a time, as evaluation does. Each side is a process of its
own with all cores and the same drawn embeddings, and goes from embeddings to
distances, compilation included. The sides take turns, and times are medians;
memory is the most that a process held, with the embeddings. Where the original
needs more than there is, it is left out.

OpenBLAS chooses its kernels itself: OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE are
taken out of the environment of both sides.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

from benchmarks import command, measuring  # noqa: E402

MODULE = 'apnet_jax.retrieval.rerank'
SEED = 0
IMAGES_OF_A_PERSON = 20
NOISE = 3.0  # of an image, in deviations of the people
K1, K2, LAMBDA = 20, 6, 0.3
BLOCK = 256
COMPARED = 32  # queries whose distances both sides hand over
# Of a pair of images, as the order is made: distance and weight in float32, the
# order in int64 and then int32.
DENSE_BYTES = 4 + 4 + 8 + 4


def draw(queries: int, gallery: int, features: int) -> tuple:
  """Embeddings of people with some images each, in float32."""
  rng = np.random.default_rng(SEED)
  images = queries + gallery
  people = -(-images // IMAGES_OF_A_PERSON)
  centres = rng.standard_normal((people, features), np.float32)
  x = rng.standard_normal((images, features), np.float32)
  x *= NOISE
  for image, person in zip(x, rng.integers(people, size=images)):
    image += centres[person]
  return x[:queries], x[queries:]


def rerank_sparsely(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
  """This project's: all distances, of which the first queries' are kept."""
  scores = sys.modules[MODULE].KReciprocal(query, gallery, K1, K2, LAMBDA)
  for start in range(0, len(query), BLOCK):
    block = scores.block(range(start, min(start + BLOCK, len(query))))
    if not start:
      compared = -block[:COMPARED]
  return compared


def rerank_densely(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
  """The original's steps, in its order and types."""
  x = np.concatenate([query, gallery])
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  original = x @ x.T
  original *= -2
  original += 2
  np.maximum(original, 0, out=original)
  original /= original.max(0)
  original = original.T
  V = np.zeros_like(original)
  rank = np.argsort(original).astype(np.int32)
  for i in range(len(x)):
    near = reciprocal(rank, i, K1)
    expanded = near
    for candidate in near:
      theirs = reciprocal(rank, candidate, round(K1 / 2))
      if len(np.intersect1d(theirs, near)) > 2 / 3 * len(theirs):
        expanded = np.append(expanded, theirs)
    expanded = np.unique(expanded)
    weight = np.exp(-original[i, expanded])
    V[i, expanded] = weight / weight.sum()
  original = original[: len(query)]
  averaged = np.zeros_like(V)
  for i in range(len(x)):
    averaged[i] = V[rank[i, :K2]].mean(0)
  V = averaged
  del averaged, rank

  who_has = [np.where(V[:, i] != 0)[0] for i in range(len(x))]
  jaccard = np.zeros_like(original)
  for q in range(len(query)):
    minima = np.zeros(len(x), np.float32)
    for i in np.where(V[q] != 0)[0]:
      others = who_has[i]
      minima[others] += np.minimum(V[q, i], V[others, i])
    jaccard[q] = 1 - minima / (2 - minima)
  distance = jaccard * (1 - LAMBDA) + original * LAMBDA
  return distance[:COMPARED, len(query) :]


def reciprocal(rank: np.ndarray, i: int, k: int) -> np.ndarray:
  near = rank[i, : k + 1]
  return near[np.where(rank[near, : k + 1] == i)[0]]


SIDES = {'this project': rerank_sparsely, 'the original': rerank_densely}


def measure(side: str, size: tuple, output: str) -> dict:
  """Runs a side in this process; its first distances go to a file."""
  query, gallery = draw(*size)
  if side == 'this project':
    importlib.import_module(MODULE)  # only here: it takes memory
  start = time.perf_counter()
  distances = SIDES[side](query, gallery)
  seconds = time.perf_counter() - start
  np.save(output, distances)
  peak = measuring.kilobytes('VmHWM')
  return {
    'seconds': round(seconds, 1),
    'peak GB': round(peak * 1024 / 1e9, 2),
  }


def measure_apart(side: str, size: tuple, output: pathlib.Path) -> dict:
  """`measure` in a process of its own; RuntimeError if that fails."""
  request = json.dumps({'side': side, 'size': size, 'output': str(output)})
  result = subprocess.run(
    [sys.executable, '-m', 'benchmarks.rerank', '--measure', request],
    cwd=ROOT,
    env=command.environment(without=command.SLOW),
    stdout=subprocess.PIPE,
    text=True,
  )
  if result.returncode:
    raise RuntimeError(
      f'{side} ended with code {result.returncode}; see above for why.'
    )
  return json.loads(result.stdout.splitlines()[-1])


def too_large(size: tuple) -> str | None:
  """Why the original cannot run here, or None."""
  needed = DENSE_BYTES * sum(size[:2]) ** 2
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  if needed < memory:
    return None
  order = 8 * sum(size[:2]) ** 2
  return (
    f'left out: needs {needed / 1e9:.0f} GB, {order / 1e9:.0f} GB of them for'
    f' the order of all distances; there are {memory / 1e9:.0f} GB'
  )


def run(args: argparse.Namespace) -> dict:
  """Measures both sides, prints figures, returns the record."""
  queries, gallery, features = args.size
  print(
    f'{command.hardware()}; {queries:,} queries, {gallery:,} gallery images'
  )
  reason = too_large(args.size)
  turns = {'this project': [], **({} if reason else {'the original': []})}
  with tempfile.TemporaryDirectory() as folder:
    outputs = {side: pathlib.Path(folder) / f'{side}.npy' for side in turns}
    for _ in range(args.turns):
      for side, output in outputs.items():
        turns[side].append(measure_apart(side, args.size, output))
        print(f'{side}: {turns[side][-1]}', flush=True)
    figures = {side: summarize(answers) for side, answers in turns.items()}
    if reason:
      figures['the original'] = reason
      print(f'the original: {reason}')
    else:
      ours, theirs = (np.load(output) for output in outputs.values())
      seconds = [figures[side]['seconds'] for side in SIDES]
      figures['times faster'] = round(seconds[1] / seconds[0], 1)
      figures['largest difference'] = float(f'{abs(ours - theirs).max():.1e}')
      for name in ('times faster', 'largest difference'):
        print(f'{name}: {figures[name]}')
  return {
    'seed': SEED,
    'versions': versions(),
    'embeddings': 'drawn',
    'queries': queries,
    'gallery': gallery,
    'features': features,
    'k1, k2, lambda': [K1, K2, LAMBDA],
    'left out of the environment': command.SLOW,
    'figures': figures,
  }


def summarize(answers: list[dict]) -> dict:
  """The median time, the most memory, and the times of all turns."""
  seconds = [answer['seconds'] for answer in answers]
  return {
    'seconds': round(statistics.median(seconds), 1),
    'turns': seconds,
    'peak GB': max(answer['peak GB'] for answer in answers),
  }


def versions() -> dict[str, str]:
  python = {'python': sys.version.split()[0]}
  packages = ('numpy', 'scipy', 'jax', 'jaxlib')
  return python | {name: importlib.metadata.version(name) for name in packages}


def make_parser() -> argparse.ArgumentParser:
  parser = command.make_parser(__doc__)
  command.add_size(parser)
  parser.add_argument(
    '--turns', type=int, default=1, help='figures are medians of these (1)'
  )
  # What a side's process is asked for.
  parser.add_argument('--measure', type=json.loads, help=argparse.SUPPRESS)
  return parser


def main(arguments: list[str] | None = None) -> int:
  parser = make_parser()
  args = command.parse(parser, arguments)
  if args.turns < 1:
    parser.error(f'--turns={args.turns} must be at least 1.')
  if not pathlib.Path('/proc/self/status').exists():
    parser.error('only Linux tells how much memory a process held.')
  if args.measure is not None:
    print(json.dumps(measure(**args.measure)))
    return 0
  return command.finish(__file__, lambda: run(args), args.json)


if __name__ == '__main__':
  sys.exit(main())
