"""The interface between data and training, as numpy arrays.

The package `data` implements this interface for prepared data sets. Any other
source of images can implement the interface too, without TensorFlow.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses

import numpy as np

JUNK_PID = -1  # of images that no ranking counts
# The way out, for messages, if no person is seen by two cameras.
IGNORE_CAMERAS = (
  'To compare each image with all others, whatever their cameras, set'
  ' --config.data.ignore_cameras (eval.py: --ignore_cameras).'
)


@dataclasses.dataclass(frozen=True)
class Split:
  """Images to embed, with their identities and cameras.

  Attributes:
    pids: int [images], identities; `JUNK_PID` marks junk images, which no
      ranking counts.
    camids: int [images], cameras, counted from 0.
    paths: str [images], names of the images.
    batches: `batches(rows, batch_size)` yields the images of these rows, in
      this order, as uint8 RGB [batch_size, height, width, 3]; only the last
      batch may be smaller.
    averaged: for multi-query, the images whose embeddings are averaged into
      those of the split, which then has the first image of each; else None.
  """

  pids: np.ndarray
  camids: np.ndarray
  paths: np.ndarray
  batches: Callable[[np.ndarray, int], Iterator[np.ndarray]]
  averaged: 'Averaged | None' = dataclasses.field(default=None, kw_only=True)


@dataclasses.dataclass(frozen=True)
class Averaged:
  """Images whose embeddings are averaged; see `retrieval.multi_query`.

  Attributes:
    images: the images.
    owners: int [images], the query that each image belongs to.
  """

  images: Split
  owners: np.ndarray


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """The data of an evaluation: queries and a gallery.

  Attributes:
    query: images to search for.
    gallery: images to search in, which may include junk.
    fingerprint: hash that identifies the raw images.
    summary: numbers of images, as text for the user.
    as_published: whether the counts of images, identities and cameras are the
      published ones; None if none are published.
    has_cameras: False if cameras are unknown. Each image then has a `camid` of
      its own, so that evaluation removes only the query itself from the
      gallery.
    release: which of several published versions of the data set this is, as
      'MSMT17_V1'; '' if it is not known, or there is one only.
    names_are_images: whether a name in both query and gallery is one image, so
      that it need not be embedded twice.
    first_camera: number that is shown for the camera with `camid` 0, because
      the files of the images use it.
  """

  query: Split
  gallery: Split
  fingerprint: str
  summary: str
  as_published: bool | None = dataclasses.field(default=None, kw_only=True)
  has_cameras: bool = dataclasses.field(default=True, kw_only=True)
  release: str = dataclasses.field(default='', kw_only=True)
  names_are_images: bool = dataclasses.field(default=False, kw_only=True)
  first_camera: int = dataclasses.field(default=1, kw_only=True)


@dataclasses.dataclass(frozen=True)
class Feed(Benchmark):
  """The data of a training run, with the data of its evaluation.

  Attributes:
    num_classes: number of identities to train on.
    steps_per_epoch: number of batches in an epoch.
    batches: `batches(k)` yields batches k, k + 1 and so on without end. A batch
      has `image`, uint8 RGB [P * K, height, width, 3], and `label`, int32
      [P * K] in 0..num_classes - 1. Batch k must not depend on where the
      iteration began. With several processes, each process yields an equal
      slice of every micro-batch, concatenated in order; see
      `apnet_jax.parallel.batch_layout`.
    batch_names: `batch_names(k)` returns the names of all images of batch k.
    benchmarks: for a training on several data sets, the benchmark of each by
      name. The feed's own queries and gallery are those of the first.
  """

  num_classes: int
  steps_per_epoch: int
  batches: Callable[[int], Iterator[Mapping[str, np.ndarray]]]
  batch_names: Callable[[int], list[str]]
  benchmarks: Mapping[str, Benchmark] = dataclasses.field(
    default_factory=dict, kw_only=True
  )

  @property
  def by_set(self) -> Mapping[str, Benchmark]:
    """The benchmarks of all data sets by name; '' if there is a single set."""
    return self.benchmarks or {'': self}
