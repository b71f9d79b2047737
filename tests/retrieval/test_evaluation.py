"""Evaluation of a benchmark, result cards and diagnosis."""

import dataclasses
import json
import pathlib
import types

import numpy as np
import pytest

import apnet_jax
from apnet_jax.config import check_section
from apnet_jax.errors import UserError
from apnet_jax.feed import Benchmark
from apnet_jax.retrieval import (
  card,
  collapse,
  diagnosis,
  evaluation,
  rerank,
)
from apnet_jax.retrieval.evaluator import Evaluator
from apnet_jax.retrieval.metrics import evaluate_scores
from apnet_jax.retrieval.scores import Labels
from apnet_jax.retrieval.threshold import PairVerifier
from configs import common
from tests.fakes import make_split
from tests.retrieval.worlds import Matrix


def embed(variables, split, rows):
  """Returns the same direction for all images of an identity, plus noise."""
  centers = np.random.default_rng(0).normal(size=(40, 8))
  noise = [np.random.default_rng([int(split.camids[r]), int(r)]) for r in rows]
  noise = np.stack([rng.normal(size=8) for rng in noise])
  return (centers[split.pids[rows]] + noise).astype(np.float32)


def make_benchmark(**options):
  people = np.arange(1, 31)
  query = make_split(people, np.arange(30) % 2)
  pids = np.concatenate([people, people, people[:9], [0, -1, -1, 0]])
  gallery = make_split(pids, np.arange(len(pids)) % 7)
  return Benchmark(query, gallery, 'noise', '', as_published=False, **options)


@pytest.fixture(scope='module')
def benchmark():
  return make_benchmark(has_cameras=False)


def rules(**fields):
  rules = common.get_config().eval
  rules.update(fields)
  return rules


def naive(evaluated, benchmark, keep):
  """Returns the AP of each query among gallery images where `keep` is true."""
  query, gallery = benchmark.query, benchmark.gallery
  rows = evaluated.gallery_rows
  directions = [
    embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for embeddings in (
      evaluated.query_embeddings,
      evaluated.gallery_embeddings,
    )
  ]
  found = []
  for q, similarity in enumerate(directions[0] @ directions[1].T):
    same = gallery.pids[rows] == query.pids[q]
    valid = keep[rows] & ~(same & (gallery.camids[rows] == query.camids[q]))
    order = np.argsort(-similarity[valid], kind='stable')
    ranks = np.flatnonzero(same[valid][order]) + 1
    found.append(np.mean(np.arange(1, len(ranks) + 1) / ranks)
                 if len(ranks) else np.nan)  # fmt: skip
  return np.array(found)


def test_images_that_are_queries_and_gallery_are_embedded_once(tmp_path):
  """Without cameras, all images to test on are both, here in another order."""
  pids = np.array([0, 3, 1, -1, 2, 3, 1, 2, 2])
  gallery = make_split(pids, np.arange(len(pids)))
  rows = np.array([8, 1, 2, 4, 5, 6, 7])
  query = make_split(pids[rows], rows)
  counts = []

  def embed_image(variables, split, rows):
    counts.append(len(rows))
    return embed(variables, gallery, split.camids[rows])  # which are the rows

  twice, once = (
    evaluation.evaluate(
      embed_image,
      {},
      Benchmark(query, gallery, 'noise', '', names_are_images=known),
      rules(),
    )
    for known in (False, True)
  )
  assert counts == [8, 7, 8]  # without junk
  np.testing.assert_array_equal(once.query_embeddings, twice.query_embeddings)
  np.testing.assert_array_equal(
    once.result.average_precision, twice.result.average_precision
  )
  assert once.places.tolist() == [7, 1, 2, 3, 4, 5, 6]  # without junk
  verifier = PairVerifier(tmp_path, 1, rules(), wanted_fpr=None)
  pairs = [
    verifier.verify(evaluated, common.get_config(), None)['pairs']
    for evaluated in (twice, once)
  ]
  # One of the eight images is no query.
  assert pairs[0] == {'genuine': 10, 'impostor': 39}
  assert pairs[1] == {'genuine': 5, 'impostor': 23}
  # A query that is not in the gallery is embedded, with the others.
  other = dataclasses.replace(query, paths=np.array([*query.paths[1:], 'x']))
  benchmark = Benchmark(other, gallery, 'noise', '', names_are_images=True)
  evaluation.evaluate(embed_image, {}, benchmark, rules())
  assert counts == [8, 7, 8, 8, 7]


def test_reranking_ranks_by_its_distances(benchmark):
  evaluated = evaluation.evaluate(embed, {}, benchmark, rules())
  result = evaluation.rerank(evaluated, benchmark)
  distance = apnet_jax.k_reciprocal_rerank(
    evaluated.query_embeddings, evaluated.gallery_embeddings
  )
  rows = evaluated.gallery_rows
  pids, camids = benchmark.gallery.pids[rows], benchmark.gallery.camids[rows]
  precisions = []
  for q, pid in enumerate(benchmark.query.pids):
    valid = (pids != pid) | (camids != benchmark.query.camids[q])
    order = np.argsort(distance[q][valid], kind='stable')
    ranks = np.flatnonzero((pids[valid] == pid)[order]) + 1
    assert len(ranks)
    precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
  np.testing.assert_allclose(result.average_precision, precisions)
  assert result.mAP != evaluated.result.mAP


def test_reranking_counts_an_image_once_though_it_is_in_both():
  gallery = make_split(np.repeat(np.arange(1, 9), 5), np.arange(40))
  benchmark = Benchmark(
    gallery, gallery, 'noise', '', has_cameras=False, names_are_images=True
  )
  evaluated = evaluation.evaluate(embed, {}, benchmark, rules())
  distance = apnet_jax.k_reciprocal_rerank(
    evaluated.query_embeddings,
    evaluated.gallery_embeddings,
    places=np.arange(40),
  )
  expected = evaluate_scores(Matrix(-distance), evaluated.labels)
  np.testing.assert_array_equal(
    evaluation.rerank(evaluated, benchmark).average_precision,
    expected.average_precision,
  )


def test_reranking_has_the_parameters_of_the_configuration(benchmark):
  config = common.get_config()
  config.eval = rules(
    rerank_k1=7, rerank_k2=3, rerank_lambda=0.85, ap='trapezoid'
  )
  evaluated = evaluation.evaluate(embed, {}, benchmark, config.eval)
  result = evaluation.rerank(evaluated, benchmark)
  distance = apnet_jax.k_reciprocal_rerank(
    evaluated.query_embeddings, evaluated.gallery_embeddings, 7, 3, 0.85
  )
  expected = evaluate_scores(Matrix(-distance), evaluated.labels)
  np.testing.assert_array_equal(
    result.average_precision, expected.average_precision
  )
  made = card.result_card(evaluated.result, config, benchmark, {}, result)
  assert made['reranked']['variant'] == rerank.describe(7, 3, 0.85)
  assert made['reranked']['figures']['mAP'] == result.mAP_trapezoid


def test_a_gallery_with_too_few_neighbours_is_said(benchmark):
  images = (benchmark.gallery.pids != -1).sum()
  for k1, expected in ((images, ''), (images + 1, f'rerank_k1={images + 1},')):
    config = rules(rerank_k1=int(k1))
    evaluated = evaluation.evaluate(embed, {}, benchmark, config)
    warning = evaluation.small_gallery_warning(evaluated)
    assert bool(warning) == bool(expected) and expected in warning
  assert f'only {images} images' in warning
  assert 'among queries and gallery together' in warning


def test_a_card_warns_of_too_few_neighbours(benchmark, capsys):
  config = common.get_config()
  verifier = types.SimpleNamespace(verify=lambda *_: None)
  images = int((benchmark.gallery.pids != -1).sum())
  warnings = {}
  for k1 in (images, images + 1):
    config.eval = rules(rerank_k1=k1)
    evaluator = Evaluator(embed, {}, {}, verifier, reranks=True)
    evaluator.evaluate('a', config, benchmark)
    warnings[k1] = evaluator.cards['a']['reranked']['warning']
  assert warnings[images] is None
  assert warnings[images + 1] in capsys.readouterr().out


def test_a_collapsed_network_is_said(benchmark, capsys):
  def alike(variables, split, rows):
    return 1 + 0.01 * embed(variables, split, rows)

  config = common.get_config()
  config.eval = rules()
  verifier = types.SimpleNamespace(verify=lambda *_: None)
  for function, is_said in ((embed, False), (alike, True)):
    Evaluator(function, {}, {}, verifier).evaluate('a', config, benchmark)
    said = 'Warning: the network embeds all images alike' in (
      capsys.readouterr().out
    )
    assert said == is_said


def test_strangers_are_those_of_the_ranked_images():
  """The junk before them is not counted."""
  pids = np.concatenate([[-1] * 5, np.arange(40) % 3])
  gallery = make_split(pids, np.arange(45) % 7)
  query = make_split(np.arange(3), np.full(3, 9))
  benchmark = Benchmark(query, gallery, '', '')
  evaluated = evaluation.evaluate(embed, {}, benchmark, rules())
  found = evaluation.stranger_similarity(evaluated, benchmark)
  assert found == collapse.median_stranger_similarity(
    evaluated.gallery_embeddings, np.arange(40) % 3
  )


def result_of(valid, skipped):
  """Each valid query finds its match first."""
  people = np.arange(valid + skipped)
  labels = Labels.make(
    people, None, people[:valid], None, queries=len(people), gallery=valid
  )
  return evaluate_scores(Matrix(np.eye(len(people), valid)), labels)


def test_a_table_says_how_many_queries_count():
  results = {'a': result_of(11, 69), 'longer': result_of(1000, 0)}
  assert card.format_table(results, 'step').splitlines() == [
    '            mAP     mINP   Rank-1   Rank-5  Rank-10',
    '-' * 51,
    'a         100.0    100.0    100.0    100.0    100.0  11 of 80 queries',
    'longer    100.0    100.0    100.0    100.0    100.0  1,000 queries',
  ]
  del results['a']
  assert 'queries' not in card.format_table(results, 'step')


def test_few_queries_are_warned_about():
  config, benchmark = common.get_config(), make_benchmark()
  for valid, skipped, based_on in (
    (10, 1, '10 of 11'),
    (9, 0, '9'),
    (1, 4, '1 of 5'),
  ):
    result = result_of(valid, skipped)
    table = card.format_table({'a': result, 'b': result}, 'step')
    made = card.result_card(result, config, benchmark, {})
    assert made['based_on'] == f'{based_on} queries'
    assert made['queries']['valid'] == valid
    assert made['queries']['skipped'] == skipped
    assert (made['warning'] is None) == (valid == 10)
    assert table.count('mean little') == (valid < 10)
    if valid < 10:
      assert table.endswith(made['warning'])
  assert 'only 1 query has a true match' in made['warning']


def drop_warnings(gallery_pids, capsys):
  """Returns what a card warns of when distractors are dropped, and kept."""
  people = np.arange(1, 31)
  pids = np.concatenate([people, gallery_pids])
  benchmark = Benchmark(
    make_split(people, people * 0), make_split(pids, pids * 0 + 1), '', ''
  )
  config = common.get_config()
  verifier = types.SimpleNamespace(verify=lambda *_: None)
  warnings = []
  for dropped in (True, False):
    config.eval = rules(drop_distractors=dropped)
    evaluator = Evaluator(embed, {}, {}, verifier)
    evaluator.evaluate('a', config, benchmark)
    warnings.append(evaluator.cards['a']['warning'])
    said = capsys.readouterr().out
    assert (warnings[-1] or '').strip() in said
    assert ('drop_distractors' in said) == bool(warnings[-1])
  return warnings


def test_dropping_other_distractors_than_those_of_market_is_warned_of(capsys):
  assert drop_warnings([0, 0, -1], capsys) == [None, None]
  with_others, kept = drop_warnings([0, -1, 31, 31, 32], capsys)
  assert kept is None
  assert 'removes 3 images of 2 identities without a query' in with_others


def test_a_card_joins_its_warnings():
  """Those of few queries and of a gallery that nobody publishes."""
  config, benchmark = common.get_config(), make_benchmark()
  config.eval.drop_distractors = True
  benchmark.gallery.pids[-1] = 35
  made = card.result_card(result_of(9, 0), config, benchmark, {})
  assert 'mean little. Warning: config.eval.drop_dis' in made['warning']


def test_a_card_says_how_it_was_made(benchmark):
  config = common.get_config()
  evaluated = evaluation.evaluate(embed, {}, benchmark, rules())
  reranked = evaluation.rerank(evaluated, benchmark)
  plain, both = (
    card.result_card(evaluated.result, config, benchmark, {}, second)
    for second in (None, reranked)
  )
  assert plain['reranked'] is None
  assert both['reranked']['variant'] == rerank.describe(
    rerank.K1, rerank.K2, rerank.LAMBDA_VALUE
  )
  assert both['reranked']['figures']['mAP'] == reranked.mAP
  again = both['queries'].pop('reranked')
  np.testing.assert_allclose(
    again['mAP'], reranked.average_precision, atol=1e-6
  )
  assert both['queries'] == plain['queries']
  assert both['figures'] == plain['figures']
  assert plain['as_published'] is False
  assert 'release' not in plain
  known = dataclasses.replace(benchmark, release='MSMT17_V2')
  made = card.result_card(evaluated.result, config, known, {})
  assert made == plain | {'release': 'MSMT17_V2'}
  assert plain['protocol']['rules'].startswith('no cameras: each query')
  assert plain['gallery'] == {
    'of_query_identities': 69, 'distractors': 2, 'junk_left_out': 2,
  }  # fmt: skip
  people = plain['queries']['people']
  _, expected = np.unique(benchmark.query.pids, return_inverse=True)
  assert len(people) == 30 and set(people) == set(range(max(people) + 1))
  assert len({*zip(people, expected)}) == len({*people}) == len({*expected})
  per_query = plain['queries']['figures']
  for name in ('mAP', 'mINP', 'Rank-1', 'Rank-5', 'Rank-10'):
    assert len(per_query[name]) == 30
    valid = [value for value in per_query[name] if value is not None]
    assert len(valid) == plain['queries']['valid']
    np.testing.assert_allclose(
      np.mean(valid), plain['figures'][name], atol=1e-6
    )
  json.dumps(both, allow_nan=False)


def test_the_rules_of_a_configuration_are_followed(benchmark):
  """Each rule changes its figures, and only its field in the protocol."""
  config = common.get_config()

  def make(**fields):
    config.eval = rules(**fields)
    evaluated = evaluation.evaluate(embed, {}, benchmark, config.eval)
    return card.result_card(evaluated.result, config, benchmark, {})

  plain = make()
  trapezoid = make(ap='trapezoid')
  assert trapezoid['figures']['mAP'] == plain['figures']['mAP_trapezoid']
  assert trapezoid['figures']['mAP_step'] == plain['figures']['mAP']
  np.testing.assert_allclose(
    np.mean(trapezoid['queries']['figures']['mAP']),
    trapezoid['figures']['mAP'],
    atol=1e-6,
  )
  assert trapezoid['figures']['Rank-1'] == plain['figures']['Rank-1']
  dropped = make(drop_distractors=True)
  assert dropped['figures']['mAP'] > plain['figures']['mAP']
  single = make(single_gallery_shot=True)
  assert single['figures']['mAP'] == plain['figures']['mAP']
  assert single['figures']['Rank-1'] != plain['figures']['Rank-1']
  euclidean = make(distance='euclidean')
  assert euclidean['figures']['mAP'] != plain['figures']['mAP']
  # These rules are those of `make_embed`, which `embed` replaces here.
  others = {'feature': 'logits', 'flip': False, 'max_rank': 20}
  expected = {
    'ap': trapezoid, 'distractors': dropped, 'cmc': single,
    'distance': euclidean,
    **{name: make(**{name: value}) for name, value in others.items()},
  }  # fmt: skip
  for field, other in expected.items():
    assert {
      name
      for name, value in plain['protocol'].items()
      if other['protocol'][name] != value
    } == {field}


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('ap', 'interpolated', "config.eval.ap='interpolated' is not one of"),
    ('distance', 'l1', "config.eval.distance='l1' is not one of"),
    ('feature', 'pixels', "config.eval.feature='pixels' is not one of"),
    ('max_rank', 9, 'config.eval.max_rank=9 must be at least 10'),
    ('rerank_k1', 0, 'config.eval.rerank_k1=0 must be at least 1'),
    ('rerank_k2', -1, 'config.eval.rerank_k2=-1 must be at least 1'),
    ('rerank_lambda', 1.5, 'config.eval.rerank_lambda=1.5 must be from 0 to 1'),
    ('rerank_lambda', np.nan, 'config.eval.rerank_lambda=nan must be from 0'),
  ],
)
def test_rules_that_do_not_exist(field, value, message):
  with pytest.raises(ValueError, match=message):
    check_section('eval', rules(**{field: value}))


def test_reranking_follows_the_rules(benchmark):
  plain, single = (
    evaluation.rerank(
      evaluation.evaluate(embed, {}, benchmark, rules(**fields)), benchmark
    )
    for fields in ({}, {'single_gallery_shot': True, 'max_rank': 12})
  )
  assert single.mAP == plain.mAP
  assert len(single.cmc) == 12 and single.cmc[0] != plain.cmc[0]


@pytest.mark.parametrize('distance', ['cosine', 'euclidean'])
def test_rankings_are_those_that_were_evaluated(distance):
  """The first match has the rank that the evaluation reports."""
  benchmark = make_benchmark()
  evaluated = evaluation.evaluate(
    embed, {}, benchmark, rules(distance=distance)
  )
  first = evaluated.result.first_match_rank
  assert (first > 1).any()
  for ranking in evaluation.rank(evaluated, np.flatnonzero(first), top=100):
    assert np.argmax(ranking.correct) + 1 == first[ranking.query]
    found = benchmark.gallery.pids[ranking.found]
    same = found == benchmark.query.pids[ranking.query]
    np.testing.assert_array_equal(ranking.correct, same)
    assert (np.diff(ranking.similarity) <= 0).all()
    assert -1 not in found


def test_junk_without_finite_embeddings_is_an_error(benchmark):
  def embed(variables, split, rows):
    return np.where(rows[:, None] == rows[1], np.nan, np.ones((1, 8)))

  with pytest.raises(UserError, match='of the junk has 1 rows .* not finite'):
    evaluation.embed_junk(embed, {}, benchmark)


def test_the_digest_tells_images_and_their_order():
  splits = [
    make_split(np.array(pids), np.zeros(2, int))
    for pids in ([1, 2], [2, 1], [1, 2])
  ]
  first, other, again = map(card.digest, splits)
  assert first == again != other


def test_diagnosis_by_cameras_is_a_gallery_of_one_camera():
  """The eighth camera has distractors only, the ninth junk, which is none."""
  benchmark = make_benchmark()
  gallery = benchmark.gallery
  gallery.camids[gallery.pids == 0], gallery.camids[gallery.pids == -1] = 7, 8
  evaluated = evaluation.evaluate(embed, {}, benchmark, rules())
  found = diagnosis.by_cameras(evaluated, benchmark)
  assert found['query_cameras'] == [1, 2]
  assert found['gallery_cameras'] == [1, 2, 3, 4, 5, 6, 7, 8]
  for j in range(8):
    precision = naive(evaluated, benchmark, benchmark.gallery.camids == j)
    for i in range(2):
      own = precision[benchmark.query.camids == i]
      own = own[~np.isnan(own)]
      assert found['queries'][i][j] == len(own)
      if len(own):
        np.testing.assert_allclose(found['mAP'][i][j], own.mean(), atol=1e-6)
      else:
        assert found['mAP'][i][j] is None
  assert found['mAP'][0][0] is None  # the same camera is excluded
  assert found['queries'][0][7] == 0
  own = diagnosis.by_cameras(evaluated, make_benchmark(first_camera=0))
  assert own['query_cameras'] == [0, 1]
  assert own['gallery_cameras'] == [0, 1, 2, 3, 4, 5, 6]


def test_diagnosis_lists_the_hardest_and_counts_matches():
  benchmark = make_benchmark()
  evaluated = evaluation.evaluate(embed, {}, benchmark, rules())
  found = diagnosis.diagnose(evaluated, benchmark)
  precision = evaluated.result.average_precision
  hardest = found['hardest']
  assert [h['AP'] for h in hardest] == sorted(h['AP'] for h in hardest)
  np.testing.assert_allclose(hardest[0]['AP'], np.nanmin(precision), atol=1e-6)
  assert len(hardest) == diagnosis.NUM_HARDEST
  for one in hardest:
    right = one['found_identity'] == one['identity']
    assert right == (one['first_match_rank'] == 1)
    assert one['found'].startswith(f'{one["found_identity"]}_')
  rows = found['by_matches']
  number = evaluated.result.num_matches
  assert sum(row['queries'] for row in rows) == (number > 0).sum()
  for row in rows:
    some = (row['from'] <= number) & (number <= row['to'])
    np.testing.assert_allclose(row['mAP'], precision[some].mean())
  text = '\n'.join(diagnosis.lines(found))
  assert '  3 to 4' in text and 'Rank-1' in text


def test_queries_without_a_match_are_not_the_hardest():
  benchmark = make_benchmark()
  lost = benchmark.gallery.pids == 5
  benchmark.gallery.pids[lost] = 35
  evaluated = evaluation.evaluate(embed, {}, benchmark, rules())
  order = diagnosis.by_difficulty(evaluated)
  assert sorted(order.tolist()) == [*range(4), *range(5, 30)]
  assert (np.diff(evaluated.result.average_precision[order]) >= 0).all()
  found = diagnosis.diagnose(evaluated, benchmark)
  assert sum(row['queries'] for row in found['by_matches']) == 29


def test_a_query_needs_a_match_under_another_camera():
  benchmark = make_benchmark()
  assert evaluation.check_benchmark(benchmark) == 0
  benchmark.gallery.pids[benchmark.gallery.pids < 30] = 35
  assert evaluation.check_benchmark(benchmark) == 29
  benchmark.gallery.camids[:] = benchmark.query.camids[-1]
  for has_cameras, where in (True, 'under another came'), (False, 'on another'):
    benchmark = dataclasses.replace(benchmark, has_cameras=has_cameras)
    with pytest.raises(UserError, match=f'none of the 30 queries.* {where}'):
      evaluation.check_benchmark(benchmark)


def test_diagnosis_follows_the_rules():
  benchmark = make_benchmark()
  by_rule = {}
  for fields in ({}, {'distance': 'euclidean'}, {'ap': 'trapezoid'}):
    evaluated = evaluation.evaluate(embed, {}, benchmark, rules(**fields))
    found = diagnosis.diagnose(evaluated, benchmark)
    by_rule[str(fields)] = found['by_cameras']['mAP']
    precision = evaluated.result.query_figures(evaluated.rules.ap)['mAP']
    lowest = np.sort(precision)[: diagnosis.NUM_HARDEST]
    np.testing.assert_allclose(
      [one['AP'] for one in found['hardest']], lowest, atol=1e-6
    )
  assert len(set(map(str, by_rule.values()))) == 3


def test_diagnosis_without_cameras(benchmark):
  evaluated = evaluation.evaluate(embed, {}, benchmark, rules())
  assert diagnosis.diagnose(evaluated, benchmark)['by_cameras'] is None


def test_the_name_of_a_card_says_how_it_was_made():
  def name(names, changed, reranked):
    path = card.default_path('run', 7, names, changed, reranked)
    assert path.parent == pathlib.Path('run/evaluations')
    return path.name

  assert name(['market1501'], {}, False) == 'market1501-step7.json'
  assert name(
    ['duke', 'msmt17/train'], {'eval.flip': False, 'eval.ap': 'x'}, True
  ) == ('duke-msmt17-train-step7-ap=x-flip=False-reranked.json')
  path = card.default_path('run', 7, ['duke'], {}, False, 'out/train.npz', 64)
  assert path.name == 'duke-step7-fit=train-dimensions=64.json'


def test_the_name_of_a_card_tells_other_images():
  config = common.get_config()
  entry = {'trained_on': {'fingerprint': 'aaaaaaaaaaaa+bbbbbbbbbbbb'}}

  def name(fingerprint, trained, **options):
    benchmark = dataclasses.replace(
      make_benchmark(), fingerprint=fingerprint, **options
    )
    result = evaluation.evaluate(embed, {}, benchmark, config.eval).result
    made = card.result_card(result, config, benchmark, entry)
    return card.name_of_images('duke', made, trained)

  for own in ('aaaaaaaaaaaa', 'bbbbbbbbbbbb'):
    assert name(own, True) == name(own, True, has_cameras=False) == 'duke'
  published = {'as_published': True}
  assert name('0123456789ab', False, **published) == 'duke'
  for trained, options in [
    (True, {}),
    (True, published),  # the network was trained on others
    (False, {}),
    (False, {'as_published': None}),
    (False, published | {'has_cameras': False}),  # --ignore_cameras
  ]:
    assert name('0123456789ab', trained, **options) == 'duke-01234567'


def test_a_distractor_is_an_identity_that_no_query_has():
  """DukeMTMC-reID has distractors of many identities, Market-1501 of one."""
  benchmark = make_benchmark()
  gallery = benchmark.gallery
  pids = np.where(gallery.pids == 0, 35, gallery.pids)
  gallery = dataclasses.replace(gallery, pids=pids)
  benchmark = dataclasses.replace(benchmark, gallery=gallery)
  found = evaluation.evaluate(
    embed, {}, benchmark, rules(drop_distractors=True)
  )
  assert {*pids[found.gallery_rows]} == {*benchmark.query.pids}
