"""Compares k-reciprocal re-ranking with its original form: time and memory.

The original (Zhong et al., CVPR 2017) computes the distances of all pairs of
images in numpy, sorts them, and loops over images. This project computes the
re-ranked distances of one block of queries at a time, as evaluation does. Each
runs in a process of its own on all cores, from the same random embeddings to
re-ranked distances, compilation included. They are measured in turns. Times are
medians over the rounds; memory is the peak of the process, embeddings included.
The original is left out where it needs more memory than the machine has.

OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE are unset in both processes, so that
OpenBLAS chooses its kernels itself.
"""

import argparse
import importlib
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
NOISE = 3.0  # deviation within a person over that between persons
K1, K2, LAMBDA = 20, 6, 0.3
BLOCK = 256
COMPARED = 32  # queries whose distances are compared
# Bytes that the original needs for a pair of images while it sorts: distance
# and weight in float32, the order in int64 and then in int32.
DENSE_BYTES = 4 + 4 + 8 + 4


def draw(queries: int, gallery: int, features: int) -> tuple:
  """Returns random embeddings, float32, of queries and of the gallery."""
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
  """Re-ranks all queries with the implementation of this project.

  Args:
    query: float32 [queries, features].
    gallery: float32 [gallery, features].

  Returns:
    Re-ranked distances of the first queries, [COMPARED, gallery].
  """
  scores = sys.modules[MODULE].KReciprocal(query, gallery, K1, K2, LAMBDA)
  for start in range(0, len(query), BLOCK):
    block = scores.block(np.arange(start, min(start + BLOCK, len(query))))
    if not start:
      compared = -block[:COMPARED]
  return compared


def rerank_densely(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
  """Re-ranks all queries with the original's steps, order and data types.

  Args:
    query: float32 [queries, features].
    gallery: float32 [gallery, features].

  Returns:
    Re-ranked distances of the first queries, [COMPARED, gallery].
  """
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
  """Returns the k-reciprocal neighbours of image i.

  Args:
    rank: int [images, images], all images by distance from each image.
    i: index of the image.
    k: number of neighbours to consider.
  """
  near = rank[i, : k + 1]
  return near[np.where(rank[near, : k + 1] == i)[0]]


OURS, ORIGINAL = 'this project', 'the original'
IMPLEMENTATIONS = {OURS: rerank_sparsely, ORIGINAL: rerank_densely}


def measure(name: str, size: tuple, output: str) -> dict:
  """Measures time and peak memory of an implementation in this process.

  Args:
    name: a name in `IMPLEMENTATIONS`.
    size: numbers of queries, gallery images and features.
    output: file for the distances of the first queries.
  """
  query, gallery = draw(*size)
  if name == OURS:
    importlib.import_module(MODULE)  # only here: it takes memory
  start = time.perf_counter()
  distances = IMPLEMENTATIONS[name](query, gallery)
  seconds = time.perf_counter() - start
  np.save(output, distances)
  peak = measuring.kilobytes('VmHWM')
  return {
    'seconds': round(seconds, 1),
    'peak GB': round(peak * 1024 / 1e9, 2),
  }


def measure_in_process(name: str, size: tuple, output: pathlib.Path) -> dict:
  """Calls `measure` in a process of its own.

  Raises:
    RuntimeError: the process failed.
  """
  request = json.dumps({'name': name, 'size': size, 'output': str(output)})
  result = subprocess.run(
    [sys.executable, '-m', 'benchmarks.rerank', '--measure', request],
    cwd=ROOT,
    env=command.environment(without=command.OPENBLAS_VARIABLES),
    stdout=subprocess.PIPE,
    text=True,
  )
  if result.returncode:
    raise RuntimeError(
      f'{name} ended with code {result.returncode}; the reason is printed'
      ' above.'
    )
  return json.loads(result.stdout.splitlines()[-1])


def too_large(size: tuple) -> str | None:
  """Returns the reason why the original needs too much memory, or None.

  Args:
    size: numbers of queries, gallery images and features.
  """
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
  """Runs the benchmark: prints the figures and returns the results for JSON."""
  queries, gallery, features = args.size
  print(
    f'{command.hardware()}; {queries:,} queries, {gallery:,} gallery images'
  )
  reason = too_large(args.size)
  answers = {OURS: [], **({} if reason else {ORIGINAL: []})}
  with tempfile.TemporaryDirectory() as folder:
    outputs = {name: pathlib.Path(folder) / f'{name}.npy' for name in answers}
    for _ in range(args.turns):
      for name, output in outputs.items():
        answers[name].append(measure_in_process(name, args.size, output))
        print(f'{name}: {answers[name][-1]}', flush=True)
    figures = {name: summarize(rounds) for name, rounds in answers.items()}
    if reason:
      figures[ORIGINAL] = reason
      print(f'{ORIGINAL}: {reason}')
    else:
      ours, theirs = (np.load(output) for output in outputs.values())
      ratio = figures[ORIGINAL]['seconds'] / figures[OURS]['seconds']
      figures['times faster'] = round(ratio, 1)
      figures['largest difference'] = float(f'{abs(ours - theirs).max():.1e}')
      for name in ('times faster', 'largest difference'):
        print(f'{name}: {figures[name]}')
  return {
    'seed': SEED,
    'versions': {'python': sys.version.split()[0]}
    | command.versions('numpy', 'scipy', 'jax', 'jaxlib'),
    'embeddings': 'drawn',
    'queries': queries,
    'gallery': gallery,
    'features': features,
    'k1, k2, lambda': [K1, K2, LAMBDA],
    'left out of the environment': command.OPENBLAS_VARIABLES,
    'figures': figures,
  }


def summarize(answers: list[dict]) -> dict:
  """Summarises the rounds of one implementation.

  Args:
    answers: for each round, `seconds` and `peak GB`, its time and peak memory.

  Returns:
    `seconds`: median time. `turns`: time of each round. `peak GB`: largest peak
    memory of all rounds.
  """
  seconds = [answer['seconds'] for answer in answers]
  return {
    'seconds': round(statistics.median(seconds), 1),
    'turns': seconds,
    'peak GB': max(answer['peak GB'] for answer in answers),
  }


def main(arguments: list[str] | None = None) -> int:
  parser = command.make_parser(__doc__)
  command.add_size(parser)
  command.add_turns(parser, 1)
  # The request of `measure_in_process`.
  parser.add_argument('--measure', type=json.loads, help=argparse.SUPPRESS)
  args = command.parse(parser, arguments)
  command.check_at_least(parser, args, turns=1)
  if not pathlib.Path('/proc/self/status').exists():
    parser.error('the peak memory of a process is known on Linux only.')
  if args.measure is not None:
    print(json.dumps(measure(**args.measure)))
    return 0
  return command.finish(__file__, run, args)


if __name__ == '__main__':
  sys.exit(main())
