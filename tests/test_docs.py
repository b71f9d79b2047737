"""Documents link to files that exist, and their tables equal the records."""

import importlib.util
import json
import pathlib
import re

from flax.traverse_util import flatten_dict
import pytest

from apnet_jax.config import get_config
from apnet_jax.training import expected_curve
from configs import synthetic

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [
  ROOT / 'README.md',
  ROOT / 'CHANGELOG.md',
  ROOT / 'CONTRIBUTING.md',
  ROOT / 'data' / 'README.md',
  *(ROOT / 'docs').glob('*.md'),
  *(ROOT / 'data').glob('*/README.md'),
]


def headings(path):
  """The anchors of a document's headings, as GitHub and Sphinx name them."""
  text = re.sub(r'^```.*?^```', '', path.read_text(), flags=re.M | re.S)
  lines = re.findall(r'^#+ (.*)$', text, flags=re.M)
  return {re.sub(r'[^\w\- ]', '', x).lower().replace(' ', '-') for x in lines}


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
  links = re.findall(r'\]\(([^)]+)\)', path.read_text())
  for link in (x for x in links if '://' not in x):
    file, _, anchor = link.partition('#')
    target = path.parent / file if file else path
    assert target.exists(), link
    assert not anchor or anchor in headings(target), link


def test_the_tracker_of_the_page_takes_the_file_made_for_it():
  text = (ROOT / 'docs/export.md').read_text().replace('\\\n', ' ')
  made = re.findall(r'--for=ultralytics +--output=(\S+)', text)
  assert re.findall(r'^model: (\S+)$', text, flags=re.M) == made != []


def tables_with_records():
  for path in DOCUMENTS:
    parts = re.split(r'<!-- record: (\w+) -->', path.read_text())
    for name, text in zip(parts[1::2], parts[2::2]):
      yield path, name, text


RECORDS = sorted((ROOT / 'docs/records').glob('*.json'))


def test_tables_say_what_their_records_say():
  """The first table after a mark holds the figures of the record it names."""
  checked = set()
  for path, name, text in tables_with_records():
    record = json.loads((ROOT / f'docs/records/{name}.json').read_text())
    head, _, *body = re.search(r'(\|.*\n)+', text)[0].strip().splitlines()
    columns = [cell.strip() for cell in head.split('|')[2:-1]]
    shown = {}
    for line in body:
      row, *values = (cell.strip() for cell in line.split('|')[1:-1])
      shown[row] = dict(zip(columns, map(float, values)))
    assert shown == record['figures'], (path, name)
    checked.add(name)
  assert checked == {path.stem for path in RECORDS}


@pytest.mark.parametrize('path', RECORDS, ids=lambda path: path.stem)
def test_records_say_how_they_were_made(path):
  record = json.loads(path.read_text())
  for field in ('command', 'hardware', 'seed', 'seconds', 'figures', 'card'):
    assert record[field] not in (None, ''), field
  trained = record['figures']['trained network']
  assert 'mAP' in trained
  for name, value in trained.items():
    assert value == round(100 * record['card']['figures'][name], 1)


def test_the_table_of_attention_is_that_of_its_record():
  text = (ROOT / 'docs/attention.md').read_text()
  record = json.loads((ROOT / 'docs/records/attention/demo.json').read_text())
  table = text.split('<!-- attention record: demo -->')[1]
  _, _, *body = re.search(r'(\|.*\n)+', table)[0].strip().splitlines()
  shown = [line.strip('| ').split(' | ') for line in body]
  expected = [
    [
      name,
      f'{row["entropy"]:.3f}',
      f'{100 * row["area"]:.1f}',
      f'{row["attended_fall"]:.2f}',
      f'{row["random_fall"]:.2f}',
      f'{100 * row["faithful"]:.1f}',
      str(row['defined']),
    ]
    for name, row in record['maps'].items()
  ]
  assert shown == expected


def test_the_demo_is_compared_with_runs_of_its_recipe(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  expected, note = expected_curve.of_run(synthetic.get_config(), 300)
  assert expected is not None, note
  assert expected.epochs.tolist() == [1, 2, 3, 4]


def load_configuration_page():
  path = ROOT / 'docs' / 'configuration_page.py'
  spec = importlib.util.spec_from_file_location('configuration_page', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_page_of_fields_explains_each_field():
  page = load_configuration_page().make_page()
  rows = re.findall(r'^\| `(.+?)` \| `(.+?)` \| (.*) \| .* \|$', page, re.M)
  shown = {field: default for field, default, _ in rows}
  config = get_config().to_dict()
  flat = flatten_dict(config, sep='.')
  assert shown == {field: repr(value) for field, value in flat.items()}
  assert [field for field, _, meaning in rows if len(meaning) < 15] == []


def test_comments_above_and_behind_a_field_belong_to_it():
  source = (
    'def f():\n'
    '  # Above,\n'
    '  # in two lines.\n'
    '  model.a = 1  # and behind\n'
    '  model.b = (  # first\n'
    '    2)\n'
    '  # not of c\n'
    '\n'
    '  rules.c = 3\n'
  )
  assert dict(load_configuration_page().read_comments(source)) == {
    'model.a': 'Above, in two lines. and behind',
    'model.b': 'first',
    'eval.c': '',
  }


def test_the_table_of_groups_is_that_of_its_record():
  text = (ROOT / 'docs/embed_and_search.md').read_text()
  record = json.loads(
    (ROOT / 'docs/records/benchmarks/cluster.json').read_text()
  )
  figures = record['figures']
  shares = [
    figures[n] for n in ('purity', 'completeness', 'precision', 'recall')
  ]
  row = [str(figures['people']), *(f'{100 * share:.1f}%' for share in shares)]
  assert f'| {" | ".join(row)} |' in text
  assert f'{figures["images"]:,} images' in text


def rows_after(mark, page):
  """The cells of the first table after a mark, without its head."""
  table = (ROOT / page).read_text().split(mark)[1]
  _, _, *body = re.search(r'(\|.*\n)+', table)[0].strip().splitlines()
  return [line.strip('| ').split(' | ') for line in body]


def test_the_tables_of_exports_are_those_of_their_records():
  folder = ROOT / 'docs/records/export'
  parity = json.loads((folder / 'parity.json').read_text())['exports']
  assert rows_after('<!-- export record: parity -->', 'docs/export.md') == [
    [
      name,
      f'{row["largest difference"]:.1e}',
      f'{row["lowest cosine"]:.6f}',
      str(row['MB']),
    ]
    for name, row in parity.items()
  ]
  boxmot = json.loads((folder / 'boxmot.json').read_text())['versions']
  assert rows_after('<!-- export record: boxmot -->', 'docs/export.md') == [
    [
      version,
      row['packages']['onnxruntime'],
      *(
        'refused'
        if 'failure' in file
        else f'{file["same crops, lowest cosine"]:.4f}'
        for file in row['files'].values()
      ),
    ]
    for version, row in boxmot.items()
  ]


def test_the_table_of_embedding_is_that_of_its_records():
  rows = []
  for name in ('embed', 'embed_resnet14'):
    path = ROOT / f'docs/records/benchmarks/{name}.json'
    for figures in json.loads(path.read_text())['figures'].values():
      rows.append([f'{row["images/s"]:.1f}' for row in figures.values()])
  shown = rows_after('<!-- embed record -->', 'docs/embed_and_search.md')
  assert [row[2:] for row in shown] == rows


def test_the_table_of_shorter_embeddings_is_that_of_its_record():
  path = ROOT / 'docs/records/benchmarks/shorter.json'
  figures = json.loads(path.read_text())['figures']
  shown = rows_after('<!-- shorter record -->', 'docs/embed_and_search.md')
  assert [[row[0], row[1], row[3], row[4]] for row in shown] == [
    [way, f'{row["bytes"]:,}', str(row['mAP']), str(row['Rank-1'])]
    for way, row in figures.items()
  ]


def test_what_is_said_of_ultralytics_stands_in_the_record():
  path = ROOT / 'docs/records/export/ultralytics.json'
  ((version, found),) = json.loads(path.read_text())['versions'].items()
  ((_, row),) = found['files'].items()
  text = ' '.join((ROOT / 'docs/export.md').read_text().split())
  assert f'Ultralytics {version} loads' in text
  assert f'(lowest cosine {row["same tensors, lowest cosine"]:.4f})' in text
  assert (
    f'the mean is {row["same crops, mean cosine"]:.4f} and the lowest'
    f' {row["same crops, lowest cosine"]:.4f}'
  ) in text


def test_the_difference_between_both_forms_of_map_is_that_of_the_records():
  path = ROOT / 'docs/records/ablations/results.jsonl'
  cards = [json.loads(line)['card'] for line in path.read_text().splitlines()]
  cards += [json.loads(path.read_text())['card'] for path in RECORDS]
  figures = [card['figures'] for card in cards]
  lower = [
    100 * (f['mAP_step'] - f['mAP_trapezoid'])
    for f in figures
    if 'mAP_step' in f  # cards of earlier states may lack it
  ]
  text = (ROOT / 'docs/evaluation.md').read_text()
  assert (
    f'{min(lower):.1f} to {max(lower):.1f} mAP lower in the records' in text
  )
