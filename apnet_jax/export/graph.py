"""The function that an exported file computes, and the facts about it."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from apnet_jax.errors import UserError
from apnet_jax.export.resizing import resize
from apnet_jax.inference.embedder import Embedder
from apnet_jax.models import device_forms, normalization

SYMBOLIC_SIZE = ('height', 'width')
# Fields of a result card that go into the file; others have a value per query.
OF_CARD = ('dataset', 'checkpoint', 'figures', 'based_on', 'protocol')


@dataclasses.dataclass(frozen=True)
class Graph:
  """A trained network as it is exported.

  Attributes:
    embedder: the trained network.
    image_size: height and width in pixels that the network computes with.
    takes: 'normalized', float32 images of `input_size`, normalised by the mean
      and standard deviation of ImageNet; 'uint8', images of any size, values
      0..255, in the layout [batch, height, width, 3]; 'unit', float32 images of
      any size, values 0..1.
    weights: type of the stored kernels, 'float32' or 'float16'. Computation is
      in float32 with both, also if the network was trained in bfloat16.
    size_of_input: height and width of images that are 'normalized', if they are
      to be resized to `image_size`; None if they have this size.
    card: result card of the network; None if there is none.
  """

  embedder: Embedder
  image_size: tuple[int, int]
  takes: str = 'normalized'
  weights: str = 'float32'
  size_of_input: tuple[int, int] | None = None
  card: Mapping | None = None

  @functools.cached_property
  def network(self) -> Embedder:
    """The trained network in float32, since few runtimes have bfloat16."""
    return self.embedder.in_float32()

  @property
  def input_size(self) -> tuple[int, int]:
    """Height and width of images that are 'normalized'."""
    height, width = self.size_of_input or self.image_size
    return height, width

  @property
  def resizes(self) -> bool:
    """True if the exported function resizes images itself."""
    return self.takes != 'normalized' or self.input_size != self.image_size

  @property
  def signature(self) -> tuple[str, str]:
    """Shape of the images, as JAX writes symbolic shapes, and their type."""
    size = self.input_size if self.takes == 'normalized' else SYMBOLIC_SIZE
    dtype = 'uint8' if self.takes == 'uint8' else 'float32'
    return f'batch, {size[0]}, {size[1]}, 3', dtype

  def check(self) -> None:
    """Raises UserError if the network cannot be exported like this."""
    height, width = self.image_size
    if min(height, width) < 1:
      raise UserError(f'--image_size={height},{width} must be positive.')
    images = jax.ShapeDtypeStruct((1, height, width, 3), 'float32')
    try:
      jax.eval_shape(self.function(), images)
    except UserError as error:
      raise UserError(
        f'the network does not take images of {height}x{width} pixels'
        f' (--image_size): {error}'
      ) from error

  def stored(self) -> Mapping:
    """Returns the variables of the network in the types of the file."""
    return jax.tree.map(self._store, self.embedder.variables)

  def embed(self, stored: Mapping, images: jax.Array) -> jax.Array:
    """Embeds normalised images; a function that other runtimes can have.

    Args:
      stored: see `stored`.
      images: float32 [batch, height, width, 3], normalised, of `image_size`.
        The batch may be symbolic.

    Returns:
      Embeddings of length 1, [batch, features].
    """
    variables = jax.tree.map(
      lambda array: jnp.asarray(array).astype(jnp.float32), stored
    )
    with device_forms.portable():
      return self.network.embed_normalized(variables, images)

  def embed_pixels(self, stored: Mapping, images: jax.Array) -> jax.Array:
    """Like `embed`, for images as `takes` has them, channels last."""
    if not self.resizes:
      return self.embed(stored, images)
    if self.takes == 'normalized':
      images = jnp.rint(normalization.denormalize(images))
    elif self.takes == 'unit':
      images = images * 255
    images = normalization.normalize(resize(images, self.image_size))
    return self.embed(stored, images)

  def function(self) -> Callable[[jax.Array], jax.Array]:
    """Returns `embed` with the weights inside."""
    return functools.partial(self.embed, self.stored())

  def function_of_pixels(self) -> Callable[[jax.Array], jax.Array]:
    """Returns `embed_pixels` with the weights inside."""
    return functools.partial(self.embed_pixels, self.stored())

  def metadata(self) -> dict[str, str]:
    """Returns the facts about the exported file, each as a text.

    Threshold and result card hold for the size of the training, and are left
    out with another.
    """
    embedder = self.embedder.with_image_size(self.image_size)
    about = {
      'description': 'APNet person re-identification: image to embedding',
      'author': 'apnet-jax',
      'task': 'reid',
      'imgsz': list(
        self.input_size if self.takes == 'normalized' else self.image_size
      ),
      'network_imgsz': list(self.image_size),
      'input': {
        'normalized': 'float32 RGB, (x / 255 - mean) / std, resized before',
        'uint8': 'uint8 RGB of any size, resized and normalised in the graph',
        'unit': 'float32 RGB in 0..1 of any size, resized and normalised in'
        ' the graph',
      }[self.takes],
      'resize': 'bilinear with antialiasing',
      'mean': list(normalization.MEAN),
      'std': list(normalization.STD),
      'weights': self.weights,
      'embedding': 'length 1; the dot product of two is their cosine',
      'threshold': embedder.threshold,
      'threshold_origin': embedder.about,
      'network': embedder.settings,
      'fingerprint': embedder.fingerprint,
      'jax': jax.__version__,  # for how long .stablehlo can be read
    }
    if self.card and embedder is self.embedder:
      about['card'] = {n: self.card[n] for n in OF_CARD if n in self.card}
    return {
      name: value if isinstance(value, str) else json.dumps(value)
      for name, value in about.items()
    }

  def _store(self, array: jax.Array) -> np.ndarray:
    """Returns an array of weights in the type that the file stores."""
    stored = np.asarray(array, np.float32)
    if self.weights == 'float32' or stored.ndim < 2:
      return stored  # scales and statistics would lose range
    if np.abs(stored).max(initial=0) > np.finfo(np.float16).max:
      raise UserError(
        '--weights=float16: a weight is too large for float16; use float32.'
      )
    return stored.astype(np.float16)
