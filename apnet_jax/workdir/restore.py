"""Restores a trained network from the checkpoints of a workdir."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import ml_collections

from apnet_jax.errors import UserError
from apnet_jax.models.apnet import create_model, variable_shapes
from apnet_jax.parallel import devices
from apnet_jax.workdir.checkpoints import Checkpoints
from apnet_jax.workdir.pack import PackedCheckpoint
from apnet_jax.workdir.run_files import CONFIG_FILE, naming_damaged_file


def restore_model(
  checkpoints: Checkpoints | PackedCheckpoint,
  which: str,
  config: ml_collections.ConfigDict,
  num_classes: int,
) -> tuple[int, nn.Module, Mapping]:
  """Restores a trained network from a checkpoint of its run.

  Args:
    checkpoints: checkpoints of the run, or its packed network.
    which: 'last' or 'best'. If that checkpoint is damaged, another one is
      restored and a message says so.
    config: the whole configuration of the run.
    num_classes: number of identities that the run was trained on.

  Returns:
    The step of the checkpoint, the model, and its variables, replicated on all
    devices. If the run kept an average of them, these are the average.

  Raises:
    UserError: no checkpoint can be read, they belong to another model, or
      `which` has another value.
  """
  if which not in ('last', 'best'):
    raise UserError(f"which={which!r} must be 'last' or 'best'.")
  with naming_damaged_file(checkpoints.directory.parent / CONFIG_FILE):
    model = create_model(config.model, num_classes)
    # JAX_ENABLE_X64 is for other parts of a program, which may not use it here.
    with jax.enable_x64(config.model.dtype == 'float64'):
      shapes = variable_shapes(model, tuple(config.data.image_size))
    # Runs of older versions have no such field.
    averaged = config.train.get('ema_decay', 0.0) > 0
  step, variables = checkpoints.restore_variables(
    which, devices.replicated_shapes(shapes), averaged
  )
  return step, model, variables
