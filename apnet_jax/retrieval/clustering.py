"""Groups embeddings into people by average linkage at a threshold."""

import numpy as np
from scipy import sparse
from scipy.cluster import hierarchy
from scipy.spatial import distance

from apnet_jax.errors import UserError

BLOCK = 1024  # rows whose similarities to all others are in memory
LARGEST = 20_000  # images that may be linked directly or by others


def cluster(embeddings: np.ndarray, threshold: float) -> np.ndarray:
  """Groups embeddings by average linkage (UPGMA).

  Starting from single embeddings, the two groups with the highest mean
  similarity between their members are joined, until the highest mean is below
  the threshold.

  A mean is at least as high as the threshold only if one of the similarities
  is. Hence groups never reach beyond a connected component of the graph whose
  edges are the similarities of at least the threshold. The components are
  linked one by one, so that memory depends on the largest of them. The result
  is that of linking all embeddings.

  Args:
    embeddings: float [rows, features], of length 1.
    threshold: lowest mean cosine similarity of two groups that are joined.

  Returns:
    int [rows], the group of each row. Groups are numbered from 0 in the order
    of their first rows.

  Raises:
    UserError: more than `LARGEST` rows are connected.
  """
  groups = np.zeros(len(embeddings), int)
  largest = 0  # group so far
  for rows in _components(embeddings, threshold):
    groups[rows] = largest + _link(embeddings[rows], threshold)
    largest = groups[rows].max()
  return _number_by_first_row(groups)


def _components(embeddings: np.ndarray, threshold: float) -> list[np.ndarray]:
  """Returns the rows of each connected component."""
  count = len(embeddings)
  component = np.arange(count)
  for start in range(0, count, BLOCK):
    similar = embeddings[start : start + BLOCK] @ embeddings[start:].T
    first, second = np.nonzero(similar >= threshold)
    edges = component[first + start], component[second + start]
    graph = sparse.coo_array((np.ones(len(first), bool), edges), (count, count))
    component = sparse.csgraph.connected_components(graph)[1][component]
  order = np.argsort(component, kind='stable')
  sizes = np.bincount(component[order])
  largest = np.max(sizes, initial=0)
  if largest > LARGEST:
    raise UserError(
      f'{largest:,} of {count:,} images are connected by similarities of at'
      f' least {threshold:g}: give a higher threshold.'
    )
  return np.split(order, np.cumsum(sizes[sizes > 0])[:-1])


def _link(embeddings: np.ndarray, threshold: float) -> np.ndarray:
  """Returns the group of each row, from 1, of one component."""
  if len(embeddings) == 1:
    return np.ones(1, int)
  distances = 1 - np.clip(embeddings @ embeddings.T, -1, 1)
  np.fill_diagonal(distances, 0)
  tree = hierarchy.average(distance.squareform(distances, checks=False))
  return hierarchy.fcluster(tree, 1 - threshold, 'distance')


def _number_by_first_row(groups: np.ndarray) -> np.ndarray:
  _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
  rank = np.empty_like(first)
  rank[np.argsort(first)] = np.arange(len(first))
  return rank[inverse]


def mean_embeddings(
  embeddings: np.ndarray, tracks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Averages the embeddings of each track.

  Args:
    embeddings: float [rows, features], of length 1.
    tracks: [rows], the name or number of each row's track.

  Returns:
    float32 [tracks, features], means of length 1; and int [rows], the index of
    each row's track among them.
  """
  _, index = np.unique(tracks, return_inverse=True)
  sums = np.zeros((int(np.max(index)) + 1, embeddings.shape[1]))
  np.add.at(sums, index, embeddings)
  length = np.linalg.norm(sums, axis=1, keepdims=True)
  return (sums / np.maximum(length, 1e-12)).astype(np.float32), index


def compare_with_identities(
  groups: np.ndarray, identities: np.ndarray
) -> dict[str, float]:
  """Compares groups of images with the true identities.

  Args:
    groups: int [rows].
    identities: [rows], of any type.

  Returns:
    Shares from 0 to 1. `purity`: images whose identity is the most frequent of
    their group. `completeness`: images in the largest group of their identity.
    `precision`: pairs of a group that show one person. `recall`: pairs of one
    person that are in one group. A share of no pairs is 1.
  """
  _, people = np.unique(identities, return_inverse=True)
  table = sparse.coo_array((np.ones(len(groups), int), (groups, people)))
  table = table.tocsr()
  rows = len(groups)

  def pairs(counts) -> int:
    return int((counts * (counts - 1) // 2).sum())

  both = pairs(table.data)
  grouped, of_one = pairs(table.sum(1)), pairs(table.sum(0))
  return {
    'purity': float(table.max(axis=1).sum() / rows),
    'completeness': float(table.max(axis=0).sum() / rows),
    'precision': both / grouped if grouped else 1.0,
    'recall': both / of_one if of_one else 1.0,
  }
