"""Where a network fails: between which cameras, on which queries."""

from collections.abc import Mapping

import numpy as np

from apnet_jax.feed import Benchmark
from apnet_jax.retrieval.evaluation import Evaluation, label_and_score, rank
from apnet_jax.retrieval.metrics import evaluate_scores

HARDEST = 20
FIGURES = ('mAP', 'Rank-1')


def diagnose(evaluation: Evaluation, benchmark: Benchmark) -> dict:
  """Splits the figures of an evaluation by what may explain them.

  Args:
    evaluation: of the benchmark.
    benchmark: its labels and names are used.

  Returns:
    What a result card holds: `by_cameras` (None if no cameras are known),
    `by_matches` and `hardest`.
  """
  return {
    'by_cameras': by_cameras(evaluation, benchmark)
    if benchmark.has_cameras
    else None,
    'by_matches': by_matches(evaluation),
    'hardest': hardest(evaluation, benchmark),
  }


def by_cameras(evaluation: Evaluation, benchmark: Benchmark) -> dict:
  """Evaluates each gallery camera alone.

  Returns:
    `query_cameras` and `gallery_cameras`, numbers from 1; for each pair of
    them, [query][gallery], `queries`, how many have a match there, and `mAP`
    over these, None if there are none.
  """
  query, gallery = benchmark.query, benchmark.gallery
  rows = evaluation.gallery_rows
  cameras = np.unique(query.camids), np.unique(gallery.camids[rows])
  queries = np.zeros(tuple(map(len, cameras)), int)
  mean = np.full(queries.shape, np.nan)
  for j, camera in enumerate(cameras[1]):
    precision = _against(evaluation, benchmark, camera)
    for i, own in enumerate(cameras[0]):
      found = precision[query.camids == own]
      found = found[~np.isnan(found)]
      queries[i, j] = len(found)
      if len(found):
        mean[i, j] = found.mean()
  return {
    'query_cameras': (cameras[0] + 1).tolist(),
    'gallery_cameras': (cameras[1] + 1).tolist(),
    'queries': queries.tolist(),
    'mAP': [[None if np.isnan(x) else round(x, 6) for x in r] for r in mean],
  }


def _against(evaluation, benchmark, camera) -> np.ndarray:
  """[queries] AP in the images of one camera, NaN where there is no match."""
  gallery, rules = benchmark.gallery, evaluation.rules
  places = np.flatnonzero(gallery.camids[evaluation.gallery_rows] == camera)
  labels, scores = label_and_score(
    benchmark,
    evaluation.gallery_rows[places],
    evaluation.query_embeddings,
    evaluation.gallery_embeddings[places],
    rules,
  )
  if not labels.num_matches.any():
    return np.full(len(labels.identity), np.nan)
  result = evaluate_scores(scores, labels, rules.max_rank)
  return result.query_figures(rules.ap)['mAP']


def by_matches(evaluation: Evaluation) -> list[dict]:
  """Figures by the number of true matches: 1, 2, 3 to 4, 5 to 8 and so on."""
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
  """Rows of the valid queries, those with the lowest AP first."""
  precision = evaluation.query_figures['mAP']
  order = np.argsort(precision, kind='stable')  # NaN, the skipped, come last
  return order[: evaluation.result.num_valid_queries]


def hardest(
  evaluation: Evaluation, benchmark: Benchmark, number: int = HARDEST
) -> list[dict]:
  """The hardest queries, with who was found first instead.

  `found` is the closest gallery image that the rules keep, which shows another
  person unless `first_match_rank` is 1.
  """
  query, gallery = benchmark.query, benchmark.gallery
  result = evaluation.result
  precision = evaluation.query_figures['mAP']
  rankings = rank(evaluation, by_difficulty(evaluation)[:number], top=1)
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
  """The least that a person should see of it."""
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
