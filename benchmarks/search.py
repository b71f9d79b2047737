"""Measures exact and fast search in an index of drawn embeddings.

  python -m benchmarks.search --rows=1000000 --folder=/tmp/index

The embeddings are of people with ten images each. They lie in a space of
`RANK` dimensions, whose variances fall, mixed at random into all features.
Queries are new images of some of these people. The bare product is that of the
same queries and the same file by numpy, block by block in float32, without
finding the closest.
"""

import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

from absl import app, flags
import numpy as np

from apnet_jax.index import store
from apnet_jax.inference import embedding_files
from apnet_jax.retrieval import nearest

ROWS = flags.DEFINE_integer('rows', 100_000, 'Embeddings in the index.', 1)
FEATURES = flags.DEFINE_integer('features', 2048, 'Features of each.', 1)
DTYPE = flags.DEFINE_enum(
  'dtype', 'float16', embedding_files.DTYPES, 'Type in the index.'
)
QUERIES = flags.DEFINE_integer('queries', 64, 'Queries.', 1)
FOLDER = flags.DEFINE_string('folder', None, 'Scratch folder.', required=True)
MEASURE = flags.DEFINE_string('measure', '', 'Used by the command itself.')

IMAGES = 10  # of each person
RANK = 256
NOISE = 0.7  # length of what differs between images, over that of a person
BLOCK = 10_000


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


def build(folder: pathlib.Path) -> store.Index:
  """Builds the index from a file of embeddings."""
  rows, features = ROWS.value, FEATURES.value

  def blocks():
    for start in range(0, rows, BLOCK):
      numbers = np.arange(start, min(start + BLOCK, rows))
      yield draw(numbers // IMAGES, features, seed=start + 3)

  file = folder.with_suffix('.npz')
  columns = {'path': np.array([f'{i}.jpg' for i in range(rows)])}
  info = {'fingerprint': 'drawn'}
  embedding_files.write(
    file, info, columns, blocks(), (rows, features), DTYPE.value
  )
  index, _, _ = store.add(folder, file, DTYPE.value)
  file.unlink()
  return index


def seconds(function, times: int = 5) -> float:
  """Returns the median time of a function, after one call."""
  function()
  taken = []
  for _ in range(times):
    start = time.perf_counter()
    function()
    taken.append(time.perf_counter() - start)
  return statistics.median(taken)


def peak() -> float:
  """Returns the largest resident memory of this process so far, in MB."""
  status = pathlib.Path('/proc/self/status').read_text()
  return int(re.search(r'VmHWM:\s+(\d+)', status)[1]) / 1024


def bare_product(queries: np.ndarray, gallery: np.ndarray) -> None:
  """Multiplies block by block, and discards the products."""
  for start in range(0, len(gallery), nearest.BLOCK):
    block = np.asarray(gallery[start : start + nearest.BLOCK], np.float32)
    _ = queries @ block.T
    nearest.drop_pages(gallery, start, start + len(block))


def measure(kind: str, index: store.Index, queries: np.ndarray) -> None:
  """Prints the time and the memory of one kind of search."""
  before = peak()
  calls = {
    'product': lambda: bare_product(queries, index._embeddings),
    'exact': lambda: list(index.search(queries, 10)),
    'fast': lambda: list(index.search(queries, 10, fast=True)),
  }
  taken = seconds(calls[kind], 3)
  print(
    f'{kind:8} {len(queries):5} queries  {taken:8.3f} s'
    f'  {1000 * taken / len(queries):8.1f} ms a query'
    f'  {before:6.0f} MB at start, {peak():6.0f} MB at most'
  )


def main(argv):
  del argv
  folder = pathlib.Path(FOLDER.value)
  people = np.arange(QUERIES.value) * 7 % max(1, ROWS.value // IMAGES)
  queries = draw(people, FEATURES.value, seed=1)
  if MEASURE.value:
    kind, count = MEASURE.value.split(',')
    measure(kind, store.Index(folder), queries[: int(count)])
    return
  shutil.rmtree(folder, ignore_errors=True)
  start = time.perf_counter()
  index = build(folder)
  print(f'built in {time.perf_counter() - start:.0f} s: {index.info}')
  exact, fast = (index.search(queries, 10, f) for f in (False, True))
  shares = [
    len({*a.tolist()} & {*b.tolist()}) / 10
    for (a, _), (b, _) in zip(exact, fast)
  ]
  print(f'recall at 10 of new images: {np.mean(shares):.4f}')
  for kind in ('product', 'exact', 'fast'):
    for count in (1, QUERIES.value):
      subprocess.run(  # so that each has its own memory
        [sys.executable, '-m', 'benchmarks.search', *sys.argv[1:]]
        + [f'--measure={kind},{count}'],
        check=True,
      )


if __name__ == '__main__':
  app.run(main)
