"""The work of training and embedding is what it was; seconds do not matter.

`tests/golden/README.md` says how to renew what is expected.
"""

import json

import jax
import pytest

from tests.golden import make_work

EXPECTED = json.loads(make_work.FILE.read_text())
TOLERANCE = 1.03  # upward; compilers of one version differ with the processor
RENEW = 'If that is meant: python -m tests.golden.make_work'


def test_multiply_adds():
  assert make_work.count_multiply_adds() == EXPECTED['multiply_adds'], RENEW


@pytest.fixture(scope='module')
def run():
  """What a run of four steps and two evaluations compiles."""
  return make_work.measure_run(steps=4)


@pytest.fixture(scope='module')
def expected():
  version = jax.__version__
  if version not in EXPECTED['jax']:
    pytest.skip(f'nothing is known of JAX {version}. {RENEW}')
  return EXPECTED['jax'][version]


def test_each_program_is_compiled_once(expected, run):
  """However many steps there are: the expected ones are of another number."""
  assert run['programs'] == expected['programs'], RENEW


@pytest.mark.parametrize('part', ['train', 'embed'])
@pytest.mark.parametrize('figure', ['flops', 'bytes', 'temporary'])
def test_the_compiler_counts_no_more(expected, run, part, figure):
  assert run[part][figure] <= TOLERANCE * expected[part][figure], RENEW
