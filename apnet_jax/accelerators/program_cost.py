"""The memory and the time that a compiled program needs, by its own figures.

Nothing is run. The roofline assumes that a device multiplies at its peak, moves
bytes at the peak of its memory, both at once, and never waits for another
device or for images. It is an upper bound of the speed if the compiler reports
the bytes. Bytes counted from the program's text are too high, so a speed that
they limit is an estimate.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax

from apnet_jax.accelerators.program_text import ProgramText
from apnet_jax.accelerators.targets import Chip


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of memory of one device while a program runs.

  Attributes:
    state: weights, statistics and moments of the optimiser.
    images: the batch.
    results: results that do not take the place of an argument.
    temporary: feature maps, gradients and other values of the program.
    code: the program itself.
    donated: bytes of the state whose memory the new state takes; they count
      once.
  """

  state: int
  images: int
  results: int
  temporary: int
  code: int
  donated: int

  @property
  def total(self) -> int:
    """Bytes of all kinds together."""
    kinds = (self.state, self.images, self.results, self.temporary, self.code)
    return sum(kinds)


def memory_of(compiled: jax.stages.Compiled, images: int) -> Memory:
  """Returns the memory of a compiled program on one device.

  Args:
    compiled: program whose arguments are a state and a batch.
    images: bytes of the batch on one device.
  """
  analysis: Any = compiled.memory_analysis()  # TPU, CUDA, CPU have it
  donated = analysis.alias_size_in_bytes
  return Memory(
    state=analysis.argument_size_in_bytes - images,
    images=images,
    results=analysis.output_size_in_bytes - donated,
    temporary=analysis.temp_size_in_bytes,
    code=analysis.generated_code_size_in_bytes,
    donated=donated,
  )


def size_of(shapes) -> int:
  """Returns the bytes of a tree of arrays or of their shapes."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))


def bytes_accessed(compiled: jax.stages.Compiled) -> tuple[int, str]:
  """Returns the bytes that a program reads and writes on one device.

  Returns:
    The bytes, and where they come from: 'compiler', or 'text' where the
    compiler reports none (`ProgramText.bytes_accessed`).
  """
  analysis = compiled.cost_analysis()
  if analysis and 'bytes accessed' in analysis:
    return int(analysis['bytes accessed']), 'compiler'
  text = ProgramText(compiled.as_text())  # type: ignore[arg-type]  # TPU has it
  return text.bytes_accessed(), 'text'


@dataclasses.dataclass(frozen=True)
class ProgramCost:
  """The cost of a compiled program.

  Attributes:
    images: number of images of each device.
    devices: number of devices, which all have as many images.
    memory: memory of each device.
    operations: operations of convolutions and matrix products of each device;
      a multiply-add is two.
    bytes: bytes that each device reads and writes.
    bytes_from: 'compiler' or 'text'; see `bytes_accessed`.
    seconds: seconds that the compiler took.
  """

  images: int
  devices: int
  memory: Memory
  operations: int
  bytes: int
  bytes_from: str
  seconds: float


@dataclasses.dataclass(frozen=True)
class Roofline:
  """The time of a program at the peak figures of a chip.

  Attributes:
    operations_seconds: seconds for its operations.
    bytes_seconds: seconds for its bytes.
    images_per_second: images/s of all devices in the longer of the two.
  """

  operations_seconds: float
  bytes_seconds: float
  images_per_second: float

  @property
  def bound(self) -> str:
    """The kind that takes longer and limits the speed: operations or bytes."""
    longer = self.operations_seconds >= self.bytes_seconds
    return 'operations' if longer else 'bytes'


def is_upper_bound(bytes_from: str, bound: str) -> bool:
  """Returns whether a roofline is an upper bound of the speed.

  Otherwise it is an estimate: caches may save a part of the bytes.

  Args:
    bytes_from: see `ProgramCost`.
    bound: see `Roofline`.
  """
  return bytes_from == 'compiler' or bound == 'operations'


def roofline(cost: ProgramCost, chip: Chip, dtype: str) -> Roofline:
  """Returns the time of a program at the peak figures of a kind of chip.

  Args:
    cost: cost of the program.
    chip: kind of chip.
    dtype: type of its convolutions, 'bfloat16' or 'float32'.
  """
  operations = cost.operations / chip.peak[dtype]
  moves = cost.bytes / chip.bandwidth
  images = cost.images * cost.devices
  return Roofline(operations, moves, images / max(operations, moves))


def largest_batch(
  cost: ProgramCost, gradients: int, budget: int, unit: int
) -> int:
  """Estimates the largest batch of all devices whose program fits.

  State, gradients and code do not grow with the batch; the images and all other
  temporary memory grow in proportion.

  Args:
    cost: cost of the program at some batch.
    gradients: bytes of the gradients, which are temporary; 0 for an embedding.
    budget: bytes that the program may fill; see `Chip.budget`.
    unit: the batch is a multiple of this number.

  Returns:
    The number of images of all devices, 0 if not even `unit` images fit.
  """
  memory = cost.memory
  gradients = min(gradients, memory.temporary)
  fixed = memory.state + memory.code + gradients
  growing = memory.temporary - gradients + memory.images + memory.results
  room = budget - fixed
  images = math.floor(room * cost.images * cost.devices / growing)
  return max(images, 0) // unit * unit


def as_dict(memory: Memory) -> Mapping[str, int]:
  """Returns the bytes of each kind of memory, and of all together."""
  return dataclasses.asdict(memory) | {'total': memory.total}
