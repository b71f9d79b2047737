"""CMC, mAP and mINP of a ranking that is never made.

All three depend only on the ranks of a query's true matches, and the rank of a
match is one plus the number of valid gallery images that are closer to the
query. So distances are computed for a block of queries at a time, counted, and
forgotten: nothing is sorted, and queries x gallery is never held.
"""

import dataclasses

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

JUNK_PID = -1
QUERY_BLOCK = 128


@dataclasses.dataclass(frozen=True)
class RetrievalResult:
  """Figures over the valid queries, as fractions of 1.

  Attributes:
    mAP: mean average precision, step form: mean of i / rank_i over the matches
      (what torchreid, fast-reid and the released APNet code report).
    mAP_trapezoid: the same with the trapezoid rule (Market-1501's own code).
    mINP: mean inverse negative penalty: matches / rank of the last match
      (Ye et al., TPAMI 2021).
    cmc: [max_rank]; cmc[k - 1] is Rank-k, the share of queries with a match
      among the first k.
    num_valid_queries: queries with at least one true match.
    num_skipped_queries: queries without; they count in no figure.
    average_precision: [queries] step form, NaN where skipped.
    first_match_rank: int [queries], 1-based, 0 where skipped.
  """

  mAP: float
  mAP_trapezoid: float
  mINP: float
  cmc: np.ndarray
  num_valid_queries: int
  num_skipped_queries: int
  average_precision: np.ndarray
  first_match_rank: np.ndarray

  def rank(self, k: int) -> float:
    """Rank-k; the last value of the curve where the gallery is smaller."""
    return float(self.cmc[min(k, len(self.cmc)) - 1])


def evaluate_retrieval(
  query_embeddings: np.ndarray,
  query_pids: np.ndarray,
  query_camids: np.ndarray,
  gallery_embeddings: np.ndarray,
  gallery_pids: np.ndarray,
  gallery_camids: np.ndarray,
  max_rank: int = 50,
) -> RetrievalResult:
  """Evaluates a ranking by cosine distance under Market-1501's rules.

  For each query, gallery images of the same identity under the same camera and
  junk (pid -1) are left out; other images of the same camera stay. Ties rank by
  gallery index. Zheng et al., Scalable Person Re-identification: A Benchmark,
  ICCV 2015.

  Args:
    query_embeddings: float [queries, features]; need not be normalised.
    query_pids: int [queries].
    query_camids: int [queries].
    gallery_embeddings: float [gallery, features].
    gallery_pids: int [gallery]; -1 is junk. An identity that no query has (0
      in Market-1501) is a distractor.
    gallery_camids: int [gallery].
    max_rank: length of the CMC curve; cut to the gallery's size without junk.

  Raises:
    ValueError: lengths or widths differ, an embedding is not finite or is zero,
      ids are not integers, a query is junk, or no query has a match.
  """
  query = _normalized('query_embeddings', query_embeddings)
  gallery = _normalized('gallery_embeddings', gallery_embeddings)
  if query.shape[1] != gallery.shape[1]:
    raise ValueError(
      f'query_embeddings have {query.shape[1]} features,'
      f' gallery_embeddings {gallery.shape[1]}.'
    )
  query_pids = _ids('query_pids', query_pids, len(query))
  query_camids = _ids('query_camids', query_camids, len(query))
  gallery_pids = _ids('gallery_pids', gallery_pids, len(gallery))
  gallery_camids = _ids('gallery_camids', gallery_camids, len(gallery))
  if (query_pids == JUNK_PID).any():
    row = int(np.argmax(query_pids == JUNK_PID))
    raise ValueError(f'query_pids[{row}]={JUNK_PID} is junk, not a query.')
  if max_rank < 1:
    raise ValueError(f'max_rank={max_rank} must be at least 1.')

  kept = gallery_pids != JUNK_PID
  gallery = gallery[kept]
  gallery_pids, gallery_camids = gallery_pids[kept], gallery_camids[kept]
  ranks = _match_ranks(
    query, query_pids, query_camids, gallery, gallery_pids, gallery_camids
  )
  return _summarize(ranks, min(max_rank, len(gallery)))


def _normalized(name: str, embeddings: np.ndarray) -> np.ndarray:
  embeddings = np.asarray(embeddings)
  if embeddings.ndim != 2 or not len(embeddings):
    raise ValueError(
      f'{name} has shape {embeddings.shape}, not [images, features].'
    )
  embeddings = embeddings.astype(np.float32, copy=False)
  norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
  bad = ~np.isfinite(norms) | (norms == 0)
  if bad.any():
    rows = np.flatnonzero(bad)
    raise ValueError(
      f'{name} has {len(rows)} rows that are zero or not finite:'
      f' {rows[:5].tolist()}{" ..." if len(rows) > 5 else ""}.'
    )
  return embeddings / norms


def _ids(name: str, ids: np.ndarray, length: int) -> np.ndarray:
  ids = np.asarray(ids)
  if ids.shape != (length,):
    raise ValueError(
      f'{name} has shape {ids.shape}; there are {length} embeddings.'
    )
  if not np.issubdtype(ids.dtype, np.integer):
    raise ValueError(f'{name} are {ids.dtype}, not integers.')
  return ids.astype(np.int64)


def _match_ranks(
  query, query_pids, query_camids, gallery, gallery_pids, gallery_camids
) -> list[np.ndarray]:
  """1-based ranks of each query's true matches, ascending."""
  by_pid = _indices_by_value(gallery_pids)
  none = np.empty(0, np.int64)
  same_pid = [by_pid.get(pid, none) for pid in query_pids.tolist()]
  matches, removed = [], []
  for indices, camid in zip(same_pid, query_camids):
    same_camera = gallery_camids[indices] == camid
    matches.append(indices[~same_camera])
    removed.append(indices[same_camera])

  # Queries with alike numbers of matches share a block, for the padding.
  order = np.argsort([len(m) for m in matches], kind='stable')
  ranks = [none] * len(query)
  gallery = jnp.asarray(gallery)
  for start in range(0, len(order), QUERY_BLOCK):
    rows = order[start : start + QUERY_BLOCK]
    block_matches = _pad([matches[row] for row in rows])
    if block_matches.shape[1] == 0:
      continue
    block = np.zeros((QUERY_BLOCK, query.shape[1]), np.float32)
    block[: len(rows)] = query[rows]
    closer = np.asarray(
      _count_closer(
        block, gallery, block_matches, _pad([removed[row] for row in rows])
      )
    )
    for row, counts in zip(rows, closer):
      ranks[row] = np.sort(counts[: len(matches[row])]).astype(np.int64) + 1
  return ranks


def _indices_by_value(values: np.ndarray) -> dict[int, np.ndarray]:
  order = np.argsort(values, kind='stable')
  unique, starts = np.unique(values[order], return_index=True)
  return dict(zip(unique.tolist(), np.split(order, starts[1:])))


def _pad(lists: list[np.ndarray]) -> np.ndarray:
  """Rows of indices, -1 padded to a block and to a power of two."""
  longest = max(len(indices) for indices in lists)
  width = 1 << (longest - 1).bit_length() if longest else 0
  padded = np.full((QUERY_BLOCK, width), -1, np.int32)
  for row, indices in zip(padded, lists):
    row[: len(indices)] = indices
  return padded


@jax.jit
def _count_closer(query, gallery, matches, removed):
  """Valid gallery items closer than each match: int32 [block, matches]."""
  similarity = jnp.matmul(query, gallery.T, precision=lax.Precision.HIGHEST)
  index = jnp.arange(len(gallery))
  match_similarity = jnp.take_along_axis(similarity, matches, 1)
  removed_similarity = jnp.take_along_axis(similarity, removed, 1)

  def closer(similarity, index, match):
    """Whether an item ranks before a match; ties by gallery index."""
    match_similarity, match_index = match
    tie = (similarity == match_similarity[:, None]) & (
      index < match_index[:, None]
    )
    return (similarity > match_similarity[:, None]) | tie

  def count(match):
    items = closer(similarity, index, match).sum(1)
    # What is left out for this query was counted too.
    left_out = closer(removed_similarity, removed, match) & (removed >= 0)
    return items - left_out.sum(1)

  return lax.map(count, (match_similarity.T, matches.T)).T


def _summarize(ranks: list[np.ndarray], max_rank: int) -> RetrievalResult:
  valid = [r for r in ranks if len(r)]
  if not valid:
    raise ValueError(
      f'none of the {len(ranks)} queries has a true match in the gallery: an'
      ' image of the same identity under another camera.'
    )
  step, trapezoid, penalty = [], [], []
  for r in valid:
    i = np.arange(1, len(r) + 1)
    precision = i / r
    before = np.where(r == 1, 1.0, (i - 1) / np.maximum(r - 1, 1))
    step.append(precision.mean())
    trapezoid.append((precision + before).mean() / 2)
    penalty.append(len(r) / r[-1])
  first = np.array([r[0] if len(r) else 0 for r in ranks])
  hits = np.bincount(first[first > 0] - 1, minlength=max_rank)[:max_rank]
  average_precision = np.full(len(ranks), np.nan)
  average_precision[first > 0] = step
  return RetrievalResult(
    mAP=float(np.mean(step)),
    mAP_trapezoid=float(np.mean(trapezoid)),
    mINP=float(np.mean(penalty)),
    cmc=np.cumsum(hits) / len(valid),
    num_valid_queries=len(valid),
    num_skipped_queries=len(ranks) - len(valid),
    average_precision=average_precision,
    first_match_rank=first,
  )
