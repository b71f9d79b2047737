"""Search and verdicts; `test_commands.py` runs the commands themselves."""

import numpy as np
import pytest

from apnet_jax import compare, search


def network(threshold):
  """Images are numbers; their embeddings have that angle, in degrees."""

  def embed(paths):
    angle = np.radians(np.array(paths, np.float64))
    return np.stack([np.cos(angle), np.sin(angle)], 1)

  return search.Network(embed, threshold, 'as given')


def test_the_closest_come_first_and_ties_keep_their_order():
  found = list(search.search(network(None), [0, 90], [80, 10, 350, 0], top=3))
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
  one = {'image': 'a.jpg', 'similarity': 0.3, 'verdict': search.OTHER}
  lines = list(search._lines('q.jpg', [one]))
  assert 'a.jpg' in lines[1] and 'not among these' in lines[2]
  assert len(list(search._lines('q.jpg', [one | {'verdict': None}]))) == 2
