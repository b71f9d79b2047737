"""Embeds queries and gallery, ranks, and says under which rules."""

import collections
from collections.abc import Callable, Mapping
import dataclasses
from importlib import metadata

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from apnet_jax import parallel
from apnet_jax.checkpoint import Checkpoints
from apnet_jax.feed import Benchmark, Split
from apnet_jax.models.apnet import create_model, variable_shapes
from apnet_jax.retrieval.embed import make_embed
from apnet_jax.retrieval.metrics import (
  RetrievalResult,
  evaluate_retrieval,
  evaluate_scores,
)
from apnet_jax.retrieval.rerank import VARIANT, KReciprocal
from apnet_jax.retrieval.scores import JUNK_PID, Labels

PACKAGES = ('jax', 'flax', 'orbax-checkpoint', 'numpy')
TABLE_RANKS = (1, 5, 10)
NO_CAMERAS = 'no cameras: each query against all other images, itself removed'


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """A result, and the embeddings that made it.

  `gallery_rows` are the rows of the gallery that were embedded: all but junk.
  """

  result: RetrievalResult
  query_embeddings: np.ndarray
  gallery_embeddings: np.ndarray
  gallery_rows: np.ndarray


def check_benchmark(benchmark: Benchmark) -> int:
  """Returns the number of queries that have no true match.

  Raises:
    ValueError: there is none that has one.
  """
  query, gallery = benchmark.query, benchmark.gallery
  cameras = collections.defaultdict(set)
  for pid, camid in zip(gallery.pids.tolist(), gallery.camids.tolist()):
    cameras[pid].add(camid)
  skipped = sum(
    not cameras[pid] - {camid}
    for pid, camid in zip(query.pids.tolist(), query.camids.tolist())
  )
  if skipped == len(query.pids):
    raise ValueError(
      f'none of the {skipped} queries can be evaluated: the gallery shows none'
      ' of their identities under another camera (or, where there are no'
      ' cameras, on another image).'
    )
  return skipped


def evaluate(
  embed: Callable[[Mapping, Split, np.ndarray], np.ndarray],
  variables: Mapping,
  benchmark: Benchmark,
  max_rank: int = 50,
) -> Evaluation:
  """Evaluates under Market-1501's rules; see `evaluate_retrieval`."""
  check_benchmark(benchmark)
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


def rerank(
  evaluation: Evaluation, benchmark: Benchmark, max_rank: int = 50
) -> RetrievalResult:
  """Evaluates the same embeddings after re-ranking; see `KReciprocal`."""
  query, gallery = benchmark.query, benchmark.gallery
  rows = evaluation.gallery_rows
  labels = Labels.make(
    query.pids,
    query.camids,
    gallery.pids[rows],
    gallery.camids[rows],
    queries=len(query.pids),
    gallery=len(rows),
  )
  scores = KReciprocal(
    evaluation.query_embeddings, evaluation.gallery_embeddings
  )
  return evaluate_scores(scores, labels, max_rank)


def restore_embed(
  checkpoints: Checkpoints,
  step: int,
  config: ml_collections.ConfigDict,
  num_classes: int,
) -> tuple[Callable, Mapping]:
  """The `embed` that `evaluate` wants, and its variables, after `step` steps.

  Args:
    checkpoints: of the run.
    step: of one of them.
    config: the whole configuration of the run.
    num_classes: identities the run was trained on.

  Raises:
    ValueError: the checkpoint cannot be read or is of another model.
  """
  model, variables = restore_model(checkpoints, step, config, num_classes)
  embed = make_embed(
    model, config.eval.batch_size, config.eval.flip, config.eval.feature
  )
  return embed, variables


def restore_model(
  checkpoints: Checkpoints,
  step: int,
  config: ml_collections.ConfigDict,
  num_classes: int,
) -> tuple[nn.Module, Mapping]:
  """The model after `step` steps and its variables; see `restore_embed`.

  The variables lie on every device.
  """
  model = create_model(config.model, num_classes)
  shapes = variable_shapes(model, tuple(config.data.image_size))
  return model, checkpoints.restore_variables(
    step,
    jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=parallel.replicated()
      ),
      shapes,
    ),
  )


def figures(result: RetrievalResult) -> dict[str, float]:
  """The figures that people compare, as fractions of 1."""
  return {
    'mAP': result.mAP,
    'mINP': result.mINP,
    **{f'Rank-{k}': result.rank(k) for k in TABLE_RANKS},
  }


def all_figures(result: RetrievalResult) -> dict:
  """What a card holds of a result."""
  return {
    **figures(result),
    'mAP_trapezoid': result.mAP_trapezoid,
    'cmc': [round(float(c), 6) for c in result.cmc],
  }


def result_card(
  result: RetrievalResult,
  config: ml_collections.ConfigDict,
  benchmark: Benchmark,
  checkpoint: Mapping,
  reranked: RetrievalResult | None = None,
) -> dict:
  """A result and the rules it was made under, ready for JSON.

  Args:
    config: the whole configuration, with `data` as evaluated.
    benchmark: what was evaluated.
    checkpoint: which state of which run this is, and how it was chosen.
    reranked: the result of `rerank`, if there is one.
  """
  gallery = benchmark.gallery
  known = np.isin(gallery.pids, benchmark.query.pids)
  junk = gallery.pids == JUNK_PID
  return {
    'dataset': config.data.name,
    'fingerprint': benchmark.fingerprint,
    'as_published': benchmark.as_published,
    'checkpoint': dict(checkpoint),
    'figures': all_figures(result),
    'reranked': reranked
    and {'variant': VARIANT, 'figures': all_figures(reranked)},
    'protocol': {
      'rules': 'market1501' if benchmark.has_cameras else NO_CAMERAS,
      'profile': config.profile,
      'ap': 'mAP: step form, mAP_trapezoid: trapezoid form',
      'distance': 'cosine',
      'ties': 'by gallery index',
      'feature': config.eval.feature,
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


def trained_on(config: ml_collections.ConfigDict, fingerprint: str) -> dict:
  """What a result card says of the images a network was trained on."""
  return {'dataset': config.data.name, 'fingerprint': fingerprint}


def versions() -> dict[str, str]:
  """Of the packages that the figures may depend on."""
  return {name: metadata.version(name) for name in PACKAGES}


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
