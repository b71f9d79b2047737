"""Accelerators that programs are compiled for, with their public figures.

A machine is named by its chip and their arrangement: `v5e:2x4` is a slice of
eight TPU v5e, `h100` one H100, `h100:8` eight of them in one machine, and
`h100:2x8` two such machines.
"""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from apnet_jax.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """A kind of accelerator, which is one device for JAX.

  Attributes:
    name: name on the command line, as 'v5e'.
    title: its maker's name for it.
    platform: 'tpu' or 'cuda', which is also the extra to install.
    memory: bytes of its memory.
    bandwidth: bytes of its memory that it reads or writes in a second.
    peak: operations a second of dense matrix products, of which a multiply-add
      is two, by type of the factors. The rate of float32 is that of JAX's
      default precision: a TPU multiplies it in bfloat16, these GPUs in TF32.
    source: document that states these figures.
    description: for 'cuda', the compiler's description of the card; for 'tpu',
      the name of the configuration that JAX runs on, if it is not the default.
  """

  name: str
  title: str
  platform: str
  memory: int
  bandwidth: float
  peak: Mapping[str, float]
  source: str
  description: str = ''

  @property
  def available(self) -> int:
    """Bytes that JAX's programs can use.

    A TPU keeps up to 4% for its own system. On a GPU, JAX allocates three
    quarters at the start, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
    """
    return int(self.memory * {'tpu': 0.96, 'cuda': 0.75}[self.platform])

  @property
  def budget(self) -> int:
    """Bytes that the estimate of the largest batch may fill.

    The rest of `available` is for fragments. It is larger on a GPU, where other
    kernels are chosen when the card is there, and at other sizes.
    """
    return int(self.available * {'tpu': 0.95, 'cuda': 0.9}[self.platform])


@dataclasses.dataclass(frozen=True)
class Target:
  """A machine, or several, with equal accelerators.

  Attributes:
    chip: the kind of accelerator.
    arrangement: for 'tpu', the topology of the slice, as '2x4'; for 'cuda', the
      numbers of machines and of GPUs in each, as '1x8'.
  """

  chip: Chip
  arrangement: str

  @property
  def name(self) -> str:
    """The name of this target on the command line."""
    return f'{self.chip.name}:{self.arrangement}'


def _tpu(name, title, gibibytes, gigabytes_a_second, teraflops, **more) -> Chip:
  rate = teraflops * 1e12
  return Chip(
    name=name,
    title=title,
    platform='tpu',
    memory=gibibytes * GIB,
    bandwidth=gigabytes_a_second * 1e9,
    peak={'bfloat16': rate, 'float32': rate},
    source=f'Google Cloud, documentation of TPU {name}',
    **more,
  )


# The compiler chooses tiles and fusions by this description. Its form is that
# of XLA's own: xla/backends/gpu/target_config/specs.
_DESCRIPTION = """gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared_memory}
  threads_per_core_limit: {threads}
  core_count: {cores}
  fpus_per_core: {float_units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f}
  l2_cache_size: {cache}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  shared_memory_per_block_optin: {shared_memory_of_block}
  cuda_compute_capability {{ major: {capability[0]} minor: {capability[1]} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 12 minor: 8 patch: 0 }}
device_description_str: "{title}"
"""


def _gpu(
  name: str,
  title: str,
  memory: int,
  gigabytes_a_second: float,
  bfloat16: float,
  tf32: float,
  source: str,
  shared_memory: int,
  **description: Any,
) -> Chip:
  """Returns a GPU of NVIDIA.

  Args:
    name: name on the command line.
    title: its maker's name.
    memory: bytes of its memory.
    gigabytes_a_second: rate of its memory, in 10^9 bytes a second.
    bfloat16: 10^12 operations a second with bfloat16 factors, not sparse, with
      float32 sums.
    tf32: the same with TF32 factors.
    source: document that states these figures.
    shared_memory: bytes of shared memory of a multiprocessor.
    **description: other values of `_DESCRIPTION`.
  """
  bandwidth = gigabytes_a_second * 1e9
  return Chip(
    name=name,
    title=title,
    platform='cuda',
    memory=memory,
    bandwidth=bandwidth,
    peak={'bfloat16': bfloat16 * 1e12, 'float32': tf32 * 1e12},
    source=source,
    description=_DESCRIPTION.format(
      title=title,
      memory=memory,
      bandwidth=bandwidth,
      shared_memory=shared_memory,
      shared_memory_of_block=shared_memory - 1024,
      **description,
    ),
  )


# Gigabytes of a TPU are 2^30 bytes: the compiler gives 15.75 of them to the
# programs of a v5e, 30.75 of a v4 and 31.25 of a v6e.
CHIPS = {
  chip.name: chip
  for chip in (
    # Both cores of a v4 work as one device ("megacore").
    _tpu('v4', 'TPU v4', 32, 1200, 275, description='megacore'),
    _tpu('v5e', 'TPU v5e', 16, 819, 197),
    _tpu('v5p', 'TPU v5p', 95, 2765, 459),
    _tpu('v6e', 'TPU v6e', 32, 1638, 918),
    _gpu(
      'h100', 'NVIDIA H100 80GB HBM3', 84_942_979_072, 3352.32, 989.4, 494.7,
      'NVIDIA H100 Tensor Core GPU Architecture (H100 SXM5)',
      shared_memory=233_472, threads=2048, cores=132, float_units=128,
      cache=52_428_800, clock=1.98, capability=(9, 0),
    ),
    _gpu(
      'a100', 'NVIDIA A100-SXM4-80GB', 85_100_068_864, 2039.04, 312, 156,
      'NVIDIA A100 Tensor Core GPU, data sheet (A100 80GB SXM)',
      shared_memory=167_936, threads=2048, cores=108, float_units=64,
      cache=41_943_040, clock=1.41, capability=(8, 0),
    ),
    _gpu(
      'l4', 'NVIDIA L4', 24_000_000_000, 300, 121, 60,
      'NVIDIA L4 Tensor Core GPU, data sheet',
      shared_memory=102_400, threads=1536, cores=58, float_units=128,
      cache=50_331_648, clock=2.04, capability=(8, 9),
    ),
    _gpu(
      'rtx4090', 'NVIDIA GeForce RTX 4090', 25_390_000_000, 1008, 165.2, 82.6,
      'NVIDIA Ada GPU Architecture',
      shared_memory=102_400, threads=1536, cores=128, float_units=128,
      cache=75_497_472, clock=2.52, capability=(8, 9),
    ),
  )
}  # fmt: skip


def find_target(name: str) -> Target:
  """Returns the machine that a name stands for.

  Args:
    name: name of a chip in `CHIPS`; for GPUs optionally followed by `:GPUS` or
      `:MACHINESxGPUS`, for TPUs by the topology of the slice, as `:2x4`.

  Raises:
    UserError: the chip is unknown, or its arrangement is missing or has another
      form.
  """
  kind, _, arrangement = name.partition(':')
  if kind not in CHIPS:
    raise UserError(
      f'--device={name}: {kind!r} is not one of {", ".join(CHIPS)}.'
    )
  chip = CHIPS[kind]
  if chip.platform == 'tpu':
    if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*){1,2}', arrangement):
      example = '2x2x1' if chip.name in ('v4', 'v5p') else '2x4'
      raise UserError(
        f'--device={name}: give the topology of the slice, as'
        f' {chip.name}:{example}.'
      )
    return Target(chip, arrangement)
  numbers = arrangement or '1'
  if not re.fullmatch(r'([1-9]\d*x)?[1-9]\d*', numbers):
    raise UserError(
      f'--device={name}: give the number of GPUs, as {chip.name}:8, or of'
      f' machines and of GPUs in each, as {chip.name}:2x8.'
    )
  return Target(chip, numbers if 'x' in numbers else f'1x{numbers}')
