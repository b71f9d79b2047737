"""Fits of configurations, with compilers that only pretend."""

import contextlib
import types

import jax
import numpy as np
import pytest

from apnet_jax.accelerators import fit as fit_module
from apnet_jax.accelerators.fit import DoesNotCompileError, Fit
from apnet_jax.accelerators.program_cost import Memory, ProgramCost
from apnet_jax.accelerators.targets import GIB, find_target
from apnet_jax.errors import UserError
from configs import common

OUT_OF_MEMORY = (
  'RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM,\n'
  'the total memory (26.84G) exceeds available HBM (15.75G). See https://...\n\n'
  'Largest allocations:\n  ...'
)


class FakeFit(Fit):
  """A configuration that compiles with at most some images on a device."""

  most, error, per_image = 10, OUT_OF_MEMORY, GIB // 10

  def compile(self, programs, program, images):
    if images > self.most:
      raise DoesNotCompileError(jax.errors.JaxRuntimeError(self.error))
    memory = Memory(0, 0, 0, images * self.per_image, 0, 0)
    devices = programs.devices[program]
    return ProgramCost(images, devices, memory, 10**9, 10**9, 'compiler', 1.0)


class FakePrograms:
  @classmethod
  def of(cls, config, num_classes, on):
    fake = cls()
    fake.devices = {'train': len(on), 'embed': len(on) // 2}
    state = types.SimpleNamespace(params=np.zeros(0, np.float32))
    fake.states = {'train': state}
    return fake


@pytest.fixture
def make(monkeypatch):
  monkeypatch.setattr(fit_module, 'TracedPrograms', FakePrograms)
  chips = [types.SimpleNamespace(process_index=i // 4) for i in range(8)]

  def make(devices=chips, **train):
    config = common.get_config()
    config.train.update(train)
    return FakeFit(config, 751, find_target('v5e:2x4'), devices)

  return make


def test_a_batch_that_fits(make):
  found = make().measure('train')
  assert found['fits'] and found['reason'] is None
  assert found['batch'] == found['compiled_batch'] == 80
  # 16 GiB times 0.96 times 0.95, by 0.1 GiB an image, in steps of 8.
  assert found['largest_batch'] == 8 * 145


def test_an_embedding_is_compiled_for_a_host_and_counted_for_all(make):
  found = make(P=80).measure('embed')
  assert not found['fits']  # 16 images of a device, of which 10 compile
  assert (found['batch'], found['compiled_batch']) == (128, 64)
  assert found['largest_batch'] // 8 == 145  # as in training
  line = found['roofline']
  seconds = max(line['operations_seconds'], line['bytes_seconds'])
  assert line['images_per_second'] == pytest.approx(64 / seconds)


def test_what_is_compiled_is_said_for_all_hosts(make, monkeypatch):
  monkeypatch.setattr(fit_module, 'compile_and_count', lambda *_: None)
  said = []
  fit = make()
  fit._watch = lambda text: said.append(text) or contextlib.nullcontext()
  Fit.compile(fit, None, 'embed', 16)
  assert said == ['Compiling the embedding of 128 images']


def test_half_of_a_batch_is_compiled_where_memory_is_short(make):
  fit = make(P=160)  # 80 images of a device
  found = fit.measure('train')
  assert not found['fits']
  assert (found['batch'], found['compiled_batch']) == (640, 80)
  assert found['reason'].startswith('Ran out of memory on HBM, the total')
  assert 'Largest' not in found['reason']
  assert found['largest_batch'] == 8 * 145


def test_parts_of_a_batch_keep_their_micro_batches(make):
  found = make(P=96, accumulate=12).measure('train')  # 48 images of a device
  assert found['memory'] is None and found['largest_batch'] is None
  assert 'Ran out of memory' in found['reason']  # 24 and 12 are too many


def test_memory_that_only_the_compiler_has_does_not_fit(make):
  fit = make()
  fit.per_image = 2 * GIB
  found = fit.measure('train')
  assert not found['fits'] and found['reason'] is None
  assert found['largest_batch'] == 8 * 7


def test_other_errors_of_the_compiler_end_the_search(make):
  fit = make(P=160)
  fit.error = 'INTERNAL: a fault\nin many lines'
  found = fit.measure('train')
  assert found['reason'] == 'INTERNAL: a fault'
  assert not found['fits'] and found['roofline'] is None


def test_alternatives_are_what_the_configuration_does_not_have(make):
  def flags(fit):
    return [flag.removeprefix('--config.') for flag, _ in fit.alternatives()]

  assert flags(make()) == [
    'train.rematerialize', 'train.accumulate=2', 'model.dtype=bfloat16',
  ]  # fmt: skip
  assert 'train.accumulate=4' in flags(make(P=32))
  assert flags(make(P=21, K=8, rematerialize=True)) == ['model.dtype=bfloat16']
  fit = make(accumulate=2)
  fit.config.model.dtype = 'bfloat16'
  assert flags(fit) == ['train.rematerialize']


def test_micro_batches_that_do_not_fit_groups_are_left_out(make):
  fit = make(P=12)  # 6 images of a device, or 3 and 3
  for group, expected in ((2, False), (6, True)):
    fit.config.model.batch_norm_group = group
    flags = [flag for flag, _ in fit.alternatives()]
    assert ('--config.train.accumulate=2' in flags) == expected
    assert '--config.model.dtype=bfloat16' in flags


def test_alternatives_leave_the_configuration_alone(make):
  fit = make()
  for _, other in fit.alternatives():
    assert other.config != fit.config
  assert fit.config.train == common.get_config().train


def test_input_is_counted_for_each_host(make):
  found = make().input_cores(2 * 3110)
  assert found['cores_of_a_host']['encoded'] == 1


def test_a_batch_that_does_not_divide_is_a_mistake(make):
  with pytest.raises(UserError, match='84 images does not divide among 8'):
    make(P=21)


def test_a_warmup_that_leaves_no_epoch_for_the_cosine_is_a_mistake(make):
  with pytest.raises(UserError, match='warmup_epochs=10 leaves no epoch'):
    make(schedule='cosine', epochs=10)


def test_a_type_without_figures_is_a_mistake(make):
  fit = make()
  with jax.enable_x64(True):
    fit.config.model.dtype = 'float64'
    with pytest.raises(UserError, match="dtype='float64': accelerators"):
      Fit(fit.config, 751, fit.target, fit.devices)


@pytest.mark.parametrize(
  ('device', 'errors', 'tries', 'refused'),
  [
    ('h100', [], 1, False),
    ('h100', ['INTERNAL: Failed to get configs for: 4'], 2, False),
    ('a100', ['INTERNAL: No supported config found for HLO: 4'], 2, False),
    ('h100', ['INTERNAL: Failed to get configs for: 4'] * 2, 2, True),
    ('h100', ['INTERNAL: a fault'], 1, True),
    ('v5e:2x4', ['INTERNAL: a fault'], 1, True),
  ],
)
def test_cublas_computes_products_without_a_kernel(
  device, errors, tries, refused
):
  options = []

  class Lowered:
    def compile(self, compiler_options):
      options.append(compiler_options)
      if len(options) <= len(errors):
        raise jax.errors.JaxRuntimeError(errors[len(options) - 1])
      return 'compiled'

  if refused:
    with pytest.raises(DoesNotCompileError, match='INTERNAL'):
      fit_module.compile_for(find_target(device), Lowered())
  else:
    assert fit_module.compile_for(find_target(device), Lowered()) == 'compiled'
  assert len(options) == tries
  assert ('xla_gpu_enable_triton_gemm' in options[-1]) == (tries == 2)
