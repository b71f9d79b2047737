"""Tests of Table I: the paper's figures, and counts of prepared sets."""

import json
import pathlib
import shutil

import pytest

from configs import common
from data import datasets, prepare, table1

DATA = pathlib.Path(__file__).parents[2] / 'data'


def test_the_published_counts_are_those_of_the_paper():
  """Except for two figures, which the notes explain."""
  different = {}
  for row in table1.ROWS:
    counted = table1.figures(row.layout.published, row.with_queries)
    for name, here, paper in zip(table1.COLUMNS, counted, row.figures):
      if here != paper:
        different[row.layout.name, name] = (here, paper)
        assert str(here) in row.note.replace(',', '') or 'two views' in row.note
  assert different == {
    ('msmt17/trainval', 'train IDs'): (1_041, 4_101),
    ('cuhk03_np/detected', 'cameras'): (2, 6),
  }


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  root = tmp_path_factory.mktemp('prepared')
  for name, folder in (('msmt17', 'msmt17'), ('duke', 'dukemtmc_reid')):
    config = common.get_config().data
    config.update(
      name=name,
      dir=str(DATA / folder / 'dummy_data'),
      prepared_dir=str(root),
      allow_other_counts=True,
    )
    prepare.prepare(config)
  return root


def run(monkeypatch, *arguments):
  monkeypatch.setattr('sys.argv', ['table1', *map(str, arguments)])
  return table1.main()


def test_counts_what_is_prepared(prepared, monkeypatch, capsys, tmp_path):
  file = tmp_path / 'table1.json'
  run(monkeypatch, f'--prepared_dir={prepared}', f'--json={file}')
  lines = capsys.readouterr().out.splitlines()
  here = [line.split() for line in lines if line.split()[0] == 'here']
  assert [line[1:] for line in here if 'not' in line] == [
    ['not', 'prepared']
  ] * 3
  (duke, msmt17) = (line for line in here if 'not' not in line)
  assert duke[1:6] == ['2*', '6*', '2*', '10*', '6*']
  assert msmt17[1:6] == ['2*', '6*', '2*', '10*', '7*']
  assert 'other images' in ' '.join(duke)
  found = json.loads(file.read_text())
  assert [one['name'] for one in found] == ['dukemtmc_reid', 'msmt17/trainval']
  assert found[0]['figures'] == [2, 6, 2, 10, 6]
  assert found[1]['counts']['gallery']['images'] == 8


def test_published_images_are_marked_as_such(prepared, monkeypatch, capsys):
  (duke,) = (r for r in table1.ROWS if r.layout.name == 'dukemtmc_reid')
  ((_, counts),) = table1.prepared_counts(duke.layout, prepared)
  monkeypatch.setitem(vars(duke.layout), 'published', counts)
  run(monkeypatch, f'--prepared_dir={prepared}')
  lines = capsys.readouterr().out.splitlines()
  other = [line.split() for line in lines if 'other images' in line]
  assert [line[5] for line in other] == ['7*']  # MSMT17's alone


@pytest.mark.parametrize('damage', ['metadata', 'split', 'records'])
def test_a_damaged_set_is_named_and_the_others_are_counted(
  prepared, monkeypatch, capsys, tmp_path, damage
):
  root = tmp_path / 'copy'
  shutil.copytree(prepared, root)
  assert run(monkeypatch, f'--prepared_dir={root}') == 0
  (info,) = root.glob('reid-*/dukemtmc_reid/*/dataset_info.json')
  if damage == 'metadata':
    info.write_text('{')
  elif damage == 'split':
    found = json.loads(info.read_text())
    found['splits'] = [s for s in found['splits'] if s['name'] != 'query']
    info.write_text(json.dumps(found))
  else:
    (file,) = info.parent.glob('*query*record*')
    file.write_bytes(b'x' * file.stat().st_size)
  capsys.readouterr()
  file = tmp_path / 'table1.json'
  arguments = (f'--prepared_dir={root}', f'--json={file}')
  assert run(monkeypatch, *arguments) == 2
  printed = capsys.readouterr()
  assert printed.err.count('error: the prepared data set ') == 1
  assert 'dukemtmc_reid' in printed.err and 'Delete this folder' in printed.err
  (one,) = json.loads(file.read_text())
  assert one['name'] == 'msmt17/trainval'


def test_prepares_what_it_is_given(monkeypatch, tmp_path, capsys):
  source = DATA / 'market1501' / 'dummy_data'
  with pytest.raises(ValueError, match='is not Market-1501 as published'):
    run(monkeypatch, f'--prepared_dir={tmp_path}', f'market={source}')
  with pytest.raises(ValueError, match="'market' is not NAME=DIR"):
    run(monkeypatch, 'market')
  published = datasets.find('market').read(source).counts()
  monkeypatch.setitem(vars(datasets.find('market')), 'published', published)
  run(monkeypatch, f'--prepared_dir={tmp_path}', f'market={source}')
  lines = capsys.readouterr().out.splitlines()
  assert any(line.split()[:3] == ['here', '2*', '6*'] for line in lines)
