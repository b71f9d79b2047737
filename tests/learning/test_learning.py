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
  """mAP MAP_WHOLE; random embeddings have 0.04."""
  whole = figures['whole']
  assert whole['chance'] < 0.06
  assert whole['mAP'] > 0.4


def test_shuffled_labels_teach_nothing_about_people(figures):
  """mAP MAP_SHUFFLED: near the 0.04 of chance."""
  whole = figures['whole']
  gained = figures['shuffled labels']['mAP'] - whole['chance']
  assert gained < 0.2 * (whole['mAP'] - whole['chance'])


def test_the_parts_of_a_level_learn_attention_of_their_own(figures):
  """The likeness of moves is LIKENESS, and the difference of parts DIFFERENCE.

  Parts that share weights or gradients have 1 and 0.
  """
  assert figures['whole']['likeness of moves'] < 0.6
  assert figures['whole']['difference of parts'] > 0.8


def test_the_triplet_loss_shapes_the_features(figures):
  """It acts on features before the neck, ranked by Euclidean distance.

  Their mAP is FEATURES with it and NO_TRIPLET without. After the neck, mAP is
  0.04 to 0.05 lower without it.
  """
  without = figures['no triplet loss']
  assert figures['whole']['features'] > without['features'] + 0.04
  assert figures['whole']['mAP'] > without['mAP']


def test_the_cross_entropy_raises_the_figures(figures):
  """mAP is MAP_WHOLE with it and MAP_NO_CE without."""
  without = figures['no cross-entropy']
  assert figures['whole']['mAP'] > without['mAP'] + 0.04


def test_label_smoothing_bounds_the_logits(figures):
  """Their spread is LOGITS with it and NO_SMOOTHING without.

  mAP on the drawn people is the same with and without it.
  """
  without = figures['no label smoothing']
  assert figures['whole']['logits'] < 0.95 * without['logits']


def test_the_neck_spreads_strangers(figures):
  """Their median similarity is STRANGERS with the neck, NO_NECK without.

  mAP is MAP_NO_NECK without it, and MAP_WHOLE with it.
  """
  without = figures['no BN neck']
  assert abs(figures['whole']['strangers']) < 0.3
  assert without['strangers'] > 0.7
  assert figures['whole']['mAP'] > without['mAP'] + 0.03


def test_the_average_with_the_mirrored_image_raises_the_figures(figures):
  """The same network has a mAP that is FLIP higher with it."""
  whole = figures['whole']
  assert whole['mAP'] > whole['without flip'] + 0.01
