"""Tests of the files that prepared data sets store."""

import io

import numpy as np
from PIL import Image
import pytest

from apnet_jax import images
from data import encoding
from tests.test_images import DAMAGED, encode, exif, noise, upright


def unchanged():
  """Files that are stored as they are, by name."""
  deep = np.random.default_rng(0).integers(0, 2**16, (48, 32), np.uint16)
  return {
    'JPEG': encode(noise(), 'JPEG'),
    'PNG': encode(noise(), 'PNG'),
    'CMYK': encode(noise().convert('CMYK'), 'JPEG'),
    'palette': encode(noise().convert('P'), 'PNG'),
    'alpha': encode(noise().convert('RGBA'), 'PNG'),
    '16 bits': encode(Image.fromarray(deep), 'PNG'),
    'upright': encode(noise(), 'JPEG', exif=exif(1)),
    'upright PNG': encode(noise(), 'PNG', exif=exif(1)),
    'no orientation': encode(noise(), 'JPEG', exif=exif(9)),
  }


@pytest.mark.parametrize('name', unchanged())
def test_files_that_need_no_turn_are_stored_unchanged(name):
  content = unchanged()[name]
  assert encoding.to_stored(content) == encoding.Stored(content)


def test_files_without_a_tag_are_not_parsed(monkeypatch):
  monkeypatch.setattr(images, 'open_image', None)
  for kind in ('JPEG', 'PNG'):
    content = encode(noise(), kind)
    assert encoding.to_stored(content).encoded is content


def without_adobe(content):
  """Returns a JPEG file without the marker of Adobe."""
  start = content.index(b'\xff\xee')
  length = int.from_bytes(content[start + 2 : start + 4], 'big')
  return content[:start] + content[start + 2 + length :]


def to_be_stored_anew():
  """Files that are not, by name."""
  cmyk, alpha = noise().convert('CMYK'), noise().convert('RGBA')
  return {
    'JPEG': encode(noise(), 'JPEG', exif=exif(6)),
    'PNG': encode(noise(), 'PNG', exif=exif(8)),
    'CMYK': encode(cmyk, 'JPEG', exif=exif(3)),
    'CMYK without Adobe': without_adobe(encode(cmyk, 'JPEG')),
    'progressive CMYK': without_adobe(encode(cmyk, 'JPEG', progressive=True)),
    'palette': encode(noise().convert('P'), 'PNG', exif=exif(5)),
    'alpha': encode(alpha, 'PNG', exif=exif(7)),
    'BMP': encode(noise(), 'BMP'),
    'BMP with a palette': encode(noise().convert('P'), 'BMP'),
    'WebP': encode(noise(), 'WEBP'),
    'lying WebP': encode(noise(), 'WEBP', exif=exif(6)),
    'WebP with alpha': encode(alpha, 'WEBP', lossless=True),
  }


@pytest.mark.parametrize('name', to_be_stored_anew())
def test_other_files_are_stored_upright_without_loss(name):
  content = to_be_stored_anew()[name]
  stored = encoding.to_stored(content)
  assert stored.encoded.startswith(encoding.PNG) and not stored.fault
  with Image.open(io.BytesIO(stored.encoded)) as image:
    assert image.mode == 'RGB'
    np.testing.assert_array_equal(image, upright(content))
  assert encoding.to_stored(stored.encoded) == encoding.Stored(stored.encoded)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
def test_damaged_exif_is_told_and_ignored(kind):
  content = encode(noise(), kind, exif=DAMAGED['cut off'], dpi=(72, 72))
  stored = encoding.to_stored(content)
  assert 'EXIF cannot be parsed' in stored.fault
  assert (stored.encoded == content) == (kind != 'WEBP')


def test_damaged_exif_of_an_inverted_image_is_told():
  cmyk, exif = noise().convert('CMYK'), DAMAGED['cut off']
  content = encode(cmyk, 'JPEG', exif=exif, dpi=(72, 72))
  stored = encoding.to_stored(without_adobe(content))
  assert 'EXIF cannot be parsed' in stored.fault
  assert stored.encoded.startswith(encoding.PNG)


@pytest.mark.parametrize('kind', ['BMP', 'WEBP', 'GIF'])
def test_what_pillow_cannot_read_is_refused(kind):
  content = encode(noise(), kind)
  with pytest.raises(ValueError):
    encoding.to_stored(content if kind == 'GIF' else content[:-9])


def test_a_lying_image_that_is_cut_off_is_refused():
  content = encode(noise(), 'JPEG', exif=exif(6))
  with pytest.raises(ValueError, match='truncated'):
    encoding.to_stored(content[:-40])
