"""A trained network as a function from images to embeddings."""

from collections.abc import Callable, Mapping, Sequence
import functools
import hashlib
import itertools
import json
import os
import threading

from flax import traverse_util
import flax.linen as nn
import jax
import ml_collections
import numpy as np
from tqdm import tqdm

from apnet_jax import hub
from apnet_jax.errors import UserError
from apnet_jax.inference import crops
from apnet_jax.models.apnet import create_model
from apnet_jax.parallel import devices
from apnet_jax.retrieval import threshold as thresholds
from apnet_jax.retrieval.embed import (
  embed_batches,
  embed_normalized,
  make_embed_batch,
  progress_bar,
)
from apnet_jax.workdir import pack, restore, run_files
from apnet_jax.workdir.checkpoints import open_for_reading

# Sizes of batches, for each of which a program is compiled at its first use.
BATCH_SIZES = (1, 8, 64)
# A batch may be padded to this many times its size, instead of being split.
PADDING = 4


class Embedder:
  """Embeds images by a trained network, as its evaluation does.

      embedder = apnet_jax.Embedder.load('runs/market')
      a, b = embedder(['a.jpg', 'b.jpg'])
      similarity = a @ b  # cosine
      people = embedder(frame, boxes=[[x1, y1, x2, y2], ...], order='bgr')

  An embedder may be called from several threads; their calls run one after the
  other.

  Args:
    model: network made by `create_model`.
    variables: variables of the network, replicated on all devices.
    config: the whole configuration of the run. Images are resized to
      `data.image_size`; `eval` says which output is the embedding, and whether
      it is averaged with that of the mirror image.
    threshold: lowest cosine similarity at which two images are taken to show
      one person; None if unknown.
    about: the threshold and its origin, as a sentence.
    step: step of the checkpoint; None if unknown.

  Attributes:
    model: see above.
    variables: see above.
    image_size: height and width that images are resized to, in pixels.
    threshold: see above.
    about: see above.
    step: see above.
  """

  def __init__(
    self,
    model: nn.Module,
    variables: Mapping,
    config: ml_collections.ConfigDict,
    threshold: float | None = None,
    about: str = '',
    step: int | None = None,
  ):
    self.model, self.variables, self._config = model, variables, config
    rules = config.eval.copy_and_resolve_references()
    rules.distance = 'cosine'  # the length of embeddings is 1
    self._rules = rules
    self._embed_batch = make_embed_batch(model, rules)
    self._sizes = batch_sizes(rules.batch_size)
    self._lock = threading.RLock()  # `on_error` may call the embedder
    self.image_size = tuple(config.data.image_size)
    self.threshold, self.about, self.step = threshold, about, step

  @classmethod
  def load(
    cls,
    source: str | os.PathLike,
    which: str = 'last',
    threshold: float | None = None,
    flip: bool | None = None,
  ) -> 'Embedder':
    """Loads a trained network.

    If a similarity threshold is stored for this checkpoint, images are embedded
    with the settings under which it was chosen. Otherwise, the settings are
    those of the run's evaluation. Compiled programs are kept in the folder that
    the configuration names, unless the calling program has set one for JAX.

    Args:
      source: workdir of `train.py`; or a file that the command `pack` wrote, or
        `hf://OWNER/NAME`, where such a file is on the Hugging Face Hub.
      which: checkpoint to load, 'last' or 'best'.
      threshold: threshold to use; None for the stored one.
      flip: whether embeddings are averages over an image and its mirror image;
        None for the settings above. A stored threshold is not used if it was
        chosen with the other value.

    Raises:
      UserError: the network or its threshold cannot be read, or `which` has
        another value.
    """
    source = hub.find_network(source)
    with open_for_reading(source) as checkpoints:
      config = run_files.load_config(source)
      own = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
      if not own:  # that of the calling program stays
        devices.keep_compiled_programs(config.compilation_cache_dir)
      stored = thresholds.load(source)
      classes = run_files.load_run(source)['num_classes']
      step, model, variables = restore.restore_model(
        checkpoints, which, config, classes
      )
    thresholds.adopt_settings(config.eval, stored, step)
    if flip is not None:
      config.eval.flip = flip
    # Thresholds apply to cosine similarities of single images.
    config.eval.update(distance='cosine', multi_query=False)
    known = thresholds.choose_known(stored, threshold, step, config.eval)
    return cls(model, variables, config, *known, step)

  def __call__(
    self,
    images,
    boxes=None,
    order: str = 'rgb',
    *,
    on_error: Callable[[int, UserError], None] | None = None,
    progress: bool = False,
  ) -> np.ndarray:
    """Embeds images, or the boxes in them.

    Args:
      images: an image or a sequence of images, of any sizes. An image is a path
        (JPEG, PNG, BMP or WebP), an image of Pillow, or a NumPy array uint8
        [height, width, 3]. A sequence may mix them; uint8 [images, height,
        width, 3] is one, and so is an array of paths.
      boxes: [boxes, 4], x1, y1, x2, y2 in pixels of the upright image; for a
        sequence of images, such a list for each. Boxes are widened to whole
        pixels and clipped to the image. None embeds whole images.
      order: order of the channels of arrays: 'rgb', or 'bgr' as in OpenCV.
        Files and images of Pillow need none.
      on_error: `on_error(row, error)` is called if the image or box of a row of
        the result cannot be read. The row then means nothing, unless the call
        raises an error. By default the error itself is raised.
      progress: whether to show a progress bar if it takes longer than a second.

    Returns:
      float32 [images or boxes, features], of length 1. The boxes of an image
      follow those of the image before.

    Raises:
      UserError: an image cannot be read, or a box has no pixel in its image;
        the message names it. Or an embedding is not finite.
    """
    frames = crops.frames(images, boxes, order)
    rows = sum(map(len, frames))
    if not rows:
      return np.zeros((0, self.dimensions), np.float32)
    with self._lock, progress_bar(rows, progress) as bar:
      pixels = crops.iterate(frames, self.image_size, on_error)
      embeddings = self._embed(pixels, rows, bar)
    _check_finite(embeddings, frames)
    return embeddings

  def _embed(self, pixels, rows: int, bar: tqdm) -> np.ndarray:
    """Embeds crops in batches; while one is computed, the next one is read.

    Args:
      pixels: iterator of uint8 [height, width, 3].
      rows: number of crops.
      bar: progress bar.
    """

    def batches():
      left = rows
      while left:
        size = batch_size(left, self._sizes)
        batch = np.zeros((size, *self.image_size, 3), np.uint8)
        count = min(size, left)
        for i, one in enumerate(itertools.islice(pixels, count)):
          batch[i] = one
        yield batch, count
        left -= count

    return embed_batches(self._embed_batch, self.variables, batches(), bar)

  def embed_normalized(
    self, variables: Mapping, images: jax.Array
  ) -> jax.Array:
    """Embeds normalised images, as a function to be traced by JAX.

    Args:
      variables: variables of the network, see `variables`.
      images: float32 [images, height, width, 3], normalised by
        `models.normalization`.

    Returns:
      Embeddings of length 1, [images, features].
    """
    return embed_normalized(self.model, self._rules, variables, images)

  def with_image_size(self, image_size: Sequence[int]) -> 'Embedder':
    """Returns this network for images of another size, without a threshold.

    Thresholds hold for the size at which they were chosen.

    Args:
      image_size: height and width that images are resized to, in pixels.
    """
    if tuple(image_size) == self.image_size:
      return self
    height, width = self.image_size
    about = (
      f'No threshold is known for images of this size: {height}x{width} is that'
      ' of the training.'
    )
    other = Embedder(
      self.model, self.variables, self._config, None, about, self.step
    )
    other.image_size = tuple(image_size)
    return other

  def in_float32(self) -> 'Embedder':
    """Returns this network with all computation in float32.

    A network that was trained in bfloat16 then gives slightly other embeddings.
    """
    if self._config.model.dtype == 'float32':
      return self
    config = self._config.copy_and_resolve_references()
    config.model.dtype = 'float32'
    model = create_model(config.model, self.model.num_classes)
    other = Embedder(
      model, self.variables, config, self.threshold, self.about, self.step
    )
    other.image_size = self.image_size
    return other

  @functools.cached_property
  def dimensions(self) -> int:
    """Number of features of an embedding."""
    images = jax.ShapeDtypeStruct((1, *self.image_size, 3), 'float32')
    output = jax.eval_shape(self.model.apply, self.variables, images)
    return getattr(output, self._rules.feature).shape[-1]

  @functools.cached_property
  def fingerprint(self) -> str:
    """Hash of all that embeddings depend on: the network and its settings.

    Embeddings of equal fingerprints may be compared with each other.
    """
    arrays = traverse_util.flatten_dict(dict(self.variables), sep='/')
    settings = self.settings | {'weights': pack.weights_digest(arrays)}
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  @property
  def settings(self) -> dict:
    """How images are embedded, ready for JSON."""
    model = json.loads(self._config.model.to_json())
    for unused in ('pretrained', 'batch_norm_group'):
      model.pop(unused, None)
    return {
      'model': model,
      'image_size': list(self.image_size),
      'feature': self._rules.feature,
      'flip': self._rules.flip,
    }


def batch_sizes(largest: int) -> list[int]:
  """Returns the sizes of batches, multiples of the number of devices.

  Args:
    largest: largest size that the devices have memory for.
  """
  sizes = [size for size in BATCH_SIZES if size < largest]
  sizes.append(min(largest, BATCH_SIZES[-1]))
  return sorted({devices.local_batch_size(size) for size in sizes})


def batch_size(images: int, sizes: Sequence[int]) -> int:
  """Returns the size of the next batch.

  Few images are padded to a larger batch rather than split into several small
  ones, for each of which a program might have to be compiled.

  Args:
    images: number of images that are left.
    sizes: sizes to choose from, ascending.
  """
  fitting = [size for size in sizes if size <= images * PADDING]
  enough = [size for size in fitting if size >= images]
  return enough[0] if enough else fitting[-1] if fitting else sizes[0]


def _check_finite(
  embeddings: np.ndarray, frames: Sequence[crops.Frame]
) -> None:
  """Raises UserError if an embedding has a value that is not finite."""
  bad = np.flatnonzero(~np.isfinite(embeddings).all(1))
  if bad.size:
    names = [frame.name for frame in frames for _ in range(len(frame))]
    raise UserError(
      f'{bad.size} of {len(embeddings)} embeddings are not finite, as that of'
      f' {names[bad[0]]}. If all are not, the weights of the network are'
      ' broken: choose another checkpoint (--which, or `which` of'
      ' Embedder.load), or train again. Otherwise leave out these images.'
    )
