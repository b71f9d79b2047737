"""Expected single-gallery-shot CMC, the protocol of CUHK03's old split.

The protocol draws one gallery image of each identity, so that a query has at
most one match. Other projects draw ten times and report the mean, which depends
on the seed. This module computes the expected value instead. The probability
that the image drawn of another identity is closer than the match is the share
of that identity's images that are closer. Draws are independent, so the number
of closer identities has a Poisson binomial distribution.
"""

import dataclasses

import numpy as np
from tqdm import tqdm

from apnet_jax.retrieval.metrics import RetrievalResult
from apnet_jax.retrieval.scores import Labels, Scores, iterate_queries


def single_gallery_shot(
  result: RetrievalResult,
  scores: Scores,
  labels: Labels,
  gallery_pids: np.ndarray,
  max_rank: int = 50,
) -> RetrievalResult:
  """Returns a result with the expected CMC of a single-shot gallery.

  mAP and mINP remain those of the whole gallery, as in torchreid. Ties rank by
  gallery index. The time is proportional to queries x gallery x identities, so
  this is meant for small galleries.

  Args:
    result: the result of `evaluate_scores`.
    scores: the scores that were evaluated.
    labels: the labels that were evaluated.
    gallery_pids: int [gallery], identities of the kept gallery. Distractors
      with the same number count as one identity.
    max_rank: length of the CMC curve, at most the number of identities.

  Raises:
    ValueError: gallery_pids have another length than the kept gallery, or
      max_rank is below 1.
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
  for each in tqdm(
    iterate_queries(scores, labels, valid),
    'Single shot', len(valid), leave=False, unit=' queries', delay=1,
  ):  # fmt: skip
    closer = _closer_shares(each.similarity, codes, each.matches)
    query_cmc[each.query] = _cumulative_probabilities(closer, length).mean(0)
  return dataclasses.replace(
    result,
    query_cmc=query_cmc,
    cmc=query_cmc[valid].mean(0, dtype=np.float64),
  )


def _closer_shares(similarity, codes, matches) -> np.ndarray:
  """Computes the share of each identity's images that rank before a match.

  Args:
    similarity: float32 [gallery], similarities to one query.
    codes: int [gallery], numbers of the identities, from 0.
    matches: int [matches], indices of the query's true matches.

  Returns:
    [matches, identities], shares of images that are closer than each match; 0
    for the query's own identity.
  """
  order = np.argsort(-similarity, kind='stable')
  seen = np.zeros((len(order) + 1, codes.max() + 1), np.int32)
  seen[np.arange(len(order)) + 1, codes[order]] = 1
  seen = seen.cumsum(0)
  place = np.flatnonzero(np.isin(order, matches))
  shares = seen[place] / seen[-1]
  shares[:, codes[matches[0]]] = 0
  return shares


def _cumulative_probabilities(
  probabilities: np.ndarray, length: int
) -> np.ndarray:
  """Computes the cumulative Poisson binomial distribution, by recurrence.

  Args:
    probabilities: [..., events], probabilities of independent events.
    length: number of values to compute.

  Returns:
    [..., length], probabilities that at most 0, 1, ... of the events occur.
  """
  exactly = np.zeros((*probabilities.shape[:-1], length))
  exactly[..., 0] = 1
  for p in np.moveaxis(probabilities, -1, 0)[..., None]:
    if p.any():  # no image of most identities is closer
      one_more = exactly * p
      exactly *= 1 - p
      exactly[..., 1:] += one_more[..., :-1]
  return exactly.cumsum(-1)
