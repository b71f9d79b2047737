"""The network, the compiled training step and the initial state of a run.

None of them needs images, so they are made before the data are read.
"""

from collections.abc import Mapping, Sequence
from concurrent import futures
from functools import cache, partial

import flax.linen as nn
import jax
import ml_collections
import numpy as np
import optax

from apnet_jax.models.apnet import create_model
from apnet_jax.parallel import background, devices
from apnet_jax.training import optim
from apnet_jax.training.train_step import (
  TrainState,
  lower_create_state,
  state_shapes,
  train_step,
)


class Programs:
  """The network of a run, its training step and its initial state.

  They depend on the configuration and on two numbers of the data set, and need
  no images.

  Args:
    config: the whole configuration.
    num_classes: number of identities to train on.
    steps_per_epoch: number of batches in an epoch.

  Attributes:
    size: `num_classes` and `steps_per_epoch`.
    total_steps: number of steps from the beginning to the end.
    model: the network.
    learning_rate: learning rate as a function of the step.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    num_classes: int,
    steps_per_epoch: int,
  ):
    self._config = config
    self.size = (num_classes, steps_per_epoch)
    self.total_steps = total_steps(config, steps_per_epoch)
    schedule = optim.learning_rate_schedule(config.train, steps_per_epoch)
    self.learning_rate = jax.jit(schedule)  # one program instead of six
    self.model, optimizer, self._step = make_step(config, num_classes, schedule)
    size = tuple(config.data.image_size)
    state_of = (self.model, optimizer, size)
    self._lower_init = partial(lower_create_state, *state_of, config.train)
    # A run that resumes needs them twice: to compile and to restore. Tracing
    # ResNet-50 for them takes a second. The tree stays within this class.
    self._state_shapes = cache(partial(state_shapes, *state_of, config.train))
    self._compiled_init: futures.Future | None = None
    self._compiled_step: futures.Future | None = None

  def compile_ahead(self, steps_done: int | None) -> None:
    """Starts to compile the programs that a run needs first, unless it has.

    They are lowered here and compiled in threads. `random_state` and `step`
    wait for them, and raise the errors of the compiler.

    Args:
      steps_done: the step to resume after, which needs no initial state; None
        for a run from the beginning.
    """
    if steps_done is None and not self._compiled_init:
      self._compiled_init = background.start(self._lower_init().compile)
    if (steps_done or 0) < self.total_steps and not self._compiled_step:
      self._compiled_step = background.start(self.lower_step().compile)

  def lower_step(self) -> jax.stages.Lowered:
    """Lowers the training step for batches of the configuration's size."""
    config = self._config
    images = config.train.P * config.train.K // jax.process_count()
    batch = {
      'image': np.zeros((images, *config.data.image_size, 3), np.uint8),
      'label': np.zeros(images, np.int32),
    }
    batch = devices.shard_batch(batch, config.train.accumulate)
    return devices.lower_step(self._step, self._state_shapes(), batch)

  def step(
    self, state: TrainState, batch: Mapping[str, np.ndarray]
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    """Runs a training step on all devices; see `train_step`.

    Args:
      state: the replicated state, which is donated.
      batch: the batch of this process, sharded by `devices.shard_batch`.
    """
    if self._compiled_step:
      self._compiled_step.result()
    return self._step(state, batch)

  def random_state(self) -> TrainState:
    """Returns a state with random weights, a function of the seed alone."""
    if not self._compiled_init:
      self._compiled_init = background.start(self._lower_init().compile)
    init, config = self._compiled_init.result(), self._config
    return devices.replicate(init(jax.random.key(config.seed)))

  def state_shapes(self) -> TrainState:
    """Returns the shapes, types and sharding of a state; computes nothing."""
    return devices.replicated_shapes(self._state_shapes())


def total_steps(config: ml_collections.ConfigDict, steps_per_epoch: int) -> int:
  """Returns the number of steps of a run from the beginning to the end.

  Args:
    config: the whole configuration.
    steps_per_epoch: number of batches in an epoch.
  """
  return config.train.steps or config.train.epochs * steps_per_epoch


def make_step(
  config: ml_collections.ConfigDict,
  num_classes: int,
  schedule: optax.Schedule,
  on: Sequence[jax.Device] | None = None,
) -> tuple[nn.Module, optax.GradientTransformation, jax.stages.Wrapped]:
  """Makes the model, the optimiser and the training step of a configuration.

  Args:
    config: the whole configuration.
    num_classes: number of identities of the classifier.
    schedule: learning rate as a function of the step.
    on: devices to compile the step for; None for those of all processes.

  Returns:
    The model, the optimiser, and `step(state, batch) -> state, metrics` on all
    devices.
  """
  model = create_model(
    config.model, num_classes, devices.AXIS, config.train.rematerialize
  )
  optimizer = optim.create_optimizer(config.train, schedule)
  step = partial(
    train_step,
    model=model,
    optimizer=optimizer,
    config=config,
    axis_name=devices.AXIS,
  )
  return model, optimizer, devices.pmap_step(step, on)
