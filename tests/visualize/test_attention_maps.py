"""Tests of explained images, on a network whose only map is the image."""

import dataclasses

import numpy as np
from PIL import ImageColor
import pytest

from apnet_jax.errors import UserError
from apnet_jax.models.apnet import variable_shapes
from apnet_jax.visualize import attention_maps, attention_sheet, heat_colours
from apnet_jax.visualize.attention_maps import Explainer
from tests.pixel_network import draw_variables, pixel_model

SIZE = (20, 10)
CORNER = np.s_[:8, :5]  # a fifth of the image


def bright_corner(levels=0, sign=1, **fields):
  """Returns a network whose identity 0 is brightness, and an image.

  Args:
    levels: levels of the pyramid.
    sign: sign of the dependence.
    **fields: other fields of `config.model`.
  """
  model = pixel_model(levels=levels, **fields)
  shapes = variable_shapes(model, SIZE)
  variables = draw_variables(shapes)
  kernel = variables['params']['classifier']['kernel']
  kernel[:] = -np.ones((4, 3))
  kernel[:, 0] = sign
  variables['batch_stats']['bottleneck']['mean'][:] = 0
  image = np.full((*SIZE, 3), 40, np.uint8)
  image[CORNER] = 250
  return model, variables, image


def test_a_map_of_what_matters_is_faithful():
  model, variables, image = bright_corner()
  explainer = Explainer(model, variables, draws=3)
  (found,) = explainer.explain_identity(image[None], label=0)
  (level,) = found.levels
  assert level.heat.values[CORNER].min() > 0
  assert level.heat.attended_fall > 2 * abs(level.heat.random_fall)
  assert level.heat.area < 0.2
  assert found.label == 0 and level.attention is None
  summary = attention_maps.Summary()
  summary.add(found)
  ((name, row),) = summary.means().items()
  assert name == 'site 1, level 0, Grad-CAM'
  assert row['faithful'] == 1 and row['defined'] == 1
  assert row['entropy'] == pytest.approx(level.heat.entropy, abs=1e-5)


def test_what_raises_the_target_nowhere_has_no_figures():
  model, variables, image = bright_corner(sign=-1)
  bright = np.full_like(image, 250)
  explainer = Explainer(model, variables)
  (found,) = explainer.explain_identity(bright[None], label=0)
  heat = found.levels[0].heat
  assert not heat.values.any()
  assert set(heat.figures.values()) == {None}
  summary = attention_maps.Summary()
  summary.add(found)
  assert attention_maps.table(summary.means())[1].split()[-5:-1] == ['-'] * 4


def test_shares_are_in_percent_in_tables():
  row = {'entropy': 0.5, 'area': 0.1234, 'faithful': 1.0, 'defined': 1000}
  head, line = attention_maps.table({'map': row})
  assert head.split() == ['entropy', 'area', 'faithful', 'images']
  assert line.split() == ['map', '0.500', '12.3%', '100.0%', '1,000']


def test_batches_and_labels():
  model, variables, image = bright_corner()
  explainer = Explainer(model, variables, draws=0)
  both = np.stack([image, 255 - image])
  found = explainer.explain_identity(both)
  for row, (x, y) in enumerate(zip(found, both)):
    (alone,) = explainer.explain_identity(y[None], x.label)
    np.testing.assert_allclose(
      x.levels[0].heat.values, alone.levels[0].heat.values, rtol=1e-5
    )
    assert x.value == pytest.approx(alone.value, rel=1e-5), row
  assert found[0].levels[0].heat.attended_fall is None


def test_more_images_than_a_batch_are_run_in_batches(monkeypatch):
  model, variables, image = bright_corner()
  explainer = Explainer(model, variables)
  images = np.stack([image * (i + 1) // 5 for i in range(5)]).astype(np.float32)
  whole = explainer._run(images)
  monkeypatch.setattr(attention_maps, 'ROAD_BATCH', 2)
  for part, expected in zip(explainer._run(images), whole):
    np.testing.assert_allclose(part, expected, rtol=1e-5, atol=1e-6)


def test_a_site_or_level_that_is_not_there_is_an_error():
  model, variables, _ = bright_corner(levels=2)
  with pytest.raises(UserError, match='no site 4: .* pyramids at the sites 1'):
    Explainer(model, variables, site=4)
  with pytest.raises(UserError, match='no level 3: .* the levels 0, 1, 2;'):
    Explainer(model, variables, levels=[3])
  model, variables, _ = bright_corner()
  with pytest.raises(UserError, match='no site 0: .* the stages 1'):
    Explainer(model, variables, site=0)


@pytest.fixture(scope='module')
def pair():
  """The two sides of a pair, explained by a network of two levels."""
  model, variables, image = bright_corner(levels=2)
  return Explainer(model, variables).explain_pair(image, image[::-1])


def test_both_sides_of_a_pair_are_explained(pair):
  a, b = pair
  assert a.value == b.value and a.label is None
  assert [level.level for level in a.levels] == [0, 1, 2]
  for level in a.levels[1:]:
    assert level.parts.shape == (level.level,)
    assert level.weights.shape == (4,)
    means = level.weights.reshape(level.level, -1).mean(1)
    np.testing.assert_allclose(level.parts, means, rtol=1e-6)


def test_a_sheet_has_a_line_for_each_side(pair):
  titled = [('a', pair[0]), ('b', pair[1])]
  sheet = attention_sheet.draw_sheet(titled)
  one = attention_sheet.draw_sheet(titled[:1])
  assert (sheet.height, sheet.width) == (2 * one.height, one.width)
  cell = attention_sheet.WIDTH + attention_sheet.GAP
  assert one.width == 6 * cell + attention_sheet.GAP
  blue = (np.asarray(one) == ImageColor.getrgb(attention_sheet.BLUE)).all(-1)
  # The bars of both levels, and no others.
  columns = np.flatnonzero(blue.any(0)) // cell
  assert set(columns) == {4, 5}
  # Heights follow the weights: two parts, one of them higher.
  parts = pair[0].levels[2].parts
  left, right = blue[:, 5 * cell + 20].sum(), blue[:, -20].sum()
  assert (left > right) == (parts[0] > parts[1])


def test_a_title_longer_than_the_pictures_is_whole(pair):
  explained = dataclasses.replace(pair[0], levels=pair[0].levels[:1])
  gap = attention_sheet.GAP
  title = 'a long name of a file, similarity 0.123 to another, '
  widths = []
  for number in (1, 2, 3):
    sheet = attention_sheet.draw_sheet([(number * title, explained)])
    dark = np.asarray(sheet)[: attention_sheet.TITLE].min((0, 2)) < 128
    last = np.flatnonzero(dark).max()
    assert last < sheet.width - gap
    widths.append(last)
  each, again = np.diff(widths)
  assert each == pytest.approx(again, abs=2) and each > 200
  short = attention_sheet.draw_sheet([('a', explained)])
  assert short.width == 2 * (attention_sheet.WIDTH + gap) + gap


@pytest.mark.parametrize('number', [64, 128, 512])
def test_parts_narrower_than_three_pixels_are_drawn(pair, number):
  weights = np.linspace(0.5, 1, number, dtype=np.float32)
  level = dataclasses.replace(
    pair[0].levels[2], parts=weights, weights=weights.repeat(2)
  )
  explained = dataclasses.replace(pair[0], levels=[level])
  sheet = np.asarray(attention_sheet.draw_sheet([('a', explained)]))
  width = attention_sheet.WIDTH
  drawn = sheet[:, -width - attention_sheet.GAP : -attention_sheet.GAP]
  blue = (drawn == ImageColor.getrgb(attention_sheet.BLUE)).all(-1)
  edges = np.linspace(0, width, number + 1).round().astype(int)
  for start, stop in zip(edges, edges[1:]):
    assert start == stop or blue[:, start:stop].any()
  picture = attention_sheet._parts(level.parts, level.weights, width)
  strip = np.asarray(picture)[0]
  assert strip.any(-1).all()  # no black lines over the weights


def read_range(monkeypatch, level, width):
  """Draws the parts of a level; returns the strip and the range below it."""
  texts = []
  monkeypatch.setattr(
    attention_sheet.ImageDraw.ImageDraw,
    'text',
    lambda draw, place, text, *_: texts.append(text),
  )
  picture = attention_sheet._parts(level.parts, level.weights, width)
  strip = np.asarray(picture)[0]
  return strip, next(text for text in texts if ' to ' in text)


def test_the_strip_has_the_mean_weight_of_channels(pair, monkeypatch):
  """Not their mean colour: the mean of red and blue is not that of green."""
  width = attention_sheet.WIDTH
  weights = np.tile(np.float32([0, 1]), width)  # two channels for each pixel
  weights[:2], weights[-2:] = 0.2, 0.8
  level = dataclasses.replace(
    pair[0].levels[2], parts=weights[:1], weights=weights
  )
  strip, shown = read_range(monkeypatch, level, width)
  expected = heat_colours.colour(np.array([0.0, 0.5, 1.0]))
  np.testing.assert_allclose(strip[[0, 40, -1]], expected, atol=2)
  assert shown == '0.200 to 0.800'


def test_a_strip_of_few_channels_has_their_weights(pair, monkeypatch):
  weights = np.float32([0.3, 0.5, 0.4])
  level = dataclasses.replace(
    pair[0].levels[2], parts=weights[:1], weights=weights
  )
  strip, shown = read_range(monkeypatch, level, 150)
  expected = heat_colours.colour(np.array([0, 1, 0.5]))
  np.testing.assert_allclose(strip[[10, 75, 140]], expected, atol=2)
  assert shown == '0.300 to 0.500'


def test_overlays_are_coloured_where_the_map_is_high():
  image = np.full((4, 2, 3), 100, np.uint8)
  heat = np.array([[0, 0], [0, 0], [0, 0], [0, 1.0]])
  picture = np.asarray(heat_colours.overlay(image, heat)).astype(int)
  assert picture.shape == image.shape
  red, green, blue = picture[3, 1]
  assert red > green and red > blue  # the end of the scale
  red, green, blue = picture[0, 0]
  assert blue > red  # its beginning
