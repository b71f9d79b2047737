"""Tests of the doctor: every finding, on data that has the fault."""

import dataclasses
import io
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import h5py
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import pytest

from apnet_jax.images import FORMATS
from data import datasets, doctor, raw
from data.health import findings, folders, images, samples
from tests.test_images import DAMAGED, close, exif

ROOT = pathlib.Path(__file__).parents[2]
REAL = ROOT.parent / 'shared' / 'data' / 'cuhk03_pair1'
TRAIN, QUERY, GALLERY = raw.MARKET_FOLDERS.values()
# Findings that all small data sets of these tests have.
USUAL = {'few_identities', 'few_images', 'one_camera', 'own_images'}


@pytest.fixture
def copied(drawn, tmp_path):
  """A copy of own images in Market-1501's layout, which a test may change."""
  return pathlib.Path(shutil.copytree(drawn, tmp_path / 'own'))


@pytest.fixture
def copy(tmp_path):
  """A function that copies the dummy data of a data set."""

  def copied(dataset, below='raw'):
    source = ROOT / 'data' / dataset / 'dummy_data'
    return pathlib.Path(shutil.copytree(source, tmp_path / below))

  return copied


@pytest.fixture
def publish(monkeypatch):
  """A function that replaces the published counts of data sets."""

  def published(**counts):
    monkeypatch.setattr(
      datasets,
      'LAYOUTS',
      tuple(
        dataclasses.replace(layout, published=counts[layout.dataset])
        if layout.dataset in counts
        else layout
        for layout in datasets.LAYOUTS
      ),
    )

  return published


def counts_of(name, root):
  return datasets.find(name).read(root).counts()


def kinds(report):
  """Returns severity by kind of all findings except the usual ones."""
  found = {x.kind: x.severity for x in report.findings if x.kind not in USUAL}
  return found


def find(report, kind):
  """Returns the only finding of a kind; every finding has advice."""
  assert all(x.advice and x.message for x in report.findings)
  (finding,) = (x for x in report.findings if x.kind == kind)
  return finding


def some_image(root, folder=QUERY, number=1):
  return sorted((root / folder).iterdir())[number]


def encoded(size=(64, 128), form='JPEG', **options):
  file = io.BytesIO()
  noise = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)
  Image.fromarray(noise).save(file, form, **options)
  return file.getvalue()


# Which data set it is


def test_own_images_are_healthy(drawn, capsys):
  assert doctor.main([str(drawn)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert (
    lines[0]
    == f'Images named as in Market-1501, not the published Market-1501: {drawn}'
  )
  assert [line.split()[0] for line in lines[1:4]] == list(raw.SPLITS)
  assert '3 people' in lines[3] and '3 distractors, 2 junk' in lines[3]
  configuration = f'--config=configs/folder.py --config.data.dir={drawn}'
  assert f'  python train.py {configuration} --config.train.P=5' in lines
  assert max(len(line) for line in lines if str(drawn) not in line) <= 80


@pytest.mark.parametrize(
  ('name', 'what'),
  [
    ('market1501', 'Market-1501, as published'),
    ('dukemtmc_reid', 'DukeMTMC-reID, as published'),
    ('occluded_duke', 'Occluded-DukeMTMC, as published'),
    ('cuhk03_np/detected', 'CUHK03-NP (detected), as published'),
    ('msmt17/trainval', 'MSMT17 V1, as published'),
    ('folder', 'Images of your own'),
    ('synthetic', 'The synthetic set'),
  ],
)
@pytest.mark.parametrize('asked', [False, True])
def test_knows_every_data_set(name, what, asked, copy, publish, tmp_path):
  layout = datasets.find(name)
  below = layout.nested[0] if layout.nested else ''
  root = copy(layout.dataset, f'raw/{below}')
  if layout.published:
    # Two variants have the same dummy images; only one is published here.
    publish(**{layout.dataset: counts_of(name, root)})
  if not asked and name == 'synthetic':
    what = 'Images named as in Market-1501, not the published Market-1501'
  report = doctor.examine(tmp_path / 'raw', name if asked else '')
  assert what in report.verdict()
  assert str(root) in report.verdict()
  assert report.healthy or layout.variant
  for_a_cpu = asked and name == 'synthetic'
  advises = doctor.BY_DEVICE in doctor.to_text(report)
  assert advises == (report.healthy and not for_a_cpu)
  assert report.datasets[0].counts['train'].images == 6
  if layout.published:
    (command,) = report.datasets[0].train_commands()
    config = command.split('configs/')[1].split('.py')[0]
    assert datasets.find(config).dataset == layout.dataset
    assert f'--config.data.dir={root}' in command
    assert layout.name in command or not layout.variant


@pytest.mark.parametrize('layout', datasets.LAYOUTS, ids=lambda x: x.name)
def test_the_command_that_trains_names_a_configuration(layout):
  command = shlex.split(folders.train_command(layout, pathlib.Path('x')))
  (config,) = (word[9:] for word in command if word.startswith('--config='))
  assert (ROOT / config).is_file()


def test_counts_both_variants(copy):
  report = doctor.examine(copy('cuhk03_np'))
  assert [r.layout.name for r in report.datasets] == [
    'cuhk03_np/detected',
    'cuhk03_np/labeled',
  ]
  report = doctor.examine(copy('msmt17', 'other'))
  images_of = {r.layout.name: r.counts['train'].images for r in report.datasets}
  assert images_of == {'msmt17/trainval': 6, 'msmt17/train': 5}
  # Findings about images of both variants are reported once.
  assert [x.kind for x in report.findings].count('few_images') == 1
  assert 'msmt17/trainval: ' in doctor.to_text(report)


def test_tells_the_versions_of_msmt17(copy):
  root = copy('msmt17')
  for folder in ('train', 'test'):
    (root / folder).rename(root / f'mask_{folder}_v2')
  assert 'MSMT17 V2' in doctor.examine(root).verdict()


def test_counts_tell_sets_of_one_layout_apart(copy, publish):
  """A folder named Occluded-Duke holds the images of DukeMTMC-reID."""
  root = copy('dukemtmc_reid', 'Occluded-Duke-2019')
  publish(dukemtmc_reid=counts_of('duke', root))
  report = doctor.examine(root)
  assert report.verdict().startswith(
    'DukeMTMC-reID, as published, not Occluded-DukeMTMC: '
  )
  finding = find(report, 'other_dataset')
  assert 'the folder name Occluded-Duke-2019 suggests' in finding.message
  assert 'configs/duke.py' in finding.advice
  assert not report.healthy
  assert doctor.examine(root, 'duke').healthy


@pytest.mark.parametrize('how', ['name', 'option', 'nearly', 'not'])
def test_other_counts_are_a_problem_where_published_ones_are_claimed(
  how, copied, publish, monkeypatch
):
  root = copied
  counts = counts_of('market', root)
  publish(market1501=counts)
  some_image(root, TRAIN).unlink()
  if how == 'name':
    root = root.rename(root.with_name('Market-1501'))
  monkeypatch.setattr(
    folders, 'COUNT_TOLERANCE', 0.2 if how == 'nearly' else 0.001
  )
  report = doctor.examine(root, 'market' if how == 'option' else '')
  assert (
    'Images named as in Market-1501, not the published Market-1501: '
    in report.verdict()
  )
  assert report.healthy == (how == 'not')
  if how == 'not':
    find(report, 'own_images')
    return
  finding = find(report, 'other_counts')
  says = 'says' if how == 'option' else 'suggests'
  assert f'{says} Market-1501' in finding.message
  assert '--config.data.allow_other_counts=True' in finding.advice
  assert 'configs/folder.py' in finding.advice
  text = doctor.to_text(report)
  number = counts['train'].images
  assert f'{number - 1:,}{number:>11,}  differs' in text


def test_cuhk03_from_within_its_folder(copy, publish, tmp_path):
  root = copy('market1501', 'np/labeled')
  publish(cuhk03_np=counts_of('market', root))
  datasets_now = [x for x in datasets.LAYOUTS if x.name != 'cuhk03_np/detected']
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(datasets, 'LAYOUTS', tuple(datasets_now))
    for path in (root, root.parent):
      report = doctor.examine(path)
      assert 'CUHK03-NP (labeled), as published' in report.verdict()
      (command,) = report.next_commands()
      assert f'--config.data.dir={root.parent} ' in command
    report = doctor.examine(root.rename(tmp_path / 'other'))
  assert 'rename it to labeled' in find(report, 'other_folder_name').advice


def test_asked_for_another_layout(copied):
  report = doctor.examine(copied, 'msmt17')
  finding = find(report, 'other_layout')
  assert 'list_query.txt' in finding.message
  assert 'pkuvmc' in finding.advice
  assert (
    'Images named as in Market-1501, not the published MSMT17'
    in report.verdict()
  )


def test_own_images_are_no_claim(copied):
  report = doctor.examine(copied, 'folder')
  assert 'Images of your own' in report.verdict()
  assert report.healthy


@pytest.mark.parametrize('asked', ['', 'market', 'synthetic'])
def test_no_layout_at_all(tmp_path, asked):
  """The synthetic set is not drawn either."""
  (tmp_path / 'market.zip').touch()
  report = doctor.examine(tmp_path, asked)
  assert report.verdict() == f'No known data set: {tmp_path}'
  finding = find(report, 'no_layout')
  assert finding.advice.startswith('unpack market.zip\n')
  # Lists in the advice are not broken.
  lines = [line for line in finding.advice.splitlines() if line[0] == ' ']
  printed = doctor.to_text(report).splitlines()
  assert {f'        {line}' for line in lines} <= set(printed)
  assert [path.name for path in tmp_path.iterdir()] == ['market.zip']
  assert not report.healthy


def test_a_folder_of_a_data_set_alone(copied):
  report = doctor.examine(copied / QUERY)
  assert 'give the folder above' in find(report, 'no_layout').advice


def test_a_list_beside_names_is_a_question(copied, publish):
  """Training on own images would read the CSV file instead of the names."""
  (copied / '._labels.csv').touch()
  assert doctor.examine(copied).healthy
  (copied / 'labels.csv').write_text('name,age\n')
  report = doctor.examine(copied)
  finding = find(report, 'list_beside_names')
  assert finding.severity == findings.PROBLEM
  assert finding.files == ('labels.csv',)
  assert f'python -m data.doctor {copied / "labels.csv"}\n' in finding.advice
  assert not any('folder.py' in c for c in report.datasets[0].train_commands())
  publish(market1501=counts_of('market1501', copied))
  assert 'list_beside_names' not in kinds(doctor.examine(copied))


def test_several_data_sets(copy, tmp_path):
  copy('market1501', 'market1501')
  copy('msmt17', 'MSMT17_V1')
  report = doctor.examine(tmp_path)
  finding = find(report, 'several_datasets')
  assert 'only market1501' in finding.message
  assert 'MSMT17_V1' in finding.message


# Layouts with something missing


def test_msmt17_without_its_lists(copy):
  root = copy('msmt17')
  for name in ('list_query.txt', 'list_gallery.txt', 'list_train.txt'):
    (root / name).unlink()
  report = doctor.examine(root)
  finding = find(report, 'missing_lists')
  assert finding.severity == findings.PROBLEM
  assert 'list_train.txt, list_query.txt, list_gallery.txt' in finding.message
  assert "are part of MSMT17's release" in finding.advice
  assert 'MSMT17 V1, but it cannot be read' in report.verdict()
  assert len(report.checks) == 16
  (root / 'list_val.txt').unlink()
  for asked in ('', 'msmt17/train'):
    finding = find(doctor.examine(root, asked), 'missing_lists')
    assert 'list_val.txt' in finding.message
    assert finding.severity == findings.PROBLEM


def test_msmt17_without_its_validation_list(copy):
  root = copy('msmt17')
  (root / 'list_val.txt').unlink()
  finding = find(doctor.examine(root), 'missing_lists')
  assert finding.severity == findings.PROBLEM
  assert '--config.data.name=msmt17/train' in finding.advice
  finding = find(doctor.examine(root, 'msmt17/train'), 'missing_lists')
  assert finding.severity == findings.NOTE


@pytest.mark.parametrize('folder', [TRAIN, GALLERY])
def test_a_missing_folder(copied, folder):
  shutil.rmtree(copied / folder)
  report = doctor.examine(copied)
  assert folder in find(report, 'missing_parts').message
  assert 'empty_split' not in kinds(report)
  assert report.datasets[0].counts['query'].images > 0


def test_an_empty_folder(copied):
  shutil.rmtree(copied / QUERY)
  (copied / QUERY).mkdir()
  assert 'query split' in find(doctor.examine(copied), 'empty_split').message


@pytest.mark.parametrize('lacking', ['cuhk03_release', 'config'])
def test_a_part_of_cuhk03(copy, lacking):
  root = copy('cuhk03_np')
  for path in root.glob(f'*{lacking}*'):
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  report = doctor.examine(root, 'cuhk03/labeled')
  assert 'labeled' in find(report, 'missing_parts').message
  assert not report.datasets[0].images


def test_list_entries_without_a_file(copy):
  root = copy('msmt17')
  absent = [path.relative_to(root) for path in (root / 'test').rglob('*.jpg')]
  shutil.rmtree(root / 'test')
  (root / 'test').mkdir()
  report = doctor.examine(root, 'msmt17')
  # Both variants have the same test half.
  missing = [x for x in report.findings if x.kind == 'missing_files']
  assert missing
  for finding in missing:
    assert finding.files == tuple(sorted(map(str, absent)))
    assert 'list_gallery.txt, list_query.txt' in finding.message
  assert len(report.checks) == 6  # the training images
  assert 'unused_images' not in kinds(report)


def test_csv_entries_without_a_file(copy):
  root = copy('folder')
  absent = sorted((root / 'images').glob('gallery*.jpg'))
  for path in absent:
    path.unlink()
  for path in (root, root / 'people.csv'):
    finding = find(doctor.examine(path), 'missing_files')
    assert finding.files == tuple(f'images/{path.name}' for path in absent)
    assert 'people.csv' in finding.message


def test_a_layout_that_cannot_be_read(copy):
  root = copy('folder')
  list_file = root / 'people.csv'
  list_file.write_text(list_file.read_text().replace(',1,', ',nan,', 1))
  truncated = root / 'images' / 'train1.jpg'
  truncated.write_bytes(truncated.read_bytes()[:-2])
  report = doctor.examine(root)
  assert "pid 'nan'" in find(report, 'unreadable_layout').message
  assert report.verdict().startswith('Images of your own, but they cannot be')
  assert find(report, 'truncated_images').files == ('images/train1.jpg',)


# File names


def test_misnamed_images(copied):
  names = [f'person{i}.jpg' for i in range(13)]
  for name in names:
    (copied / TRAIN / name).write_bytes(encoded())
  before = doctor.examine(copied).datasets[0]
  finding = find(doctor.examine(copied), 'misnamed_images')
  assert finding.files == tuple(sorted(f'{TRAIN}/{name}' for name in names))
  assert '0002_c1s1_000451_03.jpg' in finding.advice
  assert before.counts['train'].images > 0  # the others are counted
  text = doctor.to_text(doctor.examine(copied))
  assert '... and 3 more' in text and 'person6.jpg' in text


def test_camera_zero_is_misnamed(copied):
  path = some_image(copied)
  path.rename(path.with_name('0001_c0s1_000000_00.jpg'))
  assert len(find(doctor.examine(copied), 'misnamed_images').files) == 1


def test_other_files(copied):
  (copied / TRAIN / 'notes.md').touch()
  (copied / QUERY / 'a.tiff').touch()
  (copied / 'gt_bbox').mkdir()
  (copied / 'gt_bbox' / 'b.jpg').write_bytes(encoded())
  (copied / 'readme.txt').touch()
  report = doctor.examine(copied)
  assert kinds(report) == {
    'other_formats': findings.PROBLEM,
    'odd_files': findings.NOTE,
    'unused_images': findings.NOTE,
  }
  assert find(report, 'odd_files').files == (f'{TRAIN}/notes.md',)
  assert find(report, 'other_formats').files == (f'{QUERY}/a.tiff',)
  assert find(report, 'unused_images').files == ('gt_bbox/b.jpg',)


def test_other_formats_beside_a_complete_list_are_no_problem(copy):
  root = copy('folder')
  (root / 'docs').mkdir()
  (root / 'docs' / 'a.gif').touch()
  assert kinds(doctor.examine(root))['other_formats'] == findings.NOTE
  assert kinds(doctor.examine(root / 'people.csv')) == kinds(
    doctor.examine(root)
  )


def test_a_folder_that_cannot_be_read_is_a_problem(copied, monkeypatch):
  (copied / '.trash').mkdir()
  close(monkeypatch, copied / '.trash')
  assert doctor.examine(copied).healthy
  close(monkeypatch, copied / QUERY)
  report = doctor.examine(copied)
  assert not report.healthy
  finding = find(report, 'unreadable_folders')
  assert finding.severity == findings.PROBLEM
  assert finding.lines == (f'{QUERY}: Permission denied',)
  with pytest.raises(ValueError, match=f'the folder .*{QUERY} cannot be read'):
    datasets.find('market').read(copied)


def test_images_for_multi_query_are_of_market(copied, publish):
  publish(market1501=counts_of('market', copied))
  (copied / 'gt_bbox').mkdir()
  image = copied / 'gt_bbox' / '0001_c1s1_000000_00.jpg'
  image.write_bytes(encoded())
  assert kinds(doctor.examine(copied)) == {}
  (copied / 'other').mkdir()
  image.rename(copied / 'other' / image.name)
  assert kinds(doctor.examine(copied)) == {'unused_images': findings.NOTE}


def test_hidden_files_are_one_note(copied):
  names = [
    f'{TRAIN}/._0001_c1s1.jpg', f'{QUERY}/.DS_Store', f'{GALLERY}/Desktop.ini',
    '.git/a.jpg', '__MACOSX/query/b.jpg', 'Thumbs.db',
  ]  # fmt: skip
  before = doctor.examine(copied)
  for name in names:
    (copied / name).parent.mkdir(exist_ok=True, parents=True)
    (copied / name).write_bytes(b'x')
  report = doctor.examine(copied)
  assert kinds(report) == {'hidden_files': findings.NOTE}
  finding = find(report, 'hidden_files')
  assert finding.files == tuple(sorted(names))
  assert finding.message.startswith('6 files hidden')
  assert report.checks == before.checks


def test_hidden_files_do_not_make_an_incomplete_folder_worse(copied):
  shutil.rmtree(copied / QUERY)
  (copied / TRAIN / '._0001_c1s1.jpg').touch()
  found = kinds(doctor.examine(copied))
  assert 'hidden_files' in found
  assert not {'unreadable_images', 'misnamed_images'} & {*found}


def test_a_listed_file_is_an_image_though_hidden(copy):
  root = copy('folder')
  (root / 'images/train1.jpg').rename(root / 'images/.train1.jpg')
  table = root / 'people.csv'
  table.write_text(table.read_text().replace('/train1.jpg', '/.train1.jpg'))
  (root / '._people.csv').touch()
  assert find(doctor.examine(root), 'hidden_files').files == ('._people.csv',)


def test_names_that_a_terminal_would_obey(copied, capsys):
  name = '0001_c1s1\x1b[31m\udcff.jpg'
  (copied / TRAIN / name).write_bytes(b'')
  assert doctor.main([str(copied), '--json=-']) == 1
  (finding,) = (
    x
    for x in json.loads(capsys.readouterr().out)['findings']
    if x['kind'] == 'unreadable_images'
  )
  assert finding['files'] == [f'{TRAIN}/{name}']
  assert doctor.main([str(copied)]) == 1
  out = capsys.readouterr().out
  assert '\x1b' not in out and r'0001_c1s1\x1b[31m\udcff.jpg' in out


# Images


def test_images_that_cannot_be_read(copied):
  (copied / 'x').mkdir()
  cases = {
    'empty': b'',
    'not a JPEG, PNG, BMP or WebP image': b'not an image',
    'broken header': b'\xff\xd8\xff\xe0\x00',
    'too large to be read': None,
    'not a file': None,
    'No such file': None,
  }
  paths = [some_image(copied, TRAIN, i) for i in range(len(cases))]
  for path, content in zip(paths, cases.values()):
    path.unlink()
    if content is not None:
      path.write_bytes(content)
  with paths[3].open('wb') as file:
    file.truncate(raw.MAX_FILE_BYTES + 1)
  os.mkfifo(paths[4])
  paths[5].symlink_to(copied / 'nowhere')
  finding = find(doctor.examine(copied), 'unreadable_images')
  assert finding.files == tuple(f'{TRAIN}/{path.name}' for path in paths)
  for line, reason in zip(finding.lines, cases):
    assert reason in line
  assert 'delete them' in finding.advice


def test_a_folder_called_like_an_image(copied):
  (copied / QUERY / '0006_c1s1_000000_00.jpg').mkdir()
  finding = find(doctor.examine(copied), 'unreadable_images')
  assert finding.lines == (f'{QUERY}/0006_c1s1_000000_00.jpg: not a file',)


@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'BMP', 'WEBP'])
def test_images_that_are_cut_off(copied, form):
  """Images cut off anywhere are found, also if Pillow would read them."""
  whole = encoded(form=form)
  lengths = [len(whole) - 1, len(whole) - 2, len(whole) - 12, len(whole) // 2]
  paths = [some_image(copied, TRAIN, i) for i in range(6)]
  for path, length in zip(paths, lengths):
    path.write_bytes(whole[:length])
  if form in ('JPEG', 'PNG'):
    paths[4].write_bytes(whole[:-2] + bytes(100))
  else:  # these have a length, and no end marker
    paths[4].write_bytes(whole[:-200])
  paths[5].write_bytes(whole + bytes(100))  # this one is whole
  finding = find(doctor.examine(copied), 'truncated_images')
  assert finding.severity == findings.PROBLEM
  assert finding.files == tuple(f'{TRAIN}/{path.name}' for path in paths[:5])


def test_a_compressed_bmp_has_no_known_length():
  header = bytearray(encoded((8, 8), 'BMP')[:54])
  header[28], header[30] = 8, 1  # 8 bits a pixel, compressed
  palette = bytes(range(256)) * 4
  pixels = b'\x08\x07\0\0' * 8 + b'\0\1'
  header[10:14] = len(header + palette).to_bytes(4, 'little')
  whole = bytes(header) + palette + pixels
  assert images.check_bytes(whole, decode=True).fault == ''
  assert images.check_bytes(whole[:-20]).fault == ''
  assert images.check_bytes(whole[:-20], decode=True).fault == 'unreadable'


def test_turned_images_are_counted(copied, tmp_path):
  turned = {some_image(copied, TRAIN, i): i + 2 for i in range(7)}
  for path, orientation in turned.items():
    size = (128, 64) if orientation > 4 else (64, 128)
    path.write_bytes(encoded(size, exif=exif(orientation)))
  damaged = some_image(copied, TRAIN, 7)
  damaged.write_bytes(encoded(exif=DAMAGED['cut off']))
  for decode in (False, True):
    report = doctor.examine(copied, '', decode)
    assert kinds(report) == {
      'turned_images': findings.NOTE,
      'damaged_exif': findings.NOTE,
    }
    finding = find(report, 'turned_images')
    assert finding.files == tuple(f'{TRAIN}/{path.name}' for path in turned)
    assert all(line.endswith(': 64 x 128') for line in finding.lines)
    finding = find(report, 'damaged_exif')
    assert finding.files == (f'{TRAIN}/{damaged.name}',)
    assert 'on their side or upside down' in finding.advice
    assert report.sizes()['width']['max'] == 64  # of the upright images


def test_samples_are_upright(copied):
  path = some_image(copied, TRAIN)
  path.write_bytes(encoded((128, 64), exif=exif(6)))
  assert images.load(path).size == (64, 128)


def test_the_end_of_a_thumbnail_is_not_the_end():
  """Cameras store a thumbnail with its own end marker in the header."""
  whole = encoded()
  header = b'\xff\xe1' + (len(whole) + 2).to_bytes(2, 'big') + whole
  nested = whole[:2] + header + whole[2:]
  assert images.check_bytes(nested).fault == ''
  assert images.check_bytes(nested[:-2]).fault == 'truncated'
  # A phone's film follows the image, and may have any bytes.
  film = b'\0\0\0\x18ftypmp42\xff\xd9\xff\xda'
  assert images.check_bytes(nested + film).fault == ''
  # Stray bytes between two segments, which Pillow skips.
  place = 2 + len(header)
  odd = nested[:place] + b'\0\0' + nested[place:]
  assert images.check_bytes(odd).fault == ''
  assert images.check_bytes(odd[:-2]).fault == 'truncated'


def test_decoding_finds_what_is_broken_within(copied):
  content = bytearray(encoded(form='PNG'))
  content[2000:2050] = bytes(50)
  path = some_image(copied, TRAIN)
  path.write_bytes(content)
  assert kinds(doctor.examine(copied)) == {}
  report = doctor.examine(copied, '', True)
  finding = find(report, 'unreadable_images')
  assert finding.files == (f'{TRAIN}/{path.name}',)
  assert 'decoded' in doctor.to_text(report)


@pytest.mark.parametrize('limit', [100, 5_000])  # a warning, and an error
def test_huge_images_are_not_decoded(copied, monkeypatch, limit):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', limit)
  report = doctor.examine(copied, '', True)
  finding = find(report, 'unreadable_images')
  assert len(finding.files) == len(report.checks)
  assert 'too many pixels' in finding.lines[0]


def test_sizes(copied):
  for i, size in enumerate([(15, 40), (20, 31), (90, 40)]):
    some_image(copied, TRAIN, i).write_bytes(encoded(size))
  report = doctor.examine(copied)
  small, wide = find(report, 'small_images'), find(report, 'wide_images')
  assert (len(small.files), len(wide.files)) == (2, 1)
  assert small.severity == wide.severity == findings.NOTE
  assert wide.lines[0].endswith(': 90 x 40')
  assert report.sizes() == {
    'width': {'min': 15, 'median': 64, 'max': 90},
    'height': {'min': 31, 'median': 128, 'max': 128},
  }
  assert '15 to 90, median 64' in doctor.to_text(report)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_can_be_checked(data, decode):
  assert images.check_bytes(data, decode).fault in ('unreadable', 'truncated')


@given(st.data(), st.sampled_from(FORMATS))
def test_any_damage_can_be_checked(data, form):
  content = bytearray(encoded((8, 8), form))
  for _ in range(data.draw(st.integers(1, 8))):
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
  end = data.draw(st.integers(0, len(content)))
  checked = images.check_bytes(bytes(content[:end]), decode=True)
  assert bool(checked.fault) == bool(checked.reason) == (not checked.digest)


def test_images_inside_the_release_of_cuhk03(copy):
  root = copy('cuhk03_np')
  with h5py.File(root / 'cuhk03_release' / 'cuhk-03.mat', 'r+') as file:
    pair = file[file['labeled'][0, 0]]
    pair[1, 0] = pair.ref  # which is no image
  report = doctor.examine(root)
  assert 'the 32 images in cuhk-03.mat' in find(report, 'not_checked').message
  report = doctor.examine(root, '', True)
  assert 'not_checked' not in kinds(report)
  assert len(report.checks) == 32
  assert find(report, 'unreadable_images').files == (
    'cuhk03_release/cuhk-03.mat: labeled/1_001_1_02.png',
  )


# Identities and cameras


def test_identities_in_training_and_test(copied):
  image = some_image(copied, TRAIN)
  pid = int(image.name.split('_')[0])
  shutil.copy(image, copied / GALLERY)
  report = doctor.examine(copied)
  finding = find(report, 'shared_identities')
  assert finding.identities == (pid,)
  assert finding.files == (f'{GALLERY}/{image.name}',)
  assert find(report, 'identical_in_training_and_test').severity == 'problem'


def test_queries_without_a_match(copied, publish):
  publish(market1501=counts_of('market', copied))
  lonely = copied / QUERY / '0777_c1s1_000000_00.jpg'
  lonely.write_bytes(encoded())
  (copied / GALLERY / '0777_c1s1_000025_00.jpg').write_bytes(encoded((64, 99)))
  finding = find(doctor.examine(copied), 'unmatched_queries')
  assert finding.files == (f'{QUERY}/{lonely.name}',)
  assert finding.severity == findings.NOTE  # the others are enough
  finding = find(doctor.examine(copied, 'market'), 'unmatched_queries')
  assert finding.severity == findings.PROBLEM
  for path in (copied / QUERY).iterdir():
    if path != lonely:
      path.unlink()
  finding = find(doctor.examine(copied), 'unmatched_queries')
  assert finding.severity == findings.PROBLEM
  assert '1 of 1 query ' in finding.message
  assert 'leaves them out' not in finding.advice
  assert '--config.data.ignore_cameras' in finding.advice
  assert 'this command: --ignore_cameras' in finding.advice
  report = doctor.examine(copied, ignore_cameras=True)
  assert kinds(report) == {}
  assert report.datasets[0].images.has_cameras is False
  commands = report.next_commands()
  assert len(commands) == 2
  assert all('--config.data.ignore_cameras' in line for line in commands)


def test_ignored_cameras_do_not_change_what_a_published_set_is(copied, publish):
  publish(market1501=counts_of('market', copied))
  report = doctor.examine(copied, ignore_cameras=True)
  assert report.healthy and report.datasets[0].is_as_published
  (command,) = report.next_commands()
  assert 'configs/market.py' in command
  assert '--config.data.ignore_cameras' in command


def test_without_cameras_a_lonely_query_stays_unmatched(copied):
  for path in (copied / QUERY).iterdir():
    path.unlink()
  (copied / QUERY / '0777_c1s1_000000_00.jpg').write_bytes(encoded())
  report = doctor.examine(copied, ignore_cameras=True)
  finding = find(report, 'unmatched_queries')
  assert finding.severity == findings.PROBLEM
  assert 'ignore_cameras' not in finding.advice


def test_cameras_that_the_data_set_does_not_have(copied):
  path = some_image(copied, TRAIN)
  path.rename(path.with_name('0001_c7s1_000000_00.jpg'))
  finding = find(doctor.examine(copied, 'market'), 'unknown_cameras')
  assert finding.files == (f'{TRAIN}/0001_c7s1_000000_00.jpg',)
  assert 'it has 1 to 6' in finding.message
  assert 'unknown_cameras' not in kinds(doctor.examine(copied, 'duke'))
  assert 'unknown_cameras' not in kinds(doctor.examine(copied))


def test_identities_with_little_to_learn_from(copied):
  paths = sorted((copied / TRAIN).glob('0001_*'))
  for path in paths[1:]:
    path.unlink()
  report = doctor.examine(copied)
  assert find(report, 'few_images').identities[0] == 1
  assert 1 in find(report, 'one_camera').identities
  assert '--config.train.P=5' in find(report, 'few_identities').advice
  assert report.healthy


def test_people_with_one_image_each_teach_nothing(tmp_path):
  for split in ('train', 'test'):
    for person in range(8):
      file = tmp_path / split / f'{split}{person}' / f'{person}.jpg'
      file.parent.mkdir(parents=True)
      file.write_bytes(encoded())
  report = doctor.examine(tmp_path)
  finding = find(report, 'single_images')
  assert finding.severity == 'problem'
  assert finding.message.startswith('8 training identities, each with one')


def test_one_person_cannot_be_trained_on(copied):
  for path in (copied / TRAIN).iterdir():
    if not path.name.startswith('0001_'):
      path.unlink()
  report = doctor.examine(copied)
  assert kinds(report) == {'one_identity': findings.PROBLEM}
  finding = find(report, 'one_identity')
  assert finding.message.endswith('identity: two people are needed to train')
  assert 'few_identities' not in {one.kind for one in report.findings}
  commands = report.datasets[0].train_commands()
  assert all(line.endswith(' --config.train.P=2') for line in commands)


def test_folders_of_cameras_are_a_problem(tmp_path):
  for camera in 'abc':
    for person in range(4):
      file = tmp_path / f'cam_{camera}' / f'p{person}.jpg'
      file.parent.mkdir(exist_ok=True)
      file.write_bytes(encoded(size=(60 + ord(camera), 120 + person)))
  doubted = doctor.examine(tmp_path)
  finding = find(doubted, 'folders_in_doubt')
  assert 'this command: --folders_are_people' in finding.advice
  assert 'named like cameras' in finding.message
  pattern = re.search("--pattern='(.*)'", finding.advice)[1]
  report = doctor.examine(tmp_path, pattern=pattern)
  assert 'folders_in_doubt' not in kinds(report)
  counts = report.datasets[0].counts
  assert counts['train'].cameras == 3
  (command,) = report.next_commands()
  assert f"--config.data.pattern='{pattern}'" in command


def test_folders_of_cameras_may_be_people(tmp_path, capsys):
  for camera in range(5):
    for person in range(3):
      file = tmp_path / f'cam{camera}' / f'{person}.jpg'
      file.parent.mkdir(exist_ok=True)
      file.write_bytes(encoded(size=(60 + camera, 120 + person)))
  assert doctor.main([str(tmp_path)]) == 1
  assert doctor.main([str(tmp_path), '--folders_are_people']) == 0
  _, _, text = capsys.readouterr().out.partition('Healthy. Next:\n')
  command, *advice = text.splitlines()
  assert 'configs/folder.py' in command
  assert '--config.model.pretrained=hf://timm/' in advice[1]
  assert '--config.data.folders_are_people' in command


def test_images_to_test_on_alone_are_evaluated(tmp_path):
  for name in ('query/a/1', 'query/b/2', 'gallery/a/3', 'gallery/b/4'):
    file = tmp_path / f'{name}.jpg'
    file.parent.mkdir(parents=True)
    file.write_bytes(encoded((64, 100 + int(name[-1]))))
  report = doctor.examine(tmp_path, ignore_cameras=True)
  assert report.healthy
  *_, command, last = doctor.to_text(report).splitlines()
  assert command.strip() == (
    'python eval.py --ckpt=WORKDIR --dataset=folder'
    f' --data_dir={tmp_path} --ignore_cameras'
  )
  assert 'no images to train on' in last


def test_settings_are_kept_in_the_next_commands(copied, tmp_path):
  (copied / TRAIN / 'portrait.jpg').write_bytes(encoded())
  for settings, flags in (
    ({'ignore_cameras': True}, ['--ignore_cameras']),
    ({'folders_are_people': True}, ['--folders_are_people']),
    ({'pattern': 'a (?P<pid>b)'}, ["--pattern='a (?P<pid>b)'"]),
    ({'ignore_cameras': False, 'pattern': ''}, []),
  ):
    (command,) = doctor.examine(copied, **settings).next_commands()
    expected = ['python -m data.doctor', str(copied), *flags]
    assert command == ' '.join(expected)


def test_a_pattern_that_matches_nothing_is_not_hidden_by_market(copied):
  (copied / TRAIN / 'portrait.jpg').write_bytes(encoded())
  report = doctor.examine(copied, pattern='(?P<pid>person)')
  assert 'matches none' in find(report, 'unreadable_layout').message
  assert 'misnamed_images' not in kinds(report)


@pytest.mark.parametrize('folder', [TRAIN, QUERY])
def test_junk_outside_the_gallery(copied, folder):
  path = some_image(copied, folder)
  path.rename(path.with_name('-1_c1s1_000001_00.jpg'))
  report = doctor.examine(copied)
  finding = find(report, 'junk_outside_gallery')
  assert finding.files == (f'{folder}/-1_c1s1_000001_00.jpg',)
  assert 'unreadable_layout' not in kinds(report)


def test_distractors_in_query(copied):
  path = some_image(copied)
  path.rename(path.with_name('0000_c1s1_000001_00.jpg'))
  assert len(find(doctor.examine(copied), 'distractors_in_query').files) == 1


# Files with the same bytes


@pytest.mark.parametrize(
  ('source', 'target', 'kind'),
  [
    (f'{TRAIN}/0001_c1_0.png', f'{GALLERY}/0009_c1_0.png', 'training_and_test'),
    (f'{QUERY}/0006_c1_0.png', f'{GALLERY}/0006_c2_0.png', 'query_and_gallery'),
    (f'{QUERY}/0006_c1_0.png', f'{GALLERY}/0006_c1_0.png', 'query_in_gallery'),
    (f'{TRAIN}/0001_c1_0.png', f'{TRAIN}/0001_c2_0.png', 'within_split'),
    (f'{TRAIN}/0001_c1_0.png', f'{TRAIN}/0002_c1_0.png', 'other_identities'),
  ],
)
def test_identical_files(copied, publish, source, target, kind):
  for name in (source, target):
    (copied / name).write_bytes(encoded(form='PNG'))
  report = doctor.examine(copied)
  (found,) = (x for x in report.findings if x.kind.endswith(kind))
  assert found.groups == (tuple(sorted([source, target])),)
  harmless = kind in ('query_in_gallery', 'within_split')
  assert (found.severity == findings.NOTE) == harmless
  assert ' = '.join(sorted([source, target])) in doctor.to_text(report)
  # Published figures include identical files.
  publish(market1501=counts_of('market', copied))
  (found,) = (
    x for x in doctor.examine(copied).findings if x.kind.endswith(kind)
  )
  assert found.severity == findings.NOTE


@pytest.mark.parametrize('camera', [1, 2])
def test_identical_files_without_cameras(copied, camera):
  names = f'{QUERY}/0006_c1_0.png', f'{GALLERY}/0006_c{camera}_0.png'
  for name in names:
    (copied / name).write_bytes(encoded(form='PNG'))
  report = doctor.examine(copied, ignore_cameras=True)
  found = find(report, 'identical_under_two_names')
  assert found.severity == findings.PROBLEM
  assert found.groups == (tuple(sorted(names)),)
  assert found.message.startswith(
    '1 image stored twice under other names, so that a query finds its own copy'
  )
  assert 'identical_query_and_gallery' not in kinds(report)


@pytest.mark.parametrize('folder', [TRAIN, QUERY])
def test_junk_may_be_a_copy(copied, folder):
  """It is not ranked."""
  shutil.copy(some_image(copied, folder), copied / GALLERY / '-1_c9_0.jpg')
  assert kinds(doctor.examine(copied)) == {}


def test_a_query_that_is_also_listed_in_the_gallery_is_one_file(copy):
  """Splits made of own images have each query in the gallery as well."""
  root = copy('folder')
  list_file = root / 'people.csv'
  lines = list_file.read_text().replace(',query', ',test')
  list_file.write_text(lines.replace(',gallery', ',test'))
  report = doctor.examine(root)
  assert not any(kind.startswith('identical') for kind in kinds(report))


# The command


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ('nowhere', 'nowhere does not exist'),
    ('{file}', 'is neither a folder nor a CSV file'),
    ('{raw} --dataset=mars', "--dataset='mars' is not one of market1501, "),
    ('{raw} --samples=a.jpg', '--samples=a.jpg does not end in .png'),
    ('{raw} --samples={raw}/a.png', 'where it would count as an image'),
    ('{raw} --samples=nowhere/a.png', 'in a folder that does not exist'),
    ('{raw} --json=nowhere/a', '--json=nowhere/a is in a folder'),
    ('{raw} --json={raw}', 'Is a directory'),
    ('{raw} --treat', 'unrecognized arguments: --treat'),
    ('', 'required: PATH'),
  ],
)
def test_a_wrong_command(arguments, message, drawn, capsys, monkeypatch):
  monkeypatch.chdir(drawn.parent)
  file = some_image(drawn)
  with pytest.raises(SystemExit) as error:
    doctor.main(shlex.split(arguments.format(raw=drawn, file=file)))
  assert error.value.code == 2
  err = capsys.readouterr().err
  assert message in err
  assert err.startswith('python -m data.doctor: ') and err.count('\n') == 1


def test_help_has_examples(capsys):
  with pytest.raises(SystemExit) as error:
    doctor.main(['--help'])
  assert error.value.code == 0
  out = capsys.readouterr().out
  assert 'python -m data.doctor datasets --dataset=msmt17/train' in out
  assert 'exit codes:' in out
  assert max(map(len, out.splitlines())) <= 80


def test_json(copied, capsys, tmp_path):
  (copied / QUERY / '0001_c1s1_000000_00.jpg').write_bytes(b'')
  file = tmp_path / 'found.json'
  assert doctor.main([str(copied), f'--json={file}']) == 1
  assert 'not the published Market-1501' in capsys.readouterr().out
  assert doctor.main([str(copied), '--json=-']) == 1
  found = json.loads(capsys.readouterr().out)
  assert found == json.loads(file.read_text())
  assert list(found) == [
    'path', 'verdict', 'healthy', 'datasets', 'images', 'findings', 'next',
  ]  # fmt: skip
  (dataset,) = found['datasets']
  assert dataset['layout'] == 'market1501'
  assert dataset['counts']['gallery']['junk'] == 2
  assert dataset['published'] is None
  for finding in found['findings']:
    assert list(finding) == [
      'kind', 'severity', 'message', 'advice', 'files', 'lines', 'groups',
      'identities',
    ]  # fmt: skip


def test_a_reader_may_leave_early(drawn):
  reading, writing = os.pipe()
  os.close(reading)
  result = subprocess.run(
    [sys.executable, '-m', 'data.doctor', drawn],
    cwd=ROOT,
    stdout=writing,
    stderr=subprocess.PIPE,
    text=True,
  )
  os.close(writing)
  assert (result.returncode, result.stderr) == (0, '')


def test_tensorflow_is_not_needed():
  code = "import data.doctor, sys; print('tensorflow' in sys.modules)"
  result = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  assert result.stdout == 'False\n', result.stderr


# The picture


def test_samples(copied, tmp_path, capsys):
  file = tmp_path / 'samples.png'
  arguments = [str(copied), f'--samples={file}']
  assert doctor.main(arguments) == 0
  first = file.read_bytes()
  with Image.open(file) as picture:
    # 4 of 5 training people; 3 test people; also distractors and junk.
    rows = 4 + 3 + (3 + 2)
    assert picture.size == (
      samples.WIDTH,
      3 * samples.HEADING + rows * samples.ROW,
    )
    assert np.asarray(picture).std() > 20
  assert doctor.main(arguments) == 0
  assert file.read_bytes() == first
  assert doctor.main([*arguments, '--seed=1']) == 0
  assert file.read_bytes() != first


def test_samples_of_odd_images(copied, tmp_path):
  """Samples may have extreme sizes, or be unreadable."""
  for i, path in enumerate(sorted((copied / TRAIN).iterdir())):
    path.write_bytes([b'', encoded((300, 2)), encoded((2, 300))][i % 3])
  dataset = datasets.find('market').read(copied)
  assert samples.draw(dataset, 0).width == samples.WIDTH


def test_no_samples_of_nothing(tmp_path, capsys):
  file = tmp_path / 'samples.png'
  (tmp_path / 'empty').mkdir()
  assert doctor.main([str(tmp_path / 'empty'), f'--samples={file}']) == 1
  assert 'there are no images' in capsys.readouterr().err
  assert not file.exists()


# Real images


@pytest.mark.skipif(not REAL.is_dir(), reason='no real images here')
def test_real_images(capsys):
  assert doctor.main([str(REAL)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert (
    lines[0]
    == f'Images named as in Market-1501, not the published Market-1501: {REAL}'
  )
  numbers = [
    [int(x.replace(',', '')) for x in line.split() if x[0].isdigit()]
    for line in lines[1:4]
  ]
  assert numbers == [[7219, 741, 2], [200, 100, 2], [738, 100, 2]]
