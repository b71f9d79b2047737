"""Compares `evaluate_retrieval` with the usual evaluation: time and memory.

The evaluation leads from embeddings to CMC, mAP and mINP. Random unit
embeddings stand for as many images, identities and cameras as Market-1501 or
MSMT17 has. In the same run are measured:

- the usual evaluation in numpy: the whole distance matrix, `argsort`, and a
  Python loop over the queries, as in BoT, torchreid and the released APNet
  code; on some of the queries where its arrays would be too large;
- the bare float32 product of the embeddings, in blocks, in numpy or JAX,
  whichever is faster here: a lower bound for every evaluation.

Each runs in a process of its own on all cores, without the variables
OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE, which may slow numpy down. They are
measured in turns, and the fastest round counts: other programs can only add
time. Memory is the peak of the process minus its memory before the evaluation.
"""

import argparse
import contextlib
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

from apnet_jax import evaluate_retrieval  # noqa: E402
from benchmarks import command, measuring  # noqa: E402

SEED = 0
DEVICES = (1, 2, 4)
PRODUCT_BLOCK = 1024  # queries
USUAL_ENTRIES = 2**26  # queries x gallery: the usual evaluation takes 1.5 GB
USUAL = 'usual evaluation'
PRODUCT = 'bare product'


def ours(devices: int) -> str:
  """Returns the name of the row for this project on some devices."""
  return f'this project, {devices} device{"s" if devices > 1 else ""}'


# The processes that measure


class RandomDataset:
  """Random embeddings, identities and cameras, the same in all processes.

  Market-1501 has 750 identities with 17.5 images each, 6 cameras and 2,798
  distractors. MSMT17 has 3,060 identities with 27 images each, and 15 cameras.
  Other sizes have Market-1501's images per identity, share of distractors and
  cameras.

  Args:
    queries: number of queries.
    gallery: number of gallery images.
    features: length of an embedding.
  """

  def __init__(self, queries: int, gallery: int, features: int):
    rng = np.random.default_rng(SEED)
    msmt17 = gallery == 82_161
    distractors = 0 if msmt17 else gallery * 2798 // 15_913
    identities = max(
      1, int((gallery - distractors) / (26.9 if msmt17 else 17.5))
    )
    self.embeddings = [
      rng.standard_normal((n, features), np.float32) for n in (queries, gallery)
    ]
    for x in self.embeddings:
      x /= np.sqrt(np.einsum('ij,ij->i', x, x))[:, None]
    self.pids = [rng.integers(1, identities + 1, n) for n in (queries, gallery)]
    self.pids[1][gallery - distractors :] = 0
    cameras = 15 if msmt17 else 6
    self.camids = [rng.integers(cameras, size=n) for n in (queries, gallery)]

  def arguments(self, queries: int | None = None) -> tuple:
    """Returns the arguments of `evaluate_retrieval` for the first queries."""
    pairs = self.embeddings, self.pids, self.camids
    return (*(p[0][:queries] for p in pairs), *(p[1] for p in pairs))


def evaluate_as_usual(q, q_pids, q_camids, g, g_pids, g_camids, max_rank=50):
  """Computes CMC and mAP like torchreid's eval_market1501 and BoT's eval_func.

  Args:
    q: float32 [queries, features], unit embeddings of the queries.
    q_pids: int [queries], identities.
    q_camids: int [queries], cameras.
    g: float32 [gallery, features], unit embeddings of the gallery.
    g_pids: int [gallery], identities.
    g_camids: int [gallery], cameras.
    max_rank: number of ranks of CMC.
  """
  distances = 1 - q @ g.T
  indices = np.argsort(distances, axis=1)
  matches = (g_pids[indices] == q_pids[:, np.newaxis]).astype(np.int32)
  all_cmc, all_ap = [], []
  for row in range(len(q)):
    order = indices[row]
    remove = (g_pids[order] == q_pids[row]) & (g_camids[order] == q_camids[row])
    found = matches[row][~remove]
    if not np.any(found):
      continue
    cmc = found.cumsum()
    cmc[cmc > 1] = 1
    all_cmc.append(cmc[:max_rank])
    precisions = [x / (i + 1.0) for i, x in enumerate(found.cumsum())]
    all_ap.append((np.asarray(precisions) * found).sum() / found.sum())
  cmc = np.asarray(all_cmc).astype(np.float32).sum(0) / len(all_cmc)
  return cmc, np.mean(all_ap)


def multiply_by_numpy(query, gallery):
  """Multiplies embeddings by numpy, in blocks of queries."""
  for start in range(0, len(query), PRODUCT_BLOCK):
    query[start : start + PRODUCT_BLOCK] @ gallery.T


@jax.jit
def _multiply(query, gallery):
  return jnp.matmul(query, gallery.T, precision='highest')


def multiply_by_jax(query, gallery):
  """Multiplies embeddings by JAX, in blocks of queries."""
  for start in range(0, len(query), PRODUCT_BLOCK):
    _multiply(query[start : start + PRODUCT_BLOCK], gallery).block_until_ready()


def prepare(task: str, dataset: RandomDataset, queries: int | None):
  """Returns the function to time, which takes no arguments.

  Args:
    task: `USUAL`, 'numpy' or 'jax' (the bare product), or 'ours'.
    dataset: embeddings, identities and cameras.
    queries: number of queries to evaluate. This project always evaluates all
      queries, and returns the mAP of this number of them.

  Returns:
    A function that returns the mAP; a product returns None.
  """
  arguments = dataset.arguments(queries)
  if task == USUAL:
    return lambda: evaluate_as_usual(*arguments)[1]
  if task == 'numpy':
    return lambda: multiply_by_numpy(arguments[0], arguments[3])
  if task == 'jax':
    gallery = jnp.asarray(arguments[3])  # outside the timed function
    return lambda: multiply_by_jax(arguments[0], gallery)

  def evaluate():
    result = evaluate_retrieval(*dataset.arguments())
    return np.nanmean(result.average_precision[:queries])

  return evaluate


def serve(size: tuple[int, int, int]) -> None:
  """Answers requests for measurements, until the standard input ends.

  Args:
    size: numbers of queries, gallery images and features.
  """
  dataset = RandomDataset(*size)

  def measure(task: str, queries: int | None = None) -> dict:
    timed = prepare(task, dataset, queries)
    pathlib.Path('/proc/self/clear_refs').write_text('5')  # resets the peak
    before = measuring.kilobytes('VmRSS')
    start = time.perf_counter()
    figure = timed()
    seconds = time.perf_counter() - start
    return {
      'seconds': seconds,
      'MB': round((measuring.kilobytes('VmHWM') - before) * 1024 / 1e6),
      'mAP': None if figure is None else float(figure),
    }

  measuring.serve(measure)


# The process that compares


def start_process(
  size: tuple[int, int, int], devices: int = 1
) -> command.MeasuringProcess:
  """Starts a process that measures on a number of CPU devices.

  Args:
    size: numbers of queries, gallery images and features.
    devices: number of devices.
  """
  environment = command.environment(
    without=command.OPENBLAS_VARIABLES,
    JAX_PLATFORMS='cpu',
    XLA_FLAGS=f'--xla_force_host_platform_device_count={devices}',
  )
  arguments = ['--serve', '--size', 'x'.join(map(str, size))]
  return command.MeasuringProcess('retrieval', arguments, environment)


def measure_all(
  size: tuple[int, int, int], usual_queries: int, turns: int
) -> dict:
  """Measures all rows of the table.

  Args:
    size: numbers of queries, gallery images and features.
    usual_queries: number of queries for the usual evaluation.
    turns: number of rounds.

  Returns:
    `product by`: the library of the bare product. `first`: answers to the first
    call, which compiles, by row. `answers`: answers of all rounds, by row.
  """
  subset = {'queries': usual_queries}
  with contextlib.ExitStack() as stack:

    def start(*arguments):
      return stack.enter_context(start_process(*arguments))

    bare = start(size)
    # The faster library on a block of the queries, after a warm-up.
    seconds = {}
    for library in ('numpy', 'jax'):
      answers = [
        bare.ask(task=library, queries=PRODUCT_BLOCK) for _ in range(3)
      ]
      seconds[library] = min(answer['seconds'] for answer in answers[1:])
    library = min(seconds, key=seconds.get)
    rows = {PRODUCT: (bare, {'task': library})}
    for devices in DEVICES:
      request = {'task': 'ours'} | subset
      rows[ours(devices)] = (start(size, devices), request)
    rows[USUAL] = (start(size), {'task': USUAL} | subset)

    first, answers = {}, {row: [] for row in rows}
    for row in map(ours, DEVICES):
      process, request = rows[row]
      first[row] = process.ask(**request)
    progress = tqdm(total=turns * len(rows), unit='', leave=False)
    with progress:
      for _ in range(turns):
        for row, (process, request) in rows.items():
          progress.set_description(row)
          answers[row].append(process.ask(**request))
          progress.update()
  return {'product by': library, 'first': first, 'answers': answers}


def summarize(measured: dict, size: tuple[int, int, int], usual: int) -> dict:
  """Returns figures by row: the fastest round, and all rounds.

  Args:
    measured: result of `measure_all`.
    size: numbers of queries, gallery images and features.
    usual: number of queries of the usual evaluation; its seconds are scaled to
      all queries.
  """
  figures = {}
  for row, answers in measured['answers'].items():
    turns = [answer['seconds'] for answer in answers]
    if row == USUAL:
      turns = [seconds * size[0] / usual for seconds in turns]
    figures[row] = {
      'seconds': min(turns),
      'turns': turns,
      'MB': max(answer['MB'] for answer in answers),
    }
    if row in measured['first']:
      first = measured['first'][row]
      figures[row]['first call'] = first['seconds']
      figures[row]['MB'] = max(figures[row]['MB'], first['MB'])
    if answers[0]['mAP'] is not None:
      figures[row]['mAP'] = answers[0]['mAP']
  for values in figures.values():
    for name, key in ((PRODUCT, 'times product'), (USUAL, 'times usual')):
      values[key] = values['seconds'] / figures[name]['seconds']
  return figures


def format_table(figures: dict, product_by: str) -> str:
  """Formats the figures as a table.

  Args:
    figures: result of `summarize`.
    product_by: library that computes the bare product.
  """
  columns = ('seconds', 'first', '/ product', 'usual /', 'MB')
  lines = [f'{"":26}' + ''.join(f'{column:>10}' for column in columns)]
  for row, values in figures.items():
    first = values.get('first call')
    cells = (
      f'{values["seconds"]:.2f}',
      '-' if first is None else f'{first:.2f}',
      f'{values["times product"]:.2f}',
      f'{1 / values["times usual"]:.1f}',
      f'{values["MB"]:,}',
    )
    lines.append(f'{row:26}' + ''.join(f'{cell:>10}' for cell in cells))
  lines.append(
    f'The product is computed by {product_by}. First: the call that compiles.'
  )
  return '\n'.join(lines)


def make_parser() -> argparse.ArgumentParser:
  parser = command.make_parser(__doc__)
  command.add_size(parser)
  command.add_turns(parser, 3)
  parser.add_argument(
    '--usual-queries',
    type=int,
    metavar='N',
    help='number of queries of the usual evaluation, whose seconds are then'
    ' scaled to all queries (as many as make 2**26 distances)',
  )
  parser.add_argument('--serve', action='store_true', help=argparse.SUPPRESS)
  return parser


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Reads the command line; a mistake ends the program with code 2."""
  parser = make_parser()
  args = command.parse(parser, arguments)
  queries, gallery, _ = args.size
  if args.usual_queries is None:
    args.usual_queries = max(1, min(queries, USUAL_ENTRIES // gallery))
  if not 1 <= args.usual_queries <= queries:
    parser.error(
      f'--usual-queries={args.usual_queries}: must be from 1 to {queries}, the'
      ' number of queries.'
    )
  command.check_at_least(parser, args, turns=1)
  command.check_peak_memory(parser)
  return args


def run(args: argparse.Namespace) -> dict:
  """Runs the benchmark: prints the table and returns the results for JSON."""
  queries, gallery, features = args.size
  print(
    f'{command.hardware()}; {queries:,} queries, {gallery:,} images x'
    f' {features:,}'
  )
  measured = measure_all(args.size, args.usual_queries, args.turns)
  figures = summarize(measured, args.size, args.usual_queries)
  print('\n' + format_table(figures, measured['product by']))
  if args.usual_queries < queries:
    print(
      f'The usual evaluation ran on {args.usual_queries:,} queries. Its seconds'
      f' are scaled by {queries / args.usual_queries:.2f}; MB are not.'
    )
  return {
    'seed': SEED,
    'versions': {
      'python': sys.version.split()[0],
      'numpy': np.__version__,
      'jax': jax.__version__,
    },
    'unset': list(command.OPENBLAS_VARIABLES),
    'queries': queries,
    'gallery': gallery,
    'features': features,
    'queries of the usual evaluation': args.usual_queries,
    'product by': measured['product by'],
    'turns': args.turns,
    'figures': figures,
  }


def main(arguments: list[str] | None = None) -> int:
  args = parse(arguments)
  if args.serve:
    serve(args.size)
    return 0
  return command.finish(__file__, run, args)


if __name__ == '__main__':
  sys.exit(main())
