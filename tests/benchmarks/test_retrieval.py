"""Tests the benchmark of the evaluation without timing it."""

import json
import pathlib

import numpy as np
import pytest

from apnet_jax import evaluate_retrieval
from benchmarks import retrieval

ROOT = pathlib.Path(__file__).parents[2]
RECORDS = sorted(ROOT.glob('docs/records/benchmarks/retrieval_*.json'))


def test_the_usual_evaluation_says_the_same():
  arguments = retrieval.RandomDataset(40, 200, 8).arguments(queries=30)
  cmc, mean = retrieval.evaluate_as_usual(*arguments)
  result = evaluate_retrieval(*arguments)
  np.testing.assert_allclose(mean, result.mAP)
  np.testing.assert_allclose(cmc, result.cmc, atol=1e-6)


def test_sizes_are_those_of_the_data_sets():
  """Numbers of distractors and identities fit; embeddings have length 1."""
  dataset = retrieval.RandomDataset(3, 15_913, 2)
  assert (dataset.pids[1] == 0).sum() == 2798
  assert len(np.unique(dataset.pids[1])) == 750
  np.testing.assert_allclose(
    np.linalg.norm(dataset.embeddings[1], axis=1), 1, rtol=1e-6
  )
  dataset = retrieval.RandomDataset(3, 82_161, 2)
  assert abs(len(np.unique(dataset.pids[1])) - 3060) < 10


def test_the_best_turn_counts():
  def answers(*seconds):
    return [{'seconds': s, 'MB': 10 * s, 'mAP': None} for s in seconds]

  ours = retrieval.ours(1)
  figures = retrieval.summarize(
    {
      'first': {ours: answers(9)[0]},
      'answers': {
        retrieval.PRODUCT: answers(2, 1, 2),
        ours: answers(2, 3, 4),
        retrieval.USUAL: answers(40, 20, 30),
      },
    },
    size=(100, 1000, 8),
    usual=50,
  )
  assert figures[ours]['seconds'] == 2
  assert figures[ours]['times product'] == 2
  assert figures[ours]['MB'] == 90
  assert figures[retrieval.USUAL]['turns'] == [80, 40, 60]
  assert figures[ours]['times usual'] == 1 / 20
  table = retrieval.format_table(figures, 'jax').splitlines()
  assert table[2].split()[-5:] == ['2.00', '9.00', '2.00', '20.0', '90']


@pytest.mark.parametrize(
  'argument', ['--size=1x2', '--turns=0', '--usual-queries=9999', '--json=/a/b']
)
def test_bad_arguments(argument, capsys):
  with pytest.raises(SystemExit, match='2'):
    retrieval.parse([argument])
  assert argument.split('=')[0] in capsys.readouterr().err


@pytest.mark.parametrize('path', RECORDS, ids=lambda path: path.stem)
def test_records(path):
  """Records have all rows, and the same mAP on any number of devices."""
  figures = json.loads(path.read_text())['figures']
  rows = [*map(retrieval.ours, retrieval.DEVICES), retrieval.USUAL]
  assert set(figures) == {retrieval.PRODUCT, *rows}
  np.testing.assert_allclose(
    [figures[row]['mAP'] for row in rows],
    figures[retrieval.USUAL]['mAP'],
    rtol=1e-4,
  )
