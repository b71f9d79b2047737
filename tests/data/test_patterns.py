"""Tests of labels from paths: patterns, known schemes, folders of cameras."""

import dataclasses
import pathlib
import re
import shlex
import subprocess
import tempfile

from hypothesis import given
from hypothesis import strategies as st
import pytest

from apnet_jax.errors import UserError
from configs import folder as config_file
from data import datasets, doctor, raw
from data.folder import schemes
from data.health import folders
from tests.data.test_folder import images, table
from tests.test_images import close

LAYOUT = datasets.find('folder')


def by_pattern(pattern, **settings):
  return dataclasses.replace(LAYOUT, pattern=pattern, **settings)


# Patterns

CAMERAS = [f'cam_{c}/person_{n:04}.png' for c in 'ab' for n in range(5)]


def test_people_and_cameras_of_a_pattern(tmp_path):
  """Identity 0 is a person, words are numbered, and cameras are two."""
  images(tmp_path, *CAMERAS)
  layout = by_pattern(r'cam_(?P<camid>[ab])/person_(?P<pid>\d+)')
  dataset = dataclasses.replace(layout, test_fraction=1.0).read(tmp_path)
  expected = [
    (f'cam_{c}/person_{n:04}.png', n + 1, 'ab'.index(c))
    for c in 'ab'
    for n in range(5)
  ]
  assert table(dataset)['gallery'] == table(dataset)['query'] == expected
  assert 'cameras numbered from 0: a is 0, b is 1' in dataset.notes


def test_splits_words_and_roles_of_a_pattern(tmp_path):
  images(
    tmp_path, 'Train/ben-1.jpg', 'Train/anna-2.jpg', 'QUERY/cem-1.jpg',
    'test/cem-2.jpg', 'test/x-2.jpg', 'test/bad-3.jpg',
  )  # fmt: skip
  layout = by_pattern(
    r'(?P<split>\w+)/((?P<junk>bad)|(?P<distractor>x)|(?P<pid>\w+))'
    r'-(?P<camid>\d)'
  )
  assert table(layout.read(tmp_path)) == {
    'train': [('Train/anna-2.jpg', 1, 2), ('Train/ben-1.jpg', 2, 1)],
    'query': [('QUERY/cem-1.jpg', 3, 1)],
    'gallery': [
      ('test/bad-3.jpg', -1, 3), ('test/cem-2.jpg', 3, 2),
      ('test/x-2.jpg', 0, 2),
    ],
  }  # fmt: skip


def test_a_list_beside_a_pattern_is_not_read(tmp_path):
  images(tmp_path, *CAMERAS, 'cam_a/people.csv')
  layout = by_pattern(r'cam_(?P<camid>.)/.*_(?P<pid>\d+)')
  assert 'not read' not in str(layout.read(tmp_path).notes)
  images(tmp_path, 'splits.csv')
  assert 'not read, as there is a pattern: splits.csv' in (
    layout.read(tmp_path).notes
  )


def test_images_that_do_not_match_are_named(tmp_path):
  images(tmp_path, *CAMERAS, *(f'other/{i}.jpg' for i in range(12)))
  notes = by_pattern(r'cam_(?P<camid>.)/.*_(?P<pid>\d+)').read(tmp_path).notes
  (note,) = (note for note in notes if 'do not match' in note)
  assert note.startswith('12 of 22 images do not match the pattern')
  assert '  other/0.jpg\n' in note and note.endswith('and 2 more')


def test_links_are_followed_as_in_folders_of_identities(tmp_path):
  images(tmp_path, *(f'far/{who}/{n}.jpg' for who in 'abc' for n in range(2)))
  (tmp_path / 'people').mkdir()
  for who in 'abc':
    (tmp_path / 'people' / who).symlink_to(tmp_path / 'far' / who)
  plain, by_name = LAYOUT, by_pattern('(?P<pid>.)/')
  assert table(by_name.read(tmp_path / 'people')) == table(
    plain.read(tmp_path / 'people')
  )


@pytest.mark.parametrize('pattern', ['', '_(?P<pid>.)/'])
def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch, pattern):
  images(tmp_path, *(f'p_{who}/{n}.jpg' for who in 'abcd' for n in range(2)))
  close(monkeypatch, tmp_path / 'p_d')
  with pytest.raises(UserError, match='the folder .*/p_d cannot be read'):
    by_pattern(pattern).read(tmp_path)
  report = doctor.examine(tmp_path, pattern=pattern)
  (finding,) = (x for x in report.findings if x.kind == 'unreadable_folders')
  assert finding.severity == 'problem'
  assert finding.lines == ('p_d: Permission denied',)
  doctor.to_text(report)


@pytest.mark.parametrize(
  ('pattern', 'message'),
  [
    ('(?P<pid>', r'config.data.pattern=.* is not a regular expression: '),
    (r'cam_(?P<camid>[ab])', 'has no group named pid, .* An example'),
    (r'(?P<person>\d+)', 'has groups named person: the names are pid, camid'),
    (
      r'person(?P<pid>\d+)',
      r'matches none of the 10 images .* are:\n  cam_a/person_0000.png',
    ),
    (r'(?P<pid>person)', r"gives all images below .* the identity 'person'"),
    (
      r'(?P<split>cam)_./person_(?P<pid>\d+)',
      "finds the split 'cam' in .* not one of train, query, gallery, test",
    ),
    (
      r'(_(?P<camid>a)/)?person_(?P<pid>\d+)',
      '5 of 10 images have no camid: either all have one or none has',
    ),
  ],
)
def test_a_wrong_pattern(tmp_path, pattern, message):
  images(tmp_path, *CAMERAS)
  with pytest.raises(ValueError, match=message):
    by_pattern(pattern).read(tmp_path)


def test_a_pattern_without_images(tmp_path):
  with pytest.raises(ValueError, match='finds no images below'):
    by_pattern(r'(?P<pid>\d+)').read(tmp_path)


def test_only_own_images_have_a_pattern():
  config = config_file.get_config().data
  config.pattern = r'(?P<pid>\d+)'
  assert LAYOUT.configured(config).pattern == config.pattern
  with pytest.raises(ValueError, match=r'config.data.pattern=.*folder\.py'):
    datasets.find('market').configured(config)


@given(st.text(max_size=30))
def test_any_pattern_is_read_or_refused(pattern):
  with tempfile.TemporaryDirectory() as directory:
    root = pathlib.Path(directory)
    images(root, *CAMERAS[::3])
    for text in (pattern, f'(?P<pid>{pattern})'):
      try:
        by_pattern(text or '(').read(root)
      except ValueError as error:
        assert 'pattern' in str(error) or 'identities' in str(error)


# Known schemes

KNOWN = {
  'VIPeR': [f'cam_{c}/00{n}_45.bmp' for c in 'ab' for n in range(4)],
  'PRID2011, single shot': [
    *(
      f'single_shot/cam_{c}/person_000{n}.png' for c in 'ab' for n in (1, 2, 3)
    ),
    'single_shot/cam_b/person_0201.png',
    'multi_shot/cam_a/person_0001/0001.png',
  ],
  'PRID2011, multi shot': [
    f'cam_{c}/person_000{n}/0001.png' for c in 'ab' for n in (1, 2, 3)
  ],
  'iLIDS-VID': [
    f'i-LIDS-VID/images/cam{c}/person00{n}/cam{c}_person00{n}.png'
    for c in (1, 2)
    for n in (1, 2, 3)
  ],
  'i-LIDS': [f'Persons/000{n}00{i}.jpg' for n in (1, 2, 3) for i in (1, 2)],
  'GRID': [
    *(f'probe/000{n}_1_25004_107_32_106_221.jpeg' for n in (1, 2, 3)),
    *(f'gallery/000{n}_2_25004_107_32_106_221.jpeg' for n in (0, 1, 2, 3)),
  ],
  'VeRi-776': [
    *(f'image_train/000{n}_c00{c}_00_0.jpg' for n in (1, 2) for c in (1, 2)),
    'image_query/0007_c001_00_0.jpg',
    'image_test/0007_c002_00_0.jpg',
  ],
  'MOT17, cropped': [
    f'{folder}/000000{n}_MOT17-02-FRCNN_000000{i}_acc_data.bmp'
    for i, folder in enumerate(
      ('bounding_box_train', 'bounding_box_test', 'query')
    )
    for n in range(4)
  ],
}


@pytest.mark.parametrize('title', KNOWN)
def test_the_doctor_knows_schemes(tmp_path, title):
  """Prints a command that reads people as people and cameras as cameras."""
  images(tmp_path, *(n.replace('.bmp', '.png') for n in KNOWN[title]))
  for file in tmp_path.rglob('*_45.png'):
    file.rename(file.with_suffix('.bmp'))
  (found,), _ = folders.find_datasets(tmp_path, '')
  assert title in found.describe() and not found.error
  people = sum(found.counts[split].identities for split in ('train', 'gallery'))
  assert people == (4 if title in ('VIPeR', 'MOT17, cropped') else 3)
  (command,) = found.train_commands()
  assert '--config.data.pattern=' in command
  assert found.images.has_cameras == (title not in ('i-LIDS', 'MOT17, cropped'))
  distractors = {'PRID2011, single shot': 1, 'GRID': 1}.get(title, 0)
  assert found.counts['gallery'].distractors == distractors
  notes = doctor.examine(tmp_path).findings
  said = 'other_protocol' in [one.kind for one in notes]
  # VeRi-776 has its splits in the names; crops of MOT17 have no protocol.
  assert said == (title not in ('VeRi-776', 'MOT17, cropped'))


def test_numbers_alone_are_no_scheme(tmp_path):
  """Images of i-LIDS are named like the frames of any film."""
  images(tmp_path, *(f'frames/000{n}00{i}.jpg' for n in '123' for i in '12'))
  assert schemes.recognise(tmp_path / 'frames') is None
  assert schemes.recognise(tmp_path) is None


def test_a_list_counts_more_than_names(tmp_path):
  images(tmp_path, *KNOWN['VIPeR'])
  assert schemes.recognise(tmp_path)
  (tmp_path / '._people.csv').touch()  # what a Mac leaves
  assert schemes.recognise(tmp_path)
  (tmp_path / 'people.csv').touch()
  assert schemes.recognise(tmp_path) is None


def test_a_scheme_is_known_though_a_few_images_have_other_names(tmp_path):
  images(tmp_path, *(f'cam_a/{n:03}_45.bmp' for n in range(38)), 'figure.png')
  scheme, _ = schemes.recognise(tmp_path)
  assert scheme.title == 'VIPeR'
  images(tmp_path, 'a.png', 'b.png')
  assert schemes.recognise(tmp_path) is None


def test_the_doctor_prints_a_command_that_lists_vehicle_id(tmp_path):
  images(tmp_path, *(f'image/000000{i}.jpg' for i in range(8)))
  lists = tmp_path / 'train_test_split'
  lists.mkdir()
  for name, rows in (
    ('train_list.txt', ((0, 30), (1, 30), (2, 31), (3, 31))),
    ('test_list_800.txt', ((4, 7), (5, 7), (6, 8), (7, 8))),
  ):
    (lists / name).write_text('\n'.join(f'000000{i} {p}' for i, p in rows))
  printed = doctor.to_text(doctor.examine(tmp_path)).splitlines()
  (command,) = (line for line in printed if 'vehicle_id.csv' in line)
  assert any('single_gallery_shot' in line for line in printed)
  subprocess.run(command, shell=True, check=True)
  pids = {
    split: [image.pid for image in rows]
    for split, rows in LAYOUT.read(tmp_path).splits.items()
  }
  test = [7, 7, 8, 8]
  assert pids == {'train': [30, 30, 31, 31], 'query': test, 'gallery': test}


# Folders that are cameras


@pytest.mark.parametrize(
  ('names', 'pattern'),
  [
    (
      [
        f'{c}/{n}.jpg'
        for c in ('cam_left', 'Camera entrance', 'view-b', 'misc')
        for n in 'xyz'
      ],
      r'^(?P<camid>[^/]+)/(?P<pid>[^/]+)\.\w+$',
    ),
    (  # each sees only two of three people
      [
        f'{place}/p_{n}.jpg'
        for i, place in enumerate(('door', 'gate', 'hall'))
        for n in range(9)
        if n % 3 != i
      ],
      r'^(?P<camid>[^/]+)/[^/\d]*(?P<pid>\d+)[^/]*$',
    ),
    (
      [f'{c}/{n}.jpg' for c in ('cam1', 'Camera_2', 'c3') for n in 'xyz'],
      r'^(?P<camid>[^/]+)/(?P<pid>[^/]+)\.\w+$',
    ),
    (
      [
        f'{place}/p_{n}.jpg'
        for place in ('door', 'gate', 'hall')
        for n in range(4)
      ],
      r'^(?P<camid>[^/]+)/[^/\d]*(?P<pid>\d+)[^/]*$',
    ),
    (
      [
        f'{place}/{n}.jpg'
        for place in ('door', 'gate', 'hall')
        for n in range(11)
      ],
      r'^(?P<camid>[^/]+)/[^/\d]*(?P<pid>\d+)[^/]*$',
    ),
  ],
)
def test_folders_of_cameras_are_doubted(tmp_path, names, pattern):
  images(tmp_path, *names)
  dataset = LAYOUT.read(tmp_path)
  assert dataset.doubt.pattern == pattern
  error = str(dataset.doubt.error())
  assert f"--config.data.pattern='{pattern}'" in error
  assert '--config.data.folders_are_people' in error
  assert 'and the doctor: --pattern and --folders_are_people.)' in error
  remedied = by_pattern(pattern).read(tmp_path)
  assert remedied.counts()['train'].cameras == len(
    {n.split('/')[0] for n in names}
  )
  people = dataclasses.replace(LAYOUT, folders_are_people=True)
  assert people.read(tmp_path).doubt is None


@pytest.mark.parametrize('splits', ['', 'train test'])
def test_cameras_in_the_names_of_files_make_no_folder_a_camera(
  tmp_path, splits
):
  """They are not read, which a note says with a pattern that reads them."""
  names = [f'Cam-{c}_{i}.jpg' for c in (1, 2) for i in range(3)]
  folders_of = {'': 'abcd', 'train': 'ab', 'test': 'cd'}
  for split in splits.split() or ['']:
    for who in folders_of[split]:
      images(tmp_path / split / who, *names)
  dataset = LAYOUT.read(tmp_path)
  assert dataset.doubt is None and not dataset.has_cameras
  pattern = re.search("data.pattern='(.*)'", str(dataset.notes[1]))[1]
  read = by_pattern(pattern).read(tmp_path)
  assert read.counts()['train'] == raw.Counts(12, 2, 2)
  assert {image.camid for image in read.images} == {1, 2}
  images(tmp_path / split / who, '1.jpg')
  assert 'a camera' not in str(LAYOUT.read(tmp_path).notes)


def test_folders_of_days_are_doubted_though_files_say_the_camera(tmp_path):
  for day in ('friday', 'monday', 'tuesday'):
    for who in ('anna', 'ben', 'cem', 'dora'):
      images(tmp_path, *(f'{day}/{who}_cam{c}.jpg' for c in (1, 2)))
  assert 'share 8 names' in LAYOUT.read(tmp_path).doubt.reason


def test_two_folders_of_cameras_are_named_before_the_lack_of_people(tmp_path):
  images(tmp_path, *CAMERAS)
  with pytest.raises(
    ValueError, match=r'named like cameras.(.|\n)*data.pattern='
  ):
    LAYOUT.read(tmp_path)


@pytest.mark.parametrize(
  ('names', 'reason', 'splits'),
  [
    (
      [
        f'day{d}/000{p}_c{c}_{d}.jpg'
        for d in '123'
        for p in '123'
        for c in '12'
      ],
      r"3 of 3 folders .* Market-1501's naming, as day1 does \(1, 2, 3\)",
      (12, 2, 6),
    ),
    (
      [
        f'image_{s}/000{p}_c00{c}_{s}.jpg'
        for s, people in (('train', '12'), ('query', '45'), ('test', '45'))
        for p in people
        for c in '12'
      ],
      r'3 of 3 folders hold .*, as image_query does \(4, 5\)',
      (4, 4, 4),
    ),
    (
      ['train/a/0001_c1.jpg', 'train/a/0002_c1.jpg', 'query/b/0003_c1.jpg']
      + ['gallery/b/0003_c2.jpg'],
      r'1 of 3 folders hold .*, as train/a does \(1, 2\)',
      (2, 1, 1),
    ),
  ],
)
def test_folders_whose_files_name_several_people_are_doubted(
  tmp_path, names, reason, splits
):
  images(tmp_path, *names)
  doubt = LAYOUT.read(tmp_path).doubt
  assert re.search(reason, doubt.reason)
  read = by_pattern(doubt.pattern).read(tmp_path)
  assert tuple(len(read.splits[s]) for s in raw.SPLITS) == splits
  people = dataclasses.replace(LAYOUT, folders_are_people=True)
  assert people.read(tmp_path).doubt is None


@pytest.mark.parametrize('first', ['train', 'Training'])
def test_flat_folders_of_splits_are_read_by_the_pattern_of_the_message(
  tmp_path, first
):
  images(
    tmp_path, f'{first}/0001_c1.jpg', 'query/0002_c1.jpg', 'gallery/0002_c2.jpg'
  )
  with pytest.raises(UserError) as error:
    LAYOUT.read(tmp_path)
  (_, pattern) = shlex.split(str(error.value).splitlines()[-1])[0].split('=', 1)
  assert table(by_pattern(pattern).read(tmp_path)) == {
    'train': [(f'{first}/0001_c1.jpg', 1, 1)],
    'query': [('query/0002_c1.jpg', 2, 1)],
    'gallery': [('gallery/0002_c2.jpg', 2, 2)],
  }


@pytest.mark.parametrize(
  'names',
  [
    [f'{who}/{n}.jpg' for who in ('anna', 'ben', 'cem') for n in range(3)],
    [f'{who}/{n}_c{c}.jpg' for who, n in zip('abc', '122') for c in '12'],
    [f'{who}/{n}_c1.jpg' for who in 'abc' for n in ('1', '2', who)],
    [f'{who}/{n}.jpg' for who in ('c1', 'ben', 'cem') for n in range(3)],
    [f'{who}/{n}.jpg' for who in ('anna', 'ben', 'cem') for n in range(10)],
    [f'{who}/{n}.jpg' for who in ('camilla', 'viewer', 'cem') for n in 'xy'],
    [f'{who}/{who}_{n}.jpg' for who in ('1', '2', '3') for n in range(9)],
  ],
)
def test_folders_of_people_are_not_doubted(tmp_path, names):
  images(tmp_path, *names)
  assert LAYOUT.read(tmp_path).doubt is None
