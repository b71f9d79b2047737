"""Compares this project's programs with plain Flax, compiled for accelerators.

No accelerator is needed, and nothing is run: XLA's compilers for TPU and CUDA
report the memory of a device and the bytes that it reads and writes, which are
what a training step costs there. The images/s are those of the roofline: an
upper bound on a TPU, an estimate on a GPU, whose bytes are read from the
program's text and may be too many. Plain Flax is a ResNet-50 with the same
losses (`benchmarks/plain_flax.py`).

A case is a device, a network, a type and a program. Each is written into the
record when it is done. The same command goes on where it was stopped: cases in
the record are not compiled again, unless --again is given.

  pip install '.[tpu,cuda]'
  python benchmarks/accelerators.py
  python benchmarks/accelerators.py --devices h100 --networks plain apnet_c0 \\
    --dtypes bfloat16 --programs train
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import datetime
import pathlib
import sys
from typing import Any

import jax
from tqdm import tqdm

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

from apnet_jax.accelerators import (  # noqa: E402
  fit,
  program_cost,
  targets,
  topology,
)
from apnet_jax.accelerators.traced_programs import TracedPrograms  # noqa: E402
from apnet_jax.errors import UserError  # noqa: E402
from apnet_jax.paper import variants  # noqa: E402
from apnet_jax.workdir.json_files import read_json, write_json  # noqa: E402
from benchmarks.plain_flax import plain_programs  # noqa: E402
from configs import common, market  # noqa: E402

RECORD = ROOT / 'docs/records/benchmarks/accelerators.json'
DEVICES = ('v5e:2x2', 'v6e:2x2', 'v4:2x2x1', 'h100', 'a100')
PLAIN, PLAIN_SMALL = 'plain', 'plain_256x128'
OURS = (
  'apnet_c0', 'apnet_c1', 'apnet_c2', 'apnet_c3', 'se_resnet50', 'apnet_s2',
  'official',
)  # fmt: skip
NETWORKS = (PLAIN, PLAIN_SMALL, *OURS)
DTYPES = ('bfloat16', 'float32')
PROGRAMS = ('train', 'embed')
CLASSES = 751  # identities of Market-1501
BATCH = 80  # the paper's
# Figures of a table: bytes that a device reads and writes in a step of all
# devices, its temporary memory, and the roofline's speed of all devices.
FIGURES = {
  'bytes': lambda figures: figures['bytes'],
  'temporary': lambda figures: figures['memory']['temporary'],
  'images/s': lambda figures: figures['images/s at most'],
}


@dataclasses.dataclass(frozen=True)
class Case:
  """A program to compile.

  Attributes:
    device: name of the target.
    network: one of `NETWORKS`.
    dtype: type of the convolutions.
    program: 'train' or 'embed'.
  """

  device: str
  network: str
  dtype: str
  program: str

  @property
  def key(self) -> str:
    """The name of the case in the record."""
    return ' '.join(dataclasses.astuple(self))

  @property
  def plain(self) -> 'Case':
    """The case of plain Flax that this one is compared with."""
    small = self.network in (PLAIN_SMALL, 'apnet_s2')
    return dataclasses.replace(self, network=PLAIN_SMALL if small else PLAIN)


def make_config(network: str, dtype: str):
  """Returns the configuration of a network.

  Args:
    network: one of `NETWORKS`; plain networks read its `data`, `augment` and
      `train` parts.
    dtype: type of the convolutions.
  """
  if network == 'official':
    config = market.get_config('official')
  else:
    config = common.get_config()
    if network in variants.VARIANTS:
      variant = variants.VARIANTS[network]
      config.model = variants.apply(variant, config.model)
      config.data.image_size = variant.image_size
    elif network == PLAIN_SMALL:
      config.data.image_size = variants.SPATIAL_SIZE
  config.model.dtype = dtype
  return config


def compile_case(case: Case) -> dict[str, Any]:
  """Compiles a program, and returns its figures for the record.

  Returns:
    The figures of `ProgramCost`, with `memory` by kind, and the images/s of the
    roofline; or `reason`, why the compiler refuses it.

  Raises:
    UserError: there are no such devices, or the batch does not divide among
      them.
  """
  target = targets.find_target(case.device)
  devices = topology.open_compiler(target)
  if BATCH % len(devices):
    raise UserError(
      f'--devices={case.device}: {BATCH} images do not divide among'
      f' {len(devices)} devices. Give another number of them.'
    )
  config = make_config(case.network, case.dtype)
  make = (
    plain_programs
    if case.network in (PLAIN, PLAIN_SMALL)
    else TracedPrograms.of
  )
  programs = make(config, CLASSES, devices)
  images = BATCH // len(devices)
  head = {'date': datetime.date.today().isoformat(), 'jax': jax.__version__}
  try:
    cost = fit.compile_and_count(target, programs, case.program, images)
  except fit.DoesNotCompileError as error:
    return head | {'reason': str(error)}
  cost = dataclasses.replace(cost, devices=len(devices))  # of all hosts
  line = program_cost.roofline(cost, target.chip, case.dtype)
  figures = dataclasses.asdict(cost) | {
    'memory': dict(program_cost.as_dict(cost.memory)),
    'seconds': round(cost.seconds, 1),
    'images/s at most': round(line.images_per_second),
    'bound by': line.bound,
  }
  return head | figures


def cases(args: argparse.Namespace) -> Iterator[Case]:
  """Yields the cases that the flags choose."""
  for device in args.devices:
    for program in args.programs:
      for dtype in args.dtypes:
        for network in args.networks:
          yield Case(device, network, dtype, program)


def format_table(
  record: Mapping[str, Any],
  program: str,
  dtype: str,
  figure: str,
  devices: Sequence[str] = DEVICES,
  networks: Sequence[str] = NETWORKS,
) -> str:
  """Formats a figure of all networks on all devices as a table.

  Args:
    record: figures by the key of a case.
    program: one of `PROGRAMS`.
    dtype: one of `DTYPES`.
    figure: one of `FIGURES`. Numbers of bytes are in GB, with the ratio to
      plain Flax in brackets.
    devices: names of targets, the columns.
    networks: some of `NETWORKS`, the rows.
  """
  lines = [f'| network | {" | ".join(devices)} |', '|---' * (len(devices) + 1)]
  lines[1] += '|'
  for network in networks:
    row = [network]
    row += [
      _cell(record, Case(device, network, dtype, program), FIGURES[figure])
      for device in devices
    ]
    lines.append(f'| {" | ".join(row)} |')
  return '\n'.join(lines)


def _cell(record: Mapping[str, Any], case: Case, read: Callable) -> str:
  figures, plain = record.get(case.key), record.get(case.plain.key)
  if figures is None:
    return 'not run'
  if 'reason' in figures:
    return figures['reason']
  value = read(figures)
  if read is FIGURES['images/s']:
    return f'{value:,}'
  if case.plain == case or not plain or 'reason' in plain:
    return f'{value / 1e9:.2f}'
  return f'{value / 1e9:.2f} ({value / read(plain):.2f})'


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Reads the command line; a mistake ends the program with code 2."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--devices', nargs='+', default=DEVICES, help='targets (%(default)s)')
  for name, choices in (
    ('networks', NETWORKS), ('dtypes', DTYPES), ('programs', PROGRAMS),
  ):  # fmt: skip
    add(
      f'--{name}', nargs='+', choices=choices, default=choices,
      help='%(default)s',
    )  # fmt: skip
  add(
    '--record', type=pathlib.Path, default=RECORD, metavar='FILE',
    help='file of the record, which is extended',
  )  # fmt: skip
  add('--again', action='store_true', help='compiles known cases again, too')
  args = parser.parse_args(arguments)
  try:
    for device in args.devices:
      target = targets.find_target(device)
      if not topology.is_installed(target.chip.platform):
        topology.open_compiler(target)  # says what is missing
  except UserError as error:
    parser.error(str(error))
  return args


def main(arguments: list[str] | None = None) -> int:
  topology.use_no_device()
  args = parse(arguments)
  try:
    run(args)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  return 0


def run(args: argparse.Namespace) -> None:
  """Compiles the cases that are not in the record, and prints its tables.

  Raises:
    UserError: a case cannot be compiled as the flags want, or the record cannot
      be read.
  """
  record = {'cases': {}}
  if args.record.exists():
    record = read_json(args.record)
  known = {} if args.again else record['cases']
  chosen = list(cases(args))
  left = [case for case in chosen if case.key not in known]
  with tqdm(left, unit=' programs', disable=None) as bar:
    for case in bar:
      bar.set_description(case.key)
      record['cases'][case.key] = compile_case(case)
      write_json(
        args.record,
        {
          'command': 'python benchmarks/accelerators.py',
          'batch': BATCH,
          'num_classes': CLASSES,
          'cases': dict(sorted(record['cases'].items())),
        },
      )
  for program in args.programs:
    for dtype in args.dtypes:
      for figure in FIGURES:
        print(f'\n{program}, {dtype}, {figure}\n')
        print(
          format_table(
            record['cases'], program, dtype, figure, args.devices, args.networks
          )
        )


if __name__ == '__main__':
  sys.exit(main())
