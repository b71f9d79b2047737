"""The command cluster, on files of made-up embeddings."""

import csv
import os

import numpy as np
import pytest

from apnet_jax.commands import cluster
from apnet_jax.errors import UserError
from apnet_jax.inference import embedding_files
from tests.commands.running import in_this_process

PEOPLE = np.eye(3, dtype=np.float32)
SHOWN = [0, 1, 0, 2, 1]


def write(path, fingerprint='x', threshold=0.5, dtype='float16', **columns):
  names = np.array([f'{i}.jpg' for i in range(len(SHOWN))])
  embedding_files.write(
    path, {'fingerprint': fingerprint, 'threshold': threshold},
    {'path': names} | columns, [PEOPLE[SHOWN]], (len(SHOWN), 3), dtype,
  )  # fmt: skip
  return str(path)


def test_files_of_one_network_are_grouped_together(tmp_path):
  files = [write(tmp_path / f'{i}.npz', pid=np.array(SHOWN)) for i in range(2)]
  columns, embeddings, threshold = cluster.read_files(files)
  assert threshold == 0.5 and embeddings.dtype == np.float32
  people = cluster.group(columns, embeddings, threshold, by_track=False)
  assert people.tolist() == [0, 1, 0, 2, 1] * 2
  identities = embedding_files.read_identities(columns)
  figures = cluster.describe(people, identities) | {'threshold': 0.5}
  assert cluster.format_figures(figures) == (
    '10 images, 3 people at threshold 0.500: 0 with one image, the largest'
    ' with 4\n3 identities are known: purity 100.0%, completeness 100.0%,'
    ' precision 100.0%, recall 100.0%'
  )
  output = tmp_path / 'new' / 'people.csv'
  cluster.write_people(output, columns, people)
  with output.open(newline='') as file:
    lines = list(csv.DictReader(file))
  assert [int(line['person']) for line in lines] == people.tolist()
  assert lines[3]['path'] == '3.jpg' and lines[3]['pid'] == '2'


def test_a_name_that_is_not_utf8_keeps_its_bytes(tmp_path):
  names = [os.fsdecode(b'\xe9%d.jpg' % i) for i in range(len(SHOWN))]
  columns = {'path': np.array(names)}
  cluster.write_people(tmp_path / 'people.csv', columns, np.array(SHOWN))
  lines = (tmp_path / 'people.csv').read_bytes().splitlines()
  assert lines == [b'path,person'] + [
    b'\xe9%d.jpg,%d' % row for row in enumerate(SHOWN)
  ]


def test_a_column_person_of_the_images_is_renamed(tmp_path):
  columns = {'path': ['a.jpg'], 'person': ['Ann'], 'column_person': ['x']}
  cluster.write_people(tmp_path / 'people.csv', columns, np.array([7]))
  assert (tmp_path / 'people.csv').read_text().split() == [
    'path,column_column_person,column_person,person', 'a.jpg,Ann,x,7',
  ]  # fmt: skip


def test_embeddings_of_other_networks_are_refused(tmp_path):
  files = [write(tmp_path / f'{x}.npz', x) for x in 'ab']
  with pytest.raises(UserError, match='b.npz has embeddings of network b'):
    cluster.read_files(files)


def test_a_file_without_embeddings_is_said(tmp_path):
  embedding_files.write(
    tmp_path / 'a.npz', {'fingerprint': 'x'}, {'path': np.array([], str)},
    [PEOPLE[:0]], (0, 3), 'float32',
  )  # fmt: skip
  with pytest.raises(UserError, match='a.npz: there are no embeddings to gr'):
    cluster.read_files([str(tmp_path / 'a.npz')], 0.5)


def test_the_threshold_is_the_one_that_is_known(tmp_path):
  values = {'none': None, 'half': 0.5, 'again': 0.5, 'other': 0.6}
  files = {n: write(tmp_path / f'{n}.npz', 'x', t) for n, t in values.items()}

  def read(*names, given=None):
    return cluster.read_files([files[name] for name in names], given)[-1]

  assert read('none', 'half', 'again') == 0.5
  assert read('half', 'other', given=0.7) == 0.7
  with pytest.raises(UserError, match=r'thresholds \(0.5, 0.6\): give one by'):
    read('half', 'other')
  with pytest.raises(UserError, match='no threshold is known'):
    read('none')


@pytest.mark.parametrize('dtype', [int, str, float])
def test_images_of_no_known_person_are_not_compared(dtype):
  pids = np.array([0, 0, 7, -1, -1, 5, 5]).astype(dtype)
  roles = np.array(['', 'person', '', '', '', ' distractor', 'junk'])
  people = np.arange(7) // 2
  found = embedding_files.read_identities({'pid': pids, 'role': roles})
  assert found.tolist() == ['0', '0', '7', '', '', '', '']
  figures = cluster.describe(people, found) | {'threshold': 0.5}
  assert (figures['images'], figures['identities']) == (7, 2)
  assert figures['recall'] == figures['precision'] == 1
  assert cluster.format_figures(figures).endswith(
    'recall 100.0%\nleft out of this: 4 images of no known person'
  )
  nobody = cluster.describe(people, np.array([''] * 7)) | {'threshold': 0.5}
  assert 'purity' not in nobody
  assert 'left out of this: 7 images' in cluster.format_figures(nobody)


def test_a_track_stays_together_and_belongs_to_its_video(tmp_path):
  tracks = np.array([1, 1, 1, 2, 3])
  file = write(tmp_path / 'a.npz', track=tracks)
  columns, embeddings, _ = cluster.read_files([file])
  columns['path'] = np.array(['v', 'v', 'v', 'v', 'w'])
  people = cluster.group(columns, embeddings, 0.9, by_track=True)
  assert people.tolist() == [0, 0, 0, 1, 2]
  columns['track'][:] = 1  # of two videos
  people = cluster.group(columns, embeddings, 0.9, by_track=True)
  assert people.tolist() == [0, 0, 0, 0, 1]
  columns['path'][:] = 'v'
  for tracks in (
    [7, 7, -1, -1, -1],
    ['7', '7', '', '', ''],
    ['7', ' 7.0', '-1.0', 'nan', ''],
  ):
    columns['track'] = np.array(tracks)
    people = cluster.group(columns, embeddings, 0.9, by_track=True)
    assert people[0] == people[1] and len({*people}) == 4
  del columns['track']
  with pytest.raises(UserError, match='needs a column track'):
    cluster.group(columns, embeddings, 0.9, by_track=True)


def test_a_column_of_identities_that_is_named_must_be_there(tmp_path, capsys):
  file, output = write(tmp_path / 'a.npz', person=np.array(SHOWN)), 'x.csv'
  call = [file, f'--output={tmp_path / output}']
  with in_this_process(cluster.command) as run:
    assert run(*call) == 0  # pid, which is not named
    assert run(*call, '--identities=person') == 0
    assert 'purity 100.0%' in capsys.readouterr().out
    assert run(*call, '--identities=perosn') == 2
  message = '--identities=perosn: the files have no such column, only path, per'
  assert message in capsys.readouterr().err
