"""CMC, mAP and mINP of a ranking that is never made.

All three depend only on the ranks of a query's true matches, and the rank of a
match is one plus the number of valid gallery images that are closer to the
query. So similarities are computed for a block of queries at a time, counted,
and forgotten: nothing is sorted, and queries x gallery is never held.
"""

from collections.abc import Iterator
import dataclasses

from jax import lax
import jax.numpy as jnp
import numpy as np

from apnet_jax.errors import UserError
from apnet_jax.parallel import devices
from apnet_jax.retrieval.scores import (
  TILE,
  EmbeddingScores,
  Labels,
  Scores,
  as_embeddings,
  check_sizes,
  on_devices,
)

AP_FORMS = ('step', 'trapezoid')
TABLE_RANKS = (1, 5, 10)  # that people compare
# Queries at a time: more make neither product nor count faster. Fewer if the
# block of queries by gallery would have more entries than this: 0.27 GB.
QUERY_BLOCK = 512
BLOCK_ENTRIES = 2**26


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
    average_precision_trapezoid: [queries], NaN where skipped.
    inverse_negative_penalty: [queries], NaN where skipped.
    query_cmc: float32 [queries, max_rank], whose mean `cmc` is: 1 from the rank
      of the first match on, NaN where skipped.
    first_match_rank: int [queries], 1-based, 0 where skipped.
    num_matches: int [queries], true matches in the gallery.
  """

  mAP: float
  mAP_trapezoid: float
  mINP: float
  cmc: np.ndarray
  num_valid_queries: int
  num_skipped_queries: int
  average_precision: np.ndarray
  average_precision_trapezoid: np.ndarray
  inverse_negative_penalty: np.ndarray
  query_cmc: np.ndarray
  first_match_rank: np.ndarray
  num_matches: np.ndarray

  def rank(self, k: int) -> float:
    """Rank-k; the last value of the curve where that is shorter."""
    return float(self.cmc[min(k, len(self.cmc)) - 1])

  def query_figures(self, ap: str = 'step') -> dict[str, np.ndarray]:
    """What the figures are means of: [queries] each, NaN where skipped.

    Args:
      ap: form of the average precision, one of `AP_FORMS`.
    """
    precision = {
      'step': self.average_precision,
      'trapezoid': self.average_precision_trapezoid,
    }
    last = len(self.cmc) - 1
    return {
      'mAP': precision[ap],
      'mINP': self.inverse_negative_penalty,
      **{f'Rank-{k}': self.query_cmc[:, min(k - 1, last)] for k in TABLE_RANKS},
    }

  def figures(self, ap: str = 'step') -> dict[str, float]:
    """The figures that people compare, as fractions of 1."""
    return {
      name: float(values[~np.isnan(values)].mean(dtype=np.float64))
      for name, values in self.query_figures(ap).items()
    }


def evaluate_retrieval(
  query_embeddings: np.ndarray,
  query_pids: np.ndarray,
  query_camids: np.ndarray | None,
  gallery_embeddings: np.ndarray,
  gallery_pids: np.ndarray,
  gallery_camids: np.ndarray | None,
  max_rank: int = 50,
  distance: str = 'cosine',
) -> RetrievalResult:
  """Evaluates a ranking by distance under Market-1501's rules.

  For each query, gallery images of the same identity under the same camera and
  junk (pid -1) are left out; other images of the same camera stay. Ties rank by
  gallery index. Zheng et al., Scalable Person Re-identification: A Benchmark,
  ICCV 2015.

  Args:
    query_embeddings: float [queries, features]; need not be normalised.
    query_pids: int [queries].
    query_camids: int [queries]; None, as `gallery_camids` then must be, if no
      cameras are known: nothing but junk is left out.
    gallery_embeddings: float [gallery, features].
    gallery_pids: int [gallery]; -1 is junk. An identity that no query has (0
      in Market-1501) is a distractor.
    gallery_camids: int [gallery].
    max_rank: length of the CMC curve; cut to the gallery's size without junk.
    distance: 'cosine' or 'euclidean'; the latter of the embeddings as
      they are. Both are computed in float32.

  Raises:
    ValueError: lengths or widths differ, an embedding is not finite or, for
      cosine, is zero, ids are not integers, cameras of one side only are None,
      a query is junk, or no query has a match.
  """
  query = as_embeddings('query_embeddings', query_embeddings)
  gallery = as_embeddings('gallery_embeddings', gallery_embeddings)
  labels = Labels.make(
    query_pids,
    query_camids,
    gallery_pids,
    gallery_camids,
    queries=len(query),
    gallery=len(gallery),
  )
  scores = EmbeddingScores(query, gallery, labels.kept, distance)
  return evaluate_scores(scores, labels, max_rank)


def evaluate_scores(
  scores: Scores, labels: Labels, max_rank: int = 50
) -> RetrievalResult:
  """Evaluates a ranking by any similarities; see `evaluate_retrieval`.

  Raises:
    ValueError: scores and labels are of other numbers of images, or no query
      has a match.
  """
  check_sizes(scores, labels)
  queries, gallery = scores.queries, scores.gallery
  if max_rank < 1:
    raise ValueError(f'max_rank={max_rank} must be at least 1.')
  if not labels.num_matches.any():
    raise UserError(
      f'none of the {queries} queries has a true match in the gallery: an image'
      ' of the same identity under another camera.'
    )
  figures = np.full((4, queries), np.nan)
  for rows, ranks in _match_ranks(scores, labels):
    figures[:, rows] = _figures(ranks, labels.num_matches[rows])
  step, trapezoid, penalty, first = figures
  first = np.nan_to_num(first).astype(np.int64)
  valid = first > 0
  query_cmc = first[:, None] <= np.arange(1, min(max_rank, gallery) + 1)
  query_cmc = np.where(valid[:, None], query_cmc, np.float32(np.nan))
  return RetrievalResult(
    mAP=float(step[valid].mean()),
    mAP_trapezoid=float(trapezoid[valid].mean()),
    mINP=float(penalty[valid].mean()),
    cmc=query_cmc[valid].mean(0, dtype=np.float64),
    num_valid_queries=int(valid.sum()),
    num_skipped_queries=int((~valid).sum()),
    average_precision=step,
    average_precision_trapezoid=trapezoid,
    inverse_negative_penalty=penalty,
    query_cmc=query_cmc,
    first_match_rank=first,
    num_matches=labels.num_matches,
  )


def _match_ranks(
  scores: Scores, labels: Labels
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Blocks of the queries that have matches, and the ranks of these.

  Yields:
    rows: int [block] of the queries. All blocks have one shape, for one
      compilation: the last query fills the last block.
    ranks: int [block, matches], 1-based, not in order; a query with fewer
      matches has anything in its place.
  """
  number = labels.num_matches
  # A block takes the time of its query with most matches: alike ones share it.
  order = np.argsort(number, kind='stable')[np.count_nonzero(number == 0) :]
  matches, left_out = (
    _multiple(n.max(), 16) for n in (number, labels.num_left_out)
  )
  # Of each match there are some int32 and float32, and two int64 for its row.
  entries = scores.gallery + 8 * (matches + left_out)
  limit = min(QUERY_BLOCK, max(1, BLOCK_ENTRIES // entries))
  blocks = -(-len(order) // limit)
  size = min(limit, _multiple(-(-len(order) // blocks), 32))
  order = np.pad(order, (0, -len(order) % size), mode='edge')
  for rows in order.reshape(-1, size):
    similarities = scores.block(rows)
    if isinstance(similarities, np.ndarray):
      similarities = on_devices(similarities)
    closer = _count_closer(
      similarities,
      labels.matches(rows, matches),
      labels.left_out_rows(rows, left_out),
      number[rows].max(),
    )
    yield rows, np.asarray(closer)[:, : number[rows].max()] + 1


def _multiple(number: int, of: int) -> int:
  """The number, or the next one that is a multiple."""
  return -(-int(number) // of) * of


@devices.map_columns
def _count_closer(block, matches, left_out, used):
  """Valid gallery images closer than each match.

  Args:
    block: float32 [queries, columns], similarities to this device's part of
      the gallery, in tiles as of `devices.padded_rows`.
    matches: int32 [queries, matches], rows of the whole gallery, -1 for none.
    left_out: int32 [queries, left out], the same.
    used: int, how many of the matches are counted for.

  Returns:
    int32 [queries, matches], of the whole gallery.
  """
  columns = block.shape[1]
  tiles = -(-columns // TILE)
  tile = columns // tiles
  first = lax.axis_index(devices.AXIS) * columns

  def own(items):
    return (items >= first) & (items < first + columns)

  def similarity(items):
    """Taken from the block, so that an item ties with itself."""
    place = jnp.clip(items - first, 0, columns - 1)
    values = jnp.where(own(items), jnp.take_along_axis(block, place, 1), 0)
    return lax.psum(values, devices.AXIS)

  match_similarity, left_similarity = similarity(matches), similarity(left_out)

  def count_tile(t, counts):
    start = t * tile
    similarities = lax.dynamic_slice_in_dim(block, start, tile, 1)
    items = first + start + jnp.arange(tile)

    def count(m, counts):
      closer = _closer(
        similarities, items, match_similarity[:, m], matches[:, m]
      )
      return counts.at[m].add(closer.astype(jnp.int32).sum(1))

    return lax.fori_loop(0, used, count, counts)

  def discount(m, counts):
    """What is left out has been counted, by the device that owns it."""
    closer = _closer(
      left_similarity, left_out, match_similarity[:, m], matches[:, m]
    )
    return counts.at[m].add(-(closer & own(left_out)).sum(1))

  counts = jnp.zeros(matches.shape[::-1], jnp.int32)
  counts = lax.fori_loop(0, tiles, count_tile, counts)
  counts = lax.fori_loop(0, used, discount, counts)
  return lax.psum(counts, devices.AXIS).T


def _closer(similarities, items, match_similarity, match):
  """Whether items rank before a match, by row; ties by gallery index."""
  tie = similarities == match_similarity[:, None]
  earlier = items < match[:, None]
  return (similarities > match_similarity[:, None]) | (tie & earlier)


def _figures(ranks: np.ndarray, number: np.ndarray) -> np.ndarray:
  """Figures of queries from the ranks of their matches.

  Args:
    ranks: int [queries, matches] in any order; those beyond `number` count not.
    number: int [queries], at least 1.

  Returns:
    [4, queries]: AP in step form and by trapezoids, INP, the first rank.
  """
  i = np.arange(1, ranks.shape[1] + 1)
  valid = i <= number[:, None]
  # Sorts the others to the end.
  ranks = np.sort(np.where(valid, ranks, np.iinfo(ranks.dtype).max), axis=1)
  precision = i / ranks
  before = np.where(ranks == 1, 1, (i - 1) / np.maximum(ranks - 1, 1))
  step = (precision * valid).sum(1) / number
  trapezoid = ((precision + before) * valid).sum(1) / (2 * number)
  last = ranks[np.arange(len(ranks)), number - 1]
  return np.stack([step, trapezoid, number / last, ranks[:, 0]])
