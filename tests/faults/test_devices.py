"""The number of devices never changes the result."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.compilation import xla_flags
from tests.faults.train_on_devices import ATTENTIONS, GROUPS
from tests.tiny import difference

ROOT = pathlib.Path(__file__).parents[2]
COUNTS = (1, 2, 4, 8)
CASES = [f'{a}/{g}' for a in ATTENTIONS for g in GROUPS]
WITHOUT_GROUPS = [f'{attention}/{GROUPS[0]}' for attention in ATTENTIONS]


@pytest.fixture(scope='module')
def results(tmp_path_factory):
  """The results by number of devices and by name."""
  found = {}
  for count in COUNTS:
    path = tmp_path_factory.mktemp('devices') / f'{count}.npz'
    subprocess.run(
      [sys.executable, '-m', 'tests.faults.train_on_devices', path],
      cwd=ROOT,
      env=dict(os.environ, XLA_FLAGS=xla_flags(count, optimization=0)),
      check=True,
    )
    found[count] = np.load(path)
  return found


def leaves(arrays, case):
  return {
    name[len(case) :]: arrays[name] for name in arrays if name.startswith(case)
  }


def assert_agree(results, case, tolerance, dtype):
  """Compares all arrays of a case: state, metrics, statistics, figures."""
  expected = leaves(results[1], case)
  assert np.dtype(dtype) in {x.dtype for x in expected.values()}
  for count in COUNTS[1:]:
    found = leaves(results[count], case)
    assert found.keys() == expected.keys()
    for name in expected:
      assert difference(found[name], expected[name]) < tolerance, (count, name)


@pytest.mark.parametrize('case', CASES)
def test_one_step_in_float32(results, case):
  """Losses, gradients and batch statistics agree to 1e-5."""
  assert_agree(results, f'float32/{case}', 1e-5, np.float32)


@pytest.mark.parametrize('case', CASES)
def test_twenty_steps_in_float64(results, case):
  """States and metrics agree to 1e-8."""
  assert_agree(results, f'float64/{case}', 1e-8, np.float64)
  steps = {name for name in leaves(results[1], f'float64/{case}')}
  assert sum("['loss']" in name for name in steps) == 20


@pytest.mark.parametrize('case', WITHOUT_GROUPS)
def test_retrieval(results, case):
  """Embeddings and figures agree to 1e-5."""
  assert_agree(results, f'retrieval/{case}', 1e-5, np.float32)


@pytest.mark.parametrize('count', COUNTS)
@pytest.mark.parametrize('case', WITHOUT_GROUPS)
def test_shard_map_does_the_same_as_pmap(results, case, count):
  expected = leaves(results[count], f'float32/{case}')
  found = leaves(results[count], f'shard_map/{case}')
  assert found.keys() == expected.keys()
  for name in expected:
    assert difference(found[name], expected[name]) < 1e-5, name


@pytest.mark.parametrize('case', CASES)
def test_gradients_reach_every_parameter(results, case):
  before = leaves(results[1], f'first/{case}')
  after = leaves(results[1], f'float64/{case}')
  params = [name for name in before if '.params' in name]
  assert params
  for name in params:
    assert (before[name] != after[f'[0]{name}']).any(), name
