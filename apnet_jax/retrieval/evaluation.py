"""Evaluates an embedding function on a benchmark, by `config.eval`."""

import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import TypedDict

import ml_collections
import numpy as np

from apnet_jax.errors import UserError
from apnet_jax.feed import IGNORE_CAMERAS, JUNK_PID, Benchmark, Split
from apnet_jax.parallel import processes
from apnet_jax.retrieval import collapse, multi_query
from apnet_jax.retrieval.metrics import RetrievalResult, evaluate_scores
from apnet_jax.retrieval.rerank import KReciprocal
from apnet_jax.retrieval.scores import (
  EmbeddingScores,
  Labels,
  Scores,
  check_embeddings,
  check_rows,
  iterate_queries,
)
from apnet_jax.retrieval.single_shot import single_gallery_shot


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The result of an evaluation, with its embeddings, labels and similarities.

  Attributes:
    result: the figures.
    rules: `config.eval`.
    query_embeddings: float [queries, features].
    gallery_embeddings: float [ranked, features].
    gallery_rows: int [ranked], rows of the benchmark's gallery that are ranked:
      all without junk; without distractors too if the rules drop them.
    labels: labels of the queries and the ranked images.
    scores: similarities of the queries to the ranked images.
    places: int [queries], index of each query among the ranked images, -1 if it
      is not there.
    junk_rows: int [junk], rows of junk images in the benchmark's gallery; empty
      if they were not embedded.
    junk_embeddings: float [junk, features].
  """

  result: RetrievalResult
  rules: ml_collections.ConfigDict
  query_embeddings: np.ndarray
  gallery_embeddings: np.ndarray
  gallery_rows: np.ndarray
  labels: Labels
  scores: EmbeddingScores
  places: np.ndarray
  junk_rows: np.ndarray = dataclasses.field(
    default_factory=lambda: np.zeros(0, np.int64)
  )
  junk_embeddings: np.ndarray | None = None

  @property
  def query_figures(self) -> dict[str, np.ndarray]:
    """Figures by name, [queries] each; `rules.ap` is the form of mAP."""
    return self.result.query_figures(self.rules.ap)


class Junk(TypedDict, total=False):
  """The fields of an `Evaluation` about junk; none of them without junk."""

  junk_rows: np.ndarray
  junk_embeddings: np.ndarray


def check_benchmark(benchmark: Benchmark) -> int:
  """Checks that a benchmark can be evaluated.

  Returns:
    The number of queries without a true match, which are skipped.

  Raises:
    UserError: no query has a true match, or the processes have different
      images.
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
    if not benchmark.has_cameras:
      raise UserError(
        f'none of the {skipped} queries can be evaluated: the gallery shows'
        ' none of their identities on another image.'
      )
    raise UserError(
      f'none of the {skipped} queries can be evaluated: the gallery shows none'
      f' of their identities under another camera. {IGNORE_CAMERAS}'
    )
  return skipped


def evaluate(
  embed: Callable[[Mapping, Split, np.ndarray], np.ndarray],
  variables: Mapping,
  benchmark: Benchmark,
  rules: ml_collections.ConfigDict,
) -> Evaluation:
  """Embeds a benchmark, ranks its gallery, and computes the figures.

  The figures are those of `evaluate_retrieval`.

  Args:
    embed: a function made by `make_embed`, or `embed_pixels`.
    variables: variables for that function.
    benchmark: queries and gallery.
    rules: `config.eval`.

  Raises:
    UserError: no query has a true match, an embedding is not finite, or the
      processes have different images.
  """
  check_benchmark(benchmark)
  query, gallery = benchmark.query, benchmark.gallery
  ranked = gallery.pids != JUNK_PID
  if rules.drop_distractors:
    ranked &= np.isin(gallery.pids, query.pids)
  rows = np.flatnonzero(ranked)
  of_gallery = check_embeddings(
    'embeddings of the gallery', embed(variables, gallery, rows)
  )
  # Without cameras, all images to test on are both: none is embedded again.
  places = _queries_in_gallery(benchmark, rows, rules)
  of_queries = check_embeddings(
    'embeddings of the queries',
    _embed_queries(embed, variables, query, rules)
    if (places < 0).any()
    else of_gallery[places],
  )
  labels, scores = label_and_score(
    benchmark, rows, of_queries, of_gallery, rules
  )
  result = _apply_rules(scores, labels, gallery.pids[rows], rules)
  return Evaluation(
    result, rules, of_queries, of_gallery, rows, labels, scores, places
  )


def embed_junk(
  embed: Callable[[Mapping, Split, np.ndarray], np.ndarray],
  variables: Mapping,
  benchmark: Benchmark,
) -> Junk:
  """Embeds the junk of a gallery, which no ranking needs, to look at it.

  Returns:
    `junk_rows` and `junk_embeddings` of an `Evaluation`; empty without junk.

  Raises:
    UserError: an embedding is not finite.
  """
  rows = np.flatnonzero(benchmark.gallery.pids == JUNK_PID)
  if not len(rows):
    return {}
  name = 'embeddings of the junk'
  embeddings = check_embeddings(name, embed(variables, benchmark.gallery, rows))
  check_rows(name, ~np.isfinite(embeddings).all(1), 'not finite')
  return {'junk_rows': rows, 'junk_embeddings': embeddings}


def _queries_in_gallery(
  benchmark: Benchmark, rows: np.ndarray, rules: ml_collections.ConfigDict
) -> np.ndarray:
  """Finds the queries among the ranked images.

  Args:
    benchmark: queries and gallery.
    rows: int [ranked], rows of the ranked images in the benchmark's gallery.
    rules: `config.eval`.

  Returns:
    For each query, the index in `rows` of the same image; -1 if it is not
    there, or if the queries are averages.
  """
  averaged = rules.multi_query or benchmark.query.averaged is not None
  if not benchmark.names_are_images or averaged:
    return np.full(len(benchmark.query.pids), -1)
  places = {path: i for i, path in enumerate(benchmark.gallery.paths[rows])}
  return np.array([places.get(path, -1) for path in benchmark.query.paths])


def _embed_queries(embed, variables, query: Split, rules) -> np.ndarray:
  """Embeds all queries; see `evaluate` for the arguments."""
  if (query.averaged is not None) != rules.multi_query:
    raise ValueError(
      f'config.eval.multi_query={rules.multi_query} does not fit the queries:'
      ' `multi_query.group` makes those that it needs.'
    )
  if query.averaged is None:
    return embed(variables, query, np.arange(len(query.pids)))
  images, owners = query.averaged.images, query.averaged.owners
  embeddings = embed(variables, images, np.arange(len(images.pids)))
  return multi_query.average(embeddings, owners, rules.distance)


def label_and_score(
  benchmark: Benchmark,
  rows: np.ndarray,
  query_embeddings: np.ndarray,
  gallery_embeddings: np.ndarray,
  rules: ml_collections.ConfigDict,
) -> tuple[Labels, EmbeddingScores]:
  """Makes labels and similarities of all queries to chosen gallery images.

  Args:
    benchmark: queries and gallery.
    rows: int [ranked], rows of the chosen images in the benchmark's gallery.
    query_embeddings: float [queries, features].
    gallery_embeddings: float [ranked, features], of the chosen images.
    rules: `config.eval`.

  Raises:
    UserError: an embedding is not finite or, for cosine, is zero.
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


def stranger_similarity(
  evaluation: Evaluation, benchmark: Benchmark
) -> float | None:
  """Returns the median similarity of strangers in the ranked gallery.

  Returns:
    See `collapse.median_stranger_similarity`.
  """
  return collapse.median_stranger_similarity(
    evaluation.gallery_embeddings,
    benchmark.gallery.pids[evaluation.gallery_rows],
  )


@dataclasses.dataclass(frozen=True)
class Ranking:
  """The gallery images closest to one query, closest first.

  Attributes:
    query: row of the query.
    found: int [top], rows of the benchmark's gallery.
    correct: bool [top], which of them show the person of the query.
    similarity: float32 [top], their similarities to the query.
  """

  query: int
  found: np.ndarray
  correct: np.ndarray
  similarity: np.ndarray


def rank(
  evaluation: Evaluation, queries: Sequence[int] | np.ndarray, top: int
) -> list[Ranking]:
  """Ranks the gallery for some queries, as the evaluation did.

  Args:
    evaluation: an evaluation.
    queries: rows of the queries.
    top: number of images to return for each query.
  """
  rankings = []
  for each in iterate_queries(evaluation.scores, evaluation.labels, queries):
    order = each.closest(top)
    rankings.append(
      Ranking(
        each.query,
        evaluation.gallery_rows[order],
        np.isin(order, each.matches),
        each.similarity[order],
      )
    )
  return rankings


def _apply_rules(
  scores: Scores, labels: Labels, gallery_pids: np.ndarray, rules
) -> RetrievalResult:
  """Computes the figures of a ranking, with the kind of CMC in the rules."""
  result = evaluate_scores(scores, labels, rules.max_rank)
  if rules.single_gallery_shot:
    result = single_gallery_shot(
      result, scores, labels, gallery_pids, rules.max_rank
    )
  return result


def rerank(evaluation: Evaluation, benchmark: Benchmark) -> RetrievalResult:
  """Computes the figures of an evaluation after k-reciprocal re-ranking.

  A query that is in the gallery, too, counts once among the neighbours.

  Args:
    evaluation: an evaluation of the benchmark.
    benchmark: queries and gallery.

  Raises:
    UserError: an embedding is zero.
  """
  rules = evaluation.rules
  scores = KReciprocal(
    evaluation.query_embeddings,
    evaluation.gallery_embeddings,
    rules.rerank_k1,
    rules.rerank_k2,
    rules.rerank_lambda,
    evaluation.places,
  )
  return _figures(evaluation, benchmark, scores)


def with_embeddings(
  evaluation: Evaluation,
  benchmark: Benchmark,
  query_embeddings: np.ndarray,
  gallery_embeddings: np.ndarray,
) -> RetrievalResult:
  """Computes the figures of an evaluation with other embeddings of its images.

  Args:
    evaluation: an evaluation of the benchmark.
    benchmark: queries and gallery.
    query_embeddings: float [queries, features].
    gallery_embeddings: float [ranked, features].
  """
  scores = EmbeddingScores(
    query_embeddings,
    gallery_embeddings,
    evaluation.labels.kept,
    evaluation.rules.distance,
  )
  return _figures(evaluation, benchmark, scores)


def _figures(
  evaluation: Evaluation, benchmark: Benchmark, scores: Scores
) -> RetrievalResult:
  """Computes the figures of an evaluation with other similarities."""
  pids = benchmark.gallery.pids[evaluation.gallery_rows]
  return _apply_rules(scores, evaluation.labels, pids, evaluation.rules)


def small_gallery_warning(evaluation: Evaluation) -> str:
  """Returns a warning if the gallery is too small for re-ranking, or ''.

  Args:
    evaluation: an evaluation, which `rerank` may re-rank.
  """
  k1, images = evaluation.rules.rerank_k1, len(evaluation.gallery_rows)
  if images >= k1:
    return ''
  return (
    f'Warning: config.eval.rerank_k1={k1}, but the gallery has only {images}'
    f' images. Re-ranking looks for {k1} neighbours of each image among queries'
    ' and gallery together: more than the whole gallery, so that the re-ranked'
    ' figures mean little. Choose a smaller value.'
  )
