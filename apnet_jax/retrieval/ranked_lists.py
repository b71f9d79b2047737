"""Ranked lists to look at, with the images that the rules leave out."""

from collections.abc import Iterator
import dataclasses

import numpy as np

from apnet_jax.retrieval.evaluation import Evaluation
from apnet_jax.retrieval.nearest import closest
from apnet_jax.retrieval.scores import EmbeddingScores, iterate_queries

# Kinds of images in a list. The first two are ranked.
RIGHT, WRONG, SAME_CAMERA, JUNK = range(4)
# Images that are left out, but are at least as close as the last ranked image:
# at most this many are listed for each query.
MAX_LEFT_OUT = 5
QUERY_BLOCK = 256  # number of queries that are compared with junk at a time


@dataclasses.dataclass(frozen=True)
class RankedList:
  """The closest images of one query, with those that the rules leave out.

  Attributes:
    query: row of the query.
    found: int [listed], rows of the benchmark's gallery, closest first.
    kinds: int [listed], `RIGHT` or `WRONG` for ranked images; `SAME_CAMERA` for
      images of the query's identity under its camera (without cameras: the
      query itself), and `JUNK`, which are both not ranked.
    similarity: float32 [listed], similarities to the query.
    match: row of the closest true match in the gallery; -1 if there is none.
    match_similarity: similarity of that match; NaN if there is none.
  """

  query: int
  found: np.ndarray
  kinds: np.ndarray
  similarity: np.ndarray
  match: int
  match_similarity: float


def ranked_lists(
  evaluation: Evaluation, queries: np.ndarray, top: int
) -> Iterator[RankedList]:
  """Yields the ranked lists of some queries.

  Junk is listed only if the evaluation has embeddings of it.

  Args:
    evaluation: an evaluation of a benchmark.
    queries: int [n], rows of the queries.
    top: number of ranked images in each list.
  """
  junk = _junk_similarities(evaluation, queries)
  scored = iterate_queries(evaluation.scores, evaluation.labels, queries)
  rows = evaluation.gallery_rows
  for each, junk_similarity in zip(scored, junk):
    best = each.closest(top)
    kinds = np.where(np.isin(best, each.matches), RIGHT, WRONG)
    others = (
      (rows[each.excluded], each.similarity[each.excluded], SAME_CAMERA),
      (evaluation.junk_rows, junk_similarity, JUNK),
    )
    found, kinds, similarity = _with_left_out(
      rows[best], kinds, each.similarity[best], others
    )
    match = _closest_match(each)
    yield RankedList(
      each.query,
      found,
      kinds,
      similarity,
      match=-1 if match is None else int(rows[match]),
      match_similarity=np.nan if match is None else each.similarity[match],
    )


def _with_left_out(found, kinds, similarity, others):
  """Adds images that are left out, but at least as close as the last ranked.

  Args:
    found: int [top], rows of the ranked images.
    kinds: int [top].
    similarity: float [top].
    others: rows, similarities and kind of each group of other images.

  Returns:
    Found, kinds and similarity of the whole list, closest first.
  """
  rows = np.concatenate([rows for rows, _, _ in others])
  values = np.concatenate([values for _, values, _ in others])
  which = np.repeat([kind for *_, kind in others], [len(r) for r, *_ in others])
  near = values >= (similarity[-1] if len(similarity) else -np.inf)
  rows, values, which = rows[near], values[near], which[near]
  some = closest(values, min(MAX_LEFT_OUT, len(values)))
  found = np.concatenate([rows[some], found])
  kinds = np.concatenate([which[some], kinds])
  similarity = np.concatenate([values[some], similarity])
  order = np.argsort(-similarity, kind='stable')
  return found[order], kinds[order], similarity[order]


def _closest_match(each) -> int | None:
  """Returns the index of a query's closest true match, None without any."""
  if not len(each.matches):
    return None
  return int(each.matches[np.argmax(each.similarity[each.matches])])


def _junk_similarities(
  evaluation: Evaluation, queries: np.ndarray
) -> Iterator[np.ndarray]:
  """Yields the similarities of each query to the junk, [junk]."""
  junk = evaluation.junk_embeddings
  if junk is None:
    yield from np.zeros((len(queries), 0), np.float32)
    return
  scores = EmbeddingScores(
    evaluation.query_embeddings,
    junk,
    np.arange(len(junk)),
    evaluation.rules.distance,
  )
  for start in range(0, len(queries), QUERY_BLOCK):
    block = scores.block(queries[start : start + QUERY_BLOCK])
    yield from np.asarray(block)[:, : len(junk)]
