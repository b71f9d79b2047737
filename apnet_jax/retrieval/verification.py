"""From which similarity on two images show one person, and how often not.

Two questions, both asked of the pairs of a benchmark that its rules keep. Are
these two images of one person (verification)? A threshold accepts a share of
the genuine pairs (TPR) and of the impostor pairs (FPR). Is this person in the
gallery at all (open-set identification)? A query without its person there is
answered falsely with the share FPIR, one with it finds nothing, or nothing
right, with the share FNIR. ISO/IEC 19795-1 and NIST's FRVT define these.

Every pair counts, and none is kept: similarities are counted in bins whose
edges are the thresholds, so that rates at a threshold are exact.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools

import numpy as np

from apnet_jax.retrieval.scores import Labels, Scores, each_query

# Bins of similarity, from -1 to 1: a power of two, so that they are exact.
HALF = 2**15
BINS = 2 * HALF + 1  # the last is of 1 itself
EDGES = np.arange(-HALF, HALF + 1) / HALF
# A rate is given where it would be so many errors: fewer say little.
LEAST_ERRORS = 10
RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
POINTS = 121  # of a curve, evenly over the powers of ten of the FPR


@dataclasses.dataclass(frozen=True)
class Verification:
  """Counts of similarities, by bin.

  Attributes:
    genuine: int [BINS], pairs of a query and a true match.
    impostor: int [BINS], pairs of a query and another person.
    mated: int [BINS], queries by the similarity of their closest true match.
    non_mated: int [BINS], queries by that of the closest other person, which
      is what they find where their own is not in the gallery.
  """

  genuine: np.ndarray
  impostor: np.ndarray
  mated: np.ndarray
  non_mated: np.ndarray

  @functools.cached_property
  def tpr(self) -> np.ndarray:
    """[BINS], share of the genuine pairs that are at least as alike."""
    return _share_from(self.genuine)

  @functools.cached_property
  def fpr(self) -> np.ndarray:
    """[BINS], share of the impostor pairs."""
    return _share_from(self.impostor)

  @functools.cached_property
  def fnir(self) -> np.ndarray:
    """[BINS], share of mated queries whose person is not found."""
    return 1 - _share_from(self.mated)

  @functools.cached_property
  def fpir(self) -> np.ndarray:
    """[BINS], share of non-mated queries that find somebody."""
    return _share_from(self.non_mated)

  def at(self, threshold: float) -> dict[str, float]:
    """All rates at a threshold, which is rounded up to a bin's edge.

    Raises:
      ValueError: no cosine similarity is as high.
    """
    if not threshold <= 1:
      raise ValueError(f'threshold={threshold} must be at most 1.')
    return self._at_bin(int(np.searchsorted(EDGES, threshold)))

  def at_fpr(self, rate: float) -> dict[str, float] | None:
    """At the lowest threshold whose FPR is at most this.

    None if that share of the impostor pairs is fewer than `LEAST_ERRORS`, or
    if more of them are as alike as can be.
    """
    return self._at_rate(self.fpr, self.impostor.sum(), rate)

  def at_fpir(self, rate: float) -> dict[str, float] | None:
    """At the lowest threshold whose FPIR is at most this; as `at_fpr`."""
    return self._at_rate(self.fpir, self.non_mated.sum(), rate)

  def at_equal_error(self) -> dict[str, float]:
    """Where FPR and 1 - TPR are closest; `eer` is the mean of the two."""
    miss = 1 - self.tpr
    place = int(np.argmin(np.abs(self.fpr - miss)))
    eer = float(self.fpr[place] + miss[place]) / 2
    return {'eer': eer, **self._at_bin(place)}

  def _at_rate(self, rates, number, rate):
    place = _lowest(rates, rate)
    if number * rate < LEAST_ERRORS or place == BINS:
      return None
    return self._at_bin(place)

  def _at_bin(self, place: int) -> dict[str, float]:
    return {
      'threshold': float(EDGES[place]),
      'tpr': float(self.tpr[place]),
      'fpr': float(self.fpr[place]),
      'fnir': float(self.fnir[place]),
      'fpir': float(self.fpir[place]),
    }


def _share_from(counts: np.ndarray) -> np.ndarray:
  """Share that is in a bin or above it."""
  return counts[::-1].cumsum()[::-1] / counts.sum()


def _lowest(rates: np.ndarray, rate: float) -> int:
  """The first bin whose rate is at most this, of falling ones; or BINS."""
  return int(np.searchsorted(-rates, -rate))


def count_pairs(scores: Scores, labels: Labels) -> Verification | None:
  """Counts the similarities of all pairs, a block of queries at a time.

  Pairs of a query with junk, or with its identity under its camera, are left
  out, as in the ranking. Distractors are other persons.

  Args:
    scores: cosine similarities.
    labels: at least one query has a true match.

  Returns:
    None if no gallery image is of another person.

  Raises:
    ValueError: scores are of other images than labels, or no cosines.
  """
  counts = np.zeros((4, BINS), np.int64)
  genuine, impostor, mated, non_mated = counts
  for row in each_query(scores, labels):
    bins = _bins(row.similarity)
    found = bins[row.matches]
    if len(found):
      genuine += np.bincount(found, minlength=BINS)
      mated[found.max()] += 1
    others = np.delete(bins, np.concatenate([row.matches, row.left_out]))
    if len(others):
      impostor += np.bincount(others, minlength=BINS)
      non_mated[others.max()] += 1
  return Verification(*counts) if impostor.any() else None


def _bins(similarity: np.ndarray) -> np.ndarray:
  """Rounds down to edges; rounding may have made a cosine leave -1 to 1."""
  bins = np.floor(similarity * np.float32(HALF)).astype(np.int64) + HALF
  if bins.min() < -1 or bins.max() > BINS:
    raise ValueError('similarities are not cosines: some are not in -1 to 1.')
  return bins.clip(0, BINS - 1)


def summarize(
  verification: Verification, rates: Sequence[float] = RATES
) -> dict:
  """What a result card says of the pairs, ready for JSON."""
  wanted = np.logspace(0, -np.log10(verification.impostor.sum()), POINTS)
  places = [_lowest(verification.fpr, rate) for rate in wanted]
  places = np.unique(np.minimum(places, BINS - 1))
  return {
    'similarity': 'cosine',
    'pairs': {
      'genuine': int(verification.genuine.sum()),
      'impostor': int(verification.impostor.sum()),
    },
    'equal_error': verification.at_equal_error(),
    'at_fpr': _by_rate(verification.at_fpr, rates),
    'at_fpir': _by_rate(verification.at_fpir, rates),
    'curve': {
      'threshold': EDGES[places].tolist(),
      **{
        name: [float(f'{x:.6g}') for x in getattr(verification, name)[places]]
        for name in ('tpr', 'fpr', 'fnir', 'fpir')
      },
    },
    'histogram': {
      'from': -1.0,
      'to': 1.0,
      'genuine': _coarse(verification.genuine),
      'impostor': _coarse(verification.impostor),
    },
  }


def _by_rate(at_rate, rates) -> dict[str, dict]:
  found = {f'{rate:g}': at_rate(rate) for rate in rates}
  return {rate: point for rate, point in found.items() if point}


def _coarse(counts: np.ndarray, bins: int = 128) -> list[int]:
  """The pairs of similarity 1 are in the last bin."""
  last = counts[:-1].reshape(bins, -1).sum(1)
  last[-1] += counts[-1]
  return last.tolist()


def lines(summary: Mapping) -> list[str]:
  """The least that a person should see of `summarize`."""
  pairs, equal = summary['pairs'], summary['equal_error']
  text = [
    f'One person or two? {pairs["genuine"]:,} pairs of one,'
    f' {pairs["impostor"]:,} of two: equal error rate'
    f' {100 * equal["eer"]:.2f}% at similarity {equal["threshold"]:.3f}',
    *(
      f'  FPR {rate:>6}: TPR {100 * point["tpr"]:5.1f}% from similarity'
      f' {point["threshold"]:.3f}'
      for rate, point in summary['at_fpr'].items()
    ),
  ]
  if summary['at_fpir']:
    text.append('Is the person in the gallery?')
  text += [
    f'  FPIR {rate:>5}: FNIR {100 * point["fnir"]:4.1f}% from similarity'
    f' {point["threshold"]:.3f}'
    for rate, point in summary['at_fpir'].items()
  ]
  return text
