"""The page of an evaluation: its figures, and its ranked lists."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from apnet_jax.feed import Benchmark
from apnet_jax.retrieval.card import WHOLE_GALLERY
from apnet_jax.retrieval.diagnosis import by_difficulty
from apnet_jax.retrieval.evaluation import Evaluation
from apnet_jax.retrieval.ranked_lists import WRONG, RankedList, ranked_lists
from apnet_jax.retrieval.threshold import describe
from apnet_jax.visualize import heat_colours, page, thumbnails

TEMPLATE = 'report.html.j2'
TOP = 10  # ranked images of a list
SIMILARITY_DIGITS = 4
# Fields of a result card that the page shows.
CARD_FIELDS = (
  'dataset', 'as_published', 'checkpoint', 'figures', 'based_on', 'warning',
  'reranked', 'shorter', 'protocol', 'network', 'recipe', 'gallery',
  'verification',
)  # fmt: skip


def page_data(
  card: Mapping,
  evaluated: Evaluation,
  benchmark: Benchmark,
  image_bytes: int = thumbnails.BUDGET,
  attend: Callable | None = None,
  attended: int = 0,
) -> dict:
  """Collects what the page of an evaluation shows, ready for JSON.

  If the images of all lists do not fit, the page has the lists of fewer
  queries: half of them the hardest, half an even sample from the hardest to
  the easiest.

  Args:
    card: result card of the evaluation.
    evaluated: evaluation of the benchmark.
    benchmark: queries and gallery that were evaluated.
    image_bytes: budget for the images and their copies with heat maps, in
      bytes of base 64.
    attend: function of two batches of images, uint8 [pairs, height, width, 3],
      that returns a heat map [pairs, height, width] in 0..1 for each image.
    attended: number of lists to add such maps to, the hardest first: those of
      the query with the first ranked image, and with the closest true match.

  Returns:
    `runs`, one entry with the card; `images`, by column; `queries`, the lists,
    the hardest query first; `valid`, the number of queries with an AP; and
    `attention`, copies of the two maps by the places of two images and 0.
  """
  order = by_difficulty(evaluated)
  lists = list(ranked_lists(evaluated, order, TOP))
  wanted = _gallery_rows(lists)
  some = wanted[thumbnails.evenly(len(wanted), thumbnails.SAMPLED)]
  batches = benchmark.gallery.batches(some, thumbnails.BATCH)
  sizes = thumbnails.bytes_by_height([i for batch in batches for i in batch])
  # A copy with its map is about as large as the image. Each list has at most
  # two pairs.
  copies = 4 * min(attended, len(order))
  images = len(order) + len(wanted) + copies
  height, fitting = thumbnails.choose_height(sizes, images, image_bytes)
  lists = _choose_lists(lists, fitting - copies)
  return {
    'valid': len(order),
    'has_cameras': benchmark.has_cameras,
    'is_cosine': evaluated.rules.distance == 'cosine',
    'height': height,
    'runs': [{'name': '', 'card': _card_entry(card)}],
    **_lists_and_images(lists, evaluated, benchmark, height),
    'attention': _attention(lists[:attended], lists, benchmark, attend, height),
  }


def _gallery_rows(lists: Iterable[RankedList]) -> np.ndarray:
  """Returns the rows of all gallery images of some lists, sorted."""
  rows = [np.append(each.found, each.match) for each in lists]
  return np.unique(np.concatenate(rows))


def _choose_lists(lists: Sequence[RankedList], images: int):
  """Chooses the most lists that need at most this number of images.

  At least one list is chosen.

  Args:
    lists: lists, the hardest query first.
    images: number of images that may be shown.
  """

  def needed(number):
    some = hardest_and_even(len(lists), number)
    return number + len(_gallery_rows(lists[i] for i in some))

  number = thumbnails.most_fitting(len(lists), needed, images)
  return [lists[i] for i in hardest_and_even(len(lists), number)]


def hardest_and_even(total: int, number: int) -> list[int]:
  """Chooses places in a list: half of them the first, half evenly spaced.

  Args:
    total: length of the list.
    number: number of places to choose, at most `total`.

  Returns:
    The places, ascending.
  """
  first = (number + 1) // 2
  even = np.linspace(first, total - 1, number - first)
  return [*range(first), *even.round().astype(int).tolist()]


def _places(lists: Sequence[RankedList]) -> dict[int, int]:
  """Returns the place of each gallery image on the page, after the queries."""
  rows = _gallery_rows(lists).tolist()
  return {row: len(lists) + i for i, row in enumerate(rows)}


def _attention(some, lists, benchmark, attend, height) -> dict:
  """Returns the entry `attention` of `page_data`, for some of the lists."""
  place, maps = _places(lists), {}
  for i, each in enumerate(some):
    ranked = each.found[each.kinds <= WRONG]
    rows = np.array([ranked[0], each.match])
    queries = np.array([each.query] * 2)
    pair = [
      np.concatenate(list(split.batches(rows_of_split, 2)))
      for split, rows_of_split in (
        (benchmark.query, queries),
        (benchmark.gallery, rows),
      )
    ]
    heats = map(np.asarray, attend(*pair))
    copies = [
      [
        thumbnails.encode(heat_colours.overlay(image, heat), height)
        for image, heat in zip(images, heat_maps)
      ]
      for images, heat_maps in zip(pair, heats)
    ]
    for row, *two in zip(rows.tolist(), *copies):
      maps[f'{i}-{place[row]}-0'] = two
  return maps


def _lists_and_images(lists, evaluated, benchmark, height) -> dict:
  """Returns the entries `queries` and `images` of `page_data`."""
  query, gallery = benchmark.query, benchmark.gallery
  precision = evaluated.query_figures['mAP']
  result = evaluated.result
  query_rows = [each.query for each in lists]
  gallery_rows = _gallery_rows(lists)
  place = _places(lists)
  queries = [
    {
      'image': i,
      'AP': [round(float(precision[each.query]), 6)],
      'first': [int(result.first_match_rank[each.query])],
      'matches': [int(result.num_matches[each.query])],
      'lists': [
        {
          'found': [place[int(row)] for row in each.found],
          'kinds': each.kinds.tolist(),
          'similarity': _rounded(each.similarity),
          'match': place[each.match],
          'match_similarity': _rounded([each.match_similarity])[0],
        }
      ],
    }
    for i, each in enumerate(lists)
  ]
  parts = ((query, query_rows, 'query'), (gallery, gallery_rows, 'gallery'))
  images = {
    'split': [name for _, rows, name in parts for _ in rows],
    'name': [str(x) for split, rows, _ in parts for x in split.paths[rows]],
    'identity': [int(x) for split, rows, _ in parts for x in split.pids[rows]],
    'camera': [
      int(x) + benchmark.first_camera
      for split, rows, _ in parts
      for x in split.camids[rows]
    ],
    'thumbnail': [
      text
      for split, rows, _ in parts
      for text in thumbnails.encode_all(split, rows, height)
    ],
  }
  return {'queries': queries, 'images': images}


def _rounded(values) -> list[float]:
  return [round(float(x), SIMILARITY_DIGITS) for x in values]


def _card_entry(card: Mapping) -> dict:
  """Returns the fields of a result card that the page shows."""
  by_cameras = (card['diagnosis'] or {}).get('by_cameras')
  return {name: card[name] for name in CARD_FIELDS} | {'by_cameras': by_cameras}


def make_page(data: Mapping, title: str, remarks: Sequence[str] = ()) -> str:
  """Returns the page of one evaluation, or of two side by side.

  Args:
    data: the result of `page_data` or of `comparison_page.merge`.
    title: heading of the page.
    remarks: more paragraphs of text, such as a table of the comparison.
  """
  return page.render(
    TEMPLATE,
    data,
    title=title,
    remarks=remarks,
    runs=[
      {'name': r['name'], 'words': in_words(r['card'])} for r in data['runs']
    ],
    shown=len(data['queries']),
    valid=data['valid'],
    compared=len(data['runs']) > 1,
  )


def in_words(card: Mapping) -> list[str]:
  """Returns the main figures of a result card as sentences."""
  figures, trained = card['figures'], card['checkpoint']['trained_on']
  rank1, mAP = 100 * figures['Rank-1'], 100 * figures['mAP']
  one_shot = ''
  if card['protocol']['cmc'] != WHOLE_GALLERY:
    one_shot = ', as expected with one random gallery image of each identity'
  words = [
    f'Rank-1 {rank1:.1f}%: for this share of the queries, the closest image'
    f' shows the same person{one_shot}.',
    f'mAP {mAP:.1f}%: how high all images of the person stand in a list, on'
    ' average over the queries. It is 100% if they all come first.',
    f'mINP {100 * figures["mINP"]:.1f}%: how far down the last image of the'
    ' person stands. It is 100% if no other person comes before it.',
    f'The metrics are those of {card["based_on"]} on {card["dataset"]}, by a'
    f' network that was trained on {trained["dataset"]}, after step'
    f' {card["checkpoint"]["step"]} ({_which(card)}).',
  ]
  if verification := card['verification']:
    equal = verification['equal_error']
    words.append(
      f'Equal error rate {100 * equal["eer"]:.2f}%: at similarity'
      f' {equal["threshold"]:.3f}, about this share of the pairs of one person'
      ' is rejected, and of the pairs of two persons accepted.'
    )
    if stored := verification.get('stored_threshold'):
      here = stored['here']
      words.append(
        f'{describe(stored["chosen"])} Here {100 * here["fpr"]:.3g}% of such'
        f' pairs do (FPR), and {100 * here["tpr"]:.1f}% of the pairs of one'
        ' person (TPR).'
      )
  if reranked := card['reranked']:
    again = reranked['figures']
    words.append(
      f'After re-ranking ({reranked["variant"]}): mAP'
      f' {100 * again["mAP"]:.1f}%, Rank-1 {100 * again["Rank-1"]:.1f}%. The'
      ' charts and ranked lists of this page are those before re-ranking.'
    )
  if card['as_published'] is False:
    words.append(
      'The images are not as many as published: the metrics cannot be compared'
      ' with published ones.'
    )
  warnings = [card['warning'], reranked and reranked.get('warning')]
  return words + [warning for warning in warnings if warning]


def _which(card: Mapping) -> str:
  if card['checkpoint']['which'] == 'best':
    return 'the best by mAP, chosen on the test set'
  return 'the last'
