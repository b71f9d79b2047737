"""Tells whether a configuration fits an accelerator, by compiling it."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import math
import re
import time
from typing import Any

import jax
import ml_collections

from apnet_jax import config as config_fields
from apnet_jax.accelerators import input_rate, program_cost
from apnet_jax.accelerators.program_cost import ProgramCost
from apnet_jax.accelerators.targets import Target
from apnet_jax.accelerators.traced_programs import TracedPrograms
from apnet_jax.errors import FieldError, UserError, first_line
from apnet_jax.training.checks import check_batch, check_warmup

# Timing kernels against each other needs the card. Without it, the compiler for
# CUDA finds none for some products that are fused with other operations; cuBLAS
# then computes all products.
COMPILER_OPTIONS: dict[str, list[dict[str, Any]]] = {
  'tpu': [{}],
  'cuda': [
    {'xla_gpu_autotune_level': 0},
    {'xla_gpu_autotune_level': 0, 'xla_gpu_enable_triton_gemm': False},
  ],
}
NO_KERNEL = re.compile('Failed to get configs|No supported config found')
Watch = Callable[[str], contextlib.AbstractContextManager]


class DoesNotCompileError(Exception):
  """The compiler refuses a program.

  Attributes:
    out_of_memory: whether a smaller batch may help.
  """

  def __init__(self, error: jax.errors.JaxRuntimeError):
    text = str(error)
    self.out_of_memory = 'RESOURCE_EXHAUSTED' in text
    found = re.search(r'Ran out of memory.*?(?=\n\s*\n|\Z)', text, re.DOTALL)
    reason = ' '.join(found[0].split())[:300] if found else first_line(error)
    super().__init__(reason)


class Fit:
  """A configuration on the devices of a target.

  Args:
    config: the whole configuration.
    num_classes: number of identities of the classifier.
    target: machine to compile for.
    devices: its devices; see `topology.open_compiler`.
    watch: makes a context from a text that says what is compiled; compiling may
      take minutes.

  Raises:
    UserError: the configuration is not valid, or does not fit the devices.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    num_classes: int,
    target: Target,
    devices: Sequence[jax.Device],
    watch: Watch = contextlib.nullcontext,
  ):
    config_fields.check(config)
    check_batch(config, len(devices))
    check_warmup(config.train)
    if config.model.dtype not in target.chip.peak:
      raise FieldError(
        'model.dtype',
        f'={config.model.dtype!r}: accelerators compute in'
        f' {" or ".join(target.chip.peak)}.',
      )
    self.config, self.target, self.devices = config, target, devices
    self.hosts = len({device.process_index for device in devices})
    self._num_classes, self._watch = num_classes, watch

  def facts(self) -> dict[str, Any]:
    """Returns the target, its public figures and the configuration."""
    chip, config = self.target.chip, self.config
    return {
      'device': self.target.name,
      'title': chip.title,
      'devices': len(self.devices),
      'hosts': self.hosts,
      'memory': chip.memory,
      'available': chip.available,
      'operations_per_second': chip.peak[config.model.dtype],
      'bytes_per_second': chip.bandwidth,
      'source': chip.source,
      'num_classes': self._num_classes,
      'image_size': list(config.data.image_size),
      'dtype': config.model.dtype,
      'jax': jax.__version__,
    }

  def measure(self, program: str) -> dict[str, Any]:
    """Compiles a program and returns its cost.

    Each host embeds its share of a batch, by a program of its own. One of these
    is compiled; all figures but those of a device are of all hosts together.

    If the compiler says that the program does not fit into memory, half of the
    batch is compiled instead, and so on, to estimate the largest batch.

    Args:
      program: 'train', the training step, or 'embed', the embedding.

    Returns:
      `batch`: images of all devices that the configuration asks for; `reason`:
      why the compiler refuses it, or None; `fits`: whether it compiles and its
      memory is available; `compiled_batch`: the batch of the following figures,
      which are None if nothing compiles: `memory` of a device by kind,
      `operations`, `bytes` and `bytes_from`, as in `ProgramCost`; the
      `roofline`; `largest_batch`, an estimate; `seconds` of compiling.
    """
    programs = TracedPrograms.of(self.config, self._num_classes, self.devices)
    asked = self._images(program)
    result: dict[str, Any] = {
      'batch': asked * len(self.devices),
      'reason': None,
    }
    for images in self._halves(program, asked):
      try:
        cost = self.compile(programs, program, images)
      except DoesNotCompileError as error:
        result['reason'] = result['reason'] or str(error)
        if not error.out_of_memory:
          break
      except UserError:  # half of the batch does not fit batch normalisation
        if images == asked:
          raise
        break
      else:
        return result | self._describe(programs, program, cost, asked)
    nothing = dict.fromkeys(
      ('compiled_batch', 'memory', 'operations', 'bytes', 'bytes_from')
      + ('roofline', 'largest_batch', 'seconds')
    )
    return result | {'fits': False} | nothing

  def compile(
    self, programs: TracedPrograms, program: str, images: int
  ) -> ProgramCost:
    """Compiles a program as `compile_and_count` does, and says so meanwhile."""
    name = {'train': 'training step', 'embed': 'embedding'}[program]
    whole = images * len(self.devices)
    with self._watch(f'Compiling the {name} of {whole} images'):
      return compile_and_count(self.target, programs, program, images)

  def alternatives(self) -> Iterator[tuple[str, 'Fit']]:
    """Yields settings that change the memory of a training step.

    Settings that the configuration has, or that do not fit its batch, are left
    out.

    Yields:
      The flag that makes the setting, and the configuration with it.
    """
    config = self.config
    images = config.train.P * config.train.K // len(self.devices)
    parts = next((n for n in (4, 2) if images % n == 0), 1)
    for section, field, value in (
      ('train', 'rematerialize', True),
      ('train', 'accumulate', max(parts, config.train.accumulate)),
      ('model', 'dtype', 'bfloat16'),
    ):
      changed = config.copy_and_resolve_references()
      changed[section][field] = value
      if changed == config:
        continue
      try:
        fit = Fit(
          changed, self._num_classes, self.target, self.devices, self._watch
        )
      except UserError:  # micro-batches do not fit groups of images
        continue
      flag = f'--config.{section}.{field}'
      yield flag if value is True else f'{flag}={value}', fit

  def input_cores(self, images_per_second: float) -> dict[str, Any]:
    """Estimates the cores of each host that the input pipeline needs.

    Args:
      images_per_second: images that all devices train on in a second.
    """
    cores = input_rate.cores_needed(images_per_second / self.hosts)
    return {
      'encoded_per_core': input_rate.ENCODED_PER_CORE,
      'decoded_per_host': input_rate.DECODED_PER_HOST,
      'cores_of_a_host': cores,
      'decoded_pays': input_rate.recommends_decoded(cores),
    }

  def _images(self, program: str) -> int:
    """Returns the number of images of each device in a batch."""
    if program == 'train':
      return self.config.train.P * self.config.train.K // len(self.devices)
    return -(-self.config.eval.batch_size // len(self.devices))

  def _halves(self, program: str, images: int) -> Iterator[int]:
    """Yields numbers of images of a device, each about half of the previous."""
    unit = self.config.train.accumulate if program == 'train' else 1
    while images:
      yield images
      images = images // 2 // unit * unit

  def _describe(
    self, programs: TracedPrograms, program: str, cost: ProgramCost, asked: int
  ) -> dict[str, Any]:
    chip, train = self.target.chip, self.config.train
    # An embedding is compiled for the devices of one host; all hosts run it.
    cost = dataclasses.replace(cost, devices=len(self.devices))
    line = program_cost.roofline(cost, chip, self.config.model.dtype)
    unit, gradients = cost.devices, 0
    if program == 'train':
      unit = math.lcm(train.K, cost.devices * train.accumulate)
      gradients = program_cost.size_of(programs.states['train'].params)
    return {
      'fits': cost.images == asked and cost.memory.total <= chip.available,
      'compiled_batch': cost.images * cost.devices,
      'memory': program_cost.as_dict(cost.memory),
      'operations': cost.operations,
      'bytes': cost.bytes,
      'bytes_from': cost.bytes_from,
      'roofline': dataclasses.asdict(line) | {'bound': line.bound},
      'largest_batch': program_cost.largest_batch(
        cost, gradients, chip.budget, unit
      ),
      'seconds': cost.seconds,
    }


def compile_and_count(
  target: Target, programs: TracedPrograms, program: str, images: int
) -> ProgramCost:
  """Compiles a program and returns its cost.

  Args:
    target: machine to compile for.
    programs: programs on its devices.
    program: 'train' or 'embed'.
    images: number of images of each device.

  Raises:
    DoesNotCompileError: the compiler refuses it.
  """
  start = time.perf_counter()
  compiled = compile_for(target, programs.lower(program, images))
  seconds = time.perf_counter() - start
  devices = programs.devices[program]
  inputs = program_cost.size_of(programs.inputs(program, images)) // devices
  moved, source = program_cost.bytes_accessed(compiled)
  return ProgramCost(
    images=images,
    devices=devices,
    memory=program_cost.memory_of(compiled, inputs),
    operations=2 * programs.multiply_adds(program, images),
    bytes=moved,
    bytes_from=source,
    seconds=seconds,
  )


def compile_for(
  target: Target, lowered: jax.stages.Lowered
) -> jax.stages.Compiled:
  """Compiles a program for a target.

  Raises:
    DoesNotCompileError: the compiler refuses it.
  """
  for options in COMPILER_OPTIONS[target.chip.platform]:
    try:
      return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
      refusal = error
      if not NO_KERNEL.search(str(error)):
        break
  raise DoesNotCompileError(refusal) from refusal
