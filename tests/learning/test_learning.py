"""A network without one of its parts learns less, or differently.

An implementation in which a loss, the neck or the flip has no effect passes
tests of shapes, but not these: they compare runs with and without the part.
Each docstring gives the figures of four seeds (0 to 3), and the bound lies
between them with a margin. mAP is from 0 to 1.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.compilation import xla_flags

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def figures(tmp_path_factory):
  """The figures of all runs, by run and name."""
  folder = tmp_path_factory.mktemp('people')
  output = folder / 'figures.json'
  subprocess.run(
    [sys.executable, '-m', 'tests.learning.train_people', folder, output],
    cwd=ROOT,
    env=dict(os.environ, XLA_FLAGS=xla_flags()),
    check=True,
  )
  return json.loads(output.read_text())


def test_the_whole_network_learns(figures):
  """mAP 0.47 to 0.51; random embeddings have 0.04."""
  whole = figures['whole']
  assert whole['chance'] < 0.06
  assert whole['mAP'] > 0.4


def test_shuffled_labels_teach_nothing_about_people(figures):
  """mAP 0.07 to 0.09, near the 0.04 of chance."""
  whole = figures['whole']
  gained = figures['shuffled labels']['mAP'] - whole['chance']
  assert gained < 0.2 * (whole['mAP'] - whole['chance'])


def test_the_parts_of_a_level_learn_attention_of_their_own(figures):
  """With the weights of the other part, a part attends images differently.

  The change is 1.4 to 2.1 times the spread of its attention over images, and 0
  for parts that share their weights.
  """
  assert figures['whole']['difference of parts'] > 0.5


def test_the_triplet_loss_shapes_the_features(figures):
  """It acts on features before the neck, ranked by Euclidean distance.

  Their mAP is 0.49 to 0.50 with it, 0.32 to 0.39 without. (After the neck, it
  is between 0.01 lower and 0.05 higher with it, which shows nothing.)
  """
  without = figures['no triplet loss']
  assert figures['whole']['features'] > without['features'] + 0.04


def test_the_cross_entropy_raises_the_figures(figures):
  """mAP is 0.47 to 0.51 with it, 0.20 to 0.28 without."""
  without = figures['no cross-entropy']
  assert figures['whole']['mAP'] > without['mAP'] + 0.1


def test_label_smoothing_bounds_the_logits(figures):
  """Their spread is 1.65 to 1.76 with it, 1.91 to 2.12 without.

  (mAP on the drawn people is up to 0.03 higher without it.)
  """
  without = figures['no label smoothing']
  assert figures['whole']['logits'] < 0.92 * without['logits']


def test_the_neck_spreads_strangers(figures):
  """Their median similarity is 0.04 to 0.07 with it, 0.91 to 0.96 without.

  mAP is 0.47 to 0.51 with it, 0.30 to 0.39 without.
  """
  without = figures['no BN neck']
  assert abs(figures['whole']['strangers']) < 0.3
  assert without['strangers'] > 0.7
  assert figures['whole']['mAP'] > without['mAP'] + 0.04


def test_the_average_with_the_mirrored_image_raises_the_figures(figures):
  """Averaging with the mirrored image raises mAP by 0.02 to 0.04."""
  whole = figures['whole']
  assert whole['mAP'] > whole['without flip'] + 0.01
