import re

import pytest

from apnet_jax.accelerators.targets import CHIPS, GIB, find_target
from apnet_jax.errors import UserError


def test_figures_are_of_the_right_size():
  """They are bytes and operations, not giga-somethings.

  A chip does 100 to 700 operations in the time that a byte takes, and reads its
  memory in 5 to 90 ms.
  """
  for chip in CHIPS.values():
    assert 16e9 <= chip.available / 0.75 <= 1.4e11
    assert 5e-3 < chip.memory / chip.bandwidth < 90e-3
    assert 100 < chip.peak['bfloat16'] / chip.bandwidth < 700
    assert chip.peak['bfloat16'] / chip.peak['float32'] in (
      [1] if chip.platform == 'tpu' else [pytest.approx(2, rel=0.02)]
    )
    assert 0.6 < chip.budget / chip.memory < 0.95
    assert chip.budget < chip.available
    assert chip.source


def test_the_memory_of_an_rtx_4090_is_what_cuda_reports():
  """Cards report 23.64 to 23.68 GiB, not 24 decimal gigabytes."""
  assert 23.64 <= CHIPS['rtx4090'].memory / GIB <= 23.68


def test_descriptions_of_gpus_agree_with_their_figures():
  for chip in CHIPS.values():
    if chip.platform == 'cuda':
      fields = dict(re.findall(r'(\w+): "?([^\s"]+)', chip.description))
      assert int(fields['device_memory_size']) == chip.memory
      assert float(fields['memory_bandwidth']) == chip.bandwidth
      # Multiply-adds of a multiprocessor in a cycle.
      cycles = int(fields['core_count']) * float(fields['clock_rate_ghz']) * 1e9
      assert chip.peak['bfloat16'] / 2 / cycles == pytest.approx(
        {'h100': 2048, 'a100': 1024, 'l4': 512, 'rtx4090': 256}[chip.name],
        rel=0.1,
      )


@pytest.mark.parametrize(
  ('name', 'chip', 'arrangement'),
  [
    ('v5e:2x4', 'v5e', '2x4'),
    ('v4:2x2x1', 'v4', '2x2x1'),
    ('h100', 'h100', '1x1'),
    ('a100:8', 'a100', '1x8'),
    ('l4:2x8', 'l4', '2x8'),
  ],
)
def test_names(name, chip, arrangement):
  target = find_target(name)
  assert target.chip is CHIPS[chip]
  assert target.arrangement == arrangement
  assert find_target(target.name) == target


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('h200', "--device=h200: 'h200' is not one of v4, v5e"),
    ('v5e', 'give the topology of the slice, as v5e:2x4'),
    ('v4', 'give the topology of the slice, as v4:2x2x1'),
    ('v5e:8', 'give the topology'),
    ('v5e:0x4', 'give the topology'),
    ('h100:two', 'give the number of GPUs, as h100:8'),
    ('h100:2x2x2', 'give the number of GPUs'),
    ('', "'' is not one of"),
  ],
)
def test_other_names_are_mistakes(name, message):
  with pytest.raises(UserError, match=re.escape(message)):
    find_target(name)
