"""The programs of a configuration, lowered for devices and compiled.

They are traced with shapes instead of arrays, so that no weight is computed and
the devices need not exist.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from apnet_jax.models import counting
from apnet_jax.models.apnet import create_model
from apnet_jax.retrieval.embed import make_embed_batch
from apnet_jax.training import optim, programs
from apnet_jax.training.train_step import state_shapes

# A schedule needs a number. It changes constants of the step, but neither its
# operations nor its memory.
STEPS_PER_EPOCH = 100


class TracedPrograms:
  """The training step ('train') and the embedding ('embed') of a network.

  Args:
    functions: the mapped function of each program, by name. A function takes a
      state, and images (and labels) [devices, images, ...].
    states: shapes of the state of each program.
    devices: number of devices of each program.
    image_size: height and width of the images in pixels.
  """

  def __init__(
    self,
    functions: Mapping[str, jax.stages.Wrapped],
    states: Mapping[str, Any],
    devices: Mapping[str, int],
    image_size: tuple[int, int],
  ):
    self._functions, self._size = functions, tuple(image_size)
    self.states, self.devices = states, devices

  @classmethod
  def of(
    cls,
    config: ml_collections.ConfigDict,
    num_classes: int,
    on: Sequence[jax.Device] | None = None,
  ) -> 'TracedPrograms':
    """Returns the programs that `train.py` and `eval.py` run.

    The training step runs on all devices; the embedding, on those of one
    process, without the others.

    Args:
      config: the whole configuration.
      num_classes: number of identities of the classifier.
      on: devices to compile for; None for the first of this process.
    """
    on = jax.local_devices()[:1] if on is None else on
    of_process = devices_of_process(on)
    size = tuple(config.data.image_size)
    schedule = optim.learning_rate_schedule(config.train, STEPS_PER_EPOCH)
    _, optimizer, step = programs.make_step(config, num_classes, schedule, on)
    model = create_model(config.model, num_classes)
    state = state_shapes(model, optimizer, size, config.train)
    variables = {'params': state.params, 'batch_stats': state.batch_stats}
    embed = make_embed_batch(model, config.eval, of_process)
    return cls(
      {'train': step, 'embed': embed},
      {'train': state, 'embed': variables},
      {'train': len(on), 'embed': len(of_process)},
      size,
    )

  def lower(self, program: str, images: int) -> jax.stages.Lowered:
    """Returns the program 'train' or 'embed' before it is compiled.

    Args:
      program: name of the program.
      images: number of images of each device.
    """
    inputs = self.inputs(program, images)
    return self._functions[program].lower(self.states[program], inputs)

  def trace(self, program: str, images: int):
    """Returns the jaxpr of a program; see `lower`."""
    inputs = self.inputs(program, images)
    return jax.make_jaxpr(self._functions[program])(
      self.states[program], inputs
    )

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


def devices_of_process(on: Sequence[jax.Device]) -> Sequence[jax.Device]:
  """Returns the devices of the process that has the first of some devices."""
  return [d for d in on if d.process_index == on[0].process_index]
