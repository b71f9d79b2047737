"""Comparisons with PyTorch, without running a network."""

import argparse
import contextlib

import pytest

from benchmarks import command, measuring, versus


class FakeProcess(contextlib.AbstractContextManager):
  """A measuring process that only notes its environment."""

  environments = []

  def __init__(self, module, arguments, environment, cores=None):
    self.environments.append(environment)

  def __exit__(self, *error):
    pass


@pytest.fixture
def opened(monkeypatch):
  """The environments of processes that were opened since."""
  for name in command.VISIBLE:
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(command, 'MeasuringProcess', FakeProcess)
  monkeypatch.setattr(FakeProcess, 'environments', [])
  return FakeProcess.environments


def open_all():
  """Opens the processes of all comparisons with PyTorch."""
  parser = argparse.ArgumentParser()
  measuring.add_network(parser)
  for name in versus.IMPLEMENTATIONS:
    with versus.start(name, parser.parse_args([])):
      pass
  with command.serve_networks('embed', [], ('this project', 'PyTorch')):
    pass


@pytest.mark.parametrize(
  ('seen', 'used'),
  [
    (None, '0'),
    ('3', '3'),
    ('2,3', '2'),
    ('GPU-8932f937,GPU-1c9d', 'GPU-8932f937'),
    ('', ''),  # no GPU, as the user wants
    ('-1', '-1'),
  ],
)
def test_all_sides_use_the_same_single_device(opened, monkeypatch, seen, used):
  if seen is not None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', seen)
  open_all()
  assert len(opened) == 5
  for environment in opened:
    assert environment['CUDA_VISIBLE_DEVICES'] == used
    assert environment['TPU_VISIBLE_CHIPS'] == '0'
    assert environment['TPU_PROCESS_BOUNDS'] == '1,1,1'
    assert environment.items() >= command.NETWORK_ENVIRONMENT.items()
