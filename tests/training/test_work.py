"""Counted work of training and embedding has not grown; time is not measured.

`tests/golden/README.md` describes how to renew the expected counts.
"""

import json

import jax
import pytest

from tests.golden import make_work

EXPECTED = json.loads(make_work.FILE.read_text())
TOLERANCE = 1.03  # upward; the compiled code depends on the processor
RENEW = 'If that is meant: python -m tests.golden.make_work'


def test_multiply_adds():
  assert make_work.count_multiply_adds() == EXPECTED['multiply_adds'], RENEW


@pytest.fixture(scope='module')
def measured():
  """The programs of a run of four steps and two evaluations, and a stage."""
  return make_work.measure()


@pytest.fixture(scope='module')
def expected():
  version = jax.__version__
  if version not in EXPECTED['jax']:
    pytest.skip(f'nothing is known of JAX {version}. {RENEW}')
  return EXPECTED['jax'][version]


def test_each_program_is_compiled_once(expected, measured):
  """The number of steps does not matter: `make_work` used another one."""
  assert measured['programs'] == expected['programs'], RENEW


@pytest.mark.parametrize('part', ['train', 'embed', 'stage'])
@pytest.mark.parametrize('figure', ['flops', 'bytes', 'temporary'])
def test_the_compiler_counts_no_more(expected, measured, part, figure):
  most = TOLERANCE * expected[part][figure]
  assert 0 < measured[part][figure] <= most, RENEW
