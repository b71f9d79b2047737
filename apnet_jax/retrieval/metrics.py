"""Computes CMC, mAP and mINP by counting, without sorting the gallery.

All three depend only on the ranks of a query's true matches. The rank of a
match is one plus the number of valid gallery images that are closer to the
query. Similarities are therefore computed for a block of queries at a time and
compared with those of the matches. The matrix of all queries and gallery images
is never in memory.
"""

from collections.abc import Iterator
import dataclasses

from jax import lax
import jax.numpy as jnp
import numpy as np

from apnet_jax.errors import UserError
from apnet_jax.parallel import sharded_gallery
from apnet_jax.parallel.devices import AXIS
from apnet_jax.retrieval.scores import (
  TILE,
  EmbeddingScores,
  Labels,
  Scores,
  check_embeddings,
  check_sizes,
  shard_similarities,
)

TABLE_RANKS = (1, 5, 10)  # the ranks in tables
FEW_QUERIES = 10  # figures of fewer queries mean little
# Largest number of queries in a block. More make neither the product nor the
# counting faster.
QUERY_BLOCK = 512
# Largest number of similarities in a block, 0.2 GB. A large gallery has
# smaller blocks of queries.
BLOCK_ENTRIES = 3 * 2**24


@dataclasses.dataclass(frozen=True)
class RetrievalResult:
  """Figures of a ranking, as fractions of 1.

  A query without a true match is skipped: it counts in no mean, and its own
  figures are NaN.

  Attributes:
    mAP: mean average precision in step form. The average precision of a query
      is the mean of i / rank_i over its matches, as in torchreid, fast-reid and
      the released APNet code.
    mAP_trapezoid: mean average precision by the trapezoid rule, as in
      Market-1501's own code.
    mINP: mean inverse negative penalty, which is the number of matches over the
      rank of the last one (Ye et al., TPAMI 2021).
    cmc: float64 [max_rank]; cmc[k - 1] is Rank-k, the share of queries with a
      match among the first k images.
    num_valid_queries: number of queries with at least one true match.
    num_skipped_queries: number of queries without a true match.
    average_precision: float64 [queries], step form.
    average_precision_trapezoid: float64 [queries], trapezoid rule.
    inverse_negative_penalty: float64 [queries].
    query_cmc: float32 [queries, max_rank], the CMC curve of each query: 0
      before the rank of the first match, 1 from there on.
    first_match_rank: int [queries], from 1; 0 where skipped.
    num_matches: int [queries], number of true matches in the gallery.
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

  @property
  def based_on(self) -> str:
    """The number of queries behind the figures, as '11 of 80 queries'."""
    return describe_queries(self.num_valid_queries, self.num_skipped_queries)

  @property
  def warning(self) -> str:
    """A warning if the figures are those of few queries, or ''."""
    return few_queries_warning(self.num_valid_queries)

  def rank(self, k: int) -> float:
    """Returns Rank-k; if k is beyond the CMC curve, the last value there."""
    return float(self.cmc[min(k, len(self.cmc)) - 1])

  def query_figures(self, ap: str = 'step') -> dict[str, np.ndarray]:
    """Returns the figures of each query by name, [queries] each.

    Args:
      ap: form of the average precision, 'step' or 'trapezoid'.

    Returns:
      mAP, mINP and a Rank-k for each of `TABLE_RANKS`; NaN where skipped.
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
    """Returns mAP, mINP and Rank-k by name: means over the valid queries.

    Args:
      ap: form of the average precision, 'step' or 'trapezoid'.
    """
    return {
      name: float(values[~np.isnan(values)].mean(dtype=np.float64))
      for name, values in self.query_figures(ap).items()
    }


def describe_queries(valid: int, skipped: int) -> str:
  """Returns the number of queries behind figures, as '11 of 80 queries'.

  Args:
    valid: number of queries with a true match, which the figures average.
    skipped: number of queries without a true match.
  """
  of_all = f'{valid:,} of {valid + skipped:,}' if skipped else f'{valid:,}'
  return f'{of_all} {"query" if valid + skipped == 1 else "queries"}'


def few_queries_warning(valid: int) -> str:
  """Returns a warning if only few queries have a true match, or ''."""
  if valid >= FEW_QUERIES:
    return ''
  return (
    f'Warning: only {valid} {"query has" if valid == 1 else "queries have"} a'
    f' true match. Figures of fewer than {FEW_QUERIES} queries mean little.'
  )


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
  """Ranks the gallery for each query and evaluates under Market-1501's rules.

  The ranking of a query excludes junk (identity -1) and gallery images of its
  identity under its camera. It includes other images of that camera. Ties rank
  by gallery index. (Zheng et al., Scalable Person Re-identification: A
  Benchmark, ICCV 2015.)

  Args:
    query_embeddings: float [queries, features]; need not be normalised.
    query_pids: int [queries], identities.
    query_camids: int [queries], cameras. None if cameras are unknown; then
      `gallery_camids` must be None too, and only junk is excluded.
    gallery_embeddings: float [gallery, features]. A memory map (`np.memmap`)
      is not copied into memory.
    gallery_pids: int [gallery], identities. -1 is junk. An identity that no
      query has (0 in Market-1501) is a distractor.
    gallery_camids: int [gallery], cameras.
    max_rank: length of the CMC curve, at most the size of the gallery without
      junk.
    distance: 'cosine', or 'euclidean' for embeddings that are not normalised.
      Both are computed in float32.

  Raises:
    UserError: an embedding is not finite or, for cosine, is zero; or no query
      has a true match.
    ValueError: shapes do not fit together, ids are not integers, cameras of one
      side only are None, a query is junk, max_rank is below 1, or the distance
      is unknown.
  """
  query = check_embeddings('query_embeddings', query_embeddings)
  gallery = check_embeddings('gallery_embeddings', gallery_embeddings)
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
  """Evaluates the ranking by given similarities; see `evaluate_retrieval`.

  Args:
    scores: similarities of the queries to the gallery without junk.
    labels: labels of the same images.
    max_rank: length of the CMC curve, at most the size of the gallery without
      junk.

  Raises:
    UserError: no query has a true match.
    ValueError: scores and labels have different numbers of images, a similarity
      is NaN, or max_rank is below 1.
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
  """Computes the ranks of the true matches, a block of queries at a time.

  Yields:
    rows: int [block], rows of queries that have matches. All blocks have one
      shape, so that counting is compiled once: the last query fills the last
      block.
    ranks: int [block, matches], from 1, unsorted. For a query with fewer
      matches, the numbers beyond these have no meaning.
  """
  number = labels.num_matches
  # A block takes as long as its query with the most matches. Queries with
  # similar numbers of matches therefore share a block.
  order = np.argsort(number, kind='stable')[np.count_nonzero(number == 0) :]
  matches, excluded = (
    _round_up(n.max(), 16) for n in (number, labels.num_excluded)
  )
  # A match takes the memory of about 8 similarities: some int32 and float32,
  # and two int64 for its index.
  entries = scores.gallery + 8 * (matches + excluded)
  limit = min(QUERY_BLOCK, max(1, BLOCK_ENTRIES // entries))
  blocks = -(-len(order) // limit)
  size = min(limit, _round_up(-(-len(order) // blocks), 32))
  order = np.pad(order, (0, -len(order) % size), mode='edge')
  for rows in order.reshape(-1, size):
    similarities = scores.block(rows)
    if isinstance(similarities, np.ndarray):
      similarities = shard_similarities(similarities)
    closer = _count_closer(
      similarities,
      labels.matches(rows, matches),
      labels.excluded(rows, excluded),
      number[rows].max(),
    )
    del similarities  # before the next block takes as much memory
    yield rows, np.asarray(closer)[:, : number[rows].max()] + 1


def _round_up(number: int, divisor: int) -> int:
  """Returns the smallest multiple of a divisor that is at least a number."""
  return -(-int(number) // divisor) * divisor


@sharded_gallery.map_columns
def _count_closer(block, matches, excluded, used):
  """Counts the valid gallery images that are closer than each match.

  Args:
    block: float32 [queries, columns], similarities to the gallery images of
      this device, in equal tiles; see `sharded_gallery.padded_rows`.
    matches: int32 [queries, matches], indices of gallery images, then -1.
    excluded: int32 [queries, excluded], indices of gallery images, then -1.
    used: int, number of columns of `matches` to count for.

  Returns:
    int32 [queries, matches], counts over the gallery images of all devices.
  """
  columns = block.shape[1]
  tiles = -(-columns // TILE)
  tile = columns // tiles
  first = lax.axis_index(AXIS) * columns

  def is_local(items):
    return (items >= first) & (items < first + columns)

  def similarity(items):
    """Looks up similarities in the block, so that an image ties with itself."""
    column = jnp.clip(items - first, 0, columns - 1)
    values = jnp.take_along_axis(block, column, 1)
    return lax.psum(jnp.where(is_local(items), values, 0), AXIS)

  match_similarity = similarity(matches)
  excluded_similarity = similarity(excluded)

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
    """Subtracts the excluded images from the counts of match m.

    `count_tile` has counted these images, too.
    """
    closer = _closer(
      excluded_similarity, excluded, match_similarity[:, m], matches[:, m]
    )
    return counts.at[m].add(-(closer & is_local(excluded)).sum(1))

  counts = jnp.zeros(matches.shape[::-1], jnp.int32)
  counts = lax.fori_loop(0, tiles, count_tile, counts)
  counts = lax.fori_loop(0, used, discount, counts)
  return lax.psum(counts, AXIS).T


def _closer(similarities, items, match_similarity, match):
  """Marks the gallery images that rank before a match of each query.

  Args:
    similarities: float32 [queries, images].
    items: int [images] or [queries, images], indices of the gallery images.
    match_similarity: float32 [queries], similarity to the match of each query.
    match: int [queries], index of this match.

  Returns:
    bool [queries, images].
  """
  tie = similarities == match_similarity[:, None]
  earlier = items < match[:, None]
  return (similarities > match_similarity[:, None]) | (tie & earlier)


def _figures(ranks: np.ndarray, number: np.ndarray) -> np.ndarray:
  """Computes the figures of queries from the ranks of their matches.

  Args:
    ranks: int [queries, matches] in any order. Only the first `number` columns
      of a row are used.
    number: int [queries], numbers of matches, at least 1.

  Returns:
    [4, queries]: AP in step form, AP by the trapezoid rule, INP, first rank.
  """
  i = np.arange(1, ranks.shape[1] + 1)
  valid = i <= number[:, None]
  # Unused columns are sorted to the end.
  ranks = np.sort(np.where(valid, ranks, np.iinfo(ranks.dtype).max), axis=1)
  precision = i / ranks
  before = np.where(ranks == 1, 1, (i - 1) / np.maximum(ranks - 1, 1))
  step = (precision * valid).sum(1) / number
  trapezoid = ((precision + before) * valid).sum(1) / (2 * number)
  last = ranks[np.arange(len(ranks)), number - 1]
  return np.stack([step, trapezoid, number / last, ranks[:, 0]])
