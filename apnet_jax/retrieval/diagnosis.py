"""Breaks figures down by camera and number of matches; lists hard queries."""

from collections.abc import Mapping

import numpy as np

from apnet_jax.feed import Benchmark
from apnet_jax.retrieval.evaluation import Evaluation, label_and_score, rank
from apnet_jax.retrieval.metrics import evaluate_scores

NUM_HARDEST = 20
FIGURES = ('mAP', 'Rank-1')  # by number of matches


def diagnose(evaluation: Evaluation, benchmark: Benchmark) -> dict:
  """Breaks figures down by camera and number of matches; lists hard queries.

  Returns:
    The entry `diagnosis` of a result card, with the results of `by_cameras`
    (None if cameras are unknown), `by_matches` and `hardest`.
  """
  return {
    'by_cameras': by_cameras(evaluation, benchmark)
    if benchmark.has_cameras
    else None,
    'by_matches': by_matches(evaluation),
    'hardest': hardest(evaluation, benchmark),
  }


def by_cameras(evaluation: Evaluation, benchmark: Benchmark) -> dict:
  """Computes mAP for each pair of a query camera and a gallery camera.

  For each gallery camera, queries are ranked against its images alone.

  Returns:
    `query_cameras` and `gallery_cameras`: numbers of the cameras, as
    in the files of the images.
    `queries[i][j]`: number of queries of query camera i with a match under
    gallery camera j. `mAP[i][j]`: their mAP, None if there are none.
  """
  query, gallery = benchmark.query, benchmark.gallery
  rows = evaluation.gallery_rows
  cameras = np.unique(query.camids), np.unique(gallery.camids[rows])
  queries = np.zeros(tuple(map(len, cameras)), int)
  mean = np.full(queries.shape, np.nan)
  for j, camera in enumerate(cameras[1]):
    precision = _precision_under(camera, evaluation, benchmark)
    for i, query_camera in enumerate(cameras[0]):
      found = precision[query.camids == query_camera]
      found = found[~np.isnan(found)]
      queries[i, j] = len(found)
      if len(found):
        mean[i, j] = found.mean()
  return {
    'query_cameras': (cameras[0] + benchmark.first_camera).tolist(),
    'gallery_cameras': (cameras[1] + benchmark.first_camera).tolist(),
    'queries': queries.tolist(),
    'mAP': [[None if np.isnan(x) else round(x, 6) for x in r] for r in mean],
  }


def _precision_under(camera, evaluation, benchmark) -> np.ndarray:
  """Returns the AP of each query in a gallery of one camera's images.

  Args:
    camera: number of the camera in `camids`.
    evaluation: an evaluation of the benchmark.
    benchmark: queries and gallery.

  Returns:
    float64 [queries], NaN for queries without a match.
  """
  gallery, rules = benchmark.gallery, evaluation.rules
  some = np.flatnonzero(gallery.camids[evaluation.gallery_rows] == camera)
  labels, scores = label_and_score(
    benchmark,
    evaluation.gallery_rows[some],
    evaluation.query_embeddings,
    evaluation.gallery_embeddings[some],
    rules,
  )
  if not labels.num_matches.any():
    return np.full(scores.queries, np.nan)
  result = evaluate_scores(scores, labels, rules.max_rank)
  return result.query_figures(rules.ap)['mAP']


def by_matches(evaluation: Evaluation) -> list[dict]:
  """Computes mAP and Rank-1 of queries by their number of true matches.

  Returns:
    Groups of queries with 1, 2, 3 to 4, 5 to 8, ... matches: `from` and `to`,
    number of `queries`, and `FIGURES`. Empty groups are omitted.
  """
  number = evaluation.result.num_matches
  values = evaluation.query_figures
  rows, low, high = [], 1, 1
  while low <= number.max():
    some = (low <= number) & (number <= high)
    if some.any():
      means = {name: float(values[name][some].mean()) for name in FIGURES}
      rows.append(
        {'from': low, 'to': high, 'queries': int(some.sum()), **means}
      )
    low, high = high + 1, 2 * high
  return rows


def by_difficulty(evaluation: Evaluation) -> np.ndarray:
  """Returns the rows of the queries with a true match, lowest AP first."""
  precision = evaluation.query_figures['mAP']
  order = np.argsort(precision, kind='stable')  # skipped queries, NaN, are last
  return order[: evaluation.result.num_valid_queries]


def hardest(evaluation: Evaluation, benchmark: Benchmark) -> list[dict]:
  """Lists the `NUM_HARDEST` queries with the lowest AP, and what each found.

  Returns:
    For each query its name (`query`), `identity`, `AP`, number of `matches`,
    `first_match_rank`, and the closest image that the rules rank (`found`,
    `found_identity`).
  """
  query, gallery = benchmark.query, benchmark.gallery
  result = evaluation.result
  precision = evaluation.query_figures['mAP']
  rankings = rank(evaluation, by_difficulty(evaluation)[:NUM_HARDEST], top=1)
  return [
    {
      'query': str(query.paths[ranking.query]),
      'identity': int(query.pids[ranking.query]),
      'AP': round(float(precision[ranking.query]), 6),
      'matches': int(result.num_matches[ranking.query]),
      'first_match_rank': int(result.first_match_rank[ranking.query]),
      'found': str(gallery.paths[ranking.found[0]]),
      'found_identity': int(gallery.pids[ranking.found[0]]),
    }
    for ranking in rankings
  ]


def lines(diagnosis: Mapping) -> list[str]:
  """Formats the figures by number of matches for the terminal.

  Args:
    diagnosis: the result of `diagnose`.
  """
  text = ['By number of true matches:']
  for row in diagnosis['by_matches']:
    span = f'{row["from"]}'
    if row['to'] > row['from']:
      span += f' to {row["to"]}'
    text.append(
      f'  {span:12}{row["queries"]:7,} queries  mAP {100 * row["mAP"]:5.1f}'
      f'  Rank-1 {100 * row["Rank-1"]:5.1f}'
    )
  return text
