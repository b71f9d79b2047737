"""What training and evaluation read: any source of numpy arrays will do.

`data/` makes these from a prepared data set; a machine without TensorFlow can
make them from whatever it has.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Split:
  """Images to embed, with their labels.

  Attributes:
    pids: int [images], identities; -1 is junk.
    camids: int [images], cameras.
    paths: [images], names to show to people.
    batches: `batches(rows, batch_size)` yields the images of these rows in
      this order, uint8 [<= batch_size, height, width, 3]; only the last batch
      may be smaller.
  """

  pids: np.ndarray
  camids: np.ndarray
  paths: np.ndarray
  batches: Callable[[np.ndarray, int], Iterator[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """What evaluation reads.

  Attributes:
    query: images to look for.
    gallery: images to find; junk may be among them.
    fingerprint: identifies the raw images.
    summary: what was read, for people.
    as_published: whether the numbers of images, identities and cameras are the
      published ones; None if none are published.
    has_cameras: False if no cameras are known. Then each image has a `camid` of
      its own, under which evaluation removes the query itself and nothing else.
  """

  query: Split
  gallery: Split
  fingerprint: str
  summary: str
  as_published: bool | None = dataclasses.field(default=None, kw_only=True)
  has_cameras: bool = dataclasses.field(default=True, kw_only=True)


@dataclasses.dataclass(frozen=True)
class Feed(Benchmark):
  """What training reads, and evaluates on.

  Attributes:
    num_classes: identities to train on.
    steps_per_epoch: batches that make an epoch.
    batches: `batches(k)` yields batch k, k + 1, ... without end: `image` uint8
      [P * K, height, width, 3] and `label` int32 [P * K]. Batch k must not
      depend on where the iteration began. Of several processes, each yields its
      share: of each of `config.train.accumulate` consecutive parts of the
      batch, one after the other, as many images as the others.
    batch_names: `batch_names(k)` names the images of the whole batch k.
  """

  num_classes: int
  steps_per_epoch: int
  batches: Callable[[int], Iterator[Mapping[str, np.ndarray]]]
  batch_names: Callable[[int], list[str]]
