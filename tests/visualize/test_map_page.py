"""Tests of the map of embeddings; `test_report.py` opens one in a browser."""

import re

import numpy as np
import pytest

from apnet_jax.visualize import map_page, report
from tests.visualize import node, worlds

SPREAD = np.array([8.0, 1.0])  # of the points along both axes


def describe(embeddings, identities=range(60), cameras=None):
  number = len(embeddings)
  return map_page.describe_points(
    embeddings,
    [f'{i}.jpg' for i in range(number)],
    list(identities),
    cameras,
    [''] * number,
    2 * number,
  )


@pytest.fixture
def plane():
  """Points on a plane, of which one axis is eight times the other."""
  return np.random.default_rng(0).uniform(-1, 1, (60, 2)) * SPREAD


def spans(x, y):
  return np.ptp(np.array([x, y]), axis=1)


def test_both_axes_have_one_scale_and_the_narrow_one_is_centred(plane):
  data = describe(plane)
  positions, _ = map_page.project_pca(plane)
  wide, narrow = spans(*positions.T)
  assert min(data['x']) == 0 and max(data['x']) == 1
  assert np.ptp(data['y']) == pytest.approx(narrow / wide, abs=2e-4)
  assert min(data['y']) + max(data['y']) == pytest.approx(1, abs=2e-4)


def draw(data, *shown, **fields):
  text = map_page.make_page(data, 'Map')
  fields = {'colour': 'camera', **fields}
  return node.run(text, *shown, fields=fields)


def places(drawn):
  x, y = (re.findall(f'{name}="(.*?)"', drawn) for name in ('cx', 'cy'))
  return np.array([x, y], float)


@node.needed
@pytest.mark.parametrize('turned', [False, True])
def test_the_picture_has_one_scale_and_is_filled(plane, turned):
  data = describe(plane)
  if turned:
    data['x'], data['y'] = data['y'], data['x']
  (drawn,) = draw(data, "element('map')", colour='identity')
  found = places(drawn)
  x, y = spans(*found)
  width, height = spans(data['x'], data['y'])
  assert x / y == pytest.approx(width / height, rel=1e-3)
  expected = 596 if turned else 976
  assert max(x, y) == pytest.approx(expected, rel=1e-3)
  middle = (found.min(1) + found.max(1)) / 2
  np.testing.assert_allclose(middle, [500, 310], atol=0.1)


@node.needed
def test_equal_embeddings_are_drawn_in_the_middle():
  (drawn,) = draw(describe(np.ones((60, 2))), "element('map')")
  assert (places(drawn) == [[500], [310]]).all()


def test_the_note_says_what_there_is(plane):
  cameras = [1, 2] * 30
  for given in (None, cameras):
    text = map_page.make_page(describe(plane, cameras=given), 'Map')
    note = ' '.join(text[text.index('<p class="note">') :].split())
    assert '60 of 120 images, in two dimensions' in note
    assert ('points of a camera' in note) == (given is not None)
    assert 'of the gallery' not in note and 'Warning' not in note


def test_the_map_of_a_report_is_that_of_its_gallery(tmp_path):
  report.write_report(tmp_path, *worlds.evaluate())
  text = (tmp_path / 'map.html').read_text()
  assert '38 of 38 images of the gallery, in two' in ' '.join(text.split())


def test_a_collapsed_network_is_said():
  rng = np.random.default_rng(0)
  same = np.ones(16) + 1e-3 * rng.normal(size=(60, 16))
  text = map_page.make_page(describe(same, ['a', 'b'] * 30), 'Map')
  assert 'Warning: the network embeds all images alike: images of diff' in text
  text = map_page.make_page(describe(same, ['a'] * 60), 'Map')
  assert 'Warning' not in text


@node.needed
def test_a_legend_names_the_colours(plane):
  data = describe(plane, cameras=[3, 7] * 30)
  shown = "element('colours')", "element('map')"
  legend, drawn = draw(data, *shown)
  colours = re.findall('background:(.*?)">[^>]*>?(camera .)', legend)
  assert [camera for _, camera in colours] == ['camera 3', 'camera 7']
  assert re.findall('fill="(.*?)"', drawn) == [c for c, _ in colours] * 30
  legend, _ = draw(data, *shown, colour='identity')  # there are too many
  assert 'identity' not in legend


@node.needed
@pytest.mark.parametrize('cameras', [16, 17])
def test_the_legend_is_in_the_order_of_numbers_and_not_too_long(plane, cameras):
  of_csv = [str(i % cameras + 1) for i in range(60)]
  legend, drawn = draw(
    describe(plane, cameras=of_csv), "element('colours')", "element('map')"
  )
  named = re.findall(r'camera (\d+)', legend)
  assert named == ([str(i) for i in range(1, 17)] if cameras == 16 else [])
  assert ('17 colours: too many' in legend) == (cameras == 17)
  fills = {*re.findall('fill="(.*?)"', drawn)}
  hues, _, lightness = zip(*(re.findall(r'[\d.]+', x) for x in fills))
  assert len(fills) == cameras and len({*lightness}) == 3
  for i, hue in enumerate(hues):  # similar hues differ in lightness
    for j in range(i):
      apart = abs(float(hue) - float(hues[j]))
      assert min(apart, 360 - apart) > 25 or lightness[i] != lightness[j]


@node.needed
def test_arrow_keys_go_through_the_images_that_are_chosen(plane):
  data = describe(plane, cameras=[3, 7] * 30)

  def press(*keys):
    presses = ''.join(
      f"map.listeners.keydown({{ key: '{key}', preventDefault() {{}} }}), "
      for key in keys
    )
    near, drawn = draw(
      data, f"({presses}element('near'))", 'points.join()', only='7'
    )
    (current,) = re.findall('<circle[^>]*class="current"[^>]*>', drawn)
    (name,) = re.findall(r'\d+\.jpg', near)
    return name, current

  right = ['ArrowRight'] * 3
  (first, _), (third, point), (second, _) = (
    press(*keys) for keys in (right[:1], right, [*right, 'ArrowLeft', 'a'])
  )
  assert (first, second, third) == ('1.jpg', '3.jpg', '5.jpg')
  assert 'faint' not in point
