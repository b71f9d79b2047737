"""A map of embeddings: images as points in two dimensions, on a page."""

from collections.abc import Mapping, Sequence
import importlib.util

import numpy as np

from apnet_jax.feed import Benchmark
from apnet_jax.retrieval import collapse
from apnet_jax.retrieval.evaluation import Evaluation
from apnet_jax.visualize import page, thumbnails

TEMPLATE = 'map.html.j2'
MAX_POINTS = 2000
HEIGHT = 96  # of the copies of images, in pixels


def project_pca(embeddings: np.ndarray) -> tuple[np.ndarray, float]:
  """Projects embeddings on their first two principal components.

  Args:
    embeddings: float [images, features], at least two features.

  Returns:
    The positions, float64 [images, 2], and the share of the variance that they
    show.
  """
  centred = np.asarray(embeddings, np.float64) - embeddings.mean(0)
  values, vectors = np.linalg.eigh(centred.T @ centred)
  share = values[-2:].sum() / max(values.sum(), 1e-30)
  return centred @ vectors[:, :-3:-1], float(share)


def project(embeddings: np.ndarray) -> tuple[np.ndarray, str]:
  """Projects embeddings by UMAP if umap-learn is installed, else by PCA.

  McInnes et al., UMAP, 2018.

  Args:
    embeddings: float [images, features].

  Returns:
    The positions, float [images, 2], and the name of the method.
  """
  if importlib.util.find_spec('umap') and len(embeddings) > 15:
    import umap

    reducer = umap.UMAP(metric='cosine', random_state=0)
    return reducer.fit_transform(embeddings), 'UMAP'
  positions, share = project_pca(embeddings)
  return positions, f'PCA, {100 * share:.0f}% of the variance'


def page_data(evaluated: Evaluation, benchmark: Benchmark) -> dict:
  """Collects what the map of a ranked gallery shows.

  Returns:
    The result of `describe_points` for the gallery, or for a sample of it.
  """
  number = len(evaluated.gallery_rows)
  some = thumbnails.evenly(number, MAX_POINTS)
  embeddings = evaluated.gallery_embeddings[some]
  if evaluated.rules.distance == 'cosine':
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    embeddings = embeddings / lengths
  rows = evaluated.gallery_rows[some]
  gallery = benchmark.gallery
  cameras = gallery.camids[rows] + benchmark.first_camera
  return describe_points(
    embeddings,
    [str(name) for name in gallery.paths[rows]],
    gallery.pids[rows].tolist(),
    cameras.tolist() if benchmark.has_cameras else None,
    thumbnails.encode_all(gallery, rows, HEIGHT),
    number,
  )


def describe_points(
  embeddings: np.ndarray,
  names: Sequence[str],
  identities: Sequence,
  cameras: Sequence | None,
  copies: Sequence[str],
  gallery: int,
) -> dict:
  """Projects embeddings and collects what the map shows, ready for JSON.

  Args:
    embeddings: float [points, features].
    names: file name of each point.
    identities: identity of each point, numbers or texts.
    cameras: camera of each point; None if they are not known.
    copies: image of each point, from `thumbnails.encode`.
    gallery: number of images of which these are a sample.

  Returns:
    Columns of the points: `x` and `y`, of which the wider is in 0..1 and the
    other in the same unit around 0.5, `name`, `identity`, `camera` and
    `thumbnail`; the name of the method (`method`), the number of images in the
    gallery (`gallery`), `has_cameras`, and a warning if the network has
    collapsed (`collapsed`), else ''.
  """
  positions, method = project(embeddings)
  low, high = positions.min(0), positions.max(0)
  # One unit for both axes: distances must be comparable in all directions.
  scaled = (positions - (low + high) / 2) / max(*(high - low), 1e-12) + 0.5
  _, numbers = np.unique(np.array(identities), return_inverse=True)
  median = collapse.median_stranger_similarity(embeddings, numbers)
  return {
    'x': scaled[:, 0].round(4).tolist(),
    'y': scaled[:, 1].round(4).tolist(),
    'name': list(names),
    'identity': list(identities),
    'camera': list(cameras or []),
    'thumbnail': list(copies),
    'method': method,
    'gallery': gallery,
    'has_cameras': cameras is not None,
    'collapsed': collapse.describe(median),
  }


def make_page(data: Mapping, title: str, images: str = 'images') -> str:
  """Returns the page of a map.

  Args:
    data: the result of `page_data` or `describe_points`.
    title: heading of the page.
    images: name of the images of which these are all or a sample.
  """
  return page.render(
    TEMPLATE,
    data,
    title=title,
    method=data['method'],
    shown=len(data['x']),
    gallery=data['gallery'],
    images=images,
    has_cameras=data['has_cameras'],
    collapsed=data['collapsed'],
  )
