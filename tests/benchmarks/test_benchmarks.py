"""Runs the benchmarks of evaluation and re-ranking at a small size."""

import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import search

ROOT = pathlib.Path(__file__).parents[2]


def run(script, *arguments):
  return subprocess.run(
    [sys.executable, f'benchmarks/{script}.py', *arguments],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip


@pytest.mark.parametrize('script', ['retrieval', 'rerank'])
def test_both_sides_agree_and_a_record_says_how(script, tmp_path):
  file = tmp_path / 'record.json'
  result = run(script, '--size=40x300x16', f'--json={file}')
  assert result.returncode == 0, result.stderr
  record = json.loads(file.read_text())
  assert record['command'].startswith(f'python benchmarks/{script}.py --size')
  for field in ('hardware', 'date', 'versions', 'figures'):
    assert record[field]
  figures = record['figures']
  if script == 'rerank':
    assert figures['largest difference'] < 1e-5
  else:
    expected = pytest.approx(figures['usual evaluation']['mAP'], rel=1e-5)
    for devices in ('1 device', '2 devices', '4 devices'):
      assert figures[f'this project, {devices}']['mAP'] == expected


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (
      ['rerank', '--size=axb'],
      "'axb' is neither market nor msmt17 nor QUERIESxGALLERYx",
    ),
    (
      ['rerank', '--json=/nowhere/x.json'],
      '--json=/nowhere/x.json: no such folder',
    ),
    (['rerank', '--json=docs'], '--json=docs is a folder'),
    (['search'], 'error: --folder is missing'),
    (
      ['export_parity', '--ckpt=nowhere', '--images=docs'],
      'export_parity.py: error: --ckpt=nowhere is not a workdir',
    ),
  ],
)
def test_mistakes_are_messages(arguments, message):
  result = run(*arguments)
  assert result.returncode == 2
  assert message in result.stderr and 'Traceback' not in result.stderr


def test_an_index_is_built_beside_other_files(tmp_path):
  other = tmp_path / 'index.npz'
  other.write_text('of the user')
  index = search.build(tmp_path / 'index', 20, 8, 'float16')
  assert index.info['rows'] == 20
  assert other.read_text() == 'of the user'
  assert len([*tmp_path.iterdir()]) == 2
