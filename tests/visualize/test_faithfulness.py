"""Tests of the figures of attention maps: concentration and faithfulness."""

import numpy as np
import pytest

from apnet_jax.visualize import concentration, faithfulness


def test_a_uniform_map_is_least_concentrated():
  heat = np.full((4, 3), 0.7)
  assert concentration.entropy(heat) == pytest.approx(1)
  assert concentration.area(heat) == pytest.approx(0.5)


def test_one_position_is_most_concentrated():
  heat = np.zeros((4, 2))
  heat[1, 1] = 3
  assert str(concentration.entropy(heat)) == '0.0'  # not -0.0
  assert concentration.area(heat) == pytest.approx(0.5 / 8)


def test_the_area_holds_half_of_a_map():
  # 0.4 whole, then half of a position of 0.2.
  heat = np.array([[0.2, 0.4, 0.1], [0.2, 0.1, 0]])
  assert concentration.area(10 * heat) == pytest.approx(1.5 / 6)
  p = heat[heat > 0]
  entropy = -(p * np.log(p)).sum() / np.log(6)
  assert concentration.entropy(10 * heat) == pytest.approx(entropy)


def test_a_map_of_zeros_has_no_figures():
  assert concentration.entropy(np.zeros((2, 2))) is None
  assert concentration.area(np.zeros((2, 2))) is None
  assert concentration.entropy(np.ones((1, 1))) is None
  assert concentration.area(np.ones((1, 1))) == pytest.approx(0.5)


def test_the_region_has_the_largest_values():
  values = np.array([[0, 0], [0, 1]])
  rng = np.random.default_rng(0)
  region = faithfulness.attended_region(values, (40, 20), rng, share=0.1)
  assert region.sum() == 80
  assert region[20:, 10:].sum() == 80
  assert faithfulness.attended_region(np.ones((2, 2)), (40, 20), rng) is None


def test_equal_values_are_chosen_at_random_places():
  values = np.zeros((40, 20))
  values[30:, 15:] = 1  # 50 of the 160 pixels to choose
  regions = [
    faithfulness.attended_region(values, (40, 20), np.random.default_rng(seed))
    for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(regions[0], regions[1])
  assert (regions[0] != regions[2]).any()
  for region in regions:
    assert region.sum() == 160 and region[30:, 15:].all()
    # A quarter of the others, about 110 of 750, is in each quarter of the rows.
    assert all(quarter[:, :15].sum() > 10 for quarter in np.split(region, 4))


def test_a_moved_region_keeps_its_shape():
  region = np.zeros((6, 5), bool)
  region[2:4, 1:4] = region[2, 4] = True
  moved = [
    faithfulness.move(region, np.random.default_rng(seed)) for seed in range(9)
  ]
  assert {int(m.sum()) for m in moved} == {7}
  assert len({m.tobytes() for m in moved}) > 4
  for m in moved:
    turned = (np.roll(m, (i, j), (0, 1)) for i in range(6) for j in range(5))
    assert any((t == region).all() for t in turned)


def test_linear_images_are_interpolated_exactly(monkeypatch):
  monkeypatch.setattr(faithfulness, 'NOISE', 0)
  rows, columns = np.mgrid[:12, :9].astype(np.float32)
  image = np.stack([rows, 3 * columns, 100 - rows + 2 * columns], -1)
  region = np.zeros((12, 9), bool)
  region[3:8, 2:6] = region[5, 1] = True
  hidden = np.where(region[..., None], 255, image)
  result = faithfulness.replace(hidden, region, np.random.default_rng(0))
  np.testing.assert_allclose(result, image, atol=1e-3)


def test_pixels_at_the_border_have_fewer_neighbours(monkeypatch):
  """Each new pixel is the weighted mean of its neighbours in the image."""
  monkeypatch.setattr(faithfulness, 'NOISE', 0)
  rng = np.random.default_rng(0)
  image = rng.uniform(0, 255, (6, 5, 1))
  region = np.zeros((6, 5), bool)
  region[:2, :3] = region[4:, 4] = True
  result = faithfulness.replace(image, region, rng)[..., 0]
  for i, j in np.argwhere(region):
    mean = total = 0
    for a in range(max(i - 1, 0), min(i + 2, 6)):
      for b in range(max(j - 1, 0), min(j + 2, 5)):
        weight = {0: 0, 1: 2, 2: 1}[abs(a - i) + abs(b - j)]
        mean, total = mean + weight * result[a, b], total + weight
    assert result[i, j] == pytest.approx(mean / total, abs=1e-3)
  assert (result[~region] == image[..., 0].astype(np.float32)[~region]).all()


def test_noise_is_added_to_replaced_pixels_only():
  image, region = np.full((40, 40, 3), 90), np.zeros((40, 40), bool)
  region[5:35, 5:35] = True
  noise = faithfulness.replace(image, region, np.random.default_rng(0)) - 90
  assert noise[region].std() == pytest.approx(faithfulness.NOISE, rel=0.1)
  assert not noise[~region].any()
