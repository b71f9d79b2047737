"""Tables of results: what may stand together, and how sure differences are."""

import json
import pathlib
import re

import pytest

from apnet_jax.errors import UserError
from apnet_jax.paper.tables import TABLES, Row, Table
from benchmarks import ablation_groups, ablation_runs, report
from tests.benchmarks.ablation_lines import make_line

ROOT = pathlib.Path(__file__).parents[2]
TABLE = Table('Table', (Row('apnet_c0'), Row('apnet_c2', 'apnet_c0')))


def only(lines):
  (found,) = ablation_groups.group(lines)
  return found


def tables_of(name, lines, *chosen):
  table = TABLES[name]
  groups = ablation_groups.select(table, lines, *chosen)
  return report.make_tables(table, ablation_groups.pair_up(groups))


def cells(text, title):
  (row,) = [line for line in text.splitlines() if line.startswith(f'| {title}')]
  return [cell.strip() for cell in row.split('|')[1:-1]]


def test_the_interval_is_that_of_the_mean_over_seeds():
  """A bootstrap of two queries draws one of them twice in half of all draws."""
  results = only([
    make_line('apnet_c0', 0, (0.2, 0.2)), make_line('apnet_c2', 0, (0.3, 0.5)),
    make_line('apnet_c0', 1, (0.4, 0.4)), make_line('apnet_c2', 1, (0.3, 0.5)),
  ])  # fmt: skip
  found = ablation_groups.difference(results, TABLE.rows[1])
  assert found.seeds == pytest.approx({0: 20, 1: 0})
  assert found.mean == pytest.approx(10)
  assert found.interval == pytest.approx((0, 20), abs=1e-9)


def test_seeds_of_one_network_alone_do_not_count():
  results = only([
    make_line('apnet_c0', 0, (0.2, 0.2)), make_line('apnet_c2', 0, (0.3, 0.3)),
    make_line('apnet_c2', 1, (0.9, 0.9)),
  ])  # fmt: skip
  assert ablation_groups.difference(results, TABLE.rows[1]).seeds.keys() == {0}
  assert ablation_groups.difference(results, TABLE.rows[0]) is None
  assert (
    ablation_groups.difference(only([make_line('apnet_c2')]), TABLE.rows[1])
    is None
  )


@pytest.mark.parametrize(
  ('theirs', 'clear'),
  [
    ([0.2, 0.3], True),
    ([0.2], False),  # one seed
    ([0.2, 0.61], False),  # the interval has no zero, but the seeds disagree
    ([0.8, 0.9], True),
    ([0.6, 0.6], False),
  ],
)
def test_a_star_needs_queries_and_seeds(theirs, clear):
  lines = [
    make_line(name, seed, (ap, ap))
    for seed, other in enumerate(theirs)
    for name, ap in (('apnet_c0', other), ('apnet_c2', 0.6))
  ]
  assert (
    ablation_groups.difference(only(lines), TABLE.rows[1]).is_clear == clear
  )


def test_a_table():
  text = tables_of(
    'table2',
    [
      make_line('apnet_c0', 0, (0.2, 0.2)),
      make_line('apnet_c0', 1, (0.4, 0.4)),
      make_line('apnet_c2', 0, (0.5, 0.5)),
      make_line('apnet_c2', 1, (0.5, 0.5)),
    ],
  )
  assert text.startswith('**Table II, photos** (market1501, not the published')
  assert cells(text, 'APNet-C_0')[1:4] == ['30.0 ± 14.1', '30.0 ± 14.1', '2']
  assert cells(text, 'APNet-C_2')[3:] == [
    '2', '+20.0 *', '+20.0 to +20.0', '+30.0, +10.0',
  ]  # fmt: skip
  assert cells(text, 'APNet-C_3')[1] == report.NOT_RUN
  assert 'paper' not in text


def test_recipes_stand_beside_their_network_in_a_table_of_their_own():
  lines = [
    make_line('apnet_c2', 0, (0.2, 0.2)),
    make_line('circle_instead', 0, (0.5, 0.5)),
  ]
  text = tables_of('recipes', lines)
  row = '+ `train.circle_weight=0.1`, `train.triplet_weight=0.0`'
  assert cells(text, row)[1:5] == ['50.0', '50.0', '1', '+30.0']
  assert cells(text, 'APNet-C_2')[1:5] == ['20.0', '20.0', '1', '']
  assert cells(text, '+ `train.schedule=cosine` |')[1] == report.NOT_RUN
  text = tables_of('table2', lines)
  assert cells(text, 'APNet-C_2')[1] == '20.0' and 'circle' not in text


@pytest.mark.parametrize(
  'changes',
  [
    {'recipe': 's'},
    {'card_fingerprint': 'other'},
    {'card_dataset': 'msmt17'},
    {'card_protocol': {'ap': 'trapezoid'}},
    {'card_gallery': {'distractors': 5}},
    {'card_queries': make_line(ap=(0.5, 0.7, 0.1))['card']['queries']},
    {
      'card_checkpoint': {
        'step': 9,
        'which': 'last',
        'trained_on': {'dataset': 'duke', 'fingerprint': 'x'},
      }
    },
  ],
)
def test_two_protocols_never_stand_in_one_table(changes):
  lines = [make_line('apnet_c0'), make_line('apnet_c2', **changes)]
  assert len(ablation_groups.group(lines)) == 2
  text = tables_of('table2', lines)
  assert text.count('**Table II') == 2


def test_results_of_other_tables_and_targets_are_left_out():
  lines = [
    make_line('apnet_c2'),
    make_line('apnet_c2', target='duke', card_dataset='dukemtmc_reid'),
    make_line('resnet101'),
    make_line('apnet_c1', images='others', card_fingerprint='other'),
  ]
  for table, arguments, shown in (
    ('table2', (), ['photos', 'others']),
    ('table2', ('others',), ['others']),
    ('table2', ('photos', 'duke'), ['duke']),
    ('table7', (), ['duke']),
    ('table5', (), ['photos']),
    ('figure5', (), ['photos']),
  ):
    text = tables_of(table, lines, *arguments)
    titles = [line for line in text.splitlines() if line.startswith('**')]
    found = [line.split(', ')[1].split('**')[0] for line in titles]
    assert sorted(found) == sorted(shown), table


def test_the_papers_figures_stand_beside_the_published_images_only():
  for published in (True, False):
    lines = [make_line('apnet_c2', card_as_published=published)]
    text = tables_of('table2', lines)
    assert ('paper: mAP' in text) == published
    assert ('90.5' in text) == published
    groups = ablation_groups.group(lines)
    text = '\n'.join(report.published_table(TABLES['table2'], groups))
    here = cells(text, 'APNet-C_2')[2]
    assert here == ('60.0, 50.0, 100.0' if published else report.NOT_RUN)
    assert cells(text, 'APNet-C_2')[4] == report.NOT_RUN  # DukeMTMC-reID


def test_two_recipes_have_columns_of_their_own():
  lines = [
    make_line('apnet_c2', card_as_published=True, recipe=recipe, ap=(ap, ap))
    for recipe, ap in (('r', 0.5), ('s', 0.6))
  ]
  groups = ablation_groups.group(lines)
  head, _, *rows = report.published_table(TABLES['table2'], groups)
  assert 'here (1) | here (2) | dukemtmc_reid' in head
  row = cells('\n'.join(rows), 'APNet-C_2')
  assert row[2:4] == ['50.0, 50.0, 100.0', '60.0, 60.0, 100.0']


def test_columns_say_what_they_are():
  lines = [
    make_line(card_as_published=True, card_fingerprint=version)
    for version in ('v1', 'v2')
  ]
  lines[1]['card']['protocol'] = {'ap': 'step', 'distractors': 'dropped'}
  groups = ablation_groups.group(lines)
  text = report.published_table(TABLES['table2'], groups)
  assert 'here (1) | here (2) | dukemtmc_reid' in text[0]
  first, second = (line for line in text if line.startswith('here ('))
  assert first.startswith('here (1): **Table II, photos**')
  assert first.endswith('resnet14, 64x32 pixels, 9 steps; recipe r)')
  assert second.endswith('9 steps; distractors: dropped; recipe r)')
  rule = {'query': 'averages'}
  assert report.other_rules({'ap': 'step'} | rule) == ['query: averages']


@pytest.mark.parametrize('published', [True, False])
def test_results_on_targets_are_published_if_the_training_was(published):
  """Other training images give other figures on the published target."""
  lines = [
    make_line(card_as_published=published),
    make_line(
      target='duke', card_dataset='dukemtmc_reid', card_fingerprint='duke',
      card_as_published=True,
    ),
  ]  # fmt: skip
  (found,) = ablation_groups.select(TABLES['table7'], lines)
  key = 'market1501 > dukemtmc_reid'
  assert found.published_key == (key if published else '')
  text = tables_of('table7', lines)
  assert ('paper: mAP' in text) == published


def test_two_networks_cannot_share_a_cell():
  lines = [make_line(), make_line(configuration='other')]
  with pytest.raises(UserError, match='two configurations'):
    ablation_groups.group(lines)
  assert len(only([make_line(), make_line()]).all) == 1  # the last one counts


def test_queries_of_one_person_count_together():
  aps = (0.2,) * 4 + (0.5,) * 4
  lines = [make_line('apnet_c0', ap=(0.2,) * 8), make_line('apnet_c2', ap=aps)]
  single = ablation_groups.difference(only(lines), TABLE.rows[1]).interval
  for line in lines:
    line['card']['queries']['people'] = [0] * 4 + [1] * 4
  pairs = ablation_groups.difference(only(lines), TABLE.rows[1]).interval
  assert pairs == pytest.approx((0, 30), abs=1e-9)
  assert pairs[1] - pairs[0] > single[1] - single[0]


def test_a_page(tmp_path):
  (tmp_path / 'results.jsonl').write_text(json.dumps(make_line()) + '\n')
  page = (
    'Above.\n\n<!-- report: table2 photos -->\nold\n\nlines\n'
    '<!-- end of report -->\nBetween.\n<!-- report: table4 -->\n'
    '<!-- end of report -->\nBelow.\n'
  )
  once = report.update(page, tmp_path)
  assert 'old' not in once
  assert once.startswith('Above.\n\n<!-- report: table2 photos -->\n**Table II')
  assert '<!-- end of report -->\nBetween.\n<!-- report: table4 -->\n|' in once
  assert once.endswith('<!-- end of report -->\nBelow.\n')
  assert report.update(once, tmp_path) == once
  for wrong in ('table9', 'table2 elsewhere', 'table2 a b c'):
    with pytest.raises(UserError, match=wrong):
      report.update(page.replace('table2 photos', wrong), tmp_path)


def test_the_pages_tables_are_those_of_the_records():
  page = (ROOT / 'docs/reproducing.md').read_text()
  assert page.count('<!-- report: ') == page.count(report.MARK_OF_END) > 5
  assert report.update(page) == page


def strings(value):
  if isinstance(value, dict):
    return [text for one in value.values() for text in strings(one)]
  if isinstance(value, list):
    return [text for one in value for text in strings(one)]
  return [value] if isinstance(value, str) else []


def test_records_say_how_they_were_made_and_not_where():
  lines = ablation_runs.read_lines(report.RECORDS / 'results.jsonl')
  assert lines
  for line in lines:
    fields = ('command', 'commit', 'hardware', 'date', 'configuration')
    assert all(line[name] for name in fields), line['configuration']
    assert line['seconds'] > 0
    assert re.fullmatch('[0-9a-f]{12}', line['commit'])  # without changes
    assert line['card']['queries']['figures']['mAP']
    assert not [text for text in strings(line) if re.search(r'(^|[ =])/', text)]
  assert len({(x['configuration'], x['target']) for x in lines}) == len(lines)


def test_command_line(tmp_path, capsys):
  file = tmp_path / 'results.jsonl'
  file.write_text(json.dumps(make_line()) + '\n')
  assert report.main(['table2', f'--results={file}']) == 0
  assert '| APNet-C_2 | 60.0 | 50.0 | 1 |' in capsys.readouterr().out
  assert report.main(['table5', f'--results={file}']) == 0
  assert capsys.readouterr().out == 'table5: not run\n'
  assert report.main(['table2', f'--results={tmp_path}/none.jsonl']) == 2
  assert f'--results={tmp_path}/none.jsonl is not' in capsys.readouterr().err
  file.write_text('{\n')
  assert report.main(['table2', f'--results={file}']) == 2
  assert 'results.jsonl is damaged' in capsys.readouterr().err
  with pytest.raises(SystemExit):
    report.main([])


def test_table_3_is_that_of_operations(tmp_path, capsys):
  assert report.main(['table3']) == 0
  page = (ROOT / 'docs/reproducing.md').read_text()
  assert f'\n{capsys.readouterr().out}<!-- end of report -->' in page
  file = tmp_path / 'results.jsonl'
  assert report.main(['table3', f'--results={file}']) == 2
  assert f'{tmp_path}/complexity.json cannot be read' in capsys.readouterr().err
  counts = json.loads((report.RECORDS / 'complexity.json').read_text())
  del counts['networks'][1:]  # as --rows=apnet_c0 writes it
  (tmp_path / 'complexity.json').write_text(json.dumps(counts))
  assert report.main(['table3', f'--results={file}']) == 0
  printed = capsys.readouterr().out
  assert cells(printed, 'APNet-C_0')[1] == '6.23'
  assert cells(printed, 'APNet-C_1')[1:] == [report.NOT_RUN] * 3


def test_a_page_is_made_of_the_committed_results_alone(tmp_path, capsys):
  page = tmp_path / 'page.md'
  page.write_text('')
  for flag in ('results', 'images', 'target', 'against', 'against_recipe'):
    with pytest.raises(SystemExit):
      report.main([f'--update={page}', f'--{flag}=x'])
    message = f'--update and --{flag} exclude each other.'
    assert message in capsys.readouterr().err
  assert report.main([f'--update={page}']) == 0


def started_from(source):
  checkpoint = make_line()['card']['checkpoint'] | {'started_from': source}
  return {'card_checkpoint': checkpoint}


def test_another_recipe_to_compare_with(tmp_path, capsys):
  """Each row with itself; what has nothing to compare with is not shown."""
  file = tmp_path / 'results.jsonl'
  run = {'workdir': 'WORKDIR', 'step': 9, 'trained_on': {'dataset': 'duke'}}
  changed = {'recipe': 's', 'configuration': 'other'} | started_from(run)
  for line in (
    make_line('apnet_c2', 0, (0.2, 0.2)),
    make_line('apnet_c2', 1, (0.4, 0.4)),
    make_line('apnet_c2', 0, (0.5, 0.5), **changed),
    make_line('apnet_c1', 0, (0.5, 0.5), **changed),
    make_line('apnet_c1', 0, (0.5, 0.5), card_dataset='msmt17'),
  ):
    ablation_runs.append_line(file, line)
  words = ['table2', f'--results={file}']
  recipe = make_line()['recipe']
  assert report.main([*words, f'--against_recipe={recipe}']) == 0
  text = capsys.readouterr().out
  (title,) = [line for line in text.splitlines() if line.startswith('**')]
  assert title.endswith(', started from a network trained on duke; recipe s)')
  assert f'mAP minus recipe {recipe}' in text
  assert cells(text, 'APNet-C_2')[3:] == [
    '1',
    '+30.0',
    '+30.0 to +30.0',
    '+30.0',
  ]
  assert cells(text, 'APNet-C_1')[3:] == ['1', '', '', '']
  assert (
    'APNet-C_2 is compared in seed 0 alone, in which it has, by recipe'
    f' {recipe}, mAP 20.0.'
  ) in text
  plot = tmp_path / 'plot.svg'
  against = f'--against_recipe={recipe}'
  assert report.main([*words, against, f'--plot={plot}']) == 0
  assert plot.read_text().startswith('<?xml')
  capsys.readouterr()
  assert report.main([*words, against, f'--plot={plot}.x']) == 2
  assert f'--plot={plot}.x: Format' in capsys.readouterr().err
  recipes = ['recipes', '--images=drawn', f'--plot={plot}']
  assert report.main(recipes) == 0  # of the records: many, with long titles
  assert 'circle_instead' in plot.read_text()
  with pytest.raises(SystemExit):
    report.main(['table3', f'--plot={plot}'])
  assert report.main([*words, '--target=no', f'--plot={plot}']) == 2
  assert 'there is no difference to draw' in capsys.readouterr().err
  assert report.main([*words, f'--recipe={recipe}']) == 0
  assert '; recipe s)' not in capsys.readouterr().out
  assert report.main([*words, '--against_recipe=t']) == 2
  message = capsys.readouterr().err
  assert (
    'error: --against_recipe=t: there is nothing to compare. The recipes are'
    f' {recipe}, s;' in message
  )
  with pytest.raises(SystemExit):
    report.main([*words, '--against_recipe=s', '--against=apnet_c1'])


def test_another_row_to_compare_with(tmp_path, capsys):
  file = tmp_path / 'results.jsonl'
  for name, ap in (('apnet_c0', 0.2), ('apnet_c1', 0.3), ('apnet_c2', 0.5)):
    ablation_runs.append_line(file, make_line(name, ap=(ap, ap)))
  words = ['table2', f'--results={file}']
  assert report.main([*words, '--against=apnet_c1']) == 0
  text = capsys.readouterr().out
  assert 'mAP minus APNet-C_1' in text
  assert cells(text, 'APNet-C_0')[4] == '-10.0'
  assert cells(text, 'APNet-C_1')[4] == ''
  assert cells(text, 'APNet-C_2')[4] == '+20.0'
  lines = [('apnet_c2', 0, (0.2, 0.4)), ('ema', 0, (0.5, 0.5))]
  lines += [('ema', 1, (0.5, 0.5)), ('apnet_c2', 1, (0.4, 0.4))]
  file.write_text('')
  for line in (*lines, ('jitter', 0, (0.3, 0.3))):
    ablation_runs.append_line(file, make_line(*line))
  of_recipes = ['recipes', f'--results={file}', '--against=ema']
  assert report.main(of_recipes) == 0
  text = capsys.readouterr().out
  assert 'mAP minus ema' in text
  assert cells(text, 'APNet-C_2')[4] == '-15.0 *'
  assert 'compared with seed 0 of ema, mAP 50.0.' in text
  assert report.main([*words, '--against=radix1']) == 2
  assert '--against=radix1 is not one of apnet_c0' in capsys.readouterr().err
