"""Tests of own images: CSV files, folders of identities, splits, cameras."""

import dataclasses
import pathlib

from hypothesis import given
from hypothesis import strategies as st
import pytest

from configs import folder as config_file
from data import datasets
from data.folder import csv_file
from data.folder import layout as folder
from data.folder.entries import Named, number

LAYOUT = datasets.find('folder')


def images(root, *names):
  for name in names:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).touch()


def write(root, text, name='people.csv', **options):
  (root / name).write_text(text, **options)


def table(dataset):
  """Returns (name, pid, camid) of all images by split."""
  return {
    split: [(i.name, i.pid, i.camid) for i in rows]
    for split, rows in dataset.splits.items()
  }


# CSV files

LISTED = """\
path,pid,camid,split,role
b.jpg,1,0,train,
a.jpg,1,1,train,
c.jpg,2,0,train,person
q.jpg,7,0,query,
g.jpg,7,1,gallery,
h.jpg,,1,gallery,distractor
j.jpg,5,1,gallery,junk
"""
NAMES = [line.split(',')[0] for line in LISTED.splitlines()[1:]]
EXPECTED = {
  'train': [('a.jpg', 1, 1), ('b.jpg', 1, 0), ('c.jpg', 2, 0)],
  'query': [('q.jpg', 7, 0)],
  'gallery': [('g.jpg', 7, 1), ('h.jpg', 0, 1), ('j.jpg', -1, 1)],
}


@pytest.mark.parametrize('given_as', ['folder', 'file'])
def test_reads_a_csv_file(tmp_path, given_as):
  images(tmp_path, *NAMES)
  write(tmp_path, LISTED)
  path = tmp_path if given_as == 'folder' else tmp_path / 'people.csv'
  dataset = LAYOUT.read(path)
  assert table(dataset) == EXPECTED
  assert dataset.root == tmp_path
  assert dataset.has_cameras
  assert not dataset.splits_made


@pytest.mark.parametrize(
  'change',
  [
    lambda text: '\ufeff' + text,
    lambda text: text.replace('\n', '\r\n'),
    lambda text: text.replace('\n', '\r'),
    lambda text: text + '\n\n',
    lambda text: text.replace('path,pid,camid', ' Path , PID,CamID'),
    lambda text: text.replace(',', ' , '),
    lambda text: text.replace('\n', ',"a note, quoted"\n'),
    lambda text: '\n'.join(
      ','.join(reversed(line.split(','))) for line in text.splitlines()
    ),
    lambda text: text.replace('b.jpg', './b.jpg'),
  ],
)
def test_reads_what_spreadsheets_write(tmp_path, change):
  images(tmp_path, *NAMES)
  write(tmp_path, change(LISTED), encoding='utf-8', newline='')
  assert table(LAYOUT.read(tmp_path)) == EXPECTED


def test_columns_that_are_not_read_are_named(tmp_path):
  images(tmp_path, *NAMES)
  write(tmp_path, LISTED)
  assert 'not read' not in str(LAYOUT.read(tmp_path).notes)
  people_file(tmp_path, range(4))
  text = (tmp_path / 'people.csv').read_text()
  write(tmp_path, text.replace('camid', 'Camera_ID'))
  dataset = LAYOUT.read(tmp_path)
  assert not dataset.has_cameras
  assert dataset.notes[1] == (
    'columns that are not read: camera_id (known: path, pid, camid, split,'
    ' role)'
  )


def test_reads_names_in_any_script(tmp_path):
  names = ['größe/ä b.jpg', '行人/一.png', 'люди/1.JPG', '🚶/x,y.jpg']
  images(tmp_path, *names)
  rows = ''.join(
    f'"{name}",1,{i},{split}\n'
    for i, (name, split) in enumerate(
      zip(names, ('train', 'query', 'gallery', 'gallery'))
    )
  )
  write(tmp_path, 'path,pid,camid,split\n' + rows, 'людя.csv', encoding='utf-8')
  dataset = LAYOUT.read(tmp_path)
  found = [i.name for rows in dataset.splits.values() for i in rows]
  assert sorted(found) == sorted(names)


@pytest.mark.parametrize(
  ('old', 'new', 'message'),
  [
    ('path,pid', 'path,id', 'has no column pid. Its first line must'),
    (
      'path,pid',
      'a,b',
      'has no column path and pid. .* It is: a,b,camid,split,role',
    ),
    (LISTED, '', 'has no column path and pid'),
    (LISTED, 'path,pid\n', 'is empty: it names no image'),
    ('path,pid', 'name,age', 'for its list of images: if this is none, move'),
    ('b.jpg,1,', 'b.jpg,NaN,', "line 2: pid 'NaN' is neither a whole number"),
    ('b.jpg,1,', 'b.jpg,None,', "line 2: pid 'None' is neither a whole"),
    ('b.jpg,1,', 'b.jpg,1.5,', "line 2: pid '1.5' is neither a whole numbe"),
    ('b.jpg,1,', 'b.jpg,,', "line 2: pid '' is neither a whole number nor"),
    ('b.jpg,1,', f'b.jpg,{"9" * 5000},', 'line 2: pid 9{20} is not from -1'),
    ('b.jpg,1,', 'b.jpg,-2,', 'line 2: pid -2 is not from -1 to'),
    ('b.jpg,1,', 'b.jpg,9999999999,', 'line 2: pid 9999999999 is not from -1'),
    ('b.jpg,1,0', 'b.jpg,1,-1', 'line 2: camid -1 is not from 0 to'),
    ('b.jpg,1,0', 'b.jpg,1,nan', "line 2: camid 'nan' is neither a whole num"),
    ('b.jpg,1,0', 'b.jpg,1,', '1 of 7 lines have no camid: either all'),
    ('q.jpg,7,0,query', 'q.jpg,7,0,', '1 of 7 lines have no split: either'),
    ('0,query', '0,probe', "line 5: split 'probe' is not one of train, query"),
    ('0,query', '0,test', 'the split test, .* given together with gallery'),
    ('path,pid,camid', 'path,pid,pid', 'has two columns pid'),
    ('b.jpg,1,0,train', 'b.jpg,1', 'line 2: 3 fields instead of 5'),
    ('b.jpg,1,0', 'b.jpg,1,0,0', 'line 2: 6 fields instead of 5'),
    ('b.jpg', '"b.jpg', 'line 8: unexpected end of data'),
    (
      'b.jpg',
      'z.jpg',
      r'1 images that .* names are not .*\n  z.jpg \(line 2\)',
    ),
    ('b.jpg', '../b.jpg', "line 2: the path '../b.jpg' is not one below"),
    ('b.jpg', '/b.jpg', "line 2: the path '/b.jpg' is not one below"),
    ('b.jpg', 'a.jpg', r'1 images are twice in the train split:\n  a.jpg'),
    ('q.jpg', 'a.jpg', r'1 images are in both training and test:\n  a.jpg'),
    ('g.jpg', 'a.jpg', r'1 images are in both training and test:\n  a.jpg'),
    ('g.jpg', 'q.jpg', r'1 images are in query and gallery .*\n  q.jpg'),
    ('b.jpg,1', 'b.jpg,-1', 'b.jpg has identity -1, .* a column role'),
    (
      '0,train,person',
      '0,train,junk',
      'c.jpg is junk, which is allowed in the',
    ),
    ('0,query,', '0,query,distractor', 'q.jpg is distractor, .* not in query'),
    (
      'person',
      'passer-by',
      "line 4: role 'passer-by' is not one of person, di",
    ),
    ('q.jpg,7,0,query', 'q.jpg,7,0,train', 'the query split is empty'),
    (
      ',',
      ';',
      'has no column path and pid. .* It is: path;pid;camid;split;role',
    ),
  ],
)
def test_names_what_is_wrong_in_a_csv_file(tmp_path, old, new, message):
  images(tmp_path, *NAMES)
  assert old in LISTED
  write(tmp_path, LISTED.replace(old, new), encoding='utf-8')
  with pytest.raises(ValueError, match=message):
    LAYOUT.read(tmp_path)


def test_refuses_other_encodings(tmp_path):
  images(tmp_path, *NAMES)
  write(tmp_path, LISTED, encoding='utf-16')
  with pytest.raises(ValueError, match='is not a text file in UTF-8'):
    LAYOUT.read(tmp_path)


def test_people_and_cameras_of_a_csv_file_may_be_words(tmp_path):
  images(tmp_path, 'a.jpg', 'b.jpg', 'c.jpg', 'd.jpg')
  write(
    tmp_path,
    'path,pid,camid,split\na.jpg,w_f48,door,train\nb.jpg,w_m2,hall,train\n'
    'c.jpg,12,door,query\nd.jpg,12,hall,gallery\n',
  )
  dataset = LAYOUT.read(tmp_path)
  assert table(dataset) == {
    'train': [('a.jpg', 2, 0), ('b.jpg', 3, 1)],
    'query': [('c.jpg', 1, 0)],
    'gallery': [('d.jpg', 1, 1)],
  }
  assert 'cameras numbered from 0: door is 0, hall is 1' in dataset.notes


def test_numbers_joined_by_an_underscore_are_a_word(tmp_path):
  images(tmp_path, *NAMES)
  write(tmp_path, LISTED.replace('jpg,7,0', 'jpg,3_12,0'))
  assert len({i.pid for i in LAYOUT.read(tmp_path).images}) == 6


def test_numbers_of_a_csv_file_may_be_floats_and_have_zeros(tmp_path):
  """Pandas writes 1.0 in a column with empty fields."""
  images(tmp_path, *NAMES)
  changed = LISTED.replace('jpg,1,1', 'jpg,001,1.0').replace(
    'c.jpg,2', 'c.jpg,2.00'
  )
  write(tmp_path, changed)
  assert table(LAYOUT.read(tmp_path)) == EXPECTED


def test_several_csv_files_are_a_question(tmp_path):
  images(tmp_path, *NAMES)
  write(tmp_path, LISTED, 'one.csv')
  write(tmp_path, LISTED, 'two.CSV')
  with pytest.raises(ValueError, match=r'several CSV .*\n  one.csv\n  two.CSV'):
    LAYOUT.read(tmp_path)
  assert table(LAYOUT.read(tmp_path / 'two.CSV')) == EXPECTED


# Folders


def test_reads_a_folder_for_each_identity(tmp_path):
  for person in ('anna', 'ben', 'cem', 'dora'):
    images(tmp_path, *(f'{person}/{i}.jpg' for i in range(3)))
  images(tmp_path, 'anna/notes.txt', 'empty/notes.txt', 'x.jpg')
  dataset = LAYOUT.read(tmp_path)
  assert dataset.splits_made
  people = {
    i.name.split('/')[0]: i.pid
    for rows in dataset.splits.values()
    for i in rows
  }
  assert people == {'anna': 1, 'ben': 2, 'cem': 3, 'dora': 4}


@pytest.mark.parametrize(
  'splits', [('train', 'query', 'gallery'), ('train', 'test'), ('test',)]
)
def test_reads_folders_of_splits(tmp_path, splits):
  for split in splits:
    for person in ('0001', '0002') if split == 'train' else ('0007', '0008'):
      images(tmp_path, *(f'{split}/{person}/{split}{i}.png' for i in range(2)))
  dataset = LAYOUT.read(tmp_path)
  assert not dataset.splits_made
  pids = {s: {i.pid for i in rows} for s, rows in dataset.splits.items()}
  train = {1, 2} if 'train' in splits else set()
  assert pids == {'train': train, 'query': {7, 8}, 'gallery': {7, 8}}


def test_takes_cameras_from_names_if_all_have_them(tmp_path):
  names = [
    f'{split}/0007/0007_c{camera}s1_{i}.jpg'
    for i, (split, camera) in enumerate(
      (('query', 1), ('gallery', 3), ('gallery', 1))
    )
  ]
  images(tmp_path, *names)
  dataset = LAYOUT.read(tmp_path)
  assert dataset.has_cameras
  assert {i.camid for i in dataset.splits['gallery']} == {1, 3}
  assert dataset.first_camera == 0
  assert 'no cameras' not in str(dataset.notes)
  images(tmp_path, 'gallery/0007/other.jpg')
  dataset = LAYOUT.read(tmp_path)
  assert not dataset.has_cameras
  assert dataset.notes[1] == (
    'warning: 3 of 4 names begin as in Market-1501; these do not, so that no'
    ' cameras are read:\n  gallery/0007/other.jpg'
  )
  images(tmp_path, *(f'gallery/0007/{i}.jpg' for i in range(3)))
  (note,) = (n for n in LAYOUT.read(tmp_path).notes if 'no cameras are' in n)
  assert note.startswith('3 of 7 names begin as in Market-1501; these do not')


def test_reads_the_layout_of_market1501():
  root = pathlib.Path(__file__).parents[2] / 'data/market1501/dummy_data'
  own, published = LAYOUT.read(root), datasets.find('market').read(root)
  assert table(own) == table(published)
  assert own.first_camera == published.first_camera == 1


def test_hidden_files_and_folders_are_not_people(tmp_path):
  images(tmp_path, *(f'{n}/1.jpg' for n in ('anna', 'ben', 'cem', '.cache')))
  images(tmp_path, 'anna/._1.jpg')
  splits = LAYOUT.read(tmp_path).splits
  found = {image.name for split in splits.values() for image in split}
  assert found == {'anna/1.jpg', 'ben/1.jpg', 'cem/1.jpg'}


def test_images_elsewhere_are_counted_and_named(tmp_path):
  images(tmp_path, *(f'{n}/{i}.jpg' for n in 'abc' for i in range(2)))
  assert 'left out' not in str(LAYOUT.read(tmp_path).notes)
  images(tmp_path, *(f'dora/cam1/{i}.jpg' for i in range(11)), 'x.jpg')
  (note,) = (n for n in LAYOUT.read(tmp_path).notes if 'left out' in n)
  assert note.startswith('12 of 18 images are not directly in the folder of an')
  assert '  dora/cam1/0.jpg\n' in note and note.endswith('and 2 more')


def test_images_beside_the_folders_of_market1501_are_named(tmp_path):
  images(
    tmp_path, 'bounding_box_train/0001_c1.jpg', 'query/0002_c1.jpg',
    'bounding_box_test/0002_c2.jpg',
  )  # fmt: skip
  assert 'left out' not in str(LAYOUT.read(tmp_path).notes)
  images(tmp_path, 'bounding_box_train/3/0003_c1.jpg', 'val/0004_c1.jpg')
  assert LAYOUT.read(tmp_path).notes[1] == (
    '2 of 5 images are not directly in bounding_box_train, query,'
    ' bounding_box_test and are left out:\n'
    '  bounding_box_train/3/0003_c1.jpg\n  val/0004_c1.jpg'
  )


@pytest.mark.parametrize('pattern', ['', '(?P<pid>.)/'])
def test_images_in_formats_that_are_not_read_are_named(tmp_path, pattern):
  images(tmp_path, *(f'{n}/{i}.jpg' for n in 'abc' for i in range(2)))
  layout = dataclasses.replace(LAYOUT, pattern=pattern)
  assert 'formats' not in str(layout.read(tmp_path).notes)
  images(tmp_path, 'd/1.HEIC', 'e/2.tif', 'e/readme.md')
  assert layout.read(tmp_path).notes[-1] == (
    'warning: 2 images in other formats than JPEG, PNG, BMP or WebP, to be'
    ' converted, or left out as now:\n  d/1.HEIC\n  e/2.tif'
  )


def test_an_empty_name_is_not_this_folder(tmp_path, monkeypatch):
  images(tmp_path, *(f'{n}/{i}.jpg' for n in 'abc' for i in range(2)))
  monkeypatch.chdir(tmp_path)
  assert LAYOUT.read('.').splits['train']
  with pytest.raises(ValueError, match="config.data.dir='' names no folder"):
    LAYOUT.read('')


def test_images_beside_the_splits_are_counted_and_named(tmp_path):
  people = {'train': 'ab', 'test': 'cd', 'val': 'e'}
  images(tmp_path, *(f'{s}/{n}/1.jpg' for s in people for n in people[s]))
  images(tmp_path, 'train/x.jpg', 'train/a/best/2.jpg')
  (note,) = (n for n in LAYOUT.read(tmp_path).notes if 'left out' in n)
  assert note == (
    '3 of 7 images are not directly in the folder of an identity in train, test'
    ' and are left out:\n  train/a/best/2.jpg\n  train/x.jpg\n  val/e/1.jpg'
  )


def test_a_folder_of_itself_alone_has_no_people(tmp_path):
  images(tmp_path, 'x.jpg')
  (tmp_path / 'anna').symlink_to(tmp_path)
  with pytest.raises(ValueError, match='has no folder with images for each'):
    LAYOUT.read(tmp_path)


def test_people_in_folders_from_0_are_numbered_from_1(tmp_path):
  images(tmp_path, *(f'{n}/{i}.jpg' for n in range(4) for i in range(2)))
  train, test = halves(LAYOUT.read(tmp_path))
  assert train | test == {1, 2, 3, 4}


@pytest.mark.parametrize(
  ('names', 'message'),
  [
    (
      ['train/1.jpg', 'query/1.jpg', 'gallery/1.jpg'],
      'the folders gallery, query, train have names of splits, but hold images'
      r'(.|\n)*--config.data.pattern=',
    ),
    (
      ['Training/1.jpg', 'TEST/2.jpg', 'val/3.jpg'],
      'the folders TEST, Training have names of splits, but hold images',
    ),
    (
      ['train/a/1.jpg', 'test/b/1.jpg', 'preview/1.jpg'],
      r'folders of splits \(train, test\) and also folders .* preview',
    ),
    (
      ['query/a/1.jpg', 'gallery/a/2.jpg', 'test/a/3.jpg'],
      'the split test, .* given together with gallery and query',
    ),
    (
      ['train/a/1.jpg', 'val/b/2.jpg'],
      r'the query split is empty(.|\n)* are left out:\n  val/b/2.jpg',
    ),
  ],
)
def test_folders_that_are_neither_form_are_refused(tmp_path, names, message):
  images(tmp_path, *names)
  with pytest.raises(ValueError, match=message):
    LAYOUT.read(tmp_path)


def test_one_camera_cannot_be_tested(tmp_path):
  images(tmp_path, *(f'{n}/0001_c1_{i}.jpg' for n in 'abc' for i in range(2)))
  with pytest.raises(
    ValueError, match='is seen by two cameras. .* --config.data.ignore_cameras'
  ):
    LAYOUT.read(tmp_path)
  splits = (
    dataclasses.replace(LAYOUT, ignore_cameras=True).read(tmp_path).splits
  )
  (person,) = {image.pid for image in splits['query']}
  assert splits['query'] == splits['gallery'] and len(splits['query']) == 2
  assert len({image.camid for image in splits['query']}) == 2


@pytest.mark.parametrize('names', ['abc', ('a', 'b', 'junk', 'Unknown')])
def test_names_that_stand_for_nobody_are_said(tmp_path, names):
  images(tmp_path, *(f'{name}/{name}{i}.jpg' for name in names for i in (1, 2)))
  notes = str(LAYOUT.read(tmp_path).notes)
  assert ('warning: Unknown, junk: each of these' in notes) == ('junk' in names)


@pytest.mark.parametrize('names', ['1/a.jpg 001/b.jpg 2/c.jpg'])
def test_two_names_of_one_number_are_a_question(tmp_path, names):
  images(tmp_path, *names.split())
  with pytest.raises(ValueError, match='001 and 1 are different names of one'):
    LAYOUT.read(tmp_path)


@pytest.mark.parametrize(
  ('names', 'shown'),
  [
    (['Cem', 'cem'], "'Cem' and 'cem'"),
    (['cem', 'cem '], "'cem' and 'cem '"),
    (['Jos\u00e9', 'Jose\u0301'], "'Jose\\u0301' and 'Jos\u00e9'"),
    (['A1', 'a1', 'b'], "'A1' and 'a1'"),
    (['Josef', 'Jose'], None),
  ],
)
@pytest.mark.parametrize('noun', ['people', 'cameras'])
def test_two_spellings_of_one_name_are_said(names, shown, noun, tmp_path):
  found = [
    Named('', tmp_path, *((n, 'door') if noun == 'people' else ('anna', n)))
    for n in names
  ]
  warnings = [
    note for note in number(tmp_path, found)[1] if note.startswith('warning')
  ]
  assert warnings == [
    f'warning: names of different {noun} that differ only in case, spaces or'
    f' Unicode form:\n  {shown}'
  ] * (shown is not None)


def test_identity_0_of_a_csv_file_is_a_person(tmp_path):
  people_file(tmp_path, range(4))
  dataset = LAYOUT.read(tmp_path)
  train, test = halves(dataset)
  assert train | test == {1, 2, 3, 4} and not train & test
  of = {i.name: i.pid for rows in dataset.splits.values() for i in rows}
  assert [of[f'{pid}_0.jpg'] for pid in range(4)] == [1, 2, 3, 4]
  assert dataset.counts()['gallery'].distractors == 0
  assert 'identity 0 is a person' in str(dataset.notes)


def test_identity_0_is_searched_for_in_folders_of_splits(tmp_path):
  images(tmp_path, 'query/0/a.jpg', 'gallery/0/b.jpg', 'gallery/1/c.jpg')
  dataset = LAYOUT.read(tmp_path)
  assert [image.pid for image in dataset.splits['query']] == [1]
  assert [image.pid for image in dataset.splits['gallery']] == [1, 2]


def test_distractors_and_junk_are_tested_on(tmp_path):
  people_file(tmp_path, range(1, 9))
  lines = (tmp_path / 'people.csv').read_text().splitlines()
  lines = ['path,pid,camid,role', *(f'{line},' for line in lines[1:])]
  images(tmp_path, 'd.jpg', 'j.jpg')
  lines += ['d.jpg,1,0,distractor', 'j.jpg,,0,junk']
  write(tmp_path, '\n'.join(lines))
  counts = LAYOUT.read(tmp_path).counts()
  assert counts['train'].images + counts['gallery'].images == 18
  assert (counts['gallery'].distractors, counts['gallery'].junk) == (1, 1)


def test_a_folder_of_nothing_is_refused(tmp_path):
  images(tmp_path, 'x.jpg', 'deep/er/x.jpg')
  with pytest.raises(ValueError, match='a CSV file, or the folder that holds'):
    LAYOUT.read(tmp_path)


# Cameras


def test_without_cameras_only_the_query_itself_is_removed(tmp_path):
  """Evaluation removes images of the same identity and the same camera."""
  text = 'path,pid,split\n'
  for i in range(6):
    images(tmp_path, f'{i}.jpg')
    text += f'{i}.jpg,{1 + i // 3},test\n'
  write(tmp_path, text)
  dataset = LAYOUT.read(tmp_path)
  assert not dataset.has_cameras
  query, gallery = dataset.splits['query'], dataset.splits['gallery']
  assert query == gallery and len(query) == 6
  for image in query:
    removed = [
      other
      for other in gallery
      if (other.pid, other.camid) == (image.pid, image.camid)
    ]
    assert removed == [image]
  assert dataset.counts()['query'].cameras == 0


def test_without_cameras_the_same_file_is_the_same_image(tmp_path):
  images(tmp_path, 'a.jpg', 'b.jpg', 'c.jpg')
  write(
    tmp_path,
    'path,pid,split\na.jpg,1,query\nc.jpg,1,gallery\na.jpg,1,gallery\n',
  )
  splits = LAYOUT.read(tmp_path).splits
  assert splits['query'][0].camid == splits['gallery'][0].camid
  assert splits['query'][0].camid != splits['gallery'][1].camid


def test_a_test_half_with_cameras_has_one_query_for_each(tmp_path):
  rows = [(1, 0), (1, 0), (1, 1), (2, 3), (2, 3), (0, 0), (-1, 0), (0, 1)]
  text = 'path,pid,camid,split,role\n'
  for i, (pid, camid) in enumerate(rows):
    images(tmp_path, f'{i}.jpg')
    role = {0: 'distractor', -1: 'junk'}.get(pid, '')
    text += f'{i}.jpg,{pid},{camid},test,{role}\n'
  write(tmp_path, text)
  splits = LAYOUT.read(tmp_path).splits
  assert [i.name for i in splits['query']] == ['0.jpg', '2.jpg']
  assert len(splits['gallery']) == len(rows)


# Splits


def people_file(root, people, images_each=2):
  text = 'path,pid,camid\n'
  for pid in people:
    for i in range(images_each):
      images(root, f'{pid}_{i}.jpg')
      text += f'{pid}_{i}.jpg,{pid},{i}\n'
  write(root, text)


def halves(dataset):
  return tuple(
    {image.pid for image in dataset.splits[split]}
    for split in ('train', 'gallery')
  )


def test_splits_are_by_identity_and_from_the_seed(tmp_path):
  people_file(tmp_path, range(1, 41))
  dataset = LAYOUT.read(tmp_path)
  train, test = halves(dataset)
  assert train | test == set(range(1, 41)) and not train & test
  assert 10 <= len(test) <= 30
  assert halves(LAYOUT.read(tmp_path)) == (train, test)
  other = dataclasses.replace(LAYOUT, split_seed=1).read(tmp_path)
  assert halves(other) != (train, test)
  assert 'seed 0' in str(dataset.notes) and dataset.splits_made


def test_splits_of_folders_and_of_a_csv_file_are_the_same(tmp_path):
  people_file(tmp_path / 'listed', range(1, 41))
  names = (f'{pid:04}/{i}.jpg' for pid in range(1, 41) for i in range(2))
  images(tmp_path / 'folders', *names)
  listed, folders = (
    halves(LAYOUT.read(tmp_path / form)) for form in ('listed', 'folders')
  )
  assert listed == folders


@given(
  st.sets(st.text(max_size=5), min_size=3, max_size=30),
  st.integers(0, 100),
  st.sampled_from([0.01, 0.3, 0.5, 0.9, 1.0]),
)
def test_made_splits_leave_people_on_both_sides(people, seed, fraction):
  test = folder._test_identities(people, seed, fraction)
  assert test <= people
  if fraction == 1:
    assert test == people
  else:
    assert test and len(people - test) >= 2


@given(
  st.sets(st.integers(1, 10**6), min_size=40, max_size=60),
  st.sets(st.integers(1, 10**6), max_size=20),
)
def test_adding_people_moves_nobody(people, more):
  people, more = ({str(pid) for pid in pids} for pids in (people, more))
  before = folder._test_identities(people, 0, 0.5)
  after = folder._test_identities(people | more, 0, 0.5)
  assert before == after & people


@pytest.mark.parametrize('cameras', [True, False])
def test_saved_splits_are_read_as_they_were_made(tmp_path, cameras):
  people_file(tmp_path, range(1, 9))
  if not cameras:
    text = (tmp_path / 'people.csv').read_text().splitlines()
    write(tmp_path, '\n'.join(line.rsplit(',', 1)[0] for line in text))
  made = LAYOUT.read(tmp_path)
  assert made.splits_made
  csv_file.write(made, tmp_path / 'splits.csv')
  read = LAYOUT.read(tmp_path / 'splits.csv')
  assert table(read) == table(made)
  assert read.has_cameras == made.has_cameras
  assert read.fingerprint() == made.fingerprint()


def test_processes_may_save_the_same_splits_at_once(tmp_path, monkeypatch):
  people_file(tmp_path, range(1, 9))
  made, file = LAYOUT.read(tmp_path), tmp_path / 'splits.csv'
  replace = pathlib.Path.replace

  def after_another(part, target):
    monkeypatch.setattr(pathlib.Path, 'replace', replace)
    csv_file.write(made, file)
    return replace(part, target)

  monkeypatch.setattr(pathlib.Path, 'replace', after_another)
  csv_file.write(made, file)
  assert table(LAYOUT.read(file)) == table(made)
  assert not list(tmp_path.glob('*.part'))


def test_all_people_may_be_tested_on(tmp_path):
  people_file(tmp_path, (1, 2))
  with pytest.raises(ValueError, match='3 identities are needed, not 2'):
    LAYOUT.read(tmp_path)
  everyone = dataclasses.replace(LAYOUT, test_fraction=1.0).read(tmp_path)
  assert halves(everyone) == (set(), {1, 2})


@pytest.mark.parametrize('fraction', [0.0, -1.0, 1.5, float('nan')])
def test_refuses_other_fractions(fraction):
  config = config_file.get_config().data
  config.test_fraction = fraction
  with pytest.raises(ValueError, match='config.data.test_fraction='):
    LAYOUT.configured(config)
