import csv
import functools
import pathlib
import sys
import wave

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import pytest

from apnet_jax.errors import UserError
from apnet_jax.inference import crops, rows
from apnet_jax.inference.video import Frames

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
  # Editors of Windows begin texts with a byte order mark.
  (folder / 'list.txt').write_text('\ufeffbelow/c.png\n\n \na.png\n', 'utf-8')
  (folder / 'a.csv').write_text('\ufeffpath\nbelow/c.png\na.png\n', 'utf-8')
  (folder / 'below' / 'table.csv').write_text(' pid,path \n7,b.png\n')
  for names, expected in [
    (['.'], ['a.png', 'below/b.png', 'below/c.png']),
    (['below/*.png'], ['below/b.png', 'below/c.png']),
    (['./below/*.png', './below'], ['below/b.png', 'below/c.png'] * 2),
    (['./list.txt', './a.csv'], ['below/c.png', 'a.png'] * 2),
    (['**/*'], ['a.png', 'below/b.png', 'below/c.png']),
    (['list.txt', 'below/b.png'], ['below/c.png', 'a.png', 'below/b.png']),
  ]:
    assert rows.find(names).columns['path'].tolist() == expected
  labelled = rows.find(['below/table.csv']).columns
  assert labelled['path'].tolist() == ['below/b.png']
  assert labelled['pid'].tolist() == ['7']


def test_a_name_with_the_characters_of_a_pattern_is_a_name(folder):
  (folder / 'a.png').rename(folder / '[a].png')
  assert rows.find(['[a].png']).columns['path'].tolist() == ['[a].png']


def test_matches_of_a_pattern_are_sorted(folder, monkeypatch):
  found = ['below/c.png', 'a.png', 'below/b.png']
  monkeypatch.setattr(rows.glob, 'glob', lambda *_, **__: found)
  assert rows.find(['**/*']).columns['path'].tolist() == sorted(found)


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
  assert 'box 0 of a.png lies outside' in str(errors[1])
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
    ('path,pid,pid\na.png,1,2\n', 'a.csv has two columns pid: give one of'),
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


def test_a_text_that_is_too_long_is_said(folder):
  for length in (rows.LONGEST_FIELD, rows.LONGEST_FIELD + 1):
    (folder / 'a.csv').write_text(f'path,note\na.png,\nb.png,{"x" * length}\n')
    if length == rows.LONGEST_FIELD:
      assert len(rows.find(['a.csv'])) == 2
  with pytest.raises(UserError, match='a.csv, line 3: note has 4,097 charac'):
    rows.find(['a.csv'])


@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
def test_lines_end_at_line_ends_only(end, folder):
  """Not at all characters of `str.splitlines`."""
  names = ['a\u2028.png', 'b\x85.png', 'c\x0b\x0c\x1c\x1d\x1e.png']
  write = functools.partial(pathlib.Path.write_text, newline='')
  write(folder / 'list.txt', end.join([*names, '']), encoding='utf-8')
  assert rows.find(['list.txt']).columns['path'].tolist() == names
  lines = ['path,note', f'{names[0]},"two{end}lines"', f'{names[2]},x', '']
  write(folder / 'a.csv', end.join(lines), encoding='utf-8')
  found = rows.find(['a.csv']).columns
  assert found['path'].tolist() == [names[0], names[2]]
  assert found['note'].tolist() == [f'two{end}lines', 'x']


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


def read_boxes(folder, content):
  (folder / 'table.txt').write_text(content)
  path = folder / 'table.txt'
  return rows.read_csv(
    path, ('frame', *rows.BOX, 'track'), rows.mot_columns(path)
  )


WHOLE, SIZES = st.integers(-9, 2**40), st.floats(-9, 5000)


@given(
  boxes=st.lists(st.tuples(WHOLE, WHOLE, *[SIZES] * 4), min_size=1),
  rest=st.integers(0, 6),
)
def test_files_of_motchallenge_are_read_as_tables_are(
  boxes, rest, tmp_path_factory
):
  folder = tmp_path_factory.mktemp('mot')
  others = ','.join(['-1'] * rest)
  mot = [f'{",".join(map(repr, box))},{others}'.rstrip(',') for box in boxes]
  found = read_boxes(folder, '\n'.join(mot))
  corners = [(f, t, x, y, x + w, y + h) for f, t, x, y, w, h in boxes]
  header = ','.join(['frame', 'track', *rows.BOX])
  lines = [','.join(map(repr, box)) for box in corners]
  expected = read_boxes(folder, '\n'.join([header, *lines]))
  assert len(found) == 6 + rest
  for name, column in expected.items():
    assert found[name].dtype == column.dtype
    np.testing.assert_array_equal(found[name], column)
  for box in rows.SIZED_BOXES:
    header = ','.join(['frame', 'track', *box])
    lines = [','.join(map(repr, box)) for box in boxes]
    again = read_boxes(folder, '\n'.join([header, *lines]))
    assert again.keys() == expected.keys()
    for name, column in expected.items():
      np.testing.assert_array_equal(again[name], column)


def test_columns_of_motchallenge_have_names(folder):
  truth = read_boxes(folder, '\n1,2,3,4,5,6,1,7,0.5\n')
  assert truth['class'] == ['7'] and truth['visibility'] == ['0.5']
  tracks = read_boxes(folder, '1.0,2e+00,3,4,5,6,0.9,-1,-1,-1')
  assert tracks['frame'] == [1] and tracks['track'] == [2]
  assert tracks['confidence'] == ['0.9'] and tracks['column_10'] == ['-1']
  assert tracks['column_8'] == ['-1']  # no class
  for content, message in (
    ('1,2,3,4,5', 'has no column frame, x1, y1, x2, y2, track'),
    ('1,2,3,4,5,6\n1,2,3', 'line 2: 6 fields are needed'),
    ('1,2,3,4,5,6\n1.5,2,3,4,5,6', "line 2: frame='1.5' is not a number"),
    ('1,2,3,4,5,6\n1,2,3,4,nan,6', "line 2: width='nan' is not finite"),
    # Among others, NumPy would round it.
    (f'1,{2**63},3,4,5,6\n1,-1,3,4,5,6', f"line 1: track='{2**63}' is too la"),
  ):
    with pytest.raises(UserError, match=message):
      read_boxes(folder, content)


def test_boxes_of_motchallenge_count_frames_from_one(video, folder):
  table = folder / 'gt.txt'
  table.write_text(
    '2,5,0,0,9,9,1,1,1\n1,5,0,0,9,9,1,1,1\n1,6,0,0,0,9,1,1,1\n'
    '1,7,32,0,9,9,1,1,1\n'
  )
  found, errors = rows.VideoRows(video, str(table)), {}
  pixels = found.embed(Pixels(), 0, 4, errors.__setitem__)
  assert pixels[[0, 3], 0].tolist() == [0, 16]
  assert 'track 6 in frame 1 of' in str(errors[1]) and 'empty' in str(errors[1])
  assert 'outside' in str(errors[2]) and [*errors] == [1, 2]
  with pytest.raises(UserError, match='frame 1, but the first is 2'):
    rows.VideoRows(video, str(table), first_frame=2)
  table.write_text('0,5,0,0,9,9,1,1,1\n')
  with pytest.raises(UserError, match=r'frame 0, but the first is 1 \(--first'):
    rows.VideoRows(video, str(table))


@pytest.mark.parametrize('digits', ['06', ''])
def test_images_of_a_sequence_have_the_numbers_of_their_names(folder, digits):
  """Frame 7 of a sequence is the image 000007, or 7, wherever it begins."""
  (folder / 'img1').mkdir()
  pattern = f'img1/%{digits}d.png'
  for i in (3, 5, 6, 7):
    image = Image.new('RGB', (32, 48), (16 * i,) * 3)
    image.save(pattern % i)
  (folder / (pattern % 5)).write_bytes(b'')
  mot = [f'{i},5,0,0,9,9' for i in (7, 6, 5, 4, 3, 3)]
  (folder / 'gt.txt').write_text('\n'.join(mot))
  table = boxes(folder, *(f'{i},0,0,9,9,5' for i in (7, 6, 5, 4, 3, 3)))
  for file in ('gt.txt', table):
    found, errors = rows.VideoRows(pattern, file), {}
    pixels = found.embed(Pixels(), 0, 6, errors.__setitem__)
    assert pixels[[0, 1, 4, 5], 0].tolist() == [48, 48, 96, 112]
    assert [*errors] == [2, 3]
    assert f'{pattern % 4} cannot be read: ' in str(errors[2])
    assert f'{pattern % 5} cannot be read: ' in str(errors[3])
  with pytest.raises(UserError, match='--first_frame is for videos'):
    rows.VideoRows(pattern, table, first_frame=1)
  with pytest.raises(UserError, match='no image matches img2/%06d.png'):
    rows.VideoRows('img2/%06d.png', table)
  table = boxes(folder, '-1,0,0,9,9,5')
  with pytest.raises(UserError, match=f'frame -1, but.* 0 in {pattern}.$'):
    rows.VideoRows(pattern, table)


def test_videos_of_phones_are_turned_upright(folder):
  """Their header says how: here, by 90 degrees clockwise."""
  av = pytest.importorskip('av')
  pixels = np.zeros((48, 32, 3), np.uint8)
  pixels[:, :16] = 255
  with av.open('phone.mp4', 'w') as container:
    stream = container.add_stream('mpeg4', rate=5)
    stream.width, stream.height, stream.pix_fmt = 32, 48, 'yuv420p'
    container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, 'rgb24')))
    container.mux(stream.encode())
  content = (folder / 'phone.mp4').read_bytes()
  one, two = (1 << 16).to_bytes(4, 'big'), (1 << 30).to_bytes(4, 'big')
  upright = b''.join([one, bytes(12), one, bytes(12), two])
  minus = (-1 << 16).to_bytes(4, 'big', signed=True)
  turned = b''.join([bytes(4), one, bytes(4), minus, bytes(16), two])
  track = content.index(b'tkhd')
  content = content[:track] + content[track:].replace(upright, turned, 1)
  (folder / 'phone.mp4').write_bytes(content)
  image = np.asarray(Frames('phone.mp4').read(0))
  assert image.shape == (32, 48, 3)
  assert image[:14].min() > 200 and image[18:].max() < 55


def test_a_column_path_of_boxes_is_not_that_of_the_video(video, folder):
  table = folder / 'boxes.csv'
  table.write_text('path,frame,x1,y1,x2,y2,track\na.avi,0,0,0,9,9,1\n')
  columns = rows.VideoRows(video, str(table)).columns
  assert columns['path'].tolist() == [video]
  assert columns['column_path'].tolist() == [str(folder / 'a.avi')]


def test_a_box_may_have_a_width_and_a_height(folder):
  (folder / 'boxes.csv').write_text('w,path,x,y,h,pid\n4,a.png,1,2,5,7\n')
  (found,) = zip(*rows.find(['boxes.csv']).columns.values())
  assert found == ('a.png', '7', 1, 2, 5, 7)
  (folder / 'sizes.csv').write_text('path,width,height\na.png,10,20\n')
  assert [*rows.find(['sizes.csv']).columns] == ['path', 'width', 'height']


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
  with wave.open('a.wav', 'wb') as sound:
    sound.setparams((1, 2, 8000, 0, 'NONE', ''))
    sound.writeframes(bytes(1600))
  with pytest.raises(UserError, match='a.wav .* it has no video stream'):
    rows.VideoRows('a.wav', table)
  monkeypatch.setitem(sys.modules, 'av', None)
  with pytest.raises(UserError, match=r"needs av.*pip install '.\[video\]'"):
    rows.VideoRows(video, table)
