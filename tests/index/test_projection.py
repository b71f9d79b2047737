import numpy as np
import pytest

from apnet_jax.errors import UserError
from apnet_jax.index import projection
from apnet_jax.inference import embedding_files

RNG = np.random.default_rng(0)


def write(path, embeddings):
  columns = {'path': np.arange(len(embeddings)).astype(str)}
  info = {'fingerprint': 'abc'}
  embedding_files.write(
    path, info, columns, [embeddings], embeddings.shape, 'float32'
  )
  return path


def test_components_are_the_largest_and_whitening_makes_them_equal(tmp_path):
  mixing = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
  spread = np.array([0.01, 3, 0.1, 2, 0.02, 1])
  rows = 5 + RNG.normal(size=(500, 6)) * spread @ mixing
  plain = projection.fit(write(tmp_path / 'a.npz', rows), 3)
  variances = np.diag([9.0, 4, 1])
  for short, expected, rtol in (
    (plain, variances, 0.2), (plain.whitened(), np.eye(3), 1e-7),
  ):  # fmt: skip
    parts = (rows - short.mean) @ short.matrix
    found = np.cov(parts.T, ddof=0)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-3)
    found = short.matrix / np.linalg.norm(short.matrix, axis=0)
    cosines = np.abs(mixing[[1, 3, 5]] @ found)
    np.testing.assert_allclose(cosines, np.eye(3), atol=0.1)
    length = np.linalg.norm(short(rows), axis=1)
    np.testing.assert_allclose(length, 1, rtol=1e-5)
    assert short.is_whitened == (short is not plain)
  np.testing.assert_allclose(np.linalg.norm(plain.matrix, axis=0), 1, rtol=1e-5)


def test_more_components_than_there_are_is_an_error(tmp_path):
  flat = RNG.normal(size=(50, 2)) @ RNG.normal(size=(2, 6))
  for rows, count in (flat, 2), (RNG.normal(size=(4, 6)), 3):
    path = write(tmp_path / 'a.npz', rows)
    projection.fit(path, count)
    with pytest.raises(UserError, match=f'--dimensions=4 .* the {count} princ'):
      projection.fit(path, 4)
