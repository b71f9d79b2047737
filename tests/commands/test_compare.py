import copy
import json

import numpy as np
import pytest
import scipy.stats

from apnet_jax.commands import compare
from apnet_jax.feed import Benchmark
from apnet_jax.retrieval import comparison
from apnet_jax.retrieval.card import result_card
from apnet_jax.retrieval.metrics import evaluate_retrieval
from apnet_jax.workdir import json_files
from configs import common
from tests.fakes import make_split

QUERIES = 60
ALL_FIGURES = ['mAP', 'mINP', 'Rank-1', 'Rank-5', 'Rank-10']


def make_card(noise, seed=0, **rules):
  rng = np.random.default_rng(seed)
  pids = np.concatenate([np.arange(QUERIES), np.repeat(np.arange(QUERIES), 3)])
  embeddings = np.eye(QUERIES)[pids] + noise * rng.normal(size=(240, QUERIES))
  camids = np.repeat([0, 1], [QUERIES, 180])
  camids[QUERIES : QUERIES + 3] = 0  # the first has no match
  config = common.get_config()
  config.data.name = 'noise'
  config.eval.update(rules)
  halves = [slice(0, QUERIES), slice(QUERIES, None)]
  query, gallery = (make_split(pids[h], camids[h]) for h in halves)
  result = evaluate_retrieval(
    embeddings[halves[0]], query.pids, query.camids,
    embeddings[halves[1]], gallery.pids, gallery.camids,
  )  # fmt: skip
  benchmark = Benchmark(query, gallery, 'print', '')
  return result_card(result, config, benchmark, {'step': seed})


@pytest.fixture(scope='module')
def cards():
  return make_card(0.3), make_card(0.25, seed=1)


def write(folder, **cards):
  for name, card in cards.items():
    json_files.write_json(folder / f'{name}.json', card)
  return [str(folder / f'{name}.json') for name in cards]


def run(a, b, unlike=False):
  compare.compare_files(a, b, unlike, level=0.95, samples=500, seed=0)


def test_a_table_of_two_cards(cards, tmp_path, capsys):
  a, b = cards
  run(*write(tmp_path, A=a, B=b))
  out = capsys.readouterr().out
  assert 'checkpoint.step: 0 | 1' in out
  assert 'In one file only' not in out
  assert f'{QUERIES - 1} queries, drawn 500 times' in out
  for name in ('mAP', 'mINP', 'Rank-1', 'Rank-5', 'Rank-10'):
    (line,) = (x for x in out.splitlines() if x.startswith(f'{name} '))
    one, two = (100 * card['figures'][name] for card in cards)
    low, _, high = line.split()[4:7]
    assert f'{one:8.1f}{two:8.1f}{two - one:+9.1f}' in line
    assert float(low) <= two - one + 0.05 and two - one - 0.05 <= float(high)
    assert line.endswith('*') == (float(low) > 0 or float(high) < 0)


def test_the_interval_is_that_of_scipy(cards):
  paired = comparison.paired_differences(*cards)
  assert paired.names == ALL_FIGURES
  assert len(paired.values) == QUERIES - 1
  found = comparison.bootstrap_intervals(
    paired.values, None, 0.9, samples=4000, seed=0
  )
  for column, (low, high) in zip(paired.values.T[:2], found):
    expected = scipy.stats.bootstrap(
      (column,), np.mean, confidence_level=0.9, n_resamples=4000,
      method='percentile', rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    np.testing.assert_allclose((low, high), expected, atol=0.05 * column.std())


def test_queries_of_one_person_are_drawn_together():
  """Copies of a query make the interval no shorter."""
  values = np.random.default_rng(0).normal(size=(40, 2))
  copies, people = np.repeat(values, 4, axis=0), np.repeat(np.arange(40), 4)

  def interval(*data):
    return comparison.bootstrap_intervals(*data, 0.9, samples=2000, seed=1)

  expected = interval(values, None)
  np.testing.assert_allclose(interval(copies, people), expected)
  shuffled = np.random.default_rng(2).permutation(160)
  np.testing.assert_allclose(
    interval(copies[shuffled], people[shuffled]), expected
  )
  shorter = np.diff(interval(copies, None)) / np.diff(expected)
  np.testing.assert_allclose(shorter, 0.5, atol=0.05)
  # A mean over queries, so that people with more queries count more.
  (one, *_) = interval(np.array([[0.0], [0.0], [3.0]]), np.array([7, 7, 7]))
  np.testing.assert_allclose(one, [1, 1])


def test_people_of_older_cards_are_those_of_the_other_card(cards):
  people = cards[0]['queries']['people']
  assert people == list(range(QUERIES))
  first = comparison.paired_differences(*cards)
  np.testing.assert_array_equal(first.people, people[1:])  # 0 has no match
  assert first.drawn == '59 people with 59 queries'
  assert not first.warning
  older = [copy.deepcopy(card) for card in cards]
  del older[0]['queries']['people']
  found = comparison.paired_differences(*older)
  np.testing.assert_array_equal(found.people, first.people)
  del older[1]['queries']['people']
  found = comparison.paired_differences(*older)
  assert found.people is None and found.drawn == '59 queries'


@pytest.mark.parametrize('people', [19, 20])
def test_intervals_of_few_people_are_warned_of(cards, tmp_path, capsys, people):
  few = [copy.deepcopy(card) for card in cards]
  for card in few:
    card['queries']['people'] = [i % people for i in range(QUERIES)]
  run(*write(tmp_path, A=few[0], B=few[1]))
  out = capsys.readouterr().out
  assert f'{people} people with 59 queries' in out
  assert ('intervals of fewer than 20 people are too' in out) == (people < 20)


def test_the_same_card_differs_by_nothing(cards):
  lines = comparison.compare(cards[0], cards[0], 0.95, 100, 0)
  rows = lines[2:-1]
  assert len(rows) == 5
  assert all(row.endswith('+0.0 to +0.0') for row in rows)


def test_recipes_that_differ_are_shown_also_of_older_cards(cards):
  def shown(a, b):
    return list(comparison.differences(a, b, comparison.MAY_DIFFER))

  card = cards[0]
  other = card | {'recipe': card['recipe'] | {'train.ema_decay': 0.9}}
  assert shown(card, other) == ['  recipe.train.ema_decay: 0.0 | 0.9']
  older = {name: value for name, value in card.items() if name != 'recipe'}
  assert shown(older, card) == ['  recipe: - | given']
  assert shown(older, older) == []


def test_unlike_cards_are_refused(cards, tmp_path, capsys):
  other = make_card(0.25, drop_distractors=True, ap='trapezoid')
  files = write(tmp_path, A=cards[0], B=other)
  with pytest.raises(ValueError, match='cannot be compared') as error:
    run(*files)
  message = str(error.value)
  assert 'protocol.distractors: kept | dropped' in message
  assert 'protocol.ap:' in message and 'flip' not in message
  run(*files, unlike=True)
  assert 'NOT COMPARABLE' in capsys.readouterr().out


def test_versions_of_a_data_set_are_told_apart(cards):
  first, second = (
    card | {'release': f'MSMT17_V{i}', 'fingerprint': str(i)}
    for i, card in enumerate(cards, 1)
  )
  assert comparison.incompatibilities(first, second) == [
    '  fingerprint: 1 | 2',
    '  release: MSMT17_V1 | MSMT17_V2 (other images with the same counts)',
  ]
  older = {name: value for name, value in first.items() if name != 'release'}
  assert not comparison.incompatibilities(older, first)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda c: c.update(fingerprint='another'), 'fingerprint: print | another'),
    (lambda c: c['queries'].update(skipped=3), 'queries.skipped: 1 | 3'),
    (lambda c: c['queries'].update(names='x'), 'queries.names'),
    (lambda c: c['gallery'].update(distractors=9), 'gallery.distractors'),
  ],
)
def test_other_images_are_refused(cards, change, message, tmp_path):
  other = copy.deepcopy(cards[0])
  change(other)
  with pytest.raises(ValueError) as error:
    run(*write(tmp_path, A=cards[0], B=other))
  assert message in str(error.value)


def test_queries_that_were_left_out_are_said(cards, tmp_path, capsys):
  a, b = map(copy.deepcopy, cards)
  for card, valid, skipped in ((a, 11, 69), (b, 9, 0)):
    card['queries'].update(valid=valid, skipped=skipped)
  run(*write(tmp_path, A=a, B=b), unlike=True)
  out = capsys.readouterr().out
  assert out.endswith(
    'Card A: figures of 11 of 80 queries.\nCard B: Warning: only 9 queries'
    ' have a true match. Figures of fewer than 10 queries mean little.\n'
  )


def test_other_rerankings_are_refused(cards, tmp_path):
  one, other = (
    card | {'reranked': {'variant': f'k1 {k1}', 'figures': card['figures']}}
    for card, k1 in zip(cards, (20, 7))
  )
  with pytest.raises(ValueError, match=r'reranked.variant: k1 20 \| k1 7'):
    run(*write(tmp_path, A=one, B=other))
  run(*write(tmp_path, A=one, B=cards[1]))


def test_without_queries_there_is_no_interval(cards, tmp_path, capsys):
  old = copy.deepcopy(cards[0])
  del old['queries']['figures']
  run(*write(tmp_path, A=old, B=cards[1]))
  assert 'No interval' in capsys.readouterr().out


def test_queries_that_do_not_count_in_both_make_no_interval(
  cards, tmp_path, capsys
):
  other = copy.deepcopy(cards[1])
  for values in other['queries']['figures'].values():
    values[5] = None
  run(*write(tmp_path, A=cards[0], B=other))
  assert 'No interval' in capsys.readouterr().out


def test_figures_of_the_same_queries_alone_are_subtracted(cards):
  card, other = cards[0], copy.deepcopy(cards[1])
  other['queries']['reranked'] = {'mAP': other['queries']['figures']['mAP']}
  for a, b in ((card, other), (other, card)):
    assert comparison.paired_differences(a, b).names == ALL_FIGURES
  other['queries']['names'] = 'x'  # as many queries, but others
  assert comparison.paired_differences(card, other) is None


def test_several_data_sets_by_name(cards, tmp_path, capsys):
  """The file has short names of data sets, the cards have full names."""

  def of(name):
    return cards[0] | {'dataset': name}

  several = {'duke': of('dukemtmc_reid'), 'market': of('market1501')}
  run(*write(tmp_path, A=several, B=of('market1501')))
  out = capsys.readouterr().out
  assert '\nmarket1501\n' in out
  assert 'In one file only: dukemtmc_reid' in out
  with pytest.raises(ValueError, match='no data set in common: dukemtmc_reid,'):
    run(*write(tmp_path, A=several, B={'x': of('x'), 'y': of('y')}))


def test_reranked_figures_stand_below(cards, tmp_path, capsys):
  figures = dict.fromkeys(('mAP', 'Rank-1'), 0.5)
  both = [
    card | {'reranked': {'variant': 'v', 'figures': figures}} for card in cards
  ]
  run(*write(tmp_path, A=both[0], B=both[1]))
  out = capsys.readouterr().out
  (line,) = (x for x in out.splitlines() if x.startswith('mAP, re-ranked'))
  assert line.split()[2:] == ['50.0', '50.0', '+0.0']
  for card in both:
    again = {'mAP': card['queries']['figures']['Rank-1']}
    card['queries'] = card['queries'] | {'reranked': again}
  run(*write(tmp_path, A=both[0], B=both[1]))
  lines = [x.split() for x in capsys.readouterr().out.splitlines()]
  (first,) = (x for x in lines if x[:1] == ['Rank-1'])
  (line,) = (x for x in lines if x[:2] == ['mAP,', 're-ranked'])
  assert line[5:8] == first[4:7]  # the interval of the same values


def test_a_record_with_a_card_is_read(cards, tmp_path):
  (path,) = write(tmp_path, record={'command': 'make demo', 'card': cards[0]})
  assert comparison.read_cards(path) == {
    'noise': json.loads(json.dumps(cards[0]))
  }


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('{"figures": ', 'cannot be read as JSON'),
    ('\xff', 'cannot be read as JSON'),
    ('[' * 100_000, 'cannot be read as JSON'),
    ('[1, 2]', 'holds no result card'),
    ('{}', 'holds no result card'),
    ('{"figures": {"mAP": 0.5}}', 'it has no protocol'),
    ('{"market": {"mAP": 3}}', 'market is not a result card'),
  ],
)
def test_what_is_no_card_is_named(content, message, tmp_path):
  path = tmp_path / 'card.json'
  path.write_bytes(content.encode('latin-1'))
  with pytest.raises(ValueError, match=message):
    comparison.read_cards(path)


@pytest.mark.parametrize(
  ('part', 'figures', 'message'),
  [
    ('figures', {}, 'it has no mAP'),
    ('figures', {'mAP': '0.5'}, "mAP is '0.5', not in 0 to 1"),
    ('figures', {'Rank-1': 96.2}, 'Rank-1 is 96.2, not in 0 to 1'),
    ('queries', {'figures': [1]}, 'queries.figures is not a JSON object'),
    ('queries', {'figures': {'mAP': [2]}}, 'mAP of the queries is not a list'),
    ('queries', {'reranked': [1]}, 'queries.reranked is not a JSON object'),
    ('queries', {'reranked': {'mAP': [2]}}, 'mAP, re-ranked of the queries is'),
    ('queries', {'figures': {'mAP': 'all'}}, 'mAP of the queries is not a'),
  ],
)
def test_figures_that_are_none_are_named(
  cards, part, figures, message, tmp_path
):
  card = copy.deepcopy(cards[0]) | {part: figures}
  with pytest.raises(ValueError, match=message):
    comparison.read_cards(*write(tmp_path, card=card))
