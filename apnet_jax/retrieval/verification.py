"""Verification and open-set error rates by similarity threshold.

Verification asks whether two images show one person. At a threshold, TPR is the
share of genuine pairs (one person) that are accepted, and FPR the share of
impostor pairs (two persons).

Open-set identification asks whether the person of a query is in the gallery.
FPIR is the share of queries that find somebody although their person is not in
the gallery. FNIR is the share of queries that do not find their person although
it is there. (ISO/IEC 19795-1; NIST's FRVT.)

All pairs of a query and a gallery image count, except those that the rules of
the ranking exclude. If both images are queries and in the gallery, as without
cameras, the pair counts once. The similarities are counted in bins whose edges
are the thresholds, so that rates are exact and no pair needs to be kept.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools

import numpy as np

from apnet_jax.retrieval.scores import Labels, Scores, iterate_queries

# Bins of a cosine similarity, from -1 to 1. Their number per unit is a power of
# two, so that edges are exact in floating point.
BINS_PER_UNIT = 2**15
BINS = 2 * BINS_PER_UNIT + 1  # the last bin is for similarity 1 alone
EDGES = np.arange(-BINS_PER_UNIT, BINS_PER_UNIT + 1) / BINS_PER_UNIT
# A threshold for a rate is given only if the rate stands for at least this many
# errors in the data set; fewer would be chance.
MIN_ERRORS = 10
RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
CURVE_POINTS = 121  # spaced evenly in the logarithm of the FPR


@dataclasses.dataclass(frozen=True)
class Verification:
  """Histograms of similarities, and the error rates that follow from them.

  Attributes:
    genuine: int [BINS], numbers of pairs of a query and a true match.
    impostor: int [BINS], numbers of pairs of a query and an image of another
      person.
    mated: int [BINS], histogram over queries of the similarity to the closest
      true match.
    non_mated: int [BINS], histogram over queries of the similarity to the
      closest image of another person. That image would rank first if the person
      of the query were not in the gallery.
  """

  genuine: np.ndarray
  impostor: np.ndarray
  mated: np.ndarray
  non_mated: np.ndarray

  @functools.cached_property
  def tpr(self) -> np.ndarray:
    """The share of genuine pairs accepted at each threshold, [BINS]."""
    return _share_from(self.genuine)

  @functools.cached_property
  def fpr(self) -> np.ndarray:
    """The share of impostor pairs accepted at each threshold, [BINS]."""
    return _share_from(self.impostor)

  @functools.cached_property
  def fnir(self) -> np.ndarray:
    """The share of queries whose closest true match is rejected, [BINS]."""
    return 1 - _share_from(self.mated)

  @functools.cached_property
  def fpir(self) -> np.ndarray:
    """The share of queries whose closest other person is accepted, [BINS]."""
    return _share_from(self.non_mated)

  def at(self, threshold: float) -> dict[str, float]:
    """Returns the verification and identification rates at a threshold.

    Args:
      threshold: cosine similarity, rounded up to the edge of a bin.

    Returns:
      The rounded `threshold`, and rates as fractions of 1: `tpr` and `fpr`, the
      true and false positive rates of pairs; `fnir` and `fpir`, the false
      negative and false positive identification rates of queries.

    Raises:
      ValueError: the threshold is above 1 or NaN.
    """
    if not threshold <= 1:
      raise ValueError(f'threshold={threshold} must be at most 1.')
    return self._at_bin(int(np.searchsorted(EDGES, threshold)))

  def at_fpr(self, rate: float) -> dict[str, float] | None:
    """Returns the rates at the lowest threshold with at most this FPR.

    Returns:
      See `at`. None if that share of the impostor pairs is fewer than
      `MIN_ERRORS`, or if a larger share has similarity 1.
    """
    return self._at_rate(self.fpr, self.impostor.sum(), rate)

  def at_fpir(self, rate: float) -> dict[str, float] | None:
    """Returns the rates at the lowest threshold with at most this FPIR.

    Returns:
      See `at_fpr`, with non-mated queries in place of impostor pairs.
    """
    return self._at_rate(self.fpir, self.non_mated.sum(), rate)

  def at_equal_error(self) -> dict[str, float]:
    """Returns the rates where FPR and 1 - TPR are closest.

    Returns:
      See `at`, with `eer`, the mean of FPR and 1 - TPR.
    """
    miss_rate = 1 - self.tpr
    index = int(np.argmin(np.abs(self.fpr - miss_rate)))
    eer = float(self.fpr[index] + miss_rate[index]) / 2
    return {'eer': eer, **self._at_bin(index)}

  def _at_rate(self, rates, number, rate):
    index = _first_bin(rates, rate)
    if number * rate < MIN_ERRORS or index == BINS:
      return None
    return self._at_bin(index)

  def _at_bin(self, index: int) -> dict[str, float]:
    return {
      'threshold': float(EDGES[index]),
      'tpr': float(self.tpr[index]),
      'fpr': float(self.fpr[index]),
      'fnir': float(self.fnir[index]),
      'fpir': float(self.fpir[index]),
    }


def _share_from(counts: np.ndarray) -> np.ndarray:
  """Returns the share of counts in each bin and the bins above it."""
  return counts[::-1].cumsum()[::-1] / counts.sum()


def _first_bin(rates: np.ndarray, rate: float) -> int:
  """Returns the first bin whose rate is at most `rate`; BINS if there is none.

  Rates must not increase from bin to bin.
  """
  return int(np.searchsorted(-rates, -rate))


def count_pairs(
  scores: Scores, labels: Labels, places: np.ndarray | None = None
) -> Verification | None:
  """Counts the similarities of all pairs of a query and a gallery image.

  Excluded are the pairs that the ranking excludes: of a query with junk, or
  with an image of its identity under its camera. Distractors count as other
  persons.

  Args:
    scores: cosine similarities.
    labels: labels of the same images. At least one query must have a true
      match.
    places: int [queries], index of the same image in the kept gallery, -1 if it
      is not there; None if none is there.

  Returns:
    The counts; None if there is no pair of different persons.

  Raises:
    ValueError: scores and labels have different numbers of images, or a
      similarity is not a cosine.
  """
  counts = np.zeros((4, BINS), np.int64)
  genuine, impostor, mated, non_mated = counts
  if places is None:
    places = np.full(scores.queries, -1)
  for each in iterate_queries(scores, labels):
    bins = _bins(each.similarity)
    others, new = np.ones((2, len(bins)), bool)
    if places[each.query] >= 0:  # its pairs with earlier queries are counted
      earlier = places[: each.query]
      new[earlier[earlier >= 0]] = False
    others[each.matches] = others[each.excluded] = False
    if len(each.matches):
      same = each.matches[new[each.matches]]
      genuine += np.bincount(bins[same], minlength=BINS)
      mated[bins[each.matches].max()] += 1
    if others.any():
      impostor += np.bincount(bins[others & new], minlength=BINS)
      non_mated[bins[others].max()] += 1
  return Verification(*counts) if impostor.any() else None


def _bins(similarity: np.ndarray) -> np.ndarray:
  """Returns the index of the histogram bin of each similarity.

  Rounding errors may have moved a cosine just beyond -1 or 1.
  """
  scaled = np.floor(similarity * np.float32(BINS_PER_UNIT))
  bins = scaled.astype(np.int64) + BINS_PER_UNIT
  if np.min(bins) < -1 or np.max(bins) > BINS:
    raise ValueError('similarities are not cosines: some are not in -1 to 1.')
  return bins.clip(0, BINS - 1)


def summarize(
  verification: Verification, rates: Sequence[float] = RATES
) -> dict:
  """Returns the entry of a result card about error rates, ready for JSON.

  Args:
    verification: the result of `count_pairs`.
    rates: values of FPR and FPIR to give thresholds for, where there are
      enough pairs.
  """
  pairs = verification.impostor.sum()
  wanted = np.logspace(0, -np.log10(pairs), CURVE_POINTS)
  first_bins = [_first_bin(verification.fpr, rate) for rate in wanted]
  bins = np.unique(np.minimum(first_bins, BINS - 1))
  return {
    'similarity': 'cosine',
    'pairs': {
      'genuine': int(verification.genuine.sum()),
      'impostor': int(pairs),
    },
    'equal_error': verification.at_equal_error(),
    'at_fpr': _by_rate(verification.at_fpr, rates),
    'at_fpir': _by_rate(verification.at_fpir, rates),
    'curve': {
      'threshold': EDGES[bins].tolist(),
      **{
        name: [float(f'{x:.6g}') for x in getattr(verification, name)[bins]]
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


def _coarse(counts: np.ndarray) -> list[int]:
  """Merges the bins of a histogram into 128 bins of equal width.

  Similarity 1, which has a bin of its own, joins the last bin.

  Args:
    counts: int [BINS], the histogram.
  """
  last = counts[:-1].reshape(128, -1).sum(1)
  last[-1] += counts[-1]
  return last.tolist()


def lines(summary: Mapping) -> list[str]:
  """Formats the main figures of `summarize` for the terminal."""
  pairs, equal = summary['pairs'], summary['equal_error']
  text = [
    f'Verification: {pairs["genuine"]:,} pairs of one person,'
    f' {pairs["impostor"]:,} of two; equal error rate'
    f' {100 * equal["eer"]:.2f}% at threshold {equal["threshold"]:.3f}',
    *(
      f'  FPR {rate:>6}: TPR {100 * point["tpr"]:5.1f}% at threshold'
      f' {point["threshold"]:.3f}'
      for rate, point in summary['at_fpr'].items()
    ),
  ]
  if summary['at_fpir']:
    text.append('Open-set identification: is the person in the gallery?')
  text += [
    f'  FPIR {rate:>5}: FNIR {100 * point["fnir"]:4.1f}% at threshold'
    f' {point["threshold"]:.3f}'
    for rate, point in summary['at_fpir'].items()
  ]
  return text
