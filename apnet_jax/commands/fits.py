"""Tells whether a configuration fits an accelerator, without having one.

  python -m apnet_jax fits --config=configs/market.py --device=v5e:2x4
  python -m apnet_jax fits --device=h100 --config.model.dtype=bfloat16

The command compiles the training step and the embedding by XLA's compiler for
the device, which runs on any x86-64 Linux machine. Nothing is run. It prints
the memory of a device, the largest batch, the speed at the peak rates of its
arithmetic and its memory (the roofline), and the host cores that the input
needs at that speed. The speed is an upper bound, except on a GPU that memory
limits: there the bytes of all operands and results count, of which a cache may
save a part.

Devices are slices of TPUs (v4:2x2x1, v5e:2x4, v5p:2x2x1, v6e:2x4) and GPUs
(h100, a100, l4, rtx4090; h100:8 for eight, h100:2x8 for two machines of eight).
The compilers are installed by pip install '.[tpu]' and '.[cuda]'. A program for
a TPU takes minutes to compile.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import pathlib
import shlex
import sys
import textwrap
import threading
from typing import Any

from absl import flags
from tqdm import tqdm

from apnet_jax import cli
from apnet_jax.accelerators import topology
from apnet_jax.accelerators.fit import Fit
from apnet_jax.accelerators.program_cost import is_upper_bound
from apnet_jax.accelerators.targets import find_target
from apnet_jax.workdir.json_files import write_json

WIDTH = 80
KINDS = {
  'state': 'weights, statistics, moments of Adam',
  'images': 'images of the batch',
  'results': 'results',
  'temporary': 'feature maps, gradients',
  'code': 'the program',
}
TITLES = {'train': 'Training step', 'embed': 'Embedding'}


def command() -> Callable:
  """Defines the absl flags of this command, and returns its `main(argv)`."""
  config = cli.define_config('Configuration to compile.')
  device = flags.DEFINE_string(
    'device', None, 'Device to compile for, as v5e:2x4 or h100.', required=True
  )
  num_classes = flags.DEFINE_integer(
    'num_classes',
    751,
    'Identities in training; the default is that of Market-1501.',
    lower_bound=1,
  )
  alternatives = flags.DEFINE_bool(
    'alternatives',
    True,
    'Also compiles settings that save memory: rematerialize, accumulate,'
    ' bfloat16.',
  )
  json = flags.DEFINE_string(
    'json', '', 'Also writes the results to this JSON file.'
  )

  def main(argv):
    cli.no_more_arguments(argv)
    cli.check_output(json.value)
    target = find_target(device.value)
    topology.use_no_device()
    devices = topology.open_compiler(target)
    fit = Fit(config.value, num_classes.value, target, devices, watching)
    result = measure(fit)
    if alternatives.value:
      result['alternatives'] = measure_alternatives(fit, result['train'])
    if json.value:
      command = f'{sys.argv[0]} {shlex.join(sys.argv[1:])}'
      write_json(pathlib.Path(json.value), {'command': command} | result)

  return main


def measure(fit: Fit) -> dict[str, Any]:
  """Compiles the programs of a configuration, and prints their figures.

  Returns:
    `target`, `train`, `embed` and `input`: results of the methods of `Fit`;
    `input` is missing if the training step does not compile.
  """
  result = {'target': fit.facts()}
  print(describe_target(result['target']), flush=True)
  for program in TITLES:
    result[program] = fit.measure(program)
    text = describe_program(program, result[program], result['target'])
    print('\n' + text, flush=True)
  line = result['train']['roofline']
  if line:
    result['input'] = fit.input_cores(line['images_per_second'])
    print('\n' + describe_input(result['input'], fit), flush=True)
  return result


def measure_alternatives(
  fit: Fit, train: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
  """Compiles the training step with other settings, and prints a line for each.

  Args:
    fit: the configuration.
    train: result of `Fit.measure` for its training step.

  Returns:
    The results of `Fit.measure` by the flag that makes the setting.
  """
  print('\nLargest batch in training, estimates')
  print(describe_alternative('as configured', train), flush=True)
  results = {}
  for flag, other in fit.alternatives():
    results[flag] = other.measure('train')
    print(describe_alternative(flag, results[flag]), flush=True)
  return results


@contextlib.contextmanager
def watching(text: str) -> Iterator[None]:
  """Shows on standard error what a `with` block does, and for how long."""
  done = threading.Event()
  every = 1 if sys.stderr.isatty() else 60
  with tqdm(desc=text, bar_format='{desc}: {elapsed}', leave=False) as bar:

    def refresh():
      while not done.wait(every):
        bar.refresh()

    thread = threading.Thread(target=refresh, daemon=True)
    thread.start()
    try:
      yield
    finally:
      done.set()
      thread.join()


def describe_target(facts: Mapping[str, Any]) -> str:
  """Describes the devices and their public figures.

  Args:
    facts: result of `Fit.facts`.
  """
  machines = f' in {facts["hosts"]} machines' if facts['hosts'] > 1 else ''
  text = (
    f'{facts["devices"]} x {facts["title"]}{machines}: each'
    f' {facts["memory"] / 1e9:.1f} GB, of which programs can use'
    f' {facts["available"] / 1e9:.1f}; {facts["bytes_per_second"] / 1e9:,.0f}'
    f' GB/s; {facts["operations_per_second"] / 1e12:,.0f} x 10^12 operations/s'
    f' in {facts["dtype"]} ({facts["source"]}).'
  )
  return textwrap.fill(text, WIDTH)


def describe_program(
  program: str, figures: Mapping[str, Any], facts: Mapping[str, Any]
) -> str:
  """Describes the memory and the roofline of a program.

  Args:
    program: 'train' or 'embed'.
    figures: result of `Fit.measure`.
    facts: result of `Fit.facts`.
  """
  lines = [f'{TITLES[program]}, {figures["batch"]} images']
  if figures['reason']:
    reason = f'The compiler refuses it: {figures["reason"]}'
    lines += textwrap.wrap(reason, WIDTH, initial_indent='  ')
  if not figures['memory']:
    return '\n'.join(lines)
  instead = (
    f'{figures["compiled_batch"]} images instead, '
    if figures['compiled_batch'] != figures['batch']
    else ''
  )
  lines.append(f'  {instead}compiled in {figures["seconds"]:.0f} s')
  return '\n'.join(
    [
      *lines,
      *_memory_lines(figures, facts),
      *_roofline_lines(figures),
      f'  {"largest batch, estimate":38}{figures["largest_batch"]:>9,} images',
    ]
  )


def _memory_lines(figures, facts) -> list[str]:
  memory = figures['memory']
  lines = [
    f'  {title:38}{memory[kind] / 1e9:9.3f} GB' for kind, title in KINDS.items()
  ]
  verdict = 'fits' if memory['total'] <= facts['available'] else 'does not fit'
  return [
    *lines,
    f'  {"memory of a device":38}{memory["total"] / 1e9:9.3f} GB of'
    f' {facts["available"] / 1e9:.1f}: {verdict}',
  ]


def _roofline_lines(figures) -> list[str]:
  line = figures['roofline']
  at_most = ' at most' if figures['bytes_from'] == 'text' else ''
  speed = (
    'upper bound of the speed'
    if is_upper_bound(figures['bytes_from'], line['bound'])
    else 'speed by these bytes, an estimate'
  )
  return [
    f'  {"operations of a device":38}{figures["operations"] / 1e12:9.3f} x'
    f' 10^12, {1e3 * line["operations_seconds"]:.1f} ms',
    f'  {"bytes of a device" + at_most:38}{figures["bytes"] / 1e9:9.3f} GB,'
    f' {1e3 * line["bytes_seconds"]:.1f} ms',
    f'  {speed:38}{line["images_per_second"]:9,.0f} images/s, bound by'
    f' {line["bound"]}',
  ]


def describe_input(figures: Mapping[str, Any], fit: Fit) -> str:
  """Describes the host cores that the input needs.

  Args:
    figures: result of `Fit.input_cores`.
    fit: the configuration.
  """
  cores = figures['cores_of_a_host']
  lines = ['Input at that speed, cores of each host, estimates']
  for cache, number in cores.items():
    text = (
      f'{"-":>9}: delivers {figures["decoded_per_host"]:,} images/s'
      if number is None
      else f'{number:9.1f}'
    )
    lines.append(f'  --config.data.cache={cache:18}{text}')
  if figures['decoded_pays'] and fit.config.data.cache != 'decoded':
    height, width = fit.config.data.image_size
    lines += textwrap.wrap(
      'Recommended: --config.data.cache=decoded, which takes'
      f' {3 * height * width / 1e6:.2f} GB of memory for 1,000 images.',
      WIDTH, initial_indent='  ', subsequent_indent='  ',
    )  # fmt: skip
  return '\n'.join(lines)


def describe_alternative(name: str, figures: Mapping[str, Any]) -> str:
  """Describes the largest batch of a setting in a line.

  Args:
    name: flag that makes the setting.
    figures: result of `Fit.measure`.
  """
  if not figures['memory']:
    return f'  {name:38}{"-":>9}'
  return (
    f'  {name:38}{figures["largest_batch"]:9,} images;'
    f' {figures["compiled_batch"]} take'
    f' {figures["memory"]["total"] / 1e9:.2f} GB'
  )
