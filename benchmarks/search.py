"""Measures exact and fast search in an index of drawn embeddings.

  python benchmarks/search.py --rows=1000000 --folder=index

The embeddings are of people with ten images each. They lie in a space of
`RANK` dimensions, whose variances fall, mixed at random into all features.
Queries are new images of some of these people. The bare product is that of the
same queries and the same file by numpy, block by block in float32, without
finding the closest. Each way has a process of its own, for each number of
queries. Memory is the peak of all resident pages of this process (VmHWM), those
of mapped files included; the base is what it holds before it searches.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

import jax  # noqa: E402
import numpy as np  # noqa: E402

from apnet_jax.index import changes, files, store  # noqa: E402
from apnet_jax.inference import embedding_files  # noqa: E402
from apnet_jax.retrieval import nearest  # noqa: E402
from benchmarks import command, measuring  # noqa: E402

IMAGES = 10  # of each person
RANK = 256
NOISE = 0.7  # length of what differs between images, over that of a person
BLOCK = 10_000
TOP = 10


def draw(people: np.ndarray, features: int, seed: int) -> np.ndarray:
  """Draws an image of each person; returns embeddings of length 1."""
  unique, rows = np.unique(people, return_inverse=True)
  persons = np.stack(
    [
      np.random.default_rng([1, person]).standard_normal(RANK, np.float32)
      for person in unique
    ]
  )
  noise = np.random.default_rng(seed).standard_normal(
    (len(people), RANK), np.float32
  )
  mixing = np.random.default_rng(2).standard_normal((RANK, features))
  mixing *= np.exp(-np.arange(RANK) / (RANK / 3))[:, None]
  embeddings = (persons[rows] + NOISE * noise) @ mixing.astype(np.float32)
  return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def build(
  folder: pathlib.Path, rows: int, features: int, dtype: str
) -> store.Index:
  """Opens the index in a folder, which is built if there is none.

  Raises:
    RuntimeError: the index there has another size.
  """
  if not (folder / files.INFO).exists():
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as drawn:
      file = pathlib.Path(drawn, 'embeddings.npz')
      embedding_files.write(
        file,
        {'fingerprint': 'drawn'},
        {'path': np.array([f'{i}.jpg' for i in range(rows)])},
        (
          draw(
            np.arange(start, min(start + BLOCK, rows)) // IMAGES,
            features,
            start + 3,
          )
          for start in range(0, rows, BLOCK)
        ),
        (rows, features),
        dtype,
      )
      changes.add(folder, file, dtype)
  index = store.Index(folder)
  found = tuple(index.info[name] for name in ('rows', 'dimensions', 'dtype'))
  if found != (rows, features, dtype):
    raise RuntimeError(f'{folder} has an index of {found}: remove it.')
  return index


def draw_queries(count: int, rows: int, features: int) -> np.ndarray:
  """Draws new images of people in the index."""
  people = np.arange(count) * 7 % max(1, rows // IMAGES)
  return draw(people, features, seed=1)


def bare_product(queries: np.ndarray, gallery: np.ndarray) -> None:
  """Multiplies block by block, and discards the products."""
  for start in range(0, len(gallery), nearest.BLOCK):
    block = np.asarray(gallery[start : start + nearest.BLOCK], np.float32)
    _ = queries @ block.T
    nearest.drop_pages(gallery, start, start + len(block))


def measure(kind: str, queries: int, times: int, folder: str) -> dict:
  """Times one way to search, after one call that compiles.

  Args:
    kind: 'product', 'exact' or 'fast'.
    queries: number of queries.
    times: number of calls.
    folder: folder of the index.

  Returns:
    Seconds and processor seconds of the fastest call, and the memory in MB.
  """
  index = store.Index(folder)
  shape = index.info['rows'], index.info['dimensions']
  drawn = draw_queries(queries, *shape)
  base = measuring.kilobytes('VmRSS')
  call = {
    'product': lambda: bare_product(drawn, index._embeddings),
    'exact': lambda: list(index.search(drawn, TOP)),
    'fast': lambda: list(index.search(drawn, TOP, fast=True)),
  }[kind]
  call()
  wall, processor = [], []
  for _ in range(times):
    start = time.perf_counter(), time.process_time()
    call()
    wall.append(time.perf_counter() - start[0])
    processor.append(time.process_time() - start[1])
  return {
    'ms a query': round(1000 * min(wall) / queries, 1),
    'processor ms a query': round(1000 * min(processor) / queries, 1),
    'base MB': round(base * 1.024e-3),
    'peak MB': round(measuring.kilobytes('VmHWM') * 1.024e-3),
  }


def measure_recall(index: store.Index, queries: np.ndarray) -> float:
  """Returns the share of the ten closest rows that fast search finds."""
  exact, fast = (index.search(queries, TOP, f) for f in (False, True))
  shares = [
    len({*a.tolist()} & {*b.tolist()}) / len(a)
    for (a, _), (b, _) in zip(exact, fast)
  ]
  return round(float(np.mean(shares)), 4)


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Reads the command line; a mistake ends the program with code 2."""
  parser = command.make_parser(__doc__)
  add = parser.add_argument
  add('--rows', type=int, default=100_000, help='embeddings (%(default)s)')
  add('--features', type=int, default=2048, help='of each (%(default)s)')
  add(
    '--dtype', default='float16', choices=embedding_files.DTYPES,
    help='type in the index (%(default)s)',
  )  # fmt: skip
  add('--queries', type=int, default=64, help='queries at once (%(default)s)')
  add('--times', type=int, default=5, help='calls of each way (%(default)s)')
  add(
    '--folder', type=pathlib.Path,
    help='folder of the index, which is built if there is none',
  )  # fmt: skip
  add('--serve', action='store_true', help='used by the command itself')
  args = command.parse(parser, arguments)
  if args.folder is None and not args.serve:
    parser.error('--folder is missing.')
  command.check_at_least(
    parser, args, rows=IMAGES, features=1, queries=2, times=1
  )
  return args


def run(args: argparse.Namespace) -> dict:
  """Runs the benchmark: prints the table and returns the results for JSON."""
  index = build(args.folder, args.rows, args.features, args.dtype)
  queries = draw_queries(args.queries, args.rows, args.features)
  recall = measure_recall(index, queries)
  print(f'fast search finds {100 * recall:.2f}% of the {TOP} closest')
  load, figures = os.getloadavg()[0], {}
  for kind in ('product', 'exact', 'fast'):
    for count in (1, args.queries):
      with command.MeasuringProcess(
        'search', ['--serve'], os.environ
      ) as process:
        found = process.ask(
          kind=kind,
          queries=count,
          times=args.times,
          folder=str(args.folder.resolve()),
        )
      figures.setdefault(kind, {})[f'{count} queries'] = found
      print(f'{kind:8} {count:4} queries: {found}')
  return {
    'versions': {
      'python': sys.version.split()[0],
      'jax': jax.__version__,
      'numpy': np.__version__,
    },
    'backend': jax.default_backend(),
    'rows': args.rows,
    'features': args.features,
    'dtype': args.dtype,
    'recall': recall,
    'load average': [round(load, 1), round(os.getloadavg()[0], 1)],
    'figures': figures,
  }


def main(arguments: list[str] | None = None) -> int:
  args = parse(arguments)
  if args.serve:
    measuring.serve(measure)
    return 0
  return command.finish(__file__, run, args)


if __name__ == '__main__':
  sys.exit(main())
