"""Tests of search and verdicts; `test_commands.py` runs the commands."""

import types

import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from apnet_jax.commands import compare, search
from apnet_jax.retrieval import threshold, trained_network
from apnet_jax.workdir import json_files
from apnet_jax.workdir.checkpoints import Checkpoints
from tests.fakes import small_config


def network(threshold):
  """Returns a network for numbers as images: angles in degrees."""

  def embed(paths):
    angle = np.radians(np.array(paths, np.float64))
    return np.stack([np.cos(angle), np.sin(angle)], 1)

  return trained_network.Network(embed, threshold, 'as given')


def test_the_closest_come_first_and_ties_keep_their_order():
  found = list(
    trained_network.search(network(None), [0, 90], [80, 10, 350, 0], top=3)
  )
  assert [rows.tolist() for rows, _ in found] == [[3, 1, 2], [0, 1, 3]]
  np.testing.assert_allclose(found[0][1][0], 1)


@pytest.mark.parametrize(
  ('threshold', 'word'), [(None, ''), (0.4, 'same person'), (0.6, 'another')]
)
def test_two_images_are_told_apart_by_the_threshold(threshold, word, capsys):
  compare.compare_images(network(threshold), 0, 60)
  out, err = capsys.readouterr()
  assert out.split('  ') == ['0.5000', f'{word}\n']
  assert 'as given' in err


def test_lines_say_if_nobody_is_found():
  other = trained_network.OTHER_PERSON
  one = {'image': 'a.jpg', 'similarity': 0.3, 'verdict': other}
  lines = list(search._lines('q.jpg', [one]))
  assert 'a.jpg' in lines[1] and 'not among these' in lines[2]
  assert len(list(search._lines('q.jpg', [one | {'verdict': None}]))) == 2


class Colours:
  """A model whose embedding is the mean colour of the left half."""

  def apply(self, variables, images, train):
    half = images[:, :, : images.shape[2] // 2].mean((1, 2))
    return types.SimpleNamespace(embedding=half, logits=half**2)


STORED = {
  'threshold': 0.25, 'wanted_fpr': 0.1, 'step': 1, 'feature': 'logits',
  'flip': False, 'dataset': 'market1501',
}  # fmt: skip


@pytest.fixture
def workdir(tmp_path, monkeypatch):
  json_files.write_json(tmp_path / 'config.json', small_config().to_dict())
  run = {'num_classes': 2, 'fingerprint': 'x'}
  json_files.write_json(tmp_path / 'run.json', run)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {'w': np.zeros(1)}, None)
  monkeypatch.setattr(
    trained_network,
    'restore_model',
    lambda *_: (1, Colours(), {'w': jnp.zeros(1)}),
  )
  return tmp_path


def two_colours(folder):
  """Writes an image, red on the left and blue on the right, and its mirror."""
  pixels = np.zeros((32, 16, 3), np.uint8)
  pixels[:, :8, 0] = pixels[:, 8:, 2] = 255
  Image.fromarray(pixels).save(folder / 'a.png')
  Image.fromarray(pixels[:, ::-1]).save(folder / 'b.png')
  return [folder / 'a.png', folder / 'b.png']


def test_images_are_embedded_as_the_run_evaluates(workdir):
  network = trained_network.open_network(workdir, 'last', None)
  assert network.threshold is None and '--choose_threshold' in network.about
  one, two = network.embed(two_colours(workdir))
  np.testing.assert_allclose(np.linalg.norm(one), 1, rtol=1e-5)
  np.testing.assert_allclose(one, two, atol=1e-6)  # averages with mirror images


def test_or_as_they_were_for_the_stored_threshold(workdir):
  threshold.save(workdir, STORED)
  network = trained_network.open_network(workdir, 'last', None)
  assert network.threshold == 0.25
  one, two = network.embed(two_colours(workdir))
  np.testing.assert_allclose(np.linalg.norm(one), 1, rtol=1e-5)
  assert one @ two < 0.95
  assert trained_network.open_network(workdir, 'last', 0.5).threshold == 0.5


def test_the_threshold_of_another_checkpoint_is_not_used(workdir):
  threshold.save(workdir, STORED | {'step': 9})
  network = trained_network.open_network(workdir, 'last', None)
  assert network.threshold is None
  assert 'step 9 there, 1 here' in network.about
