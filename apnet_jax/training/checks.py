"""Checks of a configuration before a run starts."""

import math
import os

import jax
import ml_collections

from apnet_jax import config as config_fields
from apnet_jax.errors import FieldError, UserError
from apnet_jax.models.apnet import create_model, variable_shapes
from apnet_jax.models.layers import check_batch_norm_group
from apnet_jax.parallel import processes
from apnet_jax.training import expected_curve, pretrained, programs
from apnet_jax.workdir import run_files


def check(
  config: ml_collections.ConfigDict, workdir: str | os.PathLike
) -> pretrained.Weights | None:
  """Checks that a configuration is valid and fits the devices.

  All processes must call this function, with the same configuration.
  Pre-trained weights are imported on trial, to check that they fit the network.
  The record that the run will be compared with is read.

  Args:
    config: the whole configuration.
    workdir: workdir of the run. If it holds a checkpoint to resume from,
      pre-trained weights are not checked.

  Returns:
    The pre-trained weights that the run starts from; None if there are none.

  Raises:
    UserError: a check fails. The message names the field and its value, and
      tells what is allowed.
  """
  config_fields.check(config)
  processes.check_processes()
  processes.check_same_config(config)
  check_batch(config, jax.device_count())
  check_warmup(config.train)
  _check_expected_curve(config.eval.expected_curve)
  size = tuple(config.data.image_size)
  shapes = variable_shapes(create_model(config.model, num_classes=1), size)
  source = config.model.pretrained
  # All processes read the weights of another run together, or none does.
  if not source or processes.first_decides(run_files.can_resume(workdir)):
    return None
  try:
    weights = pretrained.read(source, shapes)
    pretrained.import_pretrained(weights, shapes, config.model)
  except UserError as error:
    raise FieldError('model.pretrained', f'={source!r}: {error}') from error
  return weights


def _check_expected_curve(path: str) -> None:
  """Raises FieldError if there is a path, but no record of curves there."""
  try:
    if path:
      expected_curve.read(path)
  except UserError as error:
    raise FieldError('eval.expected_curve', f'={path!r}: {error}') from error


def check_steps(
  config: ml_collections.ConfigDict,
  steps_per_epoch: int,
  workdir: str | os.PathLike,
) -> None:
  """Checks that a run does not end too early or too late.

  A run that ends before the steps that its workdir has done would train
  nothing, and give the result of all these steps as that of fewer. A run that
  goes on after the end of the cosine schedule would not learn: the rate is 0.

  Args:
    config: the whole configuration.
    steps_per_epoch: number of batches in an epoch.
    workdir: workdir of the run, which may have no checkpoint yet.

  Raises:
    FieldError: the workdir has done more steps than the configuration asks for,
      or it asks for more than the cosine schedule has.
  """
  done = run_files.last_step(workdir) or 0
  total = programs.total_steps(config, steps_per_epoch)
  scheduled = config.train.epochs * steps_per_epoch
  if config.train.schedule == 'cosine' and total > scheduled:
    raise FieldError(
      'train.steps',
      f'={total} is more than the {scheduled} of config.train.epochs='
      f'{config.train.epochs}, after which the rate of'
      " config.train.schedule='cosine' is 0. Give fewer, or more epochs.",
    )
  if done <= total:
    return
  name, least = 'steps', done
  if not config.train.steps:
    name, least = 'epochs', math.ceil(done / steps_per_epoch)
  raise FieldError(
    f'train.{name}',
    f'={config.train[name]} asks for {total} steps, but the run in'
    f' --workdir={workdir} has done {done}. Give at least'
    f' config.train.{name}={least}, or another --workdir.',
  )


def check_warmup(config: ml_collections.ConfigDict) -> None:
  """Raises FieldError if the warm-up leaves no epoch for the cosine schedule.

  Args:
    config: the `train` part of a configuration.
  """
  if config.schedule == 'cosine' and config.warmup_epochs >= config.epochs:
    raise FieldError(
      'train.warmup_epochs',
      f'={config.warmup_epochs} leaves no epoch of config.train.epochs='
      f"{config.epochs} for config.train.schedule='cosine'. Give fewer.",
    )


def check_batch(config: ml_collections.ConfigDict, devices: int) -> None:
  """Checks that a batch divides evenly into micro-batches and among devices.

  Each micro-batch must also fit the groups of batch normalisation.

  Args:
    config: the whole configuration.
    devices: number of devices of all processes.

  Raises:
    UserError: the batch does not divide, or a group does not fit or is a single
      image.
  """
  images = config.train.P * config.train.K
  micro_batches = config.train.accumulate
  parts = micro_batches * devices
  if images % parts:
    into = (
      f' into config.train.accumulate={micro_batches} micro-batches, each'
      if micro_batches > 1
      else ''
    )
    raise UserError(
      f'a batch of config.train.P={config.train.P} times'
      f' config.train.K={config.train.K} = {images} images does not divide'
      f'{into} among {devices} devices. Give another number of identities, as'
      f' config.train.P={_closest_P(config.train, parts)}, or run on another'
      ' number of devices.'
    )
  group, at_once = config.model.batch_norm_group, images // micro_batches
  check_batch_norm_group(group, at_once, devices)
  if min(group or at_once, at_once) == 1:
    raise UserError(
      f'config.model.batch_norm_group={group} with config.train.accumulate='
      f'{micro_batches} normalises each image by its own statistics, which'
      ' makes all its features 0 in the BN neck. Give a group of at least 2'
      ' images (0 is the whole micro-batch), or fewer micro-batches.'
    )


def _closest_P(config: ml_collections.ConfigDict, parts: int) -> int:
  """Returns the P closest to the given one with which a batch divides.

  Args:
    config: the `train` part of a configuration.
    parts: number of equal parts that P times K images must have.
  """
  step = parts // math.gcd(parts, config.K)
  return max(round(config.P / step), 1) * step
