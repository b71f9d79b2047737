"""The work of a step or an embedding, counted and not timed.

Nothing is run and no array is made: shapes are traced, and compiled for what
the compiler says. All is of one device.
"""

import jax
import jax.numpy as jnp
import optax

from apnet_jax.models import counting
from apnet_jax.models.apnet import create_model, variable_shapes
from apnet_jax.retrieval.embed import make_embed_batch
from apnet_jax.training import run
from apnet_jax.training.train_step import first_state


class Work:
  """What a configuration trains and embeds with, by shapes alone."""

  def __init__(self, config, classes: int):
    self._size = tuple(config.data.image_size)
    _, optimizer, step = run.make_step(
      config, classes, optax.constant_schedule(config.train.learning_rate)
    )
    model = create_model(config.model, classes)
    variables = variable_shapes(model, self._size)
    state = jax.eval_shape(
      lambda variables: first_state(variables, optimizer), variables
    )
    self._parts = {
      'train': (step, state),
      'embed': (make_embed_batch(model, config.eval), variables),
    }

  def lower(self, part: str, batch: int) -> jax.stages.Lowered:
    """A part, before it is compiled."""
    function, state = self._parts[part]
    return function.lower(state, self._inputs(part, batch))

  def trace(self, part: str, batch: int):
    """The jaxpr of a part."""
    function, state = self._parts[part]
    return jax.make_jaxpr(function)(state, self._inputs(part, batch))

  def multiply_adds(self, part: str, batch: int) -> int:
    """Of convolutions and matrix products, for the batch."""
    return counting.count_jaxpr(self.trace(part, batch))

  def _inputs(self, part: str, batch: int):
    images = jax.ShapeDtypeStruct((1, batch, *self._size, 3), jnp.uint8)
    label = jax.ShapeDtypeStruct((1, batch), jnp.int32)
    return {'image': images, 'label': label} if part == 'train' else images


def compiler_figures(lowered: jax.stages.Lowered) -> dict[str, int]:
  """What the compiler says: `flops`, `bytes` accessed, and `temporary` bytes.

  It counts every operation, 2 for a multiply-add, and what each fused loop
  reads and writes.
  """
  compiled = lowered.compile()
  analysis = compiled.cost_analysis()
  return {
    'flops': int(analysis['flops']),
    'bytes': int(analysis['bytes accessed']),
    'temporary': compiled.memory_analysis().temp_size_in_bytes,
  }
