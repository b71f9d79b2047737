"""Counts the work of a training step or an embedding, without running it.

Programs are traced with shapes instead of arrays, and compiled for the
compiler's own figures. All counts are for one device.
"""

import jax
import jax.numpy as jnp
import optax

from apnet_jax.models import counting
from apnet_jax.models.apnet import create_model, variable_shapes
from apnet_jax.retrieval.embed import make_embed_batch
from apnet_jax.training import programs
from apnet_jax.training.train_step import first_state


class Work:
  """The training step ('train') and the embedding ('embed') of a configuration.

  Args:
    config: the whole configuration.
    classes: number of identities.
  """

  def __init__(self, config, classes: int):
    self._size = tuple(config.data.image_size)
    _, optimizer, step = programs.make_step(
      config, classes, optax.constant_schedule(config.train.learning_rate)
    )
    model = create_model(config.model, classes)
    variables = variable_shapes(model, self._size)
    state = jax.eval_shape(
      lambda variables: first_state(variables, optimizer), variables
    )
    self._programs = {
      'train': (step, state),
      'embed': (make_embed_batch(model, config.eval), variables),
    }

  def lower(self, program: str, batch: int) -> jax.stages.Lowered:
    """Returns the program 'train' or 'embed' for a batch size, not compiled."""
    function, state = self._programs[program]
    return function.lower(state, self._inputs(program, batch))

  def trace(self, program: str, batch: int):
    """Returns the jaxpr of the program 'train' or 'embed' for a batch size."""
    function, state = self._programs[program]
    return jax.make_jaxpr(function)(state, self._inputs(program, batch))

  def multiply_adds(self, program: str, batch: int) -> int:
    """Counts the batch's multiply-adds in convolutions and matrix products.

    Args:
      program: 'train', a training step, or 'embed', an embedding.
      batch: number of images.
    """
    return counting.count_jaxpr(self.trace(program, batch))

  def _inputs(self, program: str, batch: int):
    images = jax.ShapeDtypeStruct((1, batch, *self._size, 3), jnp.uint8)
    label = jax.ShapeDtypeStruct((1, batch), jnp.int32)
    train = {'image': images, 'label': label}
    return train if program == 'train' else images


def compiler_figures(lowered: jax.stages.Lowered) -> dict[str, int]:
  """Compiles a program and returns the compiler's figures.

  Returns:
    `flops`: all operations, of which a multiply-add is two. `bytes`: bytes that
    fused loops read and write. `temporary`: bytes of temporary values.
  """
  compiled = lowered.compile()
  analysis = compiled.cost_analysis()
  return {
    'flops': int(analysis['flops']),
    'bytes': int(analysis['bytes accessed']),
    'temporary': compiled.memory_analysis().temp_size_in_bytes,
  }
