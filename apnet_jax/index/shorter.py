"""Retrieval figures with shortened embeddings: components, int8, codes."""

import os

import numpy as np

from apnet_jax.errors import UserError
from apnet_jax.feed import Benchmark
from apnet_jax.index import codes, files, projection
from apnet_jax.retrieval import evaluation
from apnet_jax.retrieval.card import Shorter


class Shortening:
  """Ways to shorten embeddings, fitted on embeddings of other images.

  Args:
    path: file that the command embed wrote, such as of the training images.
    dimensions: number of principal components.
    fingerprint: fingerprint of the network that is evaluated.

  Raises:
    UserError: the file cannot be read, is of another network, or has fewer
      principal components.
  """

  def __init__(
    self, path: str | os.PathLike, dimensions: int, fingerprint: str
  ):
    self._project = projection.fit(path, dimensions)
    if self._project.fingerprint != fingerprint:
      raise UserError(
        f'--fit={path} has embeddings of another network, or of other settings:'
        f' {self._project.fingerprint}, not {fingerprint}.'
      )
    self._whiten = self._project.whitened()

  def __call__(
    self, evaluated: evaluation.Evaluation, benchmark: Benchmark
  ) -> dict[str, Shorter]:
    """Ranks by shorter embeddings, by the rules of an evaluation.

    Args:
      evaluated: an evaluation of the benchmark, by cosine.
      benchmark: queries and gallery.

    Returns:
      The figures by way of shortening.
    """
    queries, gallery = (
      self._forms(rows)
      for rows in (evaluated.query_embeddings, evaluated.gallery_embeddings)
    )
    return {
      way: Shorter(
        evaluation.with_embeddings(evaluated, benchmark, rows, gallery[way][0]),
        *about,
      )
      for way, (rows, *about) in queries.items()
    }

  def _forms(self, embeddings: np.ndarray) -> dict[str, tuple]:
    """Shortens embeddings in each way.

    Args:
      embeddings: float32 [rows, features], of length 1.

    Returns:
      By way: embeddings whose cosines are those of the short ones; bytes of a
      short one in an index; number of images that the way was fitted on.
    """
    few, white = self._project(embeddings), self._whiten(embeddings)
    fitted_on, length = self._project.images, 2 * few.shape[1]
    kept = f'{few.shape[1]} dimensions'
    return {
      'int8': (files.rounded(embeddings, 'int8'), embeddings.shape[1], 0),
      'codes': (*_codes(embeddings - self._project.mean), fitted_on),
      kept: (files.rounded(few, 'float16'), length, fitted_on),
      f'{kept}, whitened': (files.rounded(white, 'float16'), length, fitted_on),
      f'{kept}, codes': (*_codes(few), fitted_on),
    }


def _codes(embeddings: np.ndarray) -> tuple[np.ndarray, int]:
  """Returns signs, 1 and -1, and the bytes of a row's code in an index."""
  signs = np.where(embeddings > 0, np.float32(1), np.float32(-1))
  return signs, 8 * codes.words(signs.shape[1])
