import io

import jax.numpy as jnp
import numpy as np
from PIL import ExifTags, Image
import pytest

from apnet_jax import images
from apnet_jax.errors import UserError
from apnet_jax.inference import crops

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 30, 3), np.uint8)
SIZE = (16, 8)


def read(given, boxes=None, order='rgb'):
  found = crops.frames(given, boxes, order)
  return np.array([*crops.iterate(found, SIZE)])


def test_all_forms_of_an_image_give_the_same_pixels(tmp_path):
  path = tmp_path / 'a.png'
  Image.fromarray(PIXELS).save(path)
  expected = images.read_image(path, SIZE)
  forms = [path, str(path), Image.fromarray(PIXELS), PIXELS]
  for form in forms:
    np.testing.assert_array_equal(read(form), [expected])
  np.testing.assert_array_equal(read(forms), [expected] * 4)
  np.testing.assert_array_equal(read(np.stack([PIXELS] * 2)), [expected] * 2)
  several = np.array([str(path)] * 2)
  for paths in (several, several.astype(object)):
    np.testing.assert_array_equal(read(paths), [expected] * 2)
  bgr = PIXELS[..., ::-1]
  np.testing.assert_array_equal(read(bgr, order='bgr'), [expected])
  np.testing.assert_array_equal(read([path, bgr], order='bgr'), [expected] * 2)
  assert not np.array_equal(read(bgr), [expected])


def test_a_stored_box_that_is_not_finite_is_said():
  for bad in (np.nan, np.inf, -np.inf):
    with pytest.raises(UserError, match=f'the box of a is not finite.*{bad}'):
      crops.cut_out(Image.fromarray(PIXELS), [1, 2, bad, 4], 'the box of a')


def test_an_image_of_pillow_is_turned_upright(tmp_path):
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = 6
  Image.fromarray(PIXELS).save(tmp_path / 'a.png', exif=exif)
  with Image.open(tmp_path / 'a.png') as image:
    turned = read(image)
  np.testing.assert_array_equal(turned, read(np.rot90(PIXELS, -1)))


@pytest.mark.parametrize('format', ['JPEG', 'PNG'])
def test_an_image_of_pillow_may_be_given_several_times(tmp_path, format):
  """It is decoded at its first use, for which several threads ask."""
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = 6
  pixels = RNG.integers(0, 256, (600, 450, 3), np.uint8)
  path = tmp_path / 'a'
  Image.fromarray(pixels).save(path, format, exif=exif)
  expected = images.read_image(path, SIZE)
  for _ in range(5):
    with Image.open(path) as image:
      found = read([image] * 8)
    np.testing.assert_array_equal(found, [expected] * 8)


def test_whole_numbers_of_pillow_may_have_8_or_16_bits():
  grey = PIXELS[..., 0].astype(np.int32)
  expected = read(PIXELS[..., :1].repeat(3, 2))
  for values in (grey, grey << 8, (grey << 8).astype(np.uint16)):
    image = Image.fromarray(values)
    assert image.mode.startswith('I')
    np.testing.assert_array_equal(read(image), expected)


def test_boxes_are_widened_to_pixels_and_clipped():
  boxes = [[3, 4, 13, 24], [2.6, 3.7, 12.2, 23.9], [-9, 30.5, 5, 99]]
  found = read(PIXELS, boxes)
  np.testing.assert_array_equal(read(PIXELS, boxes[0])[0], found[0])
  expected = [PIXELS[4:24, 3:13], PIXELS[3:24, 2:13], PIXELS[30:, :5]]
  np.testing.assert_array_equal(found, read(expected))


def test_boxes_of_several_images_follow_each_other():
  other = PIXELS[::-1]
  found = read([PIXELS, other], [[[0, 0, 5, 5], [5, 5, 9, 9]], [[1, 1, 3, 3]]])
  expected = [PIXELS[:5, :5], PIXELS[5:9, 5:9], other[1:3, 1:3]]
  np.testing.assert_array_equal(found, read(expected))
  for nothing in ([], np.empty((0, 4)), np.empty((0, 6))):
    assert len(read([PIXELS, other], [nothing, [[1, 1, 3, 3]]])) == 1


@pytest.mark.parametrize(
  ('box', 'message'),
  [
    ([5, 5, 5, 9], r'box 1 of the image is empty: \[5.0, 5.0, 5.0, 9.0\]'),
    ([9, 5, 5, 9], 'box 1 of the image is empty.*x1 < x2'),
    ([30, 5, 50, 9], 'box 1 of the image lies outside.*in 30 x 40 pixels'),
    ([5, -9, 9, 0], 'box 1 of the image lies outside'),
    ([np.nan, 5, 7, 9], 'box 1 of the image is not finite'),
  ],
)
def test_an_empty_box_is_named(box, message):
  with pytest.raises(UserError, match=message):
    read(PIXELS, [[0, 0, 9, 9], box])


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((PIXELS / 255,), r'the image is float64 \[40, 30, 3\]: give uint8'),
    (([PIXELS, PIXELS[..., 0]],), r'image 1 is uint8 \[40, 30\]'),
    ((PIXELS[:0],), 'the image has no pixels'),
    (([7],), 'image 0 is a int: give a path'),
    ((7,), 'the image is a int: give a path'),
    (([jnp.asarray(PIXELS)],), r'image 0 is a .*, or a NumPy array uint8 \['),
    ((b'\xff\xd8',), 'the image is a bytes: give a path, an image of Pillow'),
    ((io.BytesIO(b'\xff\xd8'),), 'the image is a BytesIO: give a path, an im'),
    ((Image.new('F', (3, 4), 0.5),), 'the image is .* mode F, .* give mode L'),
    ((PIXELS, None, 'rbg'), "order='rbg' is not one of"),
    ((PIXELS, [[1, 2, 3]]), r'boxes of the image are not \[boxes, 4\]'),
    ((PIXELS, [[1, 2], [3]]), r'not \[boxes, 4\]: give x1, y1, x2, y2'),
    ((PIXELS, np.ones((2, 6))), r'are not \[boxes, 4\], but \[2, 6\]: give'),
    ((PIXELS, np.ones((4, 5))), r'are not \[boxes, 4\], but \[4, 5\]: give'),
    ((PIXELS, np.ones((1, 3, 4))), r'not \[boxes, 4\], but \[1, 3, 4\]'),
    ((PIXELS, np.ones(8)), r'are not \[boxes, 4\], but \[1, 8\]: give'),
    (([PIXELS], [[[0, 0, 1, 1]]] * 2), 'boxes of 2 images for 1 images'),
  ],
)
def test_what_is_no_image_is_said(arguments, message):
  with pytest.raises(UserError, match=message):
    crops.frames(*arguments)


def test_an_image_that_cannot_be_read(tmp_path):
  bad = tmp_path / 'bad.jpg'
  bad.write_bytes(b'no image')
  with pytest.raises(UserError, match='bad.jpg cannot be read'):
    read([PIXELS, bad])
  errors = {}
  found = crops.frames([PIXELS, bad, PIXELS], [[[0, 0, 3, 3]]] * 3)
  black = [*crops.iterate(found, SIZE, errors.__setitem__)]
  assert [*errors] == [1] and not black[1].any() and black[2].any()


def test_images_are_read_ahead_in_order(monkeypatch):
  monkeypatch.setattr(crops, 'WINDOW', 2)
  many = [np.full((9, 9, 3), i, np.uint8) for i in range(7)]
  assert [one[0, 0, 0] for one in read(many)] == [*range(7)]
