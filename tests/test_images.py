import numpy as np
from PIL import Image
import pytest

from apnet_jax import images


@pytest.fixture
def folder(tmp_path):
  rng = np.random.default_rng(0)
  for i, name in enumerate(('b.jpg', 'a.png', 'below/c.JPG')):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    pixels = rng.integers(0, 256, (20 + i, 10, 3), np.uint8)
    Image.fromarray(pixels).save(path, quality=95)
  (tmp_path / 'notes.txt').write_text('no image')
  (tmp_path / '._b.jpg').write_text('what a Mac leaves')
  (tmp_path / 'folder.jpg').mkdir()
  for name in ('.hidden/d.jpg', 'below/__MACOSX/e.jpg', 'below/.f.png'):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
  return tmp_path


def test_files_and_folders_are_found(folder):
  names = [p.relative_to(folder).as_posix() for p in images.find_images(folder)]
  assert names == ['a.png', 'b.jpg', 'below/c.JPG']
  assert images.find_images(folder / 'b.jpg') == [folder / 'b.jpg']
  with pytest.raises(ValueError, match='nowhere does not exist'):
    images.find_images(folder / 'nowhere')
  (folder / 'empty').mkdir()
  with pytest.raises(ValueError, match=r'has no image \(\.jpg, .*\.webp\)'):
    images.find_images(folder / 'empty')


def test_a_split_reads_its_rows_in_batches(folder):
  paths = images.find_images(folder)
  split = images.make_split(paths, (16, 8))
  batches = list(split.batches(np.array([2, 0, 1]), 2))
  assert [batch.shape for batch in batches] == [(2, 16, 8, 3), (1, 16, 8, 3)]
  assert batches[0].dtype == np.uint8
  np.testing.assert_array_equal(
    batches[1][0], images.read_image(paths[1], (16, 8))
  )


def test_what_is_no_image_is_named(folder):
  whole = (folder / 'b.jpg').read_bytes()
  (folder / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
  for name in ('notes.txt', 'cut.jpg', 'gone.jpg'):
    with pytest.raises(ValueError, match=f'{name} cannot be read'):
      images.read_image(folder / name, (16, 8))


def test_a_bomb_is_not_decoded(folder, monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 50)
  with pytest.raises(ValueError, match='b.jpg cannot be read.*exceeds limit'):
    images.read_image(folder / 'b.jpg', (16, 8))


def test_a_large_image_is_refused_by_its_header(folder, monkeypatch):
  """Below the limit of Pillow, which may only warn."""
  monkeypatch.setattr(images, 'MAX_PIXELS', 199)
  monkeypatch.setattr(Image.Image, 'load', None)  # which decodes
  with pytest.raises(ValueError, match='b.jpg cannot be read: 10 x 20 pixels'):
    images.read_image(folder / 'b.jpg', (16, 8))
