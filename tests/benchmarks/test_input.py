"""Tests the benchmark of the input pipeline, mostly with made-up figures."""

import importlib.util
from importlib.util import find_spec
import itertools
import json
import os
import pathlib

import numpy as np
from PIL import Image
import pytest

from benchmarks import command, input_ours, input_pipeline, measuring
from configs import common
from data import records

ROOT = pathlib.Path(__file__).parents[2]
RECORD = ROOT / 'docs/records/benchmarks/input_pipeline.json'
IMAGE_SIZE = (32, 16)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Returns a folder of 80 images, one batch."""
  folder = tmp_path_factory.mktemp('images')
  rng = np.random.default_rng(0)
  for row in range(80):
    pixels = rng.integers(0, 256, (24, 12, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f'{row:02}.jpg')
  return folder


@pytest.fixture
def torch_is_there(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name)


# Figures


@pytest.fixture
def measured():
  """Returns rates of 100 i, 100 i + 20 and 100 i + 90 images/s for row i."""
  answers = {
    row: [{'rate': 100 * i + x, 'memory': 5e6 * i} for x in (90, 0, 20)]
    for i, row in enumerate(input_pipeline.MEASUREMENTS, 1)
  }
  workers = {0: [{'rate': 80.4}], 2: [{'rate': 120}, {'rate': 110}]}
  return {'workers': workers, 'answers': answers}


def test_figures_are_medians(measured):
  figures = input_pipeline.summarize(measured, cores=2)
  assert list(figures) == [*input_pipeline.TABLES, 'PyTorch by workers']
  assert figures['PyTorch by workers'] == {'0': 80, '2': 115}
  assert figures[input_pipeline.WHOLE]['this project'] == {
    'images/s': 320,
    'a core': 160,
    'times': 2.67,
    'MB': 15,
    'turns': [390, 300, 320],
  }
  assert figures[input_pipeline.WHOLE]['PyTorch']['times'] == 1
  decode = figures[input_pipeline.DECODE]['PyTorch']
  assert decode['a core'] == decode['images/s']


def test_unknown_memory_is_a_dash(measured):
  for answers in measured['answers'].values():
    answers[0]['memory'] = None
  figures = json.loads(json.dumps(input_pipeline.summarize(measured, cores=2)))
  lines = input_pipeline.format_table(figures, cores=2).splitlines()
  assert lines[0].split() == 'On 2 cores images/s a core times MB'.split()
  (line,) = [x for x in lines if 'new memory' in x]
  assert line.split()[-4:] == ['420', '210', '3.5', '-']
  assert 'Workers of PyTorch: 2, the best of 0, 2' in lines


def test_parts_make_the_whole():
  figures = {
    table: {'PyTorch': {'images/s': rate}}
    for table, rate in zip(input_pipeline.TABLES, (100, 200, 1000))
  }
  assert input_pipeline.shares(figures, 'PyTorch') == {
    'decode': 10,
    'resize and batch': 40,
    'augment': 50,
  }


def test_measuring_times_whole_batches():
  waited = []
  batches = (np.zeros(3) for _ in itertools.count())
  answer = measuring.time_batches(batches, 0.01, len, waited.append)
  assert answer['rate'] > 0
  assert len(waited) == 2 + measuring.MEMORY_SAMPLES
  assert answer['memory'] is None or answer['memory'] > 1e6


def test_documented_tables_are_those_of_the_record():
  text = (ROOT / 'docs/performance.md').read_text()
  record = json.loads(RECORD.read_text())
  for cores, figures in record['figures by number of cores'].items():
    assert input_pipeline.format_table(figures, int(cores)) in text
  for field in ('command', 'hardware', 'seed', 'versions'):
    assert record[field] not in (None, '')
  assert record['hardware'] in text


# Errors


def fails(capsys, *arguments):
  """Checks that the benchmark fails and returns its error messages."""
  try:
    code = input_pipeline.main(list(arguments))
  except SystemExit as error:
    code = error.code
  assert code == 2
  return capsys.readouterr().err


def test_says_what_to_install(capsys, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  assert 'pip install torch torchvision' in fails(capsys)


def test_says_what_is_wrong(capsys, torch_is_there, tmp_path):
  missing = tmp_path / 'missing'
  assert f'--images={missing}: no such' in fails(capsys, f'--images={missing}')
  record = missing / 'record.json'
  assert f'--json={record}: no such' in fails(capsys, f'--json={record}')
  assert 'greater than 0' in fails(capsys, '--turns=0')
  assert 'has 0 images; a batch needs 80' in fails(
    capsys, f'--images={tmp_path}'
  )


def test_a_side_that_ends_is_an_error(folder, tmp_path):
  with (
    command.MeasuringProcess(
      'measuring',
      [],
      command.environment(JAX_PLATFORMS='cpu'),
      os.sched_getaffinity(0),
    ) as process,  # does nothing
    pytest.raises(RuntimeError, match='measuring ended with code 0'),
  ):
    process.ask(task='versions')


# Both pipelines


@pytest.fixture(scope='module')
def pipeline(folder):
  config = common.get_config()
  config.data.image_size = IMAGE_SIZE
  config.data.cache = 'encoded'
  return input_ours.open_pipeline(folder, config)


@pytest.mark.parametrize('task', ['decode', 'decode, resize', 'all'])
def test_ours_measures(pipeline, task):
  assert pipeline.measure(task, seconds=0.01)['rate'] > 0


def test_memory_used_again_gives_the_same_batches(pipeline):
  batches = records.train_batches(
    pipeline.split, pipeline.labels, pipeline.config, first_step=0
  )
  images = [batch['image'] for batch in itertools.islice(batches, 3)]
  one, other = (
    [np.array(batch) for batch in pipeline.augmented(function, images)]
    for function in (pipeline.augment_in_place, pipeline.augment_anew)
  )
  np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(
  not (find_spec('torch') and find_spec('torchvision')),
  reason='PyTorch is not installed',
)
def test_pytorch_measures(folder):
  """In a process of its own: one with PyTorch and TensorFlow may crash."""
  arguments = ['--images', str(folder), '--image-size', '32', '16']
  with command.MeasuringProcess(
    'input_torch',
    arguments,
    command.environment(JAX_PLATFORMS='cpu'),
    os.sched_getaffinity(0),
  ) as process:
    versions = {'torch', 'torchvision', 'pillow'}
    assert set(process.ask(task='versions')) == versions
    for task in ('decode', 'decode, resize', 'all', 'all, one buffer'):
      assert process.ask(task=task, seconds=0.01)['rate'] > 0
    assert process.ask(task='all', seconds=0.01, workers=1)['rate'] > 0
