import numpy as np
import pytest

from apnet_jax.commands import map as map_command
from apnet_jax.errors import UserError
from apnet_jax.visualize import map_page

PATHS = np.array(['a/0007_c2_1.jpg', 'b/0009_c1_1.jpg'])


def test_labels_come_from_columns_a_pattern_or_folders():
  read = map_command.read_labels
  columns = {'path': PATHS, 'pid': np.array([3, 4]), 'camid': np.array([1, 2])}
  assert read(columns, '') == (['3', '4'], [1, 2])
  assert read({'path': PATHS}, '') == (['a', 'b'], None)
  pattern = r'/(?P<pid>\d+)_c(?P<camid>\d)'
  assert read(columns, pattern) == (['0007', '0009'], ['2', '1'])
  assert read(columns, r'(?P<pid>\d+)_') == (['0007', '0009'], None)


@pytest.mark.parametrize(
  ('pattern', 'problem'),
  [
    ('(', 'unterminated'),
    (r'(\d+)', r'no group \(\?P<pid>'),
    (
      r'c/(?P<pid>\d+)',
      r"='c/\(\?P<pid>\\d\+\)' is found in none of 2.*a/0007",
    ),
  ],
)
def test_mistakes_in_patterns_are_named(pattern, problem):
  with pytest.raises(UserError, match=problem):
    map_command.read_labels({'path': PATHS}, pattern)


def test_images_that_a_pattern_does_not_match_are_named():
  pattern = r'a/(?P<pid>\d+)_c(?P<camid>\d)'
  labels = map_command.read_labels({'path': PATHS}, pattern)
  assert labels == (['0007', '?'], ['2', '?'])
  warning = map_command.describe_unknown(PATHS.tolist(), labels[0])
  assert (
    'not found in 1 of 2 paths; these images have the identity ?:' in warning
  )
  assert warning.endswith(':\n  b/0009_c1_1.jpg')
  assert map_command.describe_unknown(PATHS.tolist(), ['7', '9']) == ''


def test_points_may_have_texts_as_labels():
  embeddings = np.random.default_rng(0).normal(size=(3, 5))
  data = map_page.describe_points(
    embeddings, ['x', 'y', 'z'], ['anna', 'ben', 'anna'], None, [''] * 3, 9
  )
  assert data['identity'] == ['anna', 'ben', 'anna']
  assert not data['has_cameras'] and data['gallery'] == 9
  for low, high in ((min(data[axis]), max(data[axis])) for axis in 'xy'):
    assert low + high == pytest.approx(1, abs=2e-4)
  assert min(data['x']) == 0 and max(data['x']) == 1  # the wider
  assert '3 of 9 images' in map_page.make_page(data, 'Map')
