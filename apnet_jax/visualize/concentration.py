"""How concentrated an attention map is: its entropy and its area."""

import numpy as np


def entropy(heat: np.ndarray) -> float | None:
  """Returns the entropy of a map over that of a uniform map of its size.

  Args:
    heat: float [height, width], not negative.

  Returns:
    A value from 0, all at one position, to 1, the same at all positions; None
    if the map is 0 or has a single position.
  """
  p = _distribution(heat)
  if p is None or p.size == 1:
    return None
  p = p[p > 0]
  return float(abs((p * np.log(p)).sum()) / np.log(heat.size))


def area(heat: np.ndarray) -> float | None:
  """Returns the smallest share of the positions that holds half of a map.

  Args:
    heat: float [height, width], not negative.

  Returns:
    A value above 0 and up to 0.5, that of a uniform map. The last position
    counts by the part of it that is needed. None if the map is 0.
  """
  p = _distribution(heat)
  if p is None:
    return None
  p = np.sort(p)[::-1]
  held = np.concatenate([[0], p.cumsum()])
  last = int(np.searchsorted(held, 0.5)) - 1  # positions that are needed whole
  return float((last + (0.5 - held[last]) / p[last]) / heat.size)


def _distribution(heat: np.ndarray) -> np.ndarray | None:
  """Returns the values of a map, divided by their sum; None if that is 0."""
  values = np.asarray(heat, np.float64).ravel()
  total = values.sum()
  return values / total if total > 0 else None
