"""The page of a search: each query, and the images that were found for it."""

from collections.abc import Mapping, Sequence
from concurrent import futures

from PIL import Image

from apnet_jax import images
from apnet_jax.errors import UserError
from apnet_jax.inference import rows
from apnet_jax.retrieval.threshold import SAME_PERSON
from apnet_jax.visualize import page, thumbnails

TEMPLATE = 'search.html.j2'
PAGE = 'index.html'
TOP = 100  # images of a list that are shown at most
PLACES_OF_IMAGE = 40  # in lists, that take the space of the smallest copy
NAMED = 200  # images without a picture that are named above the lists
PLAIN, SAME, OTHER = range(3)  # kinds of found images; see search.js


def page_data(results: Mapping, image_bytes: int = thumbnails.BUDGET) -> dict:
  """Collects what the page of a search shows, ready for JSON.

  If the images of all lists do not fit, the page has the lists of fewer
  queries, an even sample of them. Images that cannot be read any more, and
  boxes in videos, have a text in place of a picture.

  Args:
    results: the results, as the command search writes them to a JSON file.
    image_bytes: budget for the images, in bytes of base 64.

  Returns:
    `queries`, the lists; `images`, by column: `name`, `about` (other columns as
    text), `thumbnail` and `problem`, one of which is None; `threshold`;
    `total`, the number of all queries; `people`, of those whose person was
    found by the threshold; `longest`, the length of the longest list; and
    `unreadable`, messages about images that were not embedded.
  """
  lists = results['results']
  with images.strict_pillow(), futures.ThreadPoolExecutor() as pool:
    everything = [*_images(lists).values()]
    some = thumbnails.evenly(len(everything), thumbnails.SAMPLED)
    small = pool.map(_read_small, [everything[i] for i in some])
    sample = [image for image in small if isinstance(image, Image.Image)]
    height, fitting = thumbnails.HEIGHTS[0], _space(lists)
    if sample:
      sizes = thumbnails.bytes_by_height(sample)
      height, fitting = thumbnails.choose_height(sizes, fitting, image_bytes)
    lists = _choose_lists(lists, fitting)
    shown = _images(lists)
    copies = [*pool.map(lambda row: _encode(row, height), shown.values())]
  place = {key: i for i, key in enumerate(shown)}
  return {
    'threshold': results['threshold'],
    'is_cosine': True,
    'total': len(results['results']),
    'people': sum(
      each['found'][0]['verdict'] == SAME_PERSON for each in results['results']
    ),
    'longest': max(len(each['found']) for each in results['results']),
    'unreadable': list(results['unreadable'].values()),
    'queries': [_list_entry(each, place) for each in lists],
    'images': {
      'name': [row['image'] for row in shown.values()],
      'about': [_about(row) for row in shown.values()],
      'thumbnail': [thumbnail for thumbnail, _ in copies],
      'problem': [problem for _, problem in copies],
    },
  }


def _images(lists: Sequence[Mapping]) -> dict[tuple, Mapping]:
  """Returns the images of some lists, each once, by a key of `_key`.

  An image that is both a query and found has the columns that were found.
  """
  found: dict[tuple, Mapping] = {}
  for each in lists:
    for row in ({'image': each['query']}, *each['found'][:TOP]):
      found[_key(row)] = max(found.get(_key(row), row), row, key=len)
  return found


def _key(row: Mapping) -> tuple:
  """Returns what tells an image or a box from all others."""
  return (row['image'], *(row.get(name) for name in (*rows.BOX, 'frame')))


def _space(lists: Sequence[Mapping]) -> int:
  """Returns the space of lists on the page, in copies of images.

  Images that many lists share take a little space in each of them.
  """
  places = sum(min(len(each['found']), TOP) for each in lists)
  return len(_images(lists)) + places // PLACES_OF_IMAGE


def _choose_lists(lists: Sequence[Mapping], fitting: int) -> list[Mapping]:
  """Chooses the most lists, evenly, that have at most this space."""

  def choose(number):
    return [lists[i] for i in thumbnails.evenly(len(lists), number)]

  return choose(
    thumbnails.most_fitting(
      len(lists), lambda number: _space(choose(number)), fitting
    )
  )


def _read_small(row: Mapping) -> Image.Image | UserError:
  """Returns an image in the size of the largest copy, or an error."""
  try:
    picture = rows.read_picture(row['image'], row)
  except UserError as error:
    return error
  return thumbnails.shrink(picture, thumbnails.HEIGHTS[0])


def _encode(row: Mapping, height: int) -> tuple[str | None, str | None]:
  """Returns a copy of an image, or what is wrong with it; the other is None."""
  picture = _read_small(row)
  if isinstance(picture, UserError):
    return None, 'in a video' if rows.is_in_video(row) else 'cannot be read'
  return thumbnails.encode(picture, height), None


def _about(row: Mapping) -> str:
  """Returns the other columns of an image as text, such as `pid 7, camid 2`."""
  named = {
    name: value
    for name, value in row.items()
    if name not in (*rows.JUDGEMENT, *rows.BOX)
  }
  if rows.BOX[0] in row:
    named['box'] = ' '.join(f'{row[side]:g}' for side in rows.BOX)
  return ', '.join(f'{name} {value}' for name, value in named.items())


def _list_entry(each: Mapping, place: Mapping[tuple, int]) -> dict:
  """Returns the entry of a query in `queries` of `page_data`."""
  found = each['found'][:TOP]
  return {
    'image': place[_key({'image': each['query']})],
    'lists': [
      {
        'found': [place[_key(row)] for row in found],
        'kinds': [_kind(row['verdict']) for row in found],
        'similarity': [_rounded(row['similarity']) for row in found],
        'shares': [_rounded(row['share_of_pairs_below']) for row in found],
      }
    ],
  }


def _rounded(value: float | None) -> float | None:
  return None if value is None else round(value, 4)


def _kind(verdict: str | None) -> int:
  if verdict is None:
    return PLAIN
  return SAME if verdict == SAME_PERSON else OTHER


def make_page(data: Mapping, title: str, about: Sequence[str] = ()) -> str:
  """Returns the page of a search.

  Args:
    data: the result of `page_data`.
    title: heading of the page.
    about: sentences on the network and on the similarities.
  """
  columns = data['images']
  missing = [
    name
    for name, problem in zip(columns['name'], columns['problem'])
    if problem == 'cannot be read'
  ]
  return page.render(
    TEMPLATE,
    data,
    title=title,
    about=about,
    threshold=data['threshold'],
    shown=len(data['queries']),
    total=data['total'],
    people=data['people'],
    longest=data['longest'],
    top=TOP,
    missing=missing,
    unreadable=data['unreadable'],
    named=NAMED,
    videos='in a video' in columns['problem'],
  )
