"""Tests of the text that `fits` prints, with figures that are made up.

The command itself runs in tests/compilers.
"""

import json
import pathlib
import types

import pytest

from apnet_jax.accelerators import input_rate
from apnet_jax.commands import fits
from configs import common

ROOT = pathlib.Path(__file__).parents[2]
RECORD = ROOT / 'docs/records/benchmarks/fits_h100.json'
FACTS = {
  'title': 'TPU v5e',
  'devices': 8,
  'hosts': 2,
  'memory': 16 * 2**30,
  'available': 15_000_000_000,
  'operations_per_second': 197e12,
  'bytes_per_second': 819e9,
  'source': 'Google Cloud',
  'dtype': 'bfloat16',
}
FIGURES = {
  'batch': 80,
  'reason': None,
  'fits': True,
  'compiled_batch': 80,
  'memory': {
    'state': 300_000_000,
    'images': 1_000_000,
    'results': 0,
    'temporary': 2_000_000_000,
    'code': 0,
    'total': 2_301_000_000,
  },
  'operations': 10**12,
  'bytes': 15 * 10**9,
  'bytes_from': 'compiler',
  'roofline': {
    'operations_seconds': 0.0051,
    'bytes_seconds': 0.0183,
    'images_per_second': 4367.0,
    'bound': 'bytes',
  },
  'largest_batch': 448,
  'seconds': 181.4,
}


def show(**changed):
  return fits.describe_program('train', FIGURES | changed, FACTS)


def test_the_target_is_described_with_its_source():
  text = ' '.join(fits.describe_target(FACTS).split())
  assert '8 x TPU v5e in 2 machines: each 17.2 GB' in text
  assert '819 GB/s; 197 x 10^12 operations/s in bfloat16 (Google' in text


def test_a_program_that_fits():
  words = ' '.join(show().split())
  for text in (
    'Training step, 80 images',
    'compiled in 181 s',
    'feature maps, gradients 2.000 GB',
    'memory of a device 2.301 GB of 15.0: fits',
    'bytes of a device 15.000 GB, 18.3 ms',
    'upper bound of the speed 4,367 images/s, bound by bytes',
    'largest batch, estimate 448 images',
  ):
    assert text in words


def test_bytes_of_the_text_are_a_bound():
  assert 'bytes of a device at most' in show(bytes_from='text')
  assert 'at most' not in show()


def test_a_speed_by_bytes_of_the_text_is_an_estimate():
  words = ' '.join(show(bytes_from='text').split())
  assert 'upper bound' not in words
  assert (
    'speed by these bytes, an estimate 4,367 images/s, bound by bytes' in words
  )
  line = FIGURES['roofline'] | {'bound': 'operations'}
  assert 'upper bound' in show(bytes_from='text', roofline=line)


def test_memory_that_does_not_fit_is_said():
  memory = FIGURES['memory'] | {'total': 15_000_000_001}
  assert 'of 15.0: does not fit' in show(memory=memory, fits=False)


def test_the_compilers_reason_is_shown():
  text = show(reason='Ran out of memory on HBM', compiled_batch=40, fits=False)
  assert 'The compiler refuses it: Ran out of memory on HBM' in text
  assert '40 images instead' in text
  nothing = show(reason='INTERNAL: a fault', memory=None, compiled_batch=None)
  assert 'INTERNAL: a fault' in nothing and 'GB' not in nothing


@pytest.mark.parametrize(
  ('pays', 'cache', 'recommended'),
  [
    (True, 'encoded', True),
    (False, 'encoded', False),
    (True, 'decoded', False),
  ],
)
def test_decoded_images_are_recommended(pays, cache, recommended):
  config = common.get_config()
  config.data.cache = cache
  cores = {'encoded': 7.25, 'decoded': 0.5}
  text = fits.describe_input(
    {'cores_of_a_host': cores, 'decoded_pays': pays},
    types.SimpleNamespace(config=config),
  )
  assert '7.2' in text and '0.5' in text
  assert ('takes 0.22 GB' in text) == recommended


def test_speed_beyond_decoded_images_is_said():
  text = fits.describe_input(
    {
      'cores_of_a_host': {'encoded': 25.72, 'decoded': None},
      'decoded_per_host': 70_949,
      'decoded_pays': False,
    },
    types.SimpleNamespace(config=common.get_config()),
  )
  assert text.splitlines()[1].split()[-1] == '25.7'
  assert text.endswith('-: delivers 70,949 images/s')
  assert max(map(len, text.splitlines())) <= fits.WIDTH


def test_an_alternative_is_a_line():
  line = fits.describe_alternative('--config.train.rematerialize', FIGURES)
  assert '448 images; 80 take 2.30 GB' in line
  refused = fits.describe_alternative('x', {'memory': None})
  assert refused.split() == ['x', '-']


def test_progress_is_shown_and_removed(capsys):
  with fits.watching('Compiling'):
    pass
  shown = capsys.readouterr().err
  assert 'Compiling: 00:00' in shown
  assert shown.split('\r')[-2].strip() == ''


def test_the_documented_output_is_that_of_the_record():
  page = (ROOT / 'docs/performance.md').read_text()
  record = json.loads(RECORD.read_text())
  texts = [fits.describe_target(record['target'])]
  for program in fits.TITLES:
    texts.append(
      fits.describe_program(program, record[program], record['target'])
    )
  rows = {'as configured': record['train']} | record['alternatives']
  assert len(rows) == 3
  texts += [fits.describe_alternative(*row) for row in rows.items()]
  # The record's own number of cores is by earlier rates of a core.
  speed = record['train']['roofline']['images_per_second']
  cores = input_rate.cores_needed(speed)
  needed = {'cores_of_a_host': cores, 'decoded_pays': False}
  texts.append(fits.describe_input(needed, None))
  for text in texts:
    assert text in page
