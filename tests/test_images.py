import errno
import io
import os

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin
import pytest

from apnet_jax import images
from apnet_jax.errors import UserError

ORIENTATION = ExifTags.Base.Orientation
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


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
  # Reading names what cannot be looked up. Of a pipe it would not end.
  (folder / 'lost.jpg').symlink_to(folder / 'nowhere')
  (folder / 'loop.jpg').symlink_to(folder / 'loop.jpg')
  os.mkfifo(folder / 'pipe.jpg')
  assert len(images.find_images(folder)) == 5
  with pytest.raises(UserError, match='lost.jpg cannot be read: .*No such'):
    images.read_image(folder / 'lost.jpg', (16, 8))
  with pytest.raises(ValueError, match='nowhere does not exist'):
    images.find_images(folder / 'nowhere')
  with pytest.raises(UserError, match='notes.txt is a list of images: only an'):
    images.find_images(folder / 'notes.txt')
  (folder / 'empty').mkdir()
  with pytest.raises(ValueError, match=r'has no image \(\.jpg, .*\.webp\)'):
    images.find_images(folder / 'empty')


def test_hidden_files_are_walked_only_when_asked_for(folder):
  (folder / 'link.jpg').symlink_to(folder / 'nowhere')
  (folder / 'loop').symlink_to(folder)
  walked = {
    hidden: [
      path.relative_to(folder).as_posix()
      for path in images.files_below(folder, hidden)
    ]
    for hidden in (False, True)
  }
  visible = ['a.png', 'b.jpg', 'link.jpg', 'notes.txt', 'below/c.JPG']
  assert walked[False] == visible
  assert sorted({*walked[True]} - {*visible}) == [
    '._b.jpg', '.hidden/d.jpg', 'below/.f.png', 'below/__MACOSX/e.jpg',
  ]  # fmt: skip
  below = {path.name for path in images.images_below(folder)}
  assert below == {'a.png', 'b.jpg', 'link.jpg', 'c.JPG'}


def close(monkeypatch, folder):
  """Makes a folder unreadable, also for root, whom no permission stops."""

  def closed(function):
    def call(path='.'):
      if not isinstance(path, int) and os.path.realpath(path) == str(folder):
        raise PermissionError(errno.EACCES, 'Permission denied', str(path))
      return function(path)

    return call

  for name in ('scandir', 'listdir'):
    monkeypatch.setattr(os, name, closed(getattr(os, name)))


def names_below(folder, **options):
  return [
    path.relative_to(folder).as_posix()
    for path in images.files_below(folder, **options)
  ]


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
  for name in ('photos/ben/1.jpg', 'elsewhere/2.jpg', 'elsewhere/far/3.jpg'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  photos = tmp_path / 'photos'
  (photos / 'anna').symlink_to(tmp_path / 'elsewhere')
  (tmp_path / 'elsewhere/far/back').symlink_to(photos)
  (photos / 'ben/self').symlink_to('self')
  assert names_below(photos) == [
    'anna/2.jpg', 'anna/far/3.jpg', 'ben/1.jpg', 'ben/self',
  ]  # fmt: skip
  assert len(images.find_images(tmp_path / 'elsewhere')) == 3


def test_a_folder_that_cannot_be_read_is_named(folder, monkeypatch):
  (folder / 'lost+found').mkdir()
  close(monkeypatch, folder / 'lost+found')
  assert len(images.find_images(folder)) == 3
  close(monkeypatch, folder / 'below')
  with pytest.raises(UserError, match='folder .*/below cannot be read: Permis'):
    images.find_images(folder)
  errors = []
  found = names_below(folder, on_error=errors.append)
  assert found == ['a.png', 'b.jpg', 'notes.txt']
  assert [error.filename for error in errors] == [str(folder / 'below')]


def test_a_link_to_a_closed_place_may_be_a_folder(tmp_path, monkeypatch):
  def is_dir(entry):
    raise PermissionError(errno.EACCES, 'Permission denied', entry.path)

  class Entries(list):
    __enter__, __exit__ = list.copy, lambda *_: None

  entry = type('Entry', (), {'is_dir': is_dir})
  link, image = entry(), entry()
  for one, name in ((link, 'anna'), (image, 'b.jpg')):
    one.name, one.path = name, str(tmp_path / name)
  monkeypatch.setattr(os, 'scandir', lambda _: Entries([link, image]))
  errors = []
  assert names_below(tmp_path, on_error=errors.append) == ['b.jpg']
  assert [error.filename for error in errors] == [link.path]


def test_a_split_reads_its_rows_in_batches(folder):
  paths = images.find_images(folder)
  split = images.make_split(paths, (16, 8))
  batches = list(split.batches(np.array([2, 0, 1]), 2))
  assert [batch.shape for batch in batches] == [(2, 16, 8, 3), (1, 16, 8, 3)]
  assert batches[0].dtype == np.uint8
  np.testing.assert_array_equal(
    batches[1][0], images.read_image(paths[1], (16, 8))
  )


def test_a_split_names_a_file_that_cannot_be_read(folder):
  (folder / 'b.jpg').write_bytes(b'')
  paths = images.find_images(folder)
  with pytest.raises(ValueError, match='b.jpg cannot be read'):
    list(images.make_split(paths, (16, 8)).batches(np.arange(3), 3))


def test_what_is_no_image_is_named(folder):
  whole = (folder / 'b.jpg').read_bytes()
  (folder / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
  noise().save(folder / 'a.gif')
  unknown = 'it is not a JPEG, PNG, BMP or WebP image, or is damaged'
  for name, reason in (
    ('notes.txt', unknown), ('a.gif', unknown), ('cut.jpg', '.*[Tt]runcated'),
    ('gone.jpg', '.*No such file'),
  ):  # fmt: skip
    with pytest.raises(ValueError, match=f'{name} cannot be read: {reason}'):
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


# Orientation


def noise():
  """An image that no turn leaves unchanged, in pixels that JPEG keeps well."""
  pixels = np.random.default_rng(0).integers(0, 256, (3, 2, 3), np.uint8)
  return Image.fromarray(pixels.repeat(16, 0).repeat(16, 1))


def exif(orientation):
  """EXIF with an orientation alone."""
  block = Image.Exif()
  block[ORIENTATION] = orientation
  return block


def encode(image, kind, **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def upright(encoded):
  """Returns an image file's pixels, turned by `PIL.ImageOps.exif_transpose`."""
  with Image.open(io.BytesIO(encoded)) as image:
    return ImageOps.exif_transpose(image).convert('RGB')


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
def test_images_are_turned_as_pillow_turns_them(kind, tmp_path):
  seen = set()
  for orientation in range(10):  # 0 and 9 have no meaning
    path = tmp_path / f'{orientation}.jpg'  # the suffix does not matter
    content = encode(noise(), kind, exif=exif(orientation))
    path.write_bytes(content)
    expected = upright(content)
    assert images.may_be_turned(content)
    read = images.read_image(path, expected.size[::-1])
    np.testing.assert_array_equal(read, expected)
    seen.add(read.tobytes())
  assert len(seen) == 8


def in_xmp(orientation):
  return {kind: encode(noise(), kind, xmp=XMP % orientation)
          for kind in ('JPEG', 'WEBP')}  # fmt: skip


def in_text(orientation):
  """PNG files of older programs: EXIF as text, and XMP."""
  block = exif(orientation).tobytes()
  text, xmp = PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
  lines = f'\nexif\n{len(block):8}\n{block.hex()}\n'
  text.add_text('Raw profile type exif', lines, zip=True)
  xmp.add_itxt('XML:com.adobe.xmp', (XMP % orientation).decode(), zip=True)
  return {
    'text': encode(noise(), 'PNG', pnginfo=text),
    'PNG': encode(noise(), 'PNG', pnginfo=xmp),
  }


def after_the_pixels(orientation):
  """A PNG file with EXIF after its pixels."""
  content = encode(noise(), 'PNG', exif=exif(orientation))
  start = content.index(b'eXIf') - 4
  end = start + 12 + int.from_bytes(content[start : start + 4], 'big')
  chunk, last = content[start:end], content.index(b'IEND') - 4
  return {'late': content[:start] + content[end:last] + chunk + content[last:]}


@pytest.mark.parametrize('where', [in_xmp, in_text, after_the_pixels])
def test_an_orientation_is_found_wherever_it_is(where, tmp_path):
  for name, content in where(6).items():
    path = tmp_path / name
    path.write_bytes(content)
    assert images.may_be_turned(content), name
    expected = upright(content)
    assert expected.size == (48, 32)
    read = images.read_image(path, (32, 48))
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize('kind', images.FORMATS)
def test_images_without_a_tag_are_not_parsed(kind):
  assert not images.may_be_turned(encode(noise(), kind))


DAMAGED = {
  'no TIFF': b'Exif\0\0what is this?',
  'cut off': exif(6).tobytes()[:-9],
  'no tags': exif(6).tobytes()[:15],
  'nothing but a header': b'Exif\0\0MM',
}


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize('damage', DAMAGED)
def test_an_image_with_damaged_exif_is_read_as_it_is(kind, damage, tmp_path):
  path = tmp_path / 'image'
  image = noise()
  path.write_bytes(encode(image, kind, exif=DAMAGED[damage], dpi=(72, 72)))
  expected = np.asarray(Image.open(path).convert('RGB'))
  np.testing.assert_array_equal(images.read_image(path, (48, 32)), expected)
  with images.open_image(path) as opened:
    with pytest.raises(ValueError, match='EXIF cannot be parsed'):
      images.orientation(opened)


def test_a_text_that_is_no_exif():
  text = PngImagePlugin.PngInfo()
  text.add_text('Raw profile type exif', '\nexif\n  4\nno number\n')
  image = images.open_image(io.BytesIO(encode(noise(), 'PNG', pnginfo=text)))
  with pytest.raises(ValueError, match='EXIF cannot be parsed'):
    images.orientation(image)


def test_pillow_does_not_warn_of_what_is_named(tmp_path):
  """Pillow looks into EXIF for the resolution, and warns of damage."""
  path = tmp_path / 'image.jpg'
  path.write_bytes(encode(noise(), 'JPEG', exif=DAMAGED['cut off']))
  (batch,) = images.make_split([path], (48, 32)).batches(np.array([0]), 1)
  assert batch.shape == (1, 48, 32, 3)


@given(st.binary(max_size=60))
def test_any_exif_is_read_or_refused(tail):
  for start in (b'', b'II*\0', b'MM\0*', b'II*\0\x08\0\0\0\1\0'):
    block = b'Exif\0\0' + start + tail
    content = encode(noise(), 'JPEG', exif=block)
    with images.strict_pillow():
      try:
        found = images.orientation(images.open_image(io.BytesIO(content)))
      except ValueError as error:
        assert 'EXIF cannot be parsed' in str(error)
      else:
        assert found >= 0
