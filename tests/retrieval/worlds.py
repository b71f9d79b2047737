"""Small random labels, and scores from a matrix."""

import numpy as np


class Matrix:
  """`Scores` from a numpy array of all similarities."""

  def __init__(self, similarity):
    self.similarity = similarity
    self.queries, self.gallery = similarity.shape

  def block(self, rows):
    return self.similarity[rows]


def draw_ids(seed, queries=30, gallery=60, least_pid=0):
  """Draws arguments of `Labels.make`, with five people and three cameras."""
  rng = np.random.default_rng(seed)
  return {
    'query_pids': rng.integers(5, size=queries),
    'query_camids': rng.integers(3, size=queries),
    'gallery_pids': rng.integers(least_pid, 5, size=gallery),
    'gallery_camids': rng.integers(3, size=gallery),
  }
