"""Tests the search for the largest batch, and the memory that it finds."""

import json
import pathlib

import pytest

from benchmarks import memory

RECORD = (
  pathlib.Path(__file__).parents[2] / 'docs/records/benchmarks/memory.json'
)


class FakeNetwork:
  """A network whose memory is nearly linear in the batch size."""

  def __init__(self, fixed, per_image):
    self.known = {}
    self._bytes = lambda batch: fixed + per_image * batch + batch**1.5

  def bytes(self, batch):
    self.known[batch] = self._bytes(batch)
    return self.known[batch]


@pytest.mark.parametrize('fixed', [0, 500, 9990, 20_000])
@pytest.mark.parametrize('per_image', [1, 37, 240, 6000])
def test_the_largest_batch_fits_and_the_next_does_not(fixed, per_image):
  network = FakeNetwork(fixed, per_image)
  found = memory.largest_batch(network, limit=10_000, unit=4, first=80)
  assert found % 4 == 0
  assert found == 0 or network.known[found] <= 10_000
  assert network.known[found + 4] > 10_000
  assert len(network.known) <= 9


def small_networks():
  args = memory.parse([
    '--backbone=resnet14', '--levels=0', '--parts=2',
    '--image-size', '32', '16', '--batch=8',
  ])  # fmt: skip
  return {
    row: memory.Network(config, args.classes)
    for row, config in memory.make_configs(args).items()
  }


def test_only_what_says_so_computes_maps_again():
  """A barrier keeps the compiler from reusing stored feature maps."""
  again = {
    row
    for row, network in small_networks().items()
    if 'optimization_barrier' in network.lower(8).as_text()
  }
  assert again == {'rematerialised', 'both'}


def test_weights_and_moments_of_adam_are_counted():
  network = small_networks()['plain']
  assert 3 * 4 * 9_000_000 < network.bytes(8) < 500_000_000


@pytest.mark.parametrize(
  'argument',
  [
    '--gigabytes=0', '--parts=1', '--batch=6', '--classes=0',
    '--backbone=vgg', '--json=/a/b',
  ],
)  # fmt: skip
def test_bad_arguments(argument, capsys):
  with pytest.raises(SystemExit, match='2'):
    memory.parse([argument])
  assert argument.split('=')[1] in capsys.readouterr().err


def test_record():
  """Each largest batch fits, and a batch larger by four does not."""
  record = json.loads(RECORD.read_text())
  assert len(record['figures']) == 4
  for row in record['figures'].values():
    by_batch = {int(b): gb for b, gb in row['GB by batch'].items()}
    batch = row['largest batch']
    assert by_batch[batch] == row['its GB'] <= record['gigabytes']
    assert by_batch[batch + 4] >= record['gigabytes']
  at_80 = [row['GB at 80'] for row in record['figures'].values()]
  assert max(at_80) == at_80[0] and min(at_80) == at_80[3]
