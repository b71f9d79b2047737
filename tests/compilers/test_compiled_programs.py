"""Tests of compiled programs for faults that accelerators have and CPUs do not.

XLA's compilers for TPU and CUDA compile a small network (ResNet-14, level 2,
bfloat16) by `pmap`, as `train.py` does. Nothing is run. Each program is
compiled once, in a process of its own: these compilers must not see the flags
of the other tests, and one of them locks itself.
"""

import collections
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from apnet_jax.accelerators import topology
from apnet_jax.accelerators.program_text import ProgramText, size_of

ROOT = pathlib.Path(__file__).parents[2]
COLLECTIVES = ('all-', 'reduce-scatter', 'collective-', 'ragged-')
# v5e:2x4 is eight chips of two hosts.
DEVICES = ('v5e:2x4', 'h100:8')


def need(device):
  """Skips a test whose compiler is not installed."""
  platform = 'tpu' if device.startswith('v') else 'cuda'
  if not topology.is_installed(platform):
    pytest.skip(f"needs the compiler: pip install '.[{platform}]'")


def python(*arguments, code=0):
  """Runs Python without the flags of other tests; returns output and errors."""
  result = subprocess.run(
    [sys.executable, *map(str, arguments)],
    cwd=ROOT,
    env=dict(os.environ, XLA_FLAGS=''),
    capture_output=True,
    text=True,
  )
  assert result.returncode == code, result.stderr[-3000:]
  return result.stdout, result.stderr


class Program:
  """A compiled program, as `compile_program` has written it."""

  def __init__(self, folder):
    self.facts = json.loads((folder / 'facts.json').read_text())
    self.memory = self.facts['memory']
    self.source = (folder / 'program.txt').read_text()
    self.text = ProgramText(self.source)
    self.instructions = list(self.text.all_instructions())

  def collectives(self):
    """Returns the instructions of each kind of collective.

    A TPU's compiler divides a gathering into steps, which share a channel.
    """
    kinds = collections.defaultdict(dict)
    for i in self.instructions:
      kind, done, _ = i.operation.partition('-done')
      if kind.startswith(COLLECTIVES) and not done:
        kind = kind.removesuffix('-start')
        channel = re.search(r'channel_id=(\d+)', i.attributes)[1]
        kinds[kind][channel if kind == 'all-gather' else i.name] = i
    return kinds


@pytest.fixture(scope='module')
def compiled(tmp_path_factory):
  """Returns a program, which is compiled at the first call."""
  programs = {}

  def compiled(device, program='train'):
    need(device)
    if (device, program) not in programs:
      folder = tmp_path_factory.mktemp('compiled')
      python('-m', 'tests.compilers.compile_program', device, program, folder)
      programs[device, program] = Program(folder)
    return programs[device, program]

  return compiled


@pytest.fixture(params=DEVICES)
def step(request, compiled):
  return compiled(request.param)


def test_pmap_compiles_for_eight_devices_of_one_and_of_two_hosts(compiled):
  hosts = [compiled(device).facts['hosts'] for device in DEVICES]
  assert hosts == [2, 1]
  assert all(compiled(device).facts['devices'] == 8 for device in DEVICES)


def test_nothing_is_float64(step):
  assert 'f32[' in step.source
  assert 'f64[' not in step.source and 'c128[' not in step.source


def test_each_array_of_the_state_is_donated(step):
  """The new state takes the memory of the old one, whole."""
  (aliases,) = re.findall(r'input_output_alias=\{(.*?) \},', step.source)
  assert aliases.count('-alias') == step.facts['arrays of the state']
  assert step.memory['donated'] >= step.facts['state']
  assert step.memory['results'] < 1e4  # the metrics


def test_the_state_is_copied_for_cudnn_alone(step):
  """cuDNN wants the kernels of convolutions in another order of axes.

  Each has two moments of Adam, which are updated in that order. A TPU copies at
  most the kernels of more than one pixel. Copies into the small memory on its
  chip, S(1), are how it reads.
  """
  on_cuda = 'custom_call_target="__cudnn$conv' in step.source
  kernels = 'bytes of convolutions' if on_cuda else 'bytes of kernels'
  copies = [i.shape for i in step.instructions if i.operation == 'copy']
  copied = sum(
    size_of(shape)
    for shape in copies
    if shape.startswith('f32') and 'S(1)' not in shape
  )
  assert copied <= 1.1 * 3 * step.facts[kernels]


def test_collectives_are_those_of_the_algorithm(step):
  """Their kinds and numbers.

  A batch normalisation averages a mean, a variance and the sums of its gradient
  over the devices, one after the other: three reductions. Compilers may join
  those of layers that do not wait for each other. Gradients and metrics take
  one more reduction, which compilers divide into a few. Features and labels are
  gathered, together or apart, or as a sum of vectors that are zero elsewhere.
  The gradient of the gathered features is summed over the devices, and each
  keeps its part, in one step or in two.
  """
  numbers = {kind: len(found) for kind, found in step.collectives().items()}
  assert numbers.pop('reduce-scatter', 1) == 1
  assert 1 <= numbers.pop('all-gather') <= 2
  norms = step.facts['batch normalisations']
  assert norms <= numbers.pop('all-reduce') <= 3 * norms + 6
  assert not numbers


def test_statistics_and_gradients_are_averaged_in_float32(step):
  for instruction in step.collectives()['all-reduce'].values():
    assert set(re.findall(r'\b([a-z]+\d+)\[', instruction.shape)) <= {
      'f32', 's32',
    }  # fmt: skip


def test_sums_of_the_network_are_in_float32(step):
  """Sums over positions, of statistics and of gradients of attention, are wide.

  bfloat16 would lose them: it has eight bits, and a map many positions.
  """
  assert not [
    re.search(r'op_name="([^"]*)"', i.attributes)[1]
    for i in step.instructions
    if i.operation == 'reduce' and re.match(r'\(?bf16', i.shape)
  ]


def test_maps_are_bfloat16(step):
  """Convolutions read bfloat16: nothing widens their input."""
  maps = [
    i.shape
    for i in step.instructions
    if i.operation == 'convolution' or 'cudnn$convForward"' in i.attributes
  ]
  assert maps
  assert sum('bf16[' in shape for shape in maps) >= step.facts['kernels']


@pytest.mark.parametrize(
  ('device', 'program'),
  [('v5e:2x4', 'train'), ('h100:8', 'train'), ('h100:8', 'embed')],
)
def test_the_host_is_not_called(compiled, device, program):
  step = compiled(device, program)
  targets = re.findall(r'custom_call_target="([^"]+)"', step.source)
  assert not [name for name in targets if 'callback' in name.lower()]
  operations = {i.operation for i in step.instructions}
  assert not operations & {'infeed', 'outfeed', 'send', 'recv'}


def test_convolutions_are_those_of_cudnn(compiled):
  """Each has a forward pass and two gradients, all by cuDNN.

  Images need no gradient, so the first layer has one less. The gradient of the
  input of a 1x1 convolution is a forward convolution, too.
  """
  step = compiled('h100:8')
  targets = collections.Counter(
    re.findall(r'custom_call_target="__cudnn\$conv(\w+)"', step.source)
  )
  convolutions = step.facts['convolutions']
  assert targets.pop('BackwardFilter') == convolutions
  assert targets['BackwardInput'] >= step.facts['kernels'] - 1
  assert targets['BiasActivationForward'] > 0  # adds gradients of shortcuts
  assert targets.total() == 2 * convolutions - 1
  assert set(targets) == {'Forward', 'BackwardInput', 'BiasActivationForward'}
  assert 'convolution' not in {i.operation for i in step.instructions}


def test_an_embedding_needs_no_other_device(compiled):
  assert not compiled('h100:8', 'embed').collectives()


def test_bytes_are_known(compiled):
  """On a GPU they come from the text; elsewhere the compiler reports them."""
  for device, source in zip(DEVICES, ('compiler', 'text')):
    moved, told = compiled(device).facts['bytes']
    assert told == source
    assert (
      moved > 4 * compiled(device).facts['state']
    )  # reads, writes, gradient


@pytest.mark.parametrize(
  'device',
  ['v4:2x2x1', 'v5e:1x1', 'v5p:2x2x1', 'v6e:2x4', 'h100', 'a100:8', 'l4',
   'rtx4090:2x4'],
)  # fmt: skip
def test_every_target_opens(device):
  """A small product compiles for it; a chip is one device."""
  need(device)
  out, err = python('-c', PRODUCT, device)
  numbers = re.findall(r'\d+', device.partition(':')[2]) or [1]
  expected = 1
  for number in numbers:
    expected *= int(number)
  assert int(out) == expected
  assert err == ''


PRODUCT = """
import sys
from apnet_jax.accelerators import fit, targets, topology
topology.use_no_device()
import jax
target = targets.find_target(sys.argv[1])
devices = topology.open_compiler(target)
product = jax.pmap(lambda x: x @ x, devices=devices)
x = jax.ShapeDtypeStruct((len(devices), 128, 128), 'bfloat16')
fit.compile_for(target, product.lower(x))
print(len(devices))
"""


def test_too_little_memory_is_told_by_the_compiler():
  need('v5e:1x1')
  code = PRODUCT.replace('x @ x', 'jax.numpy.sin(x) @ x')
  code = code.replace('128', '150_000')
  _, err = python('-c', code, 'v5e:1x1', code=1)
  assert 'DoesNotCompileError: Ran out of memory' in err


def test_fits(tmp_path):
  """The command itself, with its file."""
  need('l4')
  file = tmp_path / 'fits.json'
  out, _ = python(
    '-m', 'apnet_jax', 'fits', '--config=configs/market.py', '--device=l4',
    '--config.model.backbone=resnet14', '--config.data.image_size=(64,32)',
    '--config.train.P=4', '--noalternatives', f'--json={file}',
  )  # fmt: skip
  for text in ('1 x NVIDIA L4', 'Training step, 16 images', 'Embedding, 128'):
    assert text in out
  record = json.loads(file.read_text())
  for program in ('train', 'embed'):
    assert record[program]['fits'] and record[program]['bytes_from'] == 'text'
    assert record[program]['largest_batch'] > record[program]['batch']
    assert record[program]['roofline']['images_per_second'] > 1000


@pytest.mark.parametrize('device', ['v5e:3x3', 'v6e:2x3'])
def test_a_topology_that_does_not_exist_is_a_mistake(device):
  need(device)
  _, err = python('-m', 'apnet_jax', 'fits', f'--device={device}', code=2)
  assert f'error: --device={device}: the compiler does not accept it' in err
  assert 'Traceback' not in err
