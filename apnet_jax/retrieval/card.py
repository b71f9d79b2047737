"""Result cards: figures with the rules they were made under, as JSON."""

from collections.abc import Mapping
import hashlib
from importlib import metadata

import ml_collections
import numpy as np

from apnet_jax.feed import Benchmark, Split
from apnet_jax.retrieval.metrics import RetrievalResult
from apnet_jax.retrieval.rerank import VARIANT
from apnet_jax.retrieval.scores import JUNK_PID

PACKAGES = ('jax', 'flax', 'orbax-checkpoint', 'numpy')
TABLE_RANKS = (1, 5, 10)
NO_CAMERAS = 'no cameras: each query against all other images, itself removed'
# Fields of `config.model` that name a network.
NETWORK = (
  'backbone', 'attention', 'levels', 'radix', 'stacked', 'se_blocks',
  'multi_part', 'dtype',
)  # fmt: skip


def query_figures(
  result: RetrievalResult, ap: str = 'step'
) -> dict[str, np.ndarray]:
  """What the figures are means of: [queries] each, NaN where skipped.

  Args:
    result: of an evaluation.
    ap: form of the average precision, 'step' or 'trapezoid'.
  """
  precision = {
    'step': result.average_precision,
    'trapezoid': result.average_precision_trapezoid,
  }
  last = len(result.cmc) - 1
  return {
    'mAP': precision[ap],
    'mINP': result.inverse_negative_penalty,
    **{f'Rank-{k}': result.query_cmc[:, min(k - 1, last)] for k in TABLE_RANKS},
  }


def figures(result: RetrievalResult, ap: str = 'step') -> dict[str, float]:
  """The figures that people compare, as fractions of 1."""
  return {
    name: float(values[~np.isnan(values)].mean(dtype=np.float64))
    for name, values in query_figures(result, ap).items()
  }


def all_figures(result: RetrievalResult, ap: str = 'step') -> dict:
  """What a card holds of a result."""
  return {
    **figures(result, ap),
    'mAP_step': result.mAP,
    'mAP_trapezoid': result.mAP_trapezoid,
    'cmc': _rounded(result.cmc),
  }


def result_card(
  result: RetrievalResult,
  config: ml_collections.ConfigDict,
  benchmark: Benchmark,
  checkpoint: Mapping,
  reranked: RetrievalResult | None = None,
  verification: Mapping | None = None,
  diagnosis: Mapping | None = None,
) -> dict:
  """A result and the rules it was made under, ready for JSON.

  Args:
    config: the whole configuration, with `data` and `eval` as evaluated.
    benchmark: what was evaluated.
    checkpoint: which state of which run this is, and how it was chosen.
    reranked: the result of `rerank`, if there is one.
    verification: of `verification.summarize`, if it was made.
    diagnosis: of `diagnosis.diagnose`, if it was made.
  """
  ap = config.eval.ap
  per_query = query_figures(result, ap)
  return {
    'dataset': config.data.name,
    'fingerprint': benchmark.fingerprint,
    'as_published': benchmark.as_published,
    'checkpoint': dict(checkpoint),
    'figures': all_figures(result, ap),
    'reranked': reranked
    and {'variant': VARIANT, 'figures': all_figures(reranked, ap)},
    'protocol': protocol(config, benchmark),
    'network': {
      'profile': config.profile,
      'image_size': list(config.data.image_size),
      **{name: config.model[name] for name in NETWORK},
    },
    'queries': {
      'valid': result.num_valid_queries,
      'skipped': result.num_skipped_queries,
      'names': digest(benchmark.query),
      'figures': {name: _rounded(v) for name, v in per_query.items()},
    },
    'gallery': gallery_counts(benchmark),
    'verification': verification,
    'diagnosis': diagnosis,
    'versions': versions(),
  }


def protocol(
  config: ml_collections.ConfigDict, benchmark: Benchmark
) -> dict[str, str | bool | int]:
  """What has to be alike for figures to be compared."""
  rules = config.eval
  return {
    'rules': 'market1501' if benchmark.has_cameras else NO_CAMERAS,
    'ap': f'mAP is of the {rules.ap} form',
    'cmc': 'single gallery shot, expected'
    if rules.single_gallery_shot
    else 'whole gallery',
    'distractors': 'dropped' if rules.drop_distractors else 'kept',
    'distance': rules.distance,
    'ties': 'by gallery index',
    'feature': rules.feature,
    'flip': rules.flip,
    'max_rank': rules.max_rank,
  }


def gallery_counts(benchmark: Benchmark) -> dict[str, int]:
  """Images of the gallery by kind."""
  pids = benchmark.gallery.pids
  known, junk = np.isin(pids, benchmark.query.pids), pids == JUNK_PID
  return {
    'of_query_identities': int((known & ~junk).sum()),
    'distractors': int((~known & ~junk).sum()),
    'junk_left_out': int(junk.sum()),
  }


def digest(split: Split) -> str:
  """Tells whether two splits are of the same images in the same order."""
  lines = '\n'.join(map(str, split.paths))
  return hashlib.sha256(lines.encode()).hexdigest()[:16]


def trained_on(config: ml_collections.ConfigDict, fingerprint: str) -> dict:
  """What a result card says of the images a network was trained on."""
  return {'dataset': config.data.name, 'fingerprint': fingerprint}


def versions() -> dict[str, str]:
  """Of the packages that the figures may depend on."""
  return {name: metadata.version(name) for name in PACKAGES}


def _rounded(values: np.ndarray) -> list[float | None]:
  """For JSON, which has no NaN."""
  return [None if np.isnan(v) else round(float(v), 6) for v in values]


def format_table(rows: Mapping[str, Mapping[str, float]]) -> str:
  """Fractions as a table of percent, a line for each entry of `rows`."""
  columns = list(next(iter(rows.values())))
  width = max(map(len, rows))
  lines = [' ' * width + ''.join(f'{name:>9}' for name in columns)]
  lines.append('-' * len(lines[0]))
  for name, row in rows.items():
    values = ''.join(f'{100 * row[column]:9.1f}' for column in columns)
    lines.append(f'{name:{width}}{values}')
  return '\n'.join(lines)
