"""The page of two evaluations side by side, made of their two pages."""

from collections.abc import Mapping
import os
import pathlib

from apnet_jax.errors import UserError
from apnet_jax.visualize import page

PAGE = 'index.html'
CARD = 'result.json'


def find_report(folder: str | os.PathLike) -> pathlib.Path:
  """Finds a report in a folder, or in its folder `report`.

  Args:
    folder: a folder that eval.py --report wrote, or a workdir that has one.

  Raises:
    UserError: there is no report.
  """
  for place in (pathlib.Path(folder), pathlib.Path(folder, 'report')):
    if (place / PAGE).is_file() and (place / CARD).is_file():
      return place
  raise UserError(
    f'{folder} has no report (files {PAGE} and {CARD}). Make it with eval.py'
    ' --ckpt=WORKDIR --report=DIR.'
  )


def read_report(folder: str | os.PathLike) -> dict:
  """Reads the data of a report's page.

  Args:
    folder: the result of `find_report`.

  Raises:
    UserError: the page cannot be read, or is not that of one evaluation.
  """
  path = pathlib.Path(folder, PAGE)
  data = page.read_data(path)
  if len(data.get('runs', ())) != 1 or 'queries' not in data:
    raise UserError(f'{path} is not the page of one evaluation.')
  if not all(isinstance(q.get('matches'), list) for q in data['queries']):
    raise UserError(
      f'{path} is of an earlier version: make it again by eval.py --report.'
    )
  return data


def merge(a: Mapping, b: Mapping, names: tuple[str, str] = ('A', 'B')) -> dict:
  """Merges the data of two pages; the queries that differ most come first.

  Args:
    a: the result of `read_report`.
    b: that of another network on the same images.
    names: names of the two.

  Returns:
    Data for `report_page.make_page`. It has the queries that both pages have,
    and each of their images once.

  Raises:
    UserError: the pages have no query in common.
  """
  images = _Images()
  second = {b['images']['name'][q['image']]: q for q in b['queries']}
  queries = []
  for query in a['queries']:
    other = second.get(a['images']['name'][query['image']])
    if other is not None:
      queries.append(_merge_query(a, b, query, other, images))
  if not queries:
    raise UserError('the reports have no query in common.')
  queries.sort(key=lambda query: -abs(query['AP'][1] - query['AP'][0]))
  attention: dict[str, list] = {}
  for run, data in enumerate((a, b)):
    attention |= _merge_attention(data, run, images)
  return {
    'valid': min(a['valid'], b['valid']),
    'has_cameras': a['has_cameras'] and b['has_cameras'],
    'is_cosine': a['is_cosine'] and b['is_cosine'],
    'height': max(a['height'], b['height']),
    'runs': [
      {**data['runs'][0], 'name': name} for name, data in zip(names, (a, b))
    ],
    'queries': queries,
    'images': images.columns,
    'attention': attention,
  }


class _Images:
  """The images of a merged page, each once.

  Attributes:
    columns: values of each image, by column.
  """

  def __init__(self):
    self.columns, self._places = {}, {}

  def find(self, data: Mapping, image: int) -> int | None:
    """Returns the place of an image of a page; None if it was not added."""
    return self._places.get(self._key(data, image))

  def add(self, data: Mapping, image: int) -> int:
    """Adds an image of a page unless it is there; returns its place."""
    key = self._key(data, image)
    if key not in self._places:
      self._places[key] = len(self._places)
      for column, values in data['images'].items():
        self.columns.setdefault(column, []).append(values[image])
    return self._places[key]

  def _key(self, data, image):
    return data['images']['split'][image], data['images']['name'][image]


def _merge_query(a, b, query, other, images: _Images) -> dict:
  """Merges the entries of a query of two pages."""
  lists = [
    each
    | {
      'found': [images.add(data, image) for image in each['found']],
      'match': images.add(data, each['match']),
    }
    for data, entry in ((a, query), (b, other))
    for each in entry['lists']
  ]
  return query | {
    'image': images.add(a, query['image']),
    'AP': query['AP'] + other['AP'],
    'first': query['first'] + other['first'],
    'matches': query['matches'] + other['matches'],
    'lists': lists,
  }


def _merge_attention(data, run: int, images: _Images) -> dict:
  """Returns the attention maps of a page under their keys in the merged one."""
  merged = {}
  for key, maps in data['attention'].items():
    query, image, _ = map(int, key.split('-'))
    places = images.find(data, query), images.find(data, image)
    if None not in places:
      merged['{}-{}-{}'.format(*places, run)] = maps
  return merged
