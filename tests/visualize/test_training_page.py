import json
import re
import types

import pytest

from apnet_jax.commands import curves
from apnet_jax.errors import UserError
from apnet_jax.visualize import page, training_page
from apnet_jax.workdir import json_files, metric_reader
from configs import common
from tests.visualize import browser, node

RECORDS = (
  {'step': 10, 'train/epoch': 0.5, 'train/loss': 7.0, 'train/seconds_step': 2,
   'train/seconds_data': 0.5, 'train/learning_rate': 0.0},
  {'step': 30, 'train/epoch': 1.5, 'train/loss': 4.0, 'train/seconds_step': 1},
  {'step': 40, 'eval/mAP': 0.25, 'eval/Rank-1': 0.5},
)  # fmt: skip
EQUAL = [
  {'step': step, 'train/epoch': step / 10, 'train/learning_rate': 3e-4,
   'train/gradient_norm': 5.0}
  for step in (10, 20)
]  # fmt: skip


def make_run(folder, records=RECORDS, end='', **train):
  config = common.get_config()
  config.train.update(train)
  json_files.write_json(folder / 'config.json', config.to_dict())
  lines = [json.dumps(record) + '\n' for record in records]
  (folder / 'metrics.jsonl').write_text(''.join(lines) + end)
  return folder


def test_curves_are_those_of_the_records(tmp_path):
  run = make_run(tmp_path / '<b>', end='{"step": 50, "tra')
  data = training_page.page_data({'a': metric_reader.read_metrics(run)})
  lines = {
    (chart['title'], line['name']): line['points']
    for chart in data['charts']
    for line in chart['lines']
  }
  assert lines == {
    ('Loss', 'loss'): [(0.5, 7.0), (1.5, 4.0)],
    ('mAP and Rank-1', 'mAP'): [(2.0, 0.25)],
    ('mAP and Rank-1', 'Rank-1'): [(2.0, 0.5)],
  }
  (times,) = data['times']
  assert times == {'step': 40, 'data': 5, 'save': 0, 'evaluation': 0}
  training_page.renew(run)
  text = (run / 'report.html').read_text()
  assert 'Training of &lt;b&gt;' in text and '<b>' not in text


def test_the_page_of_a_long_run_is_small_and_has_all_evaluations():
  records = [
    {'step': step, 'train/epoch': step, 'train/loss': step, 'eval/mAP': step}
    for step in range(1, 5001)
  ]
  charts = training_page.page_data({'a': records})['charts']
  loss, mAP = (
    chart['lines'][0]['points']
    for chart in charts
    if chart['title'] in ('Loss', 'mAP and Rank-1')
  )
  assert len(loss) == training_page.MAX_POINTS and len(mAP) == 5000
  assert loss[0] == (1, 1) and loss[-1] == (5000, 5000)
  gaps = {b - a for (a, _), (b, _) in zip(loss, loss[1:])}
  assert gaps <= {5, 6}


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('{\n', 'line 4 is damaged'),
    ('{"step": "x"}\n', 'not a record of numbers'),
    ('{"train/loss": 1}\n', 'has no step'),
  ],
)
def test_damaged_metrics_are_an_error(tmp_path, line, message):
  run = make_run(tmp_path, end=line)
  with pytest.raises(UserError, match=message):
    training_page.make_page([run])
  with pytest.raises(UserError, match='cannot be read'):
    training_page.make_page([tmp_path / 'nowhere'])
  assert not (run / 'report.html').exists()


def test_the_command_compares_runs_in_a_browser(tmp_path, monkeypatch, capsys):
  runs = [
    make_run(tmp_path / 'a'), make_run(tmp_path / 'b', learning_rate=0.5),
  ]  # fmt: skip
  names = ('output', 'record', 'expected')
  values = {name: types.SimpleNamespace(value='') for name in names}
  monkeypatch.setattr(
    curves.flags, 'DEFINE_string', lambda name, *_: values[name]
  )
  output = values['output']
  main = curves.command()
  with pytest.raises(UserError, match='give --output'):
    main(['curves', *runs])
  output.value = tmp_path / 'both.html'
  main(['curves', *map(str, runs)])
  assert output.value.as_uri() in capsys.readouterr().out
  data = page.read_data(output.value)
  loss = next(c for c in data['charts'] if c['title'] == 'Loss')
  assert [line['run'] for line in loss['lines']] == [0, 1]
  with browser.start() as chromium:
    opened = chromium.open(output.value, 390)
    assert opened.locator('svg path').count() == 2 + 4
    lists = opened.locator('details ul').all()
    first, second = (set(x.locator('li').all_text_contents()) for x in lists)
    (extra,) = second - first
    assert 'learning_rate' in extra and '0.5' in extra
    wide = opened.evaluate('document.documentElement.scrollWidth')
    assert wide <= 390 and chromium.messages == []


@pytest.mark.parametrize('records', [EQUAL, EQUAL[:1]])
def test_equal_values_are_drawn_on_a_logarithmic_axis(tmp_path, records):
  run = make_run(tmp_path, records)
  training_page.renew(run)
  with browser.start() as chromium:
    opened = chromium.open(run / 'report.html')
    check_equal_lines(opened.locator('#chart-panels').inner_html())
    assert chromium.messages == []


@node.needed
@pytest.mark.parametrize('records', [EQUAL, EQUAL[:1]])
def test_equal_values_are_drawn_without_a_browser(tmp_path, records):
  text = training_page.make_page([make_run(tmp_path, records)])
  (drawn,) = node.run(text, "element('chart-panels')")
  check_equal_lines(drawn)


@node.needed
@pytest.mark.parametrize('number', [1, 2, 9, 20])
def test_all_lines_of_a_chart_look_different(tmp_path, number):
  """Those of the chart with the most metrics, and their keys."""
  metrics, _ = max(training_page.CHARTS.values(), key=lambda c: len(c[0]))
  records = [
    {'step': step, 'train/epoch': step, **dict.fromkeys(metrics, 0.5)}
    for step in (1, 2)
  ]
  runs = [make_run(tmp_path / str(i), records) for i in range(number)]
  (drawn,) = node.run(training_page.make_page(runs), "element('chart-panels')")
  _, chart = drawn.split('<h3>mAP and Rank-1')
  found = []
  for tag in ('path', 'line x1="0"'):
    lines = re.findall(f'<{tag} [^>]*>', chart)
    attributes = [dict(re.findall(r'([\w-]+)="(.*?)"', x)) for x in lines]
    looks = [(x['stroke'], x.get('stroke-dasharray')) for x in attributes]
    assert len(set(looks)) == len(lines) == number * len(metrics)
    # Within a run, they differ for those who see no colours, too.
    assert len({dash for _, dash in looks}) == len(metrics)
    found.append(looks)
  assert found[0] == found[1]


@node.needed
def test_the_table_of_times_names_the_runs(tmp_path):
  runs = [make_run(tmp_path / name) for name in ('first', 'second')]
  (table,) = node.run(training_page.make_page(runs), "element('times')")
  for run in runs:
    assert f'<th scope="row">{run}<td>40.0 s (89%)' in table


def check_equal_lines(drawn):
  """Checks that both charts have a line in the middle, and numbers beside."""
  assert 'NaN' not in drawn and 'Infinity' not in drawn
  heights = re.findall(r' d="M[\d.]+ ([\d.]+)', drawn)
  assert [float(y) for y in heights] == [128, 128]
  assert '>3.0e-4<' in drawn and '>6<' in drawn
