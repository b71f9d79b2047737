"""The gallery images whose embeddings are most similar to those of queries."""

from collections.abc import Iterator

import numpy as np


def search(
  queries: np.ndarray, gallery: np.ndarray, top: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Finds the closest gallery images of each query.

  Args:
    queries: float [queries, features], embeddings of length 1.
    gallery: float [images, features], embeddings of length 1.
    top: number of images to find for each query.

  Yields:
    For each query, rows of `gallery` and cosine similarities, both [top],
    closest first. Ties rank by row.
  """
  for similarity in queries @ gallery.T:
    order = np.argsort(-similarity, kind='stable')[:top]
    yield order, similarity[order]
