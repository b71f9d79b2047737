"""Embeds queries and gallery, ranks, and says under which rules."""

from collections.abc import Callable, Mapping
import dataclasses
from importlib import metadata

import ml_collections
import numpy as np

from apnet_jax.feed import Benchmark, Split
from apnet_jax.retrieval.metrics import (
  JUNK_PID,
  RetrievalResult,
  evaluate_retrieval,
)

PACKAGES = ('jax', 'flax', 'orbax-checkpoint', 'numpy')
TABLE_RANKS = (1, 5, 10)


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """A result, and the embeddings that made it.

  `gallery_rows` are the rows of the gallery that were embedded: all but junk.
  """

  result: RetrievalResult
  query_embeddings: np.ndarray
  gallery_embeddings: np.ndarray
  gallery_rows: np.ndarray


def evaluate(
  embed: Callable[[Mapping, Split, np.ndarray], np.ndarray],
  variables: Mapping,
  benchmark: Benchmark,
  max_rank: int = 50,
) -> Evaluation:
  """Evaluates under Market-1501's rules; see `evaluate_retrieval`."""
  query, gallery = benchmark.query, benchmark.gallery
  rows = np.flatnonzero(gallery.pids != JUNK_PID)
  query_embeddings = embed(variables, query, np.arange(len(query.pids)))
  gallery_embeddings = embed(variables, gallery, rows)
  result = evaluate_retrieval(
    query_embeddings,
    query.pids,
    query.camids,
    gallery_embeddings,
    gallery.pids[rows],
    gallery.camids[rows],
    max_rank,
  )
  return Evaluation(result, query_embeddings, gallery_embeddings, rows)


def figures(result: RetrievalResult) -> dict[str, float]:
  """The figures of a result, in percent."""
  return {
    'mAP': 100 * result.mAP,
    'mINP': 100 * result.mINP,
    **{f'Rank-{k}': 100 * result.rank(k) for k in TABLE_RANKS},
  }


def result_card(
  result: RetrievalResult,
  config: ml_collections.ConfigDict,
  benchmark: Benchmark,
  step: int,
) -> dict:
  """A result and the rules it was made under, ready for JSON.

  Args:
    config: the whole configuration, with `data` as evaluated.
    benchmark: what was evaluated.
    step: of the checkpoint.
  """
  gallery = benchmark.gallery
  known = np.isin(gallery.pids, benchmark.query.pids)
  junk = gallery.pids == JUNK_PID
  return {
    'dataset': config.data.name,
    'fingerprint': benchmark.fingerprint,
    'step': step,
    'figures': {
      **figures(result),
      'mAP_trapezoid': 100 * result.mAP_trapezoid,
      'cmc': [round(100 * float(c), 4) for c in result.cmc],
    },
    'protocol': {
      'rules': 'market1501',
      'profile': config.profile,
      'ap': 'mAP: step form, mAP_trapezoid: trapezoid form',
      'distance': 'cosine',
      'ties': 'by gallery index',
      'feature': 'embedding',
      'flip': config.eval.flip,
      'image_size': list(config.data.image_size),
      'dtype': config.model.dtype,
    },
    'queries': {
      'valid': result.num_valid_queries,
      'skipped': result.num_skipped_queries,
    },
    'gallery': {
      'of_query_identities': int((known & ~junk).sum()),
      'distractors': int((~known & ~junk).sum()),
      'junk_left_out': int(junk.sum()),
    },
    'versions': versions(),
  }


def versions() -> dict[str, str]:
  """Of the packages that the figures may depend on."""
  return {name: metadata.version(name) for name in PACKAGES}


def format_table(rows: Mapping[str, Mapping[str, float]]) -> str:
  """Figures in percent as a table, a line for each entry of `rows`."""
  columns = list(next(iter(rows.values())))
  width = max(map(len, rows))
  lines = [' ' * width + ''.join(f'{name:>9}' for name in columns)]
  lines.append('-' * len(lines[0]))
  for name, row in rows.items():
    values = ''.join(f'{row[column]:9.1f}' for column in columns)
    lines.append(f'{name:{width}}{values}')
  return '\n'.join(lines)
