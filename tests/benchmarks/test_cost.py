"""Tests the benchmarks of cost and of scaling with fake measurements."""

import argparse
import contextlib
import itertools
import json

import jax
import numpy as np
import pytest

from apnet_jax import create_model
from apnet_jax.accelerators.traced_programs import TracedPrograms
from apnet_jax.models import counting
from apnet_jax.parallel.devices import AXIS
from benchmarks import (
  command,
  cost,
  cost_plot,
  embed,
  measuring,
  network_ours,
  scaling,
  versus,
)


class FakeProcess(contextlib.AbstractContextManager):
  """Answers that a step takes one second per pixel; fails for radix 3.

  Attributes:
    opened: command lines of all processes.
  """

  opened = []

  def __init__(self, module, arguments, environment):
    self.opened.append(arguments)
    parser = argparse.ArgumentParser()
    measuring.add_network(parser)
    self.args, _ = parser.parse_known_args(arguments)
    self.calls = itertools.count()

  def ask(self, task, **request):
    if self.args.radix == 3:
      raise RuntimeError('3 does not divide')
    height, width = self.args.image_size
    pixels, call = height * width, next(self.calls)
    positions = pixels // 16
    square = positions**2 if self.args.attention == 'spatial' else 0
    pyramid = self.args.levels * (100 * positions + square)
    return {
      'train': {'seconds': [pixels], 'first': 9.0, 'memory': 10**9},
      'work': {'image': 1000 * pixels + pyramid, 'pyramid': pyramid},
      'step': {'seconds': 100.0 if call < 2 else 1.0 + self.args.levels / 100},
      'compiled': {'flops': 100 + self.args.levels, 'bytes': 50},
      'exchange': {'seconds': [0.25]},
      'versions': {'jax': '0'},
      'device': {'device': 'fake'},
    }[task]  # fmt: skip

  def __exit__(self, *error):
    pass


@pytest.fixture
def opened(monkeypatch):
  monkeypatch.setattr(command, 'MeasuringProcess', FakeProcess)
  monkeypatch.setattr(FakeProcess, 'opened', [])
  return FakeProcess.opened


# Cost


def test_a_record_and_a_picture_of_everything(opened, tmp_path, capsys):
  file, plot = tmp_path / 'cost.json', tmp_path / 'cost.png'
  arguments = [f'--json={file}', f'--plot={plot}', '--radices', '2', '3']
  assert cost.main([*arguments, '--turns=3']) == 0
  record = json.loads(file.read_text())
  figures = record['figures']
  assert tuple(figures) == cost.SWEEPS
  assert figures['radix']['3'] is None
  assert figures['size']['128x64']['images/s'] == round(8 / (128 * 64), 3)
  assert figures['spatial-size']['256x128']['s beyond the base'] == 0
  assert figures['level']['0']['of the pyramid'] == 0
  assert record['the pyramid of APNet-S'] == {
    'a': 200, 'b': 2, 'largest difference': 0, 'positions': 4608,
    'share of the square there': round(4608 / 4708, 3),
  }  # fmt: skip
  pyramid = record['pyramid']
  assert pyramid['step']['ratio'] == 1.02
  assert pyramid['no difference']['ratio'] == 1
  assert (pyramid['operations'], pyramid['bytes']) == (
    {'ratio': 1.02}, {'ratio': 1},
  )  # fmt: skip
  assert plot.read_bytes().startswith(b'\x89PNG')
  printed = capsys.readouterr().out
  assert 'no difference' in printed and '200 P + 2 P^2' in printed
  (missing,) = [x for x in printed.splitlines() if x.split()[:2] == ['3', '-']]
  assert missing.count('-') == len(cost.COLUMNS)


def test_a_sweep_that_fails_leaves_the_record(opened, tmp_path):
  file, plot = tmp_path / 'cost.json', tmp_path / 'cost.png'
  arguments = [f'--json={file}', f'--plot={plot}', '--only', 'radix']
  assert cost.main([*arguments, '--radices', '3']) == 0
  assert json.loads(file.read_text())['figures'] == {'radix': {'3': None}}
  assert plot.read_bytes().startswith(b'\x89PNG')


def test_the_pyramid_alone_cannot_be_drawn(tmp_path, capsys):
  plot = tmp_path / 'cost.png'
  with pytest.raises(SystemExit, match='2'):
    cost.parse(['--only', 'pyramid', f'--plot={plot}'])
  assert 'has no sweep to draw' in capsys.readouterr().err


def test_what_sweeps_share_is_measured_once(opened):
  args = cost.parse(['--only', 'size', 'level', 'batch', 'spatial-level'])
  measured = cost.measure_sweeps(args)
  assert len(opened) == 3 + 4 + 3 + 4 - 2  # the base is in three
  base = measured['size'][384, 192]
  assert measured['level'][2] is not base and measured['level'][2] == base


def test_every_row_has_a_title():
  assert set(cost_plot.TITLES) == set(cost.SWEEPS)
  assert set(cost.make_sweeps(cost.parse([]))) == set(cost.SWEEPS)


# Scaling


def test_scaling(opened, tmp_path, capsys):
  file = tmp_path / 'scaling.json'
  assert scaling.main([f'--json={file}', '--batch=4', '--turns=2']) == 0
  groups = [arguments[-1].split('=')[1] for arguments in opened]
  assert groups == ['0', '4'] * 3
  figures = json.loads(file.read_text())['figures by devices']
  rates = [row['images/s'] for row in figures.values()]
  np.testing.assert_allclose(rates, [4 / 1.02, 8 / 1.02, 16 / 1.02], atol=0.01)
  assert figures['4']['of the first'] == pytest.approx(4, rel=1e-3)
  assert figures['4']['saved apart s'] == 0
  assert figures['4']['gradients s'] == 0.25
  assert '24.5%' in capsys.readouterr().out


def test_what_is_exchanged():
  devices = jax.local_device_count()
  ones = np.arange(devices, dtype='float32')[:, None]
  features, labels = ones[..., None] + np.zeros((1, 2, 3), 'float32'), ones
  (back,), gathered = jax.pmap(network_ours.gather_features, AXIS)(
    (features, labels)
  )
  np.testing.assert_allclose(back, devices * features)
  np.testing.assert_allclose(gathered, np.tile(ones[:, 0], (devices, 1)))
  lowered = jax.pmap(network_ours.average_statistics, AXIS).lower([ones, ones])
  assert lowered.as_text().count('stablehlo.all_reduce') == 4


# Shared


def test_turns_are_reversed_and_the_first_two_are_left_out():
  asked = []

  class Process:
    def __init__(self, name):
      self.name = name

    def ask(self, **request):
      asked.append(self.name)
      return {'seconds': len(asked)}

  seconds = command.time_in_turns(
    {'a': Process('a'), 'b': Process('b')}, turns=2
  )
  assert ''.join(asked) == 'abbaabba'
  assert seconds == {'a': [5, 8], 'b': [6, 7]}


def test_a_path_is_the_same_in_another_folder(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'run').touch()
  texts = ('run', 'hf://someone/network', '')
  expected = [str(tmp_path / 'run'), *texts[1:]]
  assert [command.absolute(text) for text in texts] == expected


def test_versions_are_those_of_installed_packages():
  assert command.versions('jax', 'no-such-package') == {'jax': jax.__version__}


def test_ratios_are_of_pairs():
  ratios = command.compare([2, 30, 4, 5, 6], [1, 10, 1, 1, 1])
  assert ratios == {'ratio': 4, 'lower quartile': 3, 'upper quartile': 5}


def test_network_arguments_are_read_as_they_were():
  parser = argparse.ArgumentParser()
  measuring.add_network(parser)
  args = parser.parse_args(
    ['--attention=spatial', '--radix=4', '--image-size', '96', '48']
  )
  assert parser.parse_args(measuring.network_arguments(args)) == args
  config = network_ours.make_config(args)
  assert (config.model.attention, config.model.radix) == ('spatial', 4)


def test_work_is_that_of_the_complexity_command():
  """An image is embedded twice; the logits, which nothing uses, do not count.

  `count_jaxpr` omits them itself, so no version of JAX counts them.
  """
  parser = argparse.ArgumentParser()
  measuring.add_network(parser)
  config = network_ours.make_config(
    parser.parse_args(['--backbone=resnet14', '--image-size', '64', '32'])
  )
  counted = counting.count(create_model(config.model, 1), (64, 32))
  embedding = TracedPrograms.of(config, num_classes=10).multiply_adds(
    'embed', 3
  )
  assert embedding == 3 * 2 * counted.multiply_adds


@pytest.mark.parametrize(
  ('module', 'argument'),
  [
    (cost, '--batch=0'),
    (cost, '--turns=1'),
    (cost, '--levels=0'),
    (cost, '--attention=none'),
    (cost, '--plot=cost.xyz'),
    (cost, '--sizes=12'),
    (cost, '--only=time'),
    (cost, '--plot=/a/b.png'),
    (scaling, '--batch=1'),
    (scaling, '--devices=0'),
    (scaling, '--turns=1'),
    (scaling, '--json=/a/b'),
  ],
)
def test_bad_arguments(module, argument, capsys):
  with pytest.raises(SystemExit, match='2'):
    module.parse([argument])
  assert argument.split('=')[1] in capsys.readouterr().err


@pytest.mark.parametrize(
  'argument',
  [
    '--attention=spatial', '--levels=1', '--radix=4', '--backbone=resnet101',
  ],
)  # fmt: skip
def test_the_peer_is_not_every_network(argument, capsys):
  message = f'{argument}: the network in PyTorch allows only'
  with pytest.raises(SystemExit, match='2'):
    versus.main('x.py', '', 'train', [8], [argument])
  assert message in capsys.readouterr().err
  with pytest.raises(SystemExit, match='2'):
    embed.main([argument, '--images=photos'])
  assert message in capsys.readouterr().err
