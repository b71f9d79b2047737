"""Embeds queries and gallery, and ranks under the rules of a configuration."""

import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses

import ml_collections
import numpy as np

from apnet_jax.errors import UserError
from apnet_jax.feed import Benchmark, Split
from apnet_jax.parallel import processes
from apnet_jax.retrieval.metrics import (
  RetrievalResult,
  evaluate_scores,
)
from apnet_jax.retrieval.rerank import KReciprocal
from apnet_jax.retrieval.scores import (
  JUNK_PID,
  EmbeddingScores,
  Labels,
  Scores,
  as_embeddings,
  each_query,
)
from apnet_jax.retrieval.single_shot import single_gallery_shot


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """A result, and what made it.

  Attributes:
    result: the figures.
    rules: `config.eval`.
    query_embeddings: float [queries, features].
    gallery_embeddings: float [ranked, features].
    gallery_rows: int [ranked], the rows of the gallery that are ranked: all but
      junk, or those of the queries' identities if distractors are dropped.
    labels: of these.
    scores: of these.
  """

  result: RetrievalResult
  rules: ml_collections.ConfigDict
  query_embeddings: np.ndarray
  gallery_embeddings: np.ndarray
  gallery_rows: np.ndarray
  labels: Labels
  scores: EmbeddingScores

  @property
  def query_figures(self) -> dict[str, np.ndarray]:
    """Those of the result, with the AP of these rules."""
    return self.result.query_figures(self.rules.ap)


def check_benchmark(benchmark: Benchmark) -> int:
  """Returns the number of queries that have no true match.

  Raises:
    UserError: there is none that has one, or processes have other images.
  """
  processes.check_same('the images', benchmark.fingerprint)
  query, gallery = benchmark.query, benchmark.gallery
  cameras = collections.defaultdict(set)
  for pid, camid in zip(gallery.pids.tolist(), gallery.camids.tolist()):
    cameras[pid].add(camid)
  skipped = sum(
    not cameras[pid] - {camid}
    for pid, camid in zip(query.pids.tolist(), query.camids.tolist())
  )
  if skipped == len(query.pids):
    raise UserError(
      f'none of the {skipped} queries can be evaluated: the gallery shows none'
      ' of their identities under another camera (or, where there are no'
      ' cameras, on another image).'
    )
  return skipped


def evaluate(
  embed: Callable[[Mapping, Split, np.ndarray], np.ndarray],
  variables: Mapping,
  benchmark: Benchmark,
  rules: ml_collections.ConfigDict,
) -> Evaluation:
  """Evaluates under Market-1501's rules; see `evaluate_retrieval`.

  Args:
    embed: made by `make_embed`.
    variables: for it.
    benchmark: what to embed.
    rules: `config.eval`.

  Raises:
    UserError: no query can be evaluated, or an embedding is not finite.
  """
  check_benchmark(benchmark)
  query, gallery = benchmark.query, benchmark.gallery
  ranked = gallery.pids != JUNK_PID
  if rules.drop_distractors:
    ranked &= np.isin(gallery.pids, query.pids)
  rows = np.flatnonzero(ranked)
  embeddings = [
    as_embeddings(f'embeddings of the {name}', embed(variables, split, which))
    for name, split, which in (
      ('queries', query, np.arange(len(query.pids))),
      ('gallery', gallery, rows),
    )
  ]
  labels, scores = label_and_score(benchmark, rows, *embeddings, rules)
  result = _evaluate(scores, labels, gallery.pids[rows], rules)
  return Evaluation(result, rules, *embeddings, rows, labels, scores)


def label_and_score(
  benchmark: Benchmark,
  rows: np.ndarray,
  query_embeddings: np.ndarray,
  gallery_embeddings: np.ndarray,
  rules: ml_collections.ConfigDict,
) -> tuple[Labels, EmbeddingScores]:
  """Labels and similarities of all queries and some gallery images.

  Args:
    rows: int [ranked] of the gallery.
    query_embeddings: float [queries, features].
    gallery_embeddings: float [ranked, features].
    rules: `config.eval`.
  """
  query, gallery = benchmark.query, benchmark.gallery
  labels = Labels.make(
    query.pids,
    query.camids,
    gallery.pids[rows],
    gallery.camids[rows],
    queries=len(query.pids),
    gallery=len(rows),
  )
  scores = EmbeddingScores(
    query_embeddings, gallery_embeddings, labels.kept, rules.distance
  )
  return labels, scores


@dataclasses.dataclass(frozen=True)
class Ranking:
  """The first images found for one query; rows of the query and gallery."""

  query: int
  found: np.ndarray
  correct: np.ndarray  # bool, for each found
  similarity: np.ndarray  # for each found


def rank(
  evaluation: Evaluation, queries: Sequence[int], top: int
) -> list[Ranking]:
  """Ranks the gallery for some queries, as the evaluation did."""
  rankings = []
  for row in each_query(evaluation.scores, evaluation.labels, queries):
    order = np.argsort(-row.similarity, kind='stable')
    order = order[~np.isin(order, row.left_out)][:top]
    rankings.append(
      Ranking(
        row.query,
        evaluation.gallery_rows[order],
        np.isin(order, row.matches),
        row.similarity[order],
      )
    )
  return rankings


def _evaluate(
  scores: Scores, labels: Labels, gallery_pids: np.ndarray, rules
) -> RetrievalResult:
  result = evaluate_scores(scores, labels, rules.max_rank)
  if rules.single_gallery_shot:
    result = single_gallery_shot(
      result, scores, labels, gallery_pids, rules.max_rank
    )
  return result


def rerank(evaluation: Evaluation, benchmark: Benchmark) -> RetrievalResult:
  """Evaluates the same embeddings after re-ranking; see `KReciprocal`."""
  scores = KReciprocal(
    evaluation.query_embeddings, evaluation.gallery_embeddings
  )
  pids = benchmark.gallery.pids[evaluation.gallery_rows]
  return _evaluate(scores, evaluation.labels, pids, evaluation.rules)
