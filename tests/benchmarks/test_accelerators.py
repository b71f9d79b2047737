"""The comparison with plain Flax, without a compiler for accelerators."""

import json
import re

import jax
import pytest

from apnet_jax.accelerators.program_cost import Memory, ProgramCost
from apnet_jax.accelerators.traced_programs import TracedPrograms
from apnet_jax.models.resnet import STAGE_BLOCKS
from benchmarks import accelerators, plain_flax
from benchmarks.accelerators import Case

FIGURES = {
  'bytes': 30 * 10**9,
  'memory': {'temporary': 2 * 10**9},
  'images/s at most': 2180,
  'bound by': 'bytes',
}


def test_plain_flax_has_the_same_network(monkeypatch):
  """Level 0 has as many weights, statistics and multiply-adds.

  Here each stage has one block, as in ResNet-14, to be fast.
  """
  blocks = tuple(number for _, number, _ in plain_flax.STAGES)
  assert blocks == STAGE_BLOCKS['resnet50']
  stages = [(width, 1, stride) for width, _, stride in plain_flax.STAGES]
  monkeypatch.setattr(plain_flax, 'STAGES', stages)
  config = accelerators.make_config('apnet_c0', 'bfloat16')
  config.model.backbone = 'resnet14'
  config.data.image_size = (64, 32)
  ours, plain = (
    make(config, num_classes=10)
    for make in (TracedPrograms.of, plain_flax.plain_programs)
  )

  def sizes(tree):
    leaves = jax.tree.leaves_with_path(tree)
    kept = [x for path, x in leaves if path[-1].key != 'bias']
    return sorted(x.shape for x in kept)

  for part in ('params', 'batch_stats'):
    assert sizes(ours.states['embed'][part]) == sizes(
      plain.states['embed'][part]
    )
  counts = [p.multiply_adds('embed', 2) for p in (ours, plain)]
  assert counts[0] == counts[1] > 0


@pytest.mark.parametrize('network', accelerators.NETWORKS)
def test_each_network_is_that_of_its_name(network):
  config = accelerators.make_config(network, 'bfloat16')
  small = network in ('apnet_s2', accelerators.PLAIN_SMALL)
  assert tuple(config.data.image_size) == ((256, 128) if small else (384, 192))
  assert config.model.dtype == 'bfloat16'
  if network.startswith('apnet_'):
    assert config.model.attention == {'s': 'spatial', 'c': 'channel'}.get(
      network[6] if network[-1] != '0' else '', 'none'
    )
  assert config.model.se_blocks == (network == 'se_resnet50')
  assert (config.model.split_attention == 'shared') == (network == 'official')


def test_a_network_is_compared_with_plain_flax_at_its_size():
  assert Case('h100', 'apnet_c2', 'float32', 'embed').plain.network == 'plain'
  small = Case('h100', 'apnet_s2', 'float32', 'embed').plain
  assert small == Case('h100', 'plain_256x128', 'float32', 'embed')


def test_ratios_stand_beside_the_figures():
  ours, plain = (
    Case('v5e:2x2', network, 'bfloat16', 'train')
    for network in ('apnet_c0', 'plain')
  )
  other = FIGURES | {'bytes': 25 * 10**9, 'memory': {'temporary': 10**9}}

  def row(record, figure='bytes', case=ours):
    table = accelerators.format_table(
      record, 'train', 'bfloat16', figure, [case.device], [case.network]
    )
    assert table.startswith('| network | v5e:2x2 |\n|---|---|\n')
    return table.splitlines()[-1]

  both = {ours.key: FIGURES, plain.key: other}
  assert row(both) == '| apnet_c0 | 30.00 (1.20) |'
  assert row(both, 'temporary') == '| apnet_c0 | 2.00 (2.00) |'
  assert row(both, 'images/s') == '| apnet_c0 | 2,180 |'
  assert row(both, case=plain) == '| plain | 25.00 |'
  assert row({ours.key: FIGURES}) == '| apnet_c0 | 30.00 |'
  assert row({}) == '| apnet_c0 | not run |'
  assert row({ours.key: {'reason': 'no room'}}) == '| apnet_c0 | no room |'


def test_the_documented_tables_are_those_of_the_record():
  page = (accelerators.ROOT / 'docs/performance.md').read_text()
  known = json.loads(accelerators.RECORD.read_text())['cases']
  shown = re.findall(
    r'<!-- accelerators: (\w+) (\w+) (\S+) -->\n((?:\|.*\n)+)', page
  )
  assert shown
  for program, dtype, figure, table in shown:
    devices = [cell.strip() for cell in table.splitlines()[0].split('|')[2:-1]]
    assert table.rstrip() == accelerators.format_table(
      known, program, dtype, figure, devices
    )


def test_an_embedding_is_counted_for_all_hosts(monkeypatch):
  memory = Memory(0, 0, 0, 0, 0, 0)
  counted = []

  def count(target, programs, program, images):
    counted.append(images)
    return ProgramCost(images, 4, memory, 1, 819 * 10**9, 'compiler', 1.0)

  monkeypatch.setattr(
    accelerators.topology, 'open_compiler', lambda target: [None] * 8
  )
  monkeypatch.setattr(TracedPrograms, 'of', lambda *_: None)
  monkeypatch.setattr(accelerators.fit, 'compile_and_count', count)
  figures = accelerators.compile_case(
    Case('v5e:2x4', 'apnet_c2', 'bfloat16', 'embed')
  )
  assert counted == [80 // 8]
  assert figures['images/s at most'] == 80  # its bytes take a second
  assert figures['devices'] == 8


@pytest.fixture
def compiled(monkeypatch):
  """The cases that are compiled, by a compiler that only pretends."""
  done = []

  def compile_case(case):
    if len(done) == 2:
      raise KeyboardInterrupt
    done.append(case.network)
    return FIGURES

  monkeypatch.setattr(accelerators, 'compile_case', compile_case)
  monkeypatch.setattr(accelerators.topology, 'is_installed', lambda _: True)
  monkeypatch.setattr(accelerators.topology, 'use_no_device', lambda: None)
  return done


def test_a_run_goes_on_where_it_was_stopped(compiled, tmp_path, capsys):
  file = tmp_path / 'record.json'
  flags = [
    '--devices', 'h100', '--dtypes', 'bfloat16', '--programs', 'train',
    '--networks', 'plain', 'apnet_c0', 'apnet_c2', f'--record={file}',
  ]  # fmt: skip
  with pytest.raises(KeyboardInterrupt):
    accelerators.main(flags)
  assert compiled == ['plain', 'apnet_c0']
  compiled.clear()
  assert accelerators.main(flags) == 0
  assert compiled == ['apnet_c2']
  assert len(json.loads(file.read_text())['cases']) == 3
  compiled.clear()
  with pytest.raises(KeyboardInterrupt):
    accelerators.main([*flags, '--again'])
  assert compiled == ['plain', 'apnet_c0']


@pytest.mark.parametrize(
  ('flag', 'message'),
  [('--devices=h200', "'h200' is not one of"), ('--networks=vgg', 'vgg')],
)
def test_mistakes_are_messages(flag, message, capsys):
  with pytest.raises(SystemExit, match='2'):
    accelerators.parse([flag])
  assert message in capsys.readouterr().err


def test_a_batch_that_does_not_divide_is_a_mistake(
  monkeypatch, tmp_path, capsys
):
  for name, value in (
    ('is_installed', True), ('use_no_device', None), ('open_compiler', [0] * 3),
  ):  # fmt: skip
    monkeypatch.setattr(accelerators.topology, name, lambda *_, x=value: x)
  file = tmp_path / 'record.json'
  assert accelerators.main(['--devices=h100:3', f'--record={file}']) == 2
  message = '--devices=h100:3: 80 images do not divide among 3 devices'
  assert message in capsys.readouterr().err


def test_a_missing_compiler_is_a_mistake(monkeypatch, capsys):
  monkeypatch.setattr(accelerators.topology, 'is_installed', lambda _: False)
  with pytest.raises(SystemExit, match='2'):
    accelerators.parse(['--devices=h100'])
  assert "pip install '.[cuda]'" in capsys.readouterr().err
