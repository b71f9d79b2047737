"""Shorter embeddings: their principal components, with or without whitening.

PCA is fitted on embeddings of other images, such as those of the training set.
Whitening (Jegou and Chum, ECCV 2012) scales the components to equal variance.
"""

import dataclasses
import os

import numpy as np

from apnet_jax.errors import UserError
from apnet_jax.inference import embedding_files


@dataclasses.dataclass(frozen=True)
class Projection:
  """A linear map to shorter embeddings.

  Attributes:
    mean: float32 [features], which is subtracted first.
    matrix: float32 [features, dimensions].
    fingerprint: fingerprint of the network whose embeddings it was fitted on.
    images: number of embeddings that it was fitted on; None if unknown.
    deviations: float32 [dimensions], the standard deviation of each component
      of these embeddings; None if unknown.
  """

  mean: np.ndarray
  matrix: np.ndarray
  fingerprint: str
  images: int | None = None
  deviations: np.ndarray | None = None

  def __call__(self, embeddings: np.ndarray) -> np.ndarray:
    """Maps embeddings [rows, features] to float32 [rows, dimensions].

    The results have length 1.
    """
    short = (np.asarray(embeddings, np.float32) - self.mean) @ self.matrix
    length = np.linalg.norm(short, axis=1, keepdims=True)
    return short / np.maximum(length, np.finfo(np.float32).tiny)

  @property
  def is_whitened(self) -> bool:
    """True if components are scaled: those of PCA are vectors of length 1."""
    lengths = np.linalg.norm(self.matrix, axis=0)
    return not np.allclose(lengths, 1, atol=1e-3)

  def whitened(self) -> 'Projection':
    """Returns a projection whose components have equal variance."""
    return dataclasses.replace(
      self,
      matrix=self.matrix / self.deviations,
      deviations=np.ones_like(self.deviations),
    )


def fit(path: str | os.PathLike, dimensions: int) -> Projection:
  """Fits PCA, without whitening.

  Args:
    path: file that the command embed wrote.
    dimensions: number of principal components to keep.

  Raises:
    UserError: the file cannot be read, is empty, or its embeddings have fewer
      principal components.
  """
  with embedding_files.reading(path) as file:
    size = file.dimensions
    count, total, products = 0, np.zeros(size), np.zeros((size, size))
    for block in file.blocks:
      block = block.astype(np.float64)
      count += len(block)
      total = total + block.sum(0)
      products = products + block.T @ block
    fingerprint = file.info['fingerprint']
  if not count:
    raise UserError(f'{path} has no embeddings to fit --dimensions on.')
  mean = total / count
  variances, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
  known = int((variances > 1e-7 * variances[-1]).sum())
  if dimensions > min(known, count - 1):
    raise UserError(
      f'--dimensions={dimensions} is more than the {min(known, count - 1)}'
      f' principal components of the {count:,} embeddings in {path}.'
    )
  kept = slice(-1, -1 - dimensions, -1)  # ascending order of eigh
  return Projection(
    mean.astype(np.float32),
    vectors[:, kept].astype(np.float32),
    fingerprint,
    count,
    np.sqrt(variances[kept]).astype(np.float32),
  )
