import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apnet_jax.accelerators import program_cost
from apnet_jax.accelerators.program_cost import Memory, ProgramCost
from apnet_jax.accelerators.targets import CHIPS

MEMORY = Memory(
  state=300, images=20, results=0, temporary=500, code=5, donated=300
)
COST = ProgramCost(
  images=10,
  devices=4,
  memory=MEMORY,
  operations=10**12,
  bytes=2 * 10**9,
  bytes_from='compiler',
  seconds=1.0,
)


def test_memory_of_a_compiled_step():
  """The new state takes the memory of the old one; the loss does not."""
  state = {'w': np.ones((64, 64), np.float32), 'n': np.int32(0)}
  images = np.ones((8, 64), np.float32)

  def step(state, images):
    y = jnp.sin(images @ state['w']) @ state['w']
    return {'w': state['w'] + y.sum(0), 'n': state['n'] + 1}, y.mean()

  compiled = jax.jit(step, donate_argnums=0).lower(state, images).compile()
  memory = program_cost.memory_of(compiled, images.nbytes)
  size = program_cost.size_of(state)
  assert size == 4 * 64 * 64 + 4
  assert memory.state == memory.donated == size
  assert memory.images == images.nbytes
  assert 4 <= memory.results < 100
  assert memory.temporary >= images.nbytes  # the result of the first product
  kinds = (size, images.nbytes, memory.results, memory.temporary, memory.code)
  assert memory.total == sum(kinds)


def test_bytes_come_from_the_compiler_or_the_text():
  x = np.ones((32, 32), np.float32)
  compiled = jax.jit(lambda x: jnp.sin(x)).lower(x).compile()
  told = program_cost.bytes_accessed(compiled)

  class Silent:
    as_text = compiled.as_text

    def cost_analysis(self):
      return None

  read = program_cost.bytes_accessed(Silent())
  assert told == (2 * x.nbytes, 'compiler')
  assert read == (2 * x.nbytes, 'text')


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_roofline(dtype):
  chip = CHIPS['h100']
  line = program_cost.roofline(COST, chip, dtype)
  assert line.operations_seconds * chip.peak[dtype] == pytest.approx(1e12)
  assert line.bytes_seconds * chip.bandwidth == pytest.approx(2e9)
  slowest = max(line.operations_seconds, line.bytes_seconds)
  assert line.images_per_second == pytest.approx(40 / slowest)
  assert line.bound == 'operations'
  moves = dataclasses.replace(COST, bytes=10**12)
  assert program_cost.roofline(moves, chip, dtype).bound == 'bytes'


def test_bytes_of_the_text_bound_no_speed():
  """They may be too many, unless operations take longer all the same."""
  for bytes_from, bound, expected in (
    ('compiler', 'bytes', True),
    ('compiler', 'operations', True),
    ('text', 'bytes', False),
    ('text', 'operations', True),
  ):
    assert program_cost.is_upper_bound(bytes_from, bound) == expected


def memory_at(images, gradients):
  """The memory of a device by the model that the estimate follows."""
  each = (MEMORY.temporary - gradients + MEMORY.images) / COST.images
  return MEMORY.state + MEMORY.code + gradients + each * images


@pytest.mark.parametrize('gradients', [0, 100])
@pytest.mark.parametrize('budget', [700, 1000, 5000])
@pytest.mark.parametrize('unit', [4, 12])
def test_the_largest_batch_fits_and_the_next_does_not(gradients, budget, unit):
  found = program_cost.largest_batch(COST, gradients, budget, unit)
  assert found % unit == 0
  assert memory_at(found / COST.devices, gradients) <= budget
  assert memory_at((found + unit) / COST.devices, gradients) > budget


def test_no_batch_fits_into_less_memory_than_the_state():
  assert program_cost.largest_batch(COST, 100, 400, 4) == 0


def test_gradients_are_at_most_what_is_temporary():
  found = program_cost.largest_batch(COST, 10_000, 2000, 4)
  assert found == program_cost.largest_batch(COST, 500, 2000, 4) > 0
