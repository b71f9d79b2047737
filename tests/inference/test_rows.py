import csv
import sys

import numpy as np
from PIL import Image
import pytest

from apnet_jax.errors import UserError
from apnet_jax.inference import crops, rows

RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A folder with three images, which is the working directory."""
  monkeypatch.chdir(tmp_path)
  for name in ('a.png', 'below/b.png', 'below/c.png'):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    pixels = RNG.integers(0, 256, (20, 10, 3), np.uint8)
    Image.fromarray(pixels).save(path)
  return tmp_path


class Pixels:
  """An embedder whose embeddings are pixels."""

  image_size = (4, 2)

  def __call__(self, images, boxes=None, on_error=None):
    self.images = len(images)
    found = crops.frames(images, boxes)
    pixels = [*crops.iterate(found, self.image_size, on_error)]
    return np.reshape(pixels, (-1, 24))


def test_images_are_found_by_all_kinds_of_names(folder):
  (folder / 'list.txt').write_text('below/c.png\n\na.png\n')
  (folder / 'below' / 'table.csv').write_text('pid,path\n7,b.png\n')
  for names, expected in [
    (['.'], ['a.png', 'below/b.png', 'below/c.png']),
    (['below/*.png'], ['below/b.png', 'below/c.png']),
    (['**/*'], ['a.png', 'below/b.png', 'below/c.png']),
    (['list.txt', 'below/b.png'], ['below/c.png', 'a.png', 'below/b.png']),
  ]:
    assert rows.find(names).columns['path'].tolist() == expected
  labelled = rows.find(['below/table.csv']).columns
  assert labelled['path'].tolist() == ['below/b.png']
  assert labelled['pid'].tolist() == ['7']


def test_following_boxes_of_an_image_decode_it_once(folder):
  (folder / 'boxes.csv').write_text(
    'path,x1,y1,x2,y2\na.png,0,0,5,9\na.png,5,0,10,9.5\nbelow/b.png,1,2,3,4\n'
    'a.png,0,0,99,9\n'
  )
  found, embedder, errors = rows.find(['boxes.csv']), Pixels(), {}
  whole = found.embed(embedder, 0, 4, errors.__setitem__)
  assert len(found) == 4 and embedder.images == 3 and not errors
  image = np.asarray(Image.open('a.png'))
  np.testing.assert_array_equal(whole[1], embedder([image[:10, 5:]])[0])
  np.testing.assert_array_equal(
    found.embed(embedder, 1, 3, errors.__setitem__), whole[1:3]
  )
  assert embedder.images == 2


def test_bad_rows_are_counted_from_the_first(folder):
  (folder / 'below' / 'b.png').write_bytes(b'')
  (folder / 'boxes.csv').write_text(
    'path,x1,y1,x2,y2\na.png,0,0,5,9\na.png,50,0,60,9\na.png,1,1,3,3\n'
    'below/b.png,1,2,3,4\nbelow/b.png,1,2,3,4\n'
  )
  errors = {}
  found = rows.find(['boxes.csv'])
  found.embed(Pixels(), 1, 5, errors.__setitem__)
  assert [*errors] == [1, 3, 4]
  assert 'box 0 of ./a.png lies outside' in str(errors[1])
  assert 'b.png cannot be read' in str(errors[4])


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('pid\n7\n', 'a.csv has no column path; its first line is pid'),
    ('', 'has no column path'),
    ('path\n', 'a.csv lists no image'),
    ('path,x1,y1\na.png,1,2\n', 'has no column x2, y2'),
    ('path,x1,y1,x2,y2\na.png,1,2,z,4\n', "a.csv, line 2: x2='z' is not a num"),
    ('path,pid\na.png\n', 'line 2: 2 fields are needed'),
    ('path,pid\na.png,1,2\n', 'line 2: 2 fields are needed'),
    (b'path\n\xff.png\n', 'is not UTF-8'),
    (
      'path,x1,y1,x2,y2\na.png,1,2,3,4\na.png,nan,2,3,4\n',
      "a.csv, line 3: x1='nan' is not finite",
    ),
    ('path,x1,y1,x2,y2\na.png,1,2,3,-inf\n', "2: y2='-inf' is not finite"),
    ('path,info\na.png,1\n', 'a.csv has a column info.*another name'),
    ('embedding,path\n1,a.png\n', 'a.csv has a column embedding.*another na'),
  ],
)
def test_what_is_no_table_is_said(content, message, folder):
  encoded = content if isinstance(content, bytes) else content.encode()
  (folder / 'a.csv').write_bytes(encoded)
  with pytest.raises(UserError, match=message):
    rows.find(['a.csv'])


def test_a_field_that_is_too_long_is_said(folder):
  long = 'x' * (csv.field_size_limit() + 1)
  for line, content in [(1, f'path,{long}\n'), (3, f'path\na.png\n{long}\n')]:
    (folder / 'a.csv').write_text(content)
    with pytest.raises(UserError, match=f'a.csv, line {line}: field larger'):
      rows.find(['a.csv'])


def test_what_is_not_found_is_said(folder):
  (folder / 'list.txt').write_text('\n')
  (folder / 'a.csv').write_text('path,pid\na.png,1\n')
  for names, message in [
    ([], 'no image is given'),
    (['no*.png'], r'no image matches no\*.png'),
    (['nowhere'], 'nowhere does not exist'),
    (['list.txt'], 'list.txt lists no image'),
    (['gone.csv'], 'gone.csv cannot be read: No such file'),
    (['a.csv', 'a.png'], 'a.csv has the columns path, pid, but a.png has path'),
  ]:
    with pytest.raises(UserError, match=message):
      rows.find(names)


# Videos


@pytest.fixture
def video(folder):
  """A video of four grey frames, 16 grey levels apart."""
  av = pytest.importorskip('av')
  path = folder / 'street.avi'
  with av.open(path, 'w') as container:
    stream = container.add_stream('ffv1', rate=5)  # without loss
    stream.width, stream.height, stream.pix_fmt = 32, 48, 'bgr0'
    for i in range(4):
      pixels = np.full((48, 32, 3), 16 * i, np.uint8)
      frame = av.VideoFrame.from_ndarray(pixels, 'rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return str(path)


def boxes(folder, *lines):
  path = folder / 'boxes.csv'
  path.write_text('\n'.join(['frame,x1,y1,x2,y2,track', *lines]))
  return str(path)


def test_boxes_of_a_video_are_read_by_frame(video, folder):
  table = boxes(
    folder, '3,0,0,9,9,5', '1,0,0,9,9,6', '1,2,2,5,5,5', '9,0,0,9,9,7',
    '2,40,0,50,9,5',
  )  # fmt: skip
  found, errors = rows.VideoRows(video, table), {}
  assert found.columns['frame'].tolist() == [1, 1, 2, 3, 9]
  assert found.columns['track'].tolist() == [6, 5, 5, 5, 7]
  assert found.columns['path'].tolist() == [video] * 5
  first = found.embed(Pixels(), 0, 1, errors.__setitem__)
  rest = found.embed(Pixels(), 1, 5, errors.__setitem__)
  assert [first[0, 0], *rest[[0, 2], 0]] == [16, 16, 48]
  assert [*errors] == [2, 4]
  assert 'track 5 in frame 2 of' in str(errors[2])
  assert 'frame 9 (from 0)' in str(errors[4]) and '4 frames' in str(errors[4])


def test_frames_may_be_numbered_from_one(video, folder):
  table = boxes(folder, '1,0,0,9,9,5', '4,0,0,9,9,6')
  found = rows.VideoRows(video, table, first_frame=1)
  assert found.embed(Pixels(), 0, 2, None)[:, 0].tolist() == [0, 48]
  with pytest.raises(UserError, match=r'frame 1, but the first is 2 \(--first'):
    rows.VideoRows(video, table, first_frame=2)


def test_boxes_of_a_video_are_finite(folder):
  table = boxes(folder, '1,0,0,9,9,5', '1,0,0,inf,9,5')
  with pytest.raises(UserError, match="line 3: x2='inf' is not finite"):
    rows.VideoRows('street.avi', table)


def test_what_is_no_video_is_said(video, folder, monkeypatch):
  table = boxes(folder, '1,0,0,9,9,5')
  for name in ('a.png.txt', 'gone.mp4', table):
    with pytest.raises(UserError, match=f'{name} cannot be read as a video'):
      rows.VideoRows(name, table)
  with pytest.raises(UserError, match='has no column track'):
    (folder / 'x.csv').write_text('frame,x1,y1,x2,y2\n1,2,3,4,5\n')
    rows.VideoRows(video, str(folder / 'x.csv'))
  monkeypatch.setitem(sys.modules, 'av', None)
  with pytest.raises(UserError, match=r"needs av.*pip install '.\[video\]'"):
    rows.VideoRows(video, table)
