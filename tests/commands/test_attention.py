"""Tests of the command's files and errors; `test_commands.py` runs it."""

import json
import pathlib

import numpy as np
from PIL import Image
import pytest

from apnet_jax.commands import attention
from apnet_jax.errors import UserError
from apnet_jax.models.apnet import variable_shapes
from apnet_jax.visualize.attention_maps import PREDICTED, Explainer
from tests.pixel_network import draw_variables, pixel_model

SIZE = (20, 10)


@pytest.fixture(scope='module')
def explainer():
  model = pixel_model(levels=1)
  variables = draw_variables(variable_shapes(model, SIZE))
  return Explainer(model, variables, seed=3)


@pytest.fixture
def paths(tmp_path):
  """Three images; two have the same name."""
  paths = [tmp_path / name for name in ('a.png', 'b.png', 'other/a.png')]
  (tmp_path / 'other').mkdir()
  pixels = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3))
  for path, image in zip(paths, pixels.astype(np.uint8)):
    Image.fromarray(image).save(path)
  return paths


def read(path):
  with Image.open(path) as image:
    return np.asarray(image)


def test_each_image_has_a_picture_and_arrays(
  explainer, paths, tmp_path, capsys
):
  folder = attention.make_folder(tmp_path / 'new' / 'folder')
  attention.draw(explainer, paths, SIZE, 2, None, folder)
  out = capsys.readouterr().out
  assert out.count('of identity 2\n') == 3
  assert out.count('site 1, level 1, attention ') == 3
  names = {f'{n}.{s}' for n in ('a', 'b', 'a-2') for s in ('png', 'npz')}
  assert {path.name for path in folder.iterdir()} == names
  assert read(folder / 'a.png').shape[0] > 300
  with np.load(folder / 'b.npz') as arrays:
    assert set(arrays) == {
      'image', 'site1_level0_grad_cam', 'site1_level1_grad_cam',
      'site1_level1_attention', 'site1_level1_parts', 'site1_level1_channels',
    }  # fmt: skip
    np.testing.assert_array_equal(arrays['image'], read(paths[1]))
    assert arrays['site1_level1_grad_cam'].shape == SIZE


def test_a_match_has_both_sides(explainer, paths, tmp_path, capsys):
  a, b, _ = paths
  (tmp_path / 'new').mkdir()
  attention.draw(explainer, [a], SIZE, PREDICTED, str(b), tmp_path / 'new')
  first, second = (
    line for line in capsys.readouterr().out.splitlines() if 'simil' in line
  )
  assert first.startswith('a.png: similarity ')
  assert second == first.replace('a.png', 'b.png')
  with np.load(tmp_path / 'new' / 'a.npz') as arrays:
    np.testing.assert_array_equal(arrays['match_image'], read(b))
    assert arrays['match_site1_level0_grad_cam'].shape == SIZE


def test_the_summary_is_the_mean_over_all_images(
  explainer, paths, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(attention, 'SUMMARY_BATCH', 2)  # the last is padded
  attention.summarize(explainer, paths, SIZE, 1, tmp_path, step=7)
  assert 'means over 3 images, after step 7' in capsys.readouterr().out
  written = json.loads((tmp_path / 'summary.json').read_text())
  images = np.stack([read(path) for path in paths])
  alone = explainer.explain_identity(images[:2], 1)
  alone += explainer.explain_identity(images[[2, 2]], 1)[:1]
  values = [one.levels[1].heat for one in alone]
  known = [heat.entropy for heat in values if heat.entropy is not None]
  row = written['maps']['site 1, level 1, Grad-CAM']
  assert row['entropy'] == pytest.approx(np.mean(known), abs=1e-5)
  assert (written['images'], row['defined']) == (3, len(known))


def test_images_of_folders_may_be_unreadable(paths, tmp_path):
  bad = tmp_path / 'other' / 'b.png'
  bad.write_bytes(b'')
  found, names = [*paths[:2], bad, paths[2]], [str(tmp_path)]
  readable, warning = attention.check_images(found, names, SIZE)
  assert readable == paths
  assert warning.startswith('1 of 4 images could not be read and were left out')
  assert f'{bad} cannot be read' in warning
  for arguments in ((names, SIZE, True), ([*names, str(bad)], SIZE)):
    with pytest.raises(UserError, match='^.*other/b.png cannot be read'):
      attention.check_images(found, *arguments)
  with pytest.raises(UserError, match='none of 1 images.*other/b.png'):
    attention.check_images([bad], names, SIZE)
  assert attention.check_images(paths, names, SIZE) == (paths, '')


def test_the_output_must_be_a_folder(paths):
  with pytest.raises(UserError, match='--output=.*a.png cannot be made'):
    attention.make_folder(paths[0])


def test_no_image_is_replaced(explainer, paths, tmp_path):
  before = [path.read_bytes() for path in paths]
  with pytest.raises(UserError, match='replace the image .*b.png'):
    attention.draw(explainer, paths[1:2], SIZE, 0, None, tmp_path)
  with pytest.raises(UserError, match='replace the image .*other/a.png'):
    attention.draw(explainer, paths[:1], SIZE, 0, paths[2], tmp_path / 'other')
  assert [path.read_bytes() for path in paths] == before


def test_an_identity_must_be_one_of_the_training():
  assert attention._check_identity(4, classes=5) == 4
  for identity in (-1, 5):
    with pytest.raises(UserError, match=f'--identity={identity} is not.*0 to'):
      attention._check_identity(identity, classes=5)


def test_names_stay_different():
  names = map(pathlib.Path, ['x/a.jpg', 'y/a.jpg', 'a-2.jpg', 'b.png'])
  assert attention.file_names(list(names)) == ['a', 'a-2', 'a-2-2', 'b']
