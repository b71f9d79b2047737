import dataclasses
import json
import re

import numpy as np
import pytest

from apnet_jax.commands import compare
from apnet_jax.errors import UserError
from apnet_jax.retrieval import card as cards
from apnet_jax.retrieval import multi_query, verification
from apnet_jax.visualize import (
  comparison_page,
  map_page,
  page,
  report,
  report_page,
  thumbnails,
)
from apnet_jax.workdir import json_files
from tests.visualize import browser, node, worlds


@pytest.fixture(scope='module')
def reports(tmp_path_factory):
  """Folders of two reports, of a better and of a worse network."""
  root = tmp_path_factory.mktemp('reports')
  report.write_report(root / 'worse', *worlds.evaluate(1.4))
  card, *evaluated = worlds.evaluate(0.6)
  json_files.write_json(root / 'better' / 'result.json', card)
  shown = report_page.make_page(
    report_page.page_data(card, *evaluated), 'Better'
  )
  page.write_page(root / 'better' / 'index.html', shown)
  return root


@pytest.fixture(scope='module')
def chromium():
  with browser.start() as started:
    yield started


def test_the_page_has_each_image_once_and_the_figures_of_each_query(reports):
  data = comparison_page.read_report(reports / 'worse')
  card, evaluated, _ = worlds.evaluate(1.4)
  assert json.loads((reports / 'worse' / 'result.json').read_text()) == card
  images = data['images']
  assert len(set(zip(images['split'], images['name']))) == len(images['name'])
  precision = evaluated.query_figures['mAP']
  shown = [query['AP'][0] for query in data['queries']]
  np.testing.assert_allclose(shown, np.sort(precision), atol=1e-6)
  assert data['queries'][0]['first'][0] > 1
  for query in data['queries']:
    (found,) = query['lists']
    ranked = [k for k in found['kinds'] if k <= 1]
    first = query['first'][0]
    assert (ranked + [0]).index(0) + 1 == min(first, len(ranked) + 1)


@pytest.mark.parametrize('first', [0, 1])
def test_cameras_have_the_numbers_of_the_files(first):
  card, evaluated, benchmark = worlds.evaluate()
  benchmark = dataclasses.replace(benchmark, first_camera=first)
  images = report_page.page_data(card, evaluated, benchmark)['images']
  queries = images['split'].count('query')
  shown = dict(zip(images['name'][:queries], images['camera']))
  query = benchmark.query
  assert shown == dict(zip(query.paths, (query.camids + first).tolist()))
  gallery = benchmark.gallery.camids[evaluated.gallery_rows]
  on_map = map_page.page_data(evaluated, benchmark)['camera']
  assert on_map == (gallery + first).tolist()


def test_nothing_from_outside_is_parsed_as_html(reports):
  text = (reports / 'worse' / 'index.html').read_text()
  assert '<img src=x' not in text and text.count('</script>') == 2
  names = comparison_page.read_report(reports / 'worse')['images']['name']
  assert worlds.HOSTILE in names
  made = page.render(
    'page.html.j2', {'x': '</script><!--\u2028\udc80'}, title=worlds.HOSTILE
  )
  assert '<title>&lt;img src=x' in made and made.isascii()


def test_with_a_small_budget_the_page_says_that_queries_are_left_out():
  card, evaluated, benchmark = worlds.evaluate(1.4)
  everything = report_page.page_data(card, evaluated, benchmark)
  size = len(''.join(everything['images']['thumbnail']))
  data = report_page.page_data(card, evaluated, benchmark, round(0.75 * size))
  number = len(data['queries'])
  assert 1 < number < worlds.QUERIES
  assert len(''.join(data['images']['thumbnail'])) < 0.85 * size
  hardest = data['queries'][: (number + 1) // 2]
  expected = everything['queries'][: len(hardest)]
  assert [q['AP'] for q in hardest] == [q['AP'] for q in expected]
  assert data['queries'][-1]['AP'] == everything['queries'][-1]['AP']
  text = report_page.make_page(data, 'Title')
  assert f'Shown are {number} of {worlds.QUERIES} queries' in text


def test_copies_with_attention_are_within_the_budget():
  def attend(*pair):
    return [np.ones(images.shape[:3]) for images in pair]

  evaluated = worlds.evaluate(1.4)
  budget = len(
    ''.join(report_page.page_data(*evaluated)['images']['thumbnail'])
  )
  data = report_page.page_data(*evaluated, budget, attend, attended=3)
  maps = [text for pair in data['attention'].values() for text in pair]
  assert len(data['queries']) < worlds.QUERIES and len(maps) >= 6
  assert len(''.join(data['images']['thumbnail'] + maps)) < 1.1 * budget


def test_attention_is_shown_for_the_first_and_the_closest_true_image():
  def attend(a, b):
    assert a.shape == b.shape == (2, 32, 16, 3)
    return np.zeros(a.shape[:3]), np.ones(b.shape[:3])

  data = report_page.page_data(*worlds.evaluate(1.4), attend=attend, attended=2)
  expected = set()
  for i, query in enumerate(data['queries'][:2]):
    (found,) = query['lists']
    ranked = [x for x, k in zip(found['found'], found['kinds']) if k <= 1]
    expected |= {f'{i}-{ranked[0]}-0', f'{i}-{found["match"]}-0'}
  assert data['attention'].keys() == expected
  for cold, hot in data['attention'].values():
    assert cold != hot


@node.needed
def test_the_dialog_says_how_to_read_attention():
  def attend(*pair):
    return [np.ones(images.shape[:3]) for images in pair]

  averaged = {'query': multi_query.RULE}
  averages = 'averages of several images of a person'
  for rules, query, ranked in (
    ({}, {}, ''),
    ({}, averaged, averages),
    ({'distance': 'euclidean'}, {}, 'Euclidean distances'),
    ({'distance': 'euclidean'}, averaged, f'Euclidean distances of {averages}'),
  ):
    data = report_page.page_data(
      *worlds.evaluate(1.4, **rules), attend=attend, attended=1
    )
    data['runs'][0]['card']['protocol'] |= query
    first, last, legend = node.run(
      report_page.make_page(data, 'Title'),
      '(openPair(queries[0], 0, null), String(pair))',
      '(openPair(queries[11], 0, null), String(pair))',
      "element('legend')",
      fields=FIELDS,
    )
    assert first.count('<figcaption>Grad-CAM<') == 2 and 'Click' in legend
    assert 'red raises it most' in first and 'own maximum' in first
    assert ('do not explain its order' in first) == bool(ranked)
    assert not ranked or f'is ranked by {ranked}: ' in first
    assert 'Grad-CAM' not in last


def test_the_largest_copies_that_fit_are_chosen():
  sizes = [(256, 40.0), (128, 10.0)]
  assert thumbnails.choose_height(sizes, 5, 200) == (256, 5)
  assert thumbnails.choose_height(sizes, 6, 200) == (128, 6)
  assert thumbnails.choose_height(sizes, 60, 200) == (128, 20)
  assert report_page.hardest_and_even(10, 4) == [0, 1, 2, 9]
  assert report_page.hardest_and_even(10, 10) == [*range(10)]


def test_a_folder_with_other_files_is_an_error(reports, tmp_path):
  report.check_folder(tmp_path / 'new')
  report.check_folder(reports / 'worse')  # an earlier report
  (tmp_path / 'holiday.jpg').touch()
  with pytest.raises(UserError, match='other files than a report: holiday.jpg'):
    report.check_folder(tmp_path)
  with pytest.raises(UserError, match='is a file'):
    report.check_folder(tmp_path / 'holiday.jpg')


def test_a_renewed_report_has_no_picture_of_the_earlier_one(tmp_path):
  for distance, pictures in (
    ('cosine', {'threshold.png', 'cameras.png'}),
    ('euclidean', {'cameras.png'}),
  ):
    evaluated = worlds.evaluate(1.4, distance=distance)
    report.write_report(tmp_path, *evaluated)
    found = {path.name for path in tmp_path.iterdir()}
    always = {*report.FILES} - {'threshold.png', 'cameras.png'}
    assert found == always | pictures


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, monkeypatch):
  (tmp_path / 'holiday.jpg').touch()
  for below in ('report', 'new/report'):
    with pytest.raises(UserError, match='holiday.jpg, which is not a folder'):
      report.check_folder(tmp_path / 'holiday.jpg' / below)
  monkeypatch.setattr('os.access', lambda *_: False)
  with pytest.raises(UserError, match=f'--report=.*{tmp_path} is not writable'):
    report.check_folder(tmp_path / 'new' / 'report')


def test_two_reports_are_merged_with_the_largest_difference_first(reports):
  a, b = (
    comparison_page.read_report(reports / name) for name in ('better', 'worse')
  )
  merged = comparison_page.merge(a, b)
  gain = [abs(query['AP'][1] - query['AP'][0]) for query in merged['queries']]
  assert gain == sorted(gain, reverse=True) and gain[0] > 0
  name = merged['images']['name']
  assert len(set(zip(merged['images']['split'], name))) == len(name)
  expected = {
    (data['images']['name'][q['image']], q['AP'][0], run): [
      data['images']['name'][i] for i in q['lists'][0]['found']
    ]
    for run, data in enumerate((a, b))
    for q in data['queries']
  }
  for query in merged['queries']:
    for run, found in enumerate(query['lists']):
      key = name[query['image']], query['AP'][run], run
      assert [name[i] for i in found['found']] == expected.pop(key)
  assert not expected


@node.needed
def test_lists_of_a_comparison_have_the_rules_of_their_run():
  a, b = (report_page.page_data(*worlds.evaluate(noise)) for noise in (0.6, 1))
  b['has_cameras'] = False  # compare --unlike
  b['runs'][0]['card']['protocol']['rules'] = cards.NO_CAMERAS
  for query in b['queries']:
    query['matches'] = [3]
  for pair, matches, word in (
    ((a, a), (2, 2), 'same camera'),
    ((a, b), (2, 3), 'left out'),
    ((b, a), (3, 2), 'left out'),
    ((b, b), (3, 3), 'query itself'),
  ):
    merged = comparison_page.merge(*pair)
    assert merged['has_cameras'] == all(data['has_cameras'] for data in pair)
    text = report_page.make_page(merged, 'Title')
    fields = FIELDS | {'order': 'largest difference'}
    (drawn,) = node.run(text, "element('lists')", fields=fields)
    for name, count in zip('AB', matches):
      found = re.findall(rf'{name}: AP .*? (\d) true matches', drawn)
      assert found == [str(count)] * worlds.QUERIES
    assert {*re.findall('◌ ([a-z ]*)', drawn)} == {word}


@node.needed
def test_the_buttons_of_the_dialog_keep_the_focus(reports):
  text = (reports / 'worse' / 'index.html').read_text()
  before, after, kept = node.run(
    text,
    '(openPair(queries[0], 0, 0), String(pair))',
    '(buttons = dialog.parts[1], move(1), String(pair))',
    'dialog.parts[0] === pair && dialog.parts[1] === buttons',
    fields=FIELDS,
  )
  data = comparison_page.read_report(reports / 'worse')
  first, second = data['queries'][0]['lists'][0]['found'][:2]
  names = data['images']['name']
  assert names[first] in before and names[second] not in before
  assert names[second] in after and names[first] not in after
  assert kept == 'true'


@node.needed
def test_a_print_says_how_many_lists_it_leaves_out(reports):
  text = (reports / 'worse' / 'index.html').read_text()
  some, everything = node.run(
    text,
    '([...lists.children].forEach((x) => x.replaceChildren()),'
    " fillForPrint(5), String(element('left-out')))",
    "(fillForPrint(), element('left-out'))",
    fields=FIELDS,
  )
  left = worlds.QUERIES - 5
  assert some.endswith(f'>The lists of {left} more queries are not printed.')
  assert everything.endswith('>')


def test_a_comparison_says_that_queries_of_one_report_are_left_out(reports):
  a, b = (
    comparison_page.read_report(reports / name) for name in ('better', 'worse')
  )
  text = report_page.make_page(comparison_page.merge(a, b), 'Title')
  assert 'All 12 queries that have a true match are shown' in text
  b['queries'] = b['queries'][:5]
  text = report_page.make_page(comparison_page.merge(a, b), 'Title')
  assert 'Shown are the 5 of 12 queries that\nboth reports show.' in text
  assert 'half of them the hardest' not in text


def test_what_is_no_report_is_an_error(tmp_path):
  with pytest.raises(UserError, match='has no report'):
    comparison_page.find_report(tmp_path)
  (tmp_path / 'index.html').write_text('<p>')
  with pytest.raises(UserError, match='is not a page of eval.py --report'):
    comparison_page.read_report(tmp_path)


def test_the_warning_about_re_ranking_is_on_the_page():
  card, *_ = worlds.evaluate(1.4)
  reranked = {'variant': 'k1=20', 'figures': card['figures']}
  for warned in ({}, {'warning': None}):  # cards of earlier states have none
    words = report_page.in_words(card | {'reranked': reranked | warned})
    assert 'After re-ranking (k1=20)' in ' '.join(words) and all(words)
    assert 'lists of this page are those before re-ranking' in ' '.join(words)
  warned = reranked | {'warning': 'k1 is too large.'}
  assert report_page.in_words(card | {'reranked': warned})[-1] == (
    'k1 is too large.'
  )


@node.needed
def test_all_figures_of_a_card_are_in_the_table():
  card, *evaluated = worlds.evaluate(1.4)
  figures = {'mAP': 0.12345, 'Rank-1': 0.5, 'cmc': [0.5]}
  card |= {
    'reranked': {'variant': 'k1=20', 'figures': figures, 'warning': None},
    'shorter': {'int8': {'bytes': 8, 'fitted_on': 0, 'figures': figures}},
  }
  text = report_page.make_page(report_page.page_data(card, *evaluated), 'Title')
  (table,) = node.run(text, "element('[data-card] 0')", fields=FIELDS)
  cells = re.findall('<th scope="row">(.*?)<td>(.*?)(?=<)', table + '<')
  rows = dict(cells)
  assert len(rows) == len(cells)
  assert rows['mAP'] == f'{100 * card["figures"]["mAP"]:.2f}%'
  assert rows['re-ranked: mAP'] == rows['int8: mAP'] == '12.35%'
  assert rows['re-ranked: Rank-1'] == rows['int8: Rank-1'] == '50.00%'
  assert rows['int8: bytes'] == '8'
  assert rows['int8: images fitted on'] == '0'
  assert not {'cmc', 're-ranked: cmc', 'int8: cmc'} & rows.keys()


@node.needed
def test_a_table_of_very_many_cameras_is_cut_off():
  data = report_page.page_data(*worlds.evaluate(1.4))
  for queries, gallery, rows, columns in ((2, 40, 2, 40), (50, 60, 40, 40)):
    data['runs'][0]['card']['by_cameras'] = {
      'query_cameras': [*range(1, queries + 1)],
      'gallery_cameras': [*range(1, gallery + 1)],
      'mAP': [[0.5] * gallery] * queries,
      'queries': [[3] * gallery] * queries,
    }
    text = report_page.make_page(data, 'Title')
    (drawn,) = node.run(text, "element('chart-panels')", fields=FIELDS)
    assert drawn.count('title="3 queries"') == rows * columns
    assert drawn.count('<th scope="row">c') == rows
    assert drawn.count('<th scope="col">c') == columns
    assert ('the first 40 of 60 cameras' in drawn) == (gallery == 60)


@node.needed
def test_a_single_gallery_shot_is_said_beside_rank_k_and_cmc():
  sentence = 'expected with one random gallery image of each identity'
  both = [
    report_page.page_data(*worlds.evaluate(1.4, single_gallery_shot=one_shot))
    for one_shot in (False, True)
  ]
  for data, times in zip(both, (0, 1)):
    text = report_page.make_page(data, 'Title')
    (drawn,) = node.run(text, "element('chart-panels')", fields=FIELDS)
    # The heading, and the chart's description for those who cannot see it.
    assert drawn.count(sentence) == 2 * times
    rank1, *others = report_page.in_words(data['runs'][0]['card'])
    assert rank1.count(sentence) == times and sentence not in ' '.join(others)
  merged = comparison_page.merge(*both)
  text = report_page.make_page(merged, 'Title')
  fields = FIELDS | {'order': 'largest difference'}
  (drawn,) = node.run(text, "element('chart-panels')", fields=fields)
  assert f'B, {sentence} ' in drawn and f'A, {sentence}' not in drawn
  assert drawn.count(sentence) == 1


FIELDS = {'order': 'hardest first', 'search': '', 'identity': ''}


@node.needed
def test_the_slider_starts_exactly_at_its_threshold():
  card, evaluated, benchmark = worlds.evaluate(1.4)
  counted = verification.count_pairs(evaluated.scores, evaluated.labels)
  curve = card['verification']['curve']['threshold']
  between = counted.at((curve[-2] + curve[-1]) / 2)  # no point of the curve
  assert between['threshold'] not in curve
  chosen = {'threshold': 0.5, 'dataset': 'duke', 'wanted_fpr': 0.001}
  stored = {'stored_threshold': {'chosen': chosen, 'here': between}}
  for more, start in (
    ({}, card['verification']['equal_error']),
    (stored, between),
  ):
    changed = card | {'verification': card['verification'] | more}
    data = report_page.page_data(changed, evaluated, benchmark)
    text = report_page.make_page(data, 'Title')
    (drawn,) = node.run(text, "element('chart-panels')", fields=FIELDS)
    shown = re.search(r'Threshold (\S+): (\S+)% .*? and (\S+)% of', drawn)
    expected = start['threshold'], 100 * start['tpr'], 100 * start['fpr']
    np.testing.assert_allclose(
      [float(x) for x in shown.groups()], expected, atol=0.05
    )
    assert shown[1] == f'{start["threshold"]:.4f}'
  words = ' '.join(report_page.in_words(changed))
  assert 'Threshold 0.5000, chosen on duke: at most 0.001 of' in words
  assert (
    f'{100 * between["tpr"]:.1f}% of the pairs of one person (TPR)' in words
  )


@node.needed
def test_errors_are_drawn_at_their_rates_without_those_of_zero():
  data = report_page.page_data(*worlds.evaluate(1.4))
  curve = data['runs'][0]['card']['verification']['curve']
  curve |= {
    'threshold': [0.1, 0.2, 0.3, 0.4],
    'fpr': [1.0, 1e-4, 1e-8, 0.0], 'tpr': [1.0, 0.75, 0.5, 0.0],
    'fpir': [1.0, 0.0, 0.0, 0.0], 'fnir': [0.0, 0.5, 0.5, 1.0],
  }  # fmt: skip
  text = report_page.make_page(data, 'Title')
  (drawn,) = node.run(text, "element('chart-panels')", fields=FIELDS)
  errors = drawn.split('<h3>Errors at each threshold')[1]
  pairs, queries = re.findall(r' d="M([^"]*)"', errors)
  assert pairs == '546.0 244.0L304.0 186.0L62.0 128.0'
  assert queries == '546.0 244.0'


def text_of_first(opened):
  """Returns the text of the first list, which is made when it is in view."""
  article = opened.locator('article').first
  article.scroll_into_view_if_needed()
  article.locator('h3').wait_for()
  return article.inner_text()


def test_the_page_in_a_browser(reports, chromium):
  data = comparison_page.read_report(reports / 'worse')
  for width, scheme in ((1280, 'light'), (390, 'dark')):
    opened = chromium.open(
      reports / 'worse' / 'index.html', width, color_scheme=scheme
    )
    articles = opened.locator('article')
    assert articles.count() == worlds.QUERIES
    wide = opened.evaluate('document.documentElement.scrollWidth')
    assert wide <= width
    text = text_of_first(opened)
    assert f'AP {100 * data["queries"][0]["AP"][0]:.1f}' in text
    for word in ('✗ wrong', 'query'):
      assert word in text
    opened.close()
  assert chromium.messages == []


def test_threshold_filters_keys_and_dialog(reports, chromium):
  data = comparison_page.read_report(reports / 'worse')
  opened = chromium.open(reports / 'worse' / 'index.html')
  articles, count = opened.locator('article'), opened.locator('#count')

  rates, slider = opened.locator('.rates'), opened.get_by_role('slider')
  slider.focus()
  opened.keyboard.press('Home')
  assert '(TPR), and 100% of' in rates.inner_text()
  opened.keyboard.press('End')
  curve = data['runs'][0]['card']['verification']['curve']
  assert f'Threshold {curve["threshold"][-1]:.4f}' in rates.inner_text()
  assert f'{100 * curve["tpr"][-1]:.1f}% of the pairs of one' in (
    rates.inner_text()
  )

  def expect(number):
    opened.wait_for_function(
      'n => document.querySelectorAll("article").length === n', arg=number
    )
    assert count.inner_text().startswith(f'{number} of')

  failed = sum(query['first'][0] > 1 for query in data['queries'])
  assert 0 < failed < worlds.QUERIES
  opened.get_by_label('failures only').check()
  expect(failed)
  opened.get_by_role('button', name='Show all').click()
  expect(worlds.QUERIES)
  opened.get_by_label('Query camera').select_option('1')
  expect(worlds.QUERIES // 2)
  opened.get_by_role('button', name='Show all').click()
  opened.get_by_label('Identity').fill('3')
  expect(1)
  assert 'identity 3' in text_of_first(opened)
  opened.get_by_role('button', name='Show all').click()
  expect(worlds.QUERIES)
  opened.locator('h1').click()
  opened.keyboard.press('/')
  opened.keyboard.type('onerror')
  opened.wait_for_function(
    'n => document.querySelectorAll("article").length < n', arg=worlds.QUERIES
  )
  shown = articles.first.locator(f'.cell[title*="{worlds.HOSTILE[:5]}"]')
  shown.first.click()
  dialog = opened.locator('dialog')
  assert worlds.HOSTILE in dialog.inner_text()
  assert dialog.locator('img').count() in (2, 3)
  before = dialog.inner_text()
  opened.keyboard.press('ArrowLeft')
  assert dialog.inner_text() != before
  opened.keyboard.press('Escape')
  focused = 'document.activeElement.tagName === "BUTTON"'
  opened.wait_for_function(focused)  # as before the dialog
  assert not dialog.is_visible()
  opened.keyboard.press('j')
  assert opened.evaluate('document.activeElement.tagName') == 'ARTICLE'
  opened.keyboard.press('Enter')
  assert dialog.is_visible()
  opened.close()
  assert chromium.messages == []


def test_two_reports_in_a_browser(reports, chromium, tmp_path, capsys):
  folders = reports / 'better', reports / 'worse'
  merged = comparison_page.merge(*map(comparison_page.read_report, folders))
  path = tmp_path / 'both' / 'index.html'
  options = {'level': 0.95, 'samples': 100, 'seed': 0}
  compare.compare_reports(*folders, str(path.parent), False, **options)
  printed = capsys.readouterr().out
  assert path.as_uri() in printed and 'B - A' in printed
  opened = chromium.open(path)
  text = text_of_first(opened)
  assert re.search(r'A: \S+better: AP', text)
  assert re.search(r'B: \S+worse: AP', text)
  opened.get_by_label('Order').select_option('B better')
  first = max(merged['queries'], key=lambda q: q['AP'][1] - q['AP'][0])
  name = merged['images']['name'][first['image']]
  opened.wait_for_function(
    'image => document.querySelector("article").query.image === image',
    arg=first['image'],
  )
  assert name in text_of_first(opened)
  opened.close()
  assert chromium.messages == []


def test_the_map_shows_the_plane_of_the_largest_variance(reports, chromium):
  rng = np.random.default_rng(0)
  plane = rng.normal(size=(60, 2)) * [5, 2]
  turn, _ = np.linalg.qr(rng.normal(size=(8, 8)))
  found, share = map_page.project_pca(plane @ turn[:2] + 3)
  np.testing.assert_allclose(share, 1)
  expected = plane - plane.mean(0)
  np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-6)
  assert found[:, 0].std() > found[:, 1].std()

  opened = chromium.open(reports / 'worse' / 'map.html')
  points = opened.locator('#map circle')
  assert points.count() == 3 * worlds.QUERIES + 2
  points.first.click()
  assert worlds.HOSTILE in opened.locator('#near').inner_text()
  before = points.first.get_attribute('fill')
  opened.locator('select').select_option('camera')
  assert points.first.get_attribute('fill') != before
  opened.close()
  assert chromium.messages == []
