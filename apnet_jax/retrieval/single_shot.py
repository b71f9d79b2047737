"""Single-gallery-shot CMC, as on the old split of CUHK03.

Of each identity of the gallery one image is drawn, so that a query has one
match at most. Others draw ten times and report the mean, which changes with the
seed. Here is what that mean tends to: an identity is closer than the match with
the share of its images that are, and the number of closer ones is the sum of
independent such events, whose distribution is known.
"""

import dataclasses

import numpy as np
from tqdm import tqdm

from apnet_jax.retrieval.metrics import RetrievalResult
from apnet_jax.retrieval.scores import Labels, Scores, each_query


def single_gallery_shot(
  result: RetrievalResult,
  scores: Scores,
  labels: Labels,
  gallery_pids: np.ndarray,
  max_rank: int = 50,
) -> RetrievalResult:
  """Returns a result whose CMC is the expected one of a single-shot gallery.

  Precisions stay those of the whole gallery, as in torchreid. Ties go by
  gallery index. Meant for small galleries: time goes with queries x gallery x
  identities.

  Args:
    result: of `evaluate_scores`.
    scores: that it is of.
    labels: that it is of.
    gallery_pids: int [gallery], of the kept gallery, by its rows. All images of
      a number are one identity: so are the distractors that share one.
    max_rank: length of the CMC curve; cut to the gallery's identities.

  Raises:
    ValueError: gallery_pids are of another number of images.
  """
  if len(gallery_pids) != scores.gallery or max_rank < 1:
    raise ValueError(
      f'gallery_pids of {len(gallery_pids)} images for {scores.gallery}, or'
      f' max_rank={max_rank} below 1.'
    )
  identities, codes = np.unique(gallery_pids, return_inverse=True)
  length = min(max_rank, len(identities))
  query_cmc = np.full((scores.queries, length), np.nan, np.float32)
  valid = np.flatnonzero(result.num_matches)
  rows = each_query(scores, labels, valid)
  for row in tqdm(
    rows, 'Single shot', len(valid), leave=False, unit=' queries', delay=1
  ):
    closer = _closer_shares(row.similarity, codes, row.matches)
    query_cmc[row.query] = _at_most(closer, length).mean(0)
  return dataclasses.replace(
    result,
    query_cmc=query_cmc,
    cmc=query_cmc[valid].mean(0, dtype=np.float64),
  )


def _closer_shares(similarity, codes, matches) -> np.ndarray:
  """Of each other identity, the share of its images closer than each match.

  Returns:
    [matches, identities], 0 for the query's own, some of which is left out.
  """
  order = np.argsort(-similarity, kind='stable')
  seen = np.zeros((len(order) + 1, codes.max() + 1), np.int32)
  seen[np.arange(len(order)) + 1, codes[order]] = 1
  seen = seen.cumsum(0)
  place = np.flatnonzero(np.isin(order, matches))
  shares = seen[place] / seen[-1]
  shares[:, codes[matches[0]]] = 0
  return shares


def _at_most(probabilities: np.ndarray, length: int) -> np.ndarray:
  """Chances that at most 0, 1, ... of independent events occur.

  Args:
    probabilities: [..., events].
    length: of the answer.

  Returns:
    [..., length], by the recurrence of the Poisson binomial distribution.
  """
  exactly = np.zeros((*probabilities.shape[:-1], length))
  exactly[..., 0] = 1
  for p in np.moveaxis(probabilities, -1, 0)[..., None]:
    if p.any():  # most identities are never closer
      with_it = exactly * p
      exactly *= 1 - p
      exactly[..., 1:] += with_it[..., :-1]
  return exactly.cumsum(-1)
