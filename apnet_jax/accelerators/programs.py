"""The programs of a configuration, lowered for devices and compiled.

They are traced with shapes instead of arrays, so that no weight is computed and
the devices need not exist.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections

from apnet_jax.models import counting
from apnet_jax.models.apnet import create_model, variable_shapes
from apnet_jax.retrieval.embed import make_embed_batch
from apnet_jax.training import optim, run
from apnet_jax.training.train_step import first_state

STEPS_PER_EPOCH = 100  # any number: it does not change what is computed


class Programs:
  """The training step ('train') and the embedding ('embed') of a configuration.

  They are those of `train.py` and `eval.py`. The training step runs on all
  devices; the embedding, on those of one process, without the others.

  Args:
    config: the whole configuration.
    num_classes: number of identities of the classifier.
    on: devices to compile for; None for the first of this process.

  Attributes:
    devices: number of devices of each program, by name.
    state: shapes of the training state.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    num_classes: int,
    on: Sequence[jax.Device] | None = None,
  ):
    on = jax.local_devices()[:1] if on is None else on
    of_process = [d for d in on if d.process_index == on[0].process_index]
    self._size = tuple(config.data.image_size)
    schedule = optim.learning_rate_schedule(config.train, STEPS_PER_EPOCH)
    _, optimizer, step = run.make_step(config, num_classes, schedule, on)
    model = create_model(config.model, num_classes)
    variables = variable_shapes(model, self._size)
    self.state = jax.eval_shape(
      lambda variables: first_state(variables, optimizer), variables
    )
    embed = make_embed_batch(model, config.eval, of_process)
    self._programs = {'train': (step, self.state), 'embed': (embed, variables)}
    self.devices = {'train': len(on), 'embed': len(of_process)}

  def lower(self, program: str, images: int) -> jax.stages.Lowered:
    """Returns the program 'train' or 'embed' before it is compiled.

    Args:
      program: name of the program.
      images: number of images of each device.
    """
    function, state = self._programs[program]
    return function.lower(state, self.inputs(program, images))

  def trace(self, program: str, images: int):
    """Returns the jaxpr of a program; see `lower`."""
    function, state = self._programs[program]
    return jax.make_jaxpr(function)(state, self.inputs(program, images))

  def multiply_adds(self, program: str, images: int) -> int:
    """Counts a device's multiply-adds in convolutions and matrix products.

    Args:
      program: 'train', a training step, or 'embed', an embedding.
      images: number of images of each device.
    """
    return counting.count_jaxpr(self.trace(program, images))

  def inputs(self, program: str, images: int):
    """Returns the shapes of the images (and labels) that a program reads.

    Args:
      program: name of the program.
      images: number of images of each device.
    """
    shape = (self.devices[program], images)
    pixels = jax.ShapeDtypeStruct((*shape, *self._size, 3), jnp.uint8)
    label = jax.ShapeDtypeStruct(shape, jnp.int32)
    batch = {'image': pixels, 'label': label}
    return batch if program == 'train' else pixels
