import dataclasses

import ml_collections
import numpy as np
from PIL import ImageColor

from apnet_jax.feed import Benchmark
from apnet_jax.retrieval.evaluation import evaluate, rank
from apnet_jax.visualize import ranks
from configs import common
from tests.fakes import SIZE, make_split

RULES = common.get_config().eval


def benchmark(**options):
  query = make_split(np.array([1, 2, 3]), np.array([0, 0, 0]))
  gallery = make_split(
    np.array([1, 2, 2, -1, 1, 0]), np.array([0, 1, 2, 1, 1, 1])
  )
  return Benchmark(query, gallery, 'noise', '', **options)


def embed(variables, split, rows):
  """Returns points on a circle; junk and distractors lie near identity 1."""
  angle = np.maximum(split.pids[rows], 0.9) + 0.01 * split.camids[rows]
  return np.stack([np.cos(angle), np.sin(angle)], 1)


def test_rankings_follow_the_rules():
  evaluated = evaluate(embed, {}, benchmark(), RULES)
  (ranking,) = rank(evaluated, [0], top=10)
  # Row 0 is from the query's camera, and row 3 is junk.
  assert ranking.found.tolist() == [4, 5, 1, 2]
  assert ranking.correct.tolist() == [True, False, False, False]


def test_queries_are_chosen_from_worst_to_best_and_are_valid():
  evaluation = evaluate(embed, {}, benchmark(), RULES)
  assert sorted(ranks.choose_queries(evaluation, 8)) == [0, 1]


def test_the_heading_says_how_many_queries_count():
  result = evaluate(embed, {}, benchmark(), RULES).result
  assert ranks._heading(result).endswith('(2 of 3 queries have a true match)')
  many = dataclasses.replace(
    result, num_valid_queries=80, num_skipped_queries=0
  )
  assert 'queries' not in ranks._heading(many)


def test_picture_shows_right_and_wrong():
  evaluation = evaluate(embed, {}, benchmark(), RULES)
  picture = np.asarray(ranks.draw_ranking(evaluation, benchmark(), [0, 1], 3))
  cell = round(SIZE[1] * ranks.HEIGHT / SIZE[0]) + 2 * ranks.BORDER
  assert picture.shape[1] > 4 * cell
  for colour in (ranks.GREEN, ranks.RED, ranks.BLUE):
    framed = (picture == ImageColor.getrgb(colour)).all(-1)
    assert framed.sum() > 2 * ranks.HEIGHT * ranks.BORDER
  # A wrong frame is double: seen without colours, it differs from a right one.
  for colour, double in ((ranks.GREEN, False), (ranks.RED, True)):
    image = np.zeros((*SIZE, 3), np.uint8)
    line = np.asarray(ranks._cell(image, colour, ''))[ranks.HEIGHT // 2]
    frame = (line[: ranks.BORDER] == ImageColor.getrgb(colour)).all(-1)
    assert frame[0] and frame[-1] and frame.all() != double


def test_captions_name_cameras_if_there_are_any():
  for options, label in (
    ({}, '2 c1'), ({'first_camera': 0}, '2 c0'), ({'has_cameras': False}, '2'),
  ):  # fmt: skip
    images = benchmark(**options)
    assert ranks._label(images, images.query, 1) == label


def test_what_is_no_cosine_has_no_caption(monkeypatch):
  captions = []
  cell = ranks._cell
  monkeypatch.setattr(
    ranks, '_cell', lambda *a: captions.append(a[2]) or cell(*a)
  )
  for distance, lines in (('cosine', 2), ('euclidean', 1)):
    rules = ml_collections.ConfigDict(RULES)
    rules.distance = distance
    captions.clear()
    ranks.draw_ranking(
      evaluate(embed, {}, benchmark(), rules), benchmark(), [0]
    )
    query, *found = captions
    assert query.split('\n')[1].startswith('AP ')
    assert {len(caption.split('\n')) for caption in found} == {lines}
