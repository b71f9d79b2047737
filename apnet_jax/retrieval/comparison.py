"""Compares two result cards, with a bootstrap interval over the people."""

from collections.abc import Iterator, Mapping
import dataclasses

import numpy as np

from apnet_jax.errors import UserError
from apnet_jax.retrieval.metrics import describe_queries, few_queries_warning
from apnet_jax.workdir.json_files import read_json

# Fields of a card that must be equal for figures to be comparable.
MUST_BE_EQUAL = ('dataset', 'fingerprint', 'protocol', 'gallery')
# Fields of a card whose differences are only shown.
MAY_DIFFER = ('checkpoint', 'network', 'recipe', 'versions')
# With fewer people, the bootstrap sees too little of how people differ, and its
# intervals are too short.
FEW_PEOPLE = 20


def read_cards(path: str) -> dict[str, dict]:
  """Reads the result cards of a file, by data set.

  Args:
    path: a JSON file with a card, with several cards by data set, or with a
      record that has a card in its field `card`.

  Raises:
    UserError: the file is none of these.
  """
  content = read_json(path)
  if isinstance(content, dict) and isinstance(content.get('card'), dict):
    content = content['card']
  if isinstance(content, dict) and 'figures' in content:
    content = {'the card': content}
  if not isinstance(content, dict) or not content:
    raise UserError(f'{path} holds no result card.')
  for name, card in content.items():
    _check(f'{path}: {name}', card)
  return {str(card.get('dataset')): card for card in content.values()}


def _check(name: str, card) -> None:
  """Raises UserError unless a card has valid fields for a comparison."""
  if not isinstance(card, dict) or not isinstance(card.get('figures'), dict):
    raise UserError(f'{name} is not a result card: it has no figures.')
  for field in ('protocol', 'queries', 'gallery'):
    if not isinstance(card.get(field), dict):
      raise UserError(f'{name} is not a result card: it has no {field}.')
  if not table_figures(card):
    raise UserError(f'{name} is not a result card: it has no mAP.')
  for figure, value in table_figures(card).items():
    if not isinstance(value, int | float) or not 0 <= value <= 1:
      raise UserError(f'{name}: {figure} is {value!r}, not in 0 to 1.')
  for part in ('figures', 'reranked'):
    if not isinstance(card['queries'].get(part, {}), dict):
      raise UserError(f'{name}: queries.{part} is not a JSON object.')
  per_query = query_figures(card)
  for figure, values in per_query.items():
    _check_values(f'{name}: {figure} of the queries', values)
  people = card['queries'].get('people', [])
  if not isinstance(people, list) or not all(type(p) is int for p in people):
    raise UserError(f'{name}: queries.people is not a list of numbers.')
  if people and any(len(v) != len(people) for v in per_query.values()):
    raise UserError(f'{name}: queries.people is not one number for each query.')


def _check_values(name: str, values) -> None:
  if not isinstance(values, list) or not all(
    v is None or isinstance(v, int | float) and 0 <= v <= 1 for v in values
  ):
    raise UserError(f'{name} is not a list of numbers in 0 to 1.')


def table_figures(card: Mapping) -> dict[str, float]:
  """Returns mAP, mINP and Rank-k of a card, those after re-ranking last.

  Those of shorter embeddings are not among them: they depend on the images that
  the shortening was fitted on, and a card tells only how many these were.
  """
  shown = _select(card['figures'])
  reranked = card.get('reranked')
  if isinstance(reranked, dict) and isinstance(reranked.get('figures'), dict):
    shown |= _reranked(_select(reranked['figures']))
  return shown


def query_figures(card: Mapping) -> dict[str, list]:
  """Returns figures of each query by name, named as in `table_figures`.

  Cards of earlier states lack those after re-ranking.
  """
  queries = card['queries']
  return queries.get('figures', {}) | _reranked(queries.get('reranked', {}))


def _reranked(figures: Mapping) -> dict:
  return {f'{name}, re-ranked': value for name, value in figures.items()}


def _select(figures: Mapping) -> dict[str, float]:
  return {
    name: value
    for name, value in figures.items()
    if name in ('mAP', 'mINP') or name.startswith('Rank-')
  }


def differences(a: Mapping, b: Mapping, fields) -> Iterator[str]:
  """Yields a line of text for each difference between two cards.

  Args:
    a: a result card.
    b: another result card.
    fields: names of the fields to compare, nested fields included.
  """
  for field in fields:
    if (field in a) == (field in b):
      yield from _differences(field, a.get(field), b.get(field))
    else:  # earlier versions wrote fewer fields
      first, second = ('given' if field in card else '-' for card in (a, b))
      yield f'  {field}: {first} | {second}'


def _differences(name: str, a, b) -> Iterator[str]:
  if isinstance(a, dict) and isinstance(b, dict):
    for key in sorted(a.keys() | b.keys()):
      yield from _differences(f'{name}.{key}', a.get(key), b.get(key))
  elif a != b:
    yield f'  {name}: {_show(a)} | {_show(b)}'


def _show(value) -> str:
  return '-' if value is None else str(value)


def incompatibilities(a: Mapping, b: Mapping) -> list[str]:
  """Returns the differences that make the figures of two cards incomparable.

  These are differences in rules, images or queries, a line of text for each.
  """
  found = list(differences(a, b, MUST_BE_EQUAL))
  if 'release' in a and 'release' in b:  # cards of earlier states lack it
    found += [
      f'{line} (other images with the same counts)'
      for line in _differences('release', a['release'], b['release'])
    ]
  for field in ('valid', 'skipped', 'names'):
    found += _differences(
      f'queries.{field}', a['queries'].get(field), b['queries'].get(field)
    )
  first, second = a.get('reranked'), b.get('reranked')
  if isinstance(first, dict) and isinstance(second, dict):
    found += _differences(
      'reranked.variant', first.get('variant'), second.get('variant')
    )
  return found


@dataclasses.dataclass(frozen=True)
class Differences:
  """Figures of card B minus those of card A, for each query.

  Attributes:
    names: names of the figures.
    values: [valid queries, figures], as fractions of 1. Valid queries are those
      with a true match.
    people: int [valid queries], number of the person of each query; None if
      neither card tells.
  """

  names: list[str]
  values: np.ndarray
  people: np.ndarray | None

  @property
  def drawn(self) -> str:
    """Numbers of people and queries that the bootstrap draws from, as text."""
    queries = f'{len(self.values):,} queries'
    if self.people is None:
      return queries
    return f'{len(np.unique(self.people)):,} people with {queries}'

  @property
  def warning(self) -> str:
    """A warning if the bootstrap draws from few people, or ''."""
    drawn = self.values if self.people is None else np.unique(self.people)
    if len(drawn) >= FEW_PEOPLE:
      return ''
    return (
      f'Warning: intervals of fewer than {FEW_PEOPLE} people are too short:'
      ' they miss the true difference more often than the level says.'
    )


def paired_differences(a: Mapping, b: Mapping) -> Differences | None:
  """Subtracts the figures of each query in card A from those in card B.

  Returns:
    None unless both cards have figures of the same valid queries.
  """
  figures = query_figures(a), query_figures(b)
  a, b = a['queries'], b['queries']
  names = [name for name in figures[0] if name in figures[1]]
  if a.get('names') is None or a['names'] != b.get('names') or not names:
    return None
  columns = [
    [np.array(of_card[name], np.float64) for name in names]
    for of_card in figures
  ]
  if len({len(values) for of_card in columns for values in of_card}) > 1:
    return None
  first, second = (np.stack(of_card, 1) for of_card in columns)
  skipped = np.isnan(first)
  if (skipped != np.isnan(second)).any() or skipped.all():
    return None
  valid = ~skipped.any(1)
  # Cards of earlier versions do not tell people; equal names are equal people.
  people = a.get('people') or b.get('people')
  return Differences(
    names, (second - first)[valid], np.array(people)[valid] if people else None
  )


def bootstrap_intervals(
  values: np.ndarray,
  people: np.ndarray | None,
  level: float,
  samples: int,
  seed: int,
) -> np.ndarray:
  """Computes percentile intervals of means by the bootstrap (Efron, 1979).

  People are drawn with replacement, each with all queries that show the person,
  because such queries are alike.

  Args:
    values: [queries, figures].
    people: int [queries], person of each query; None draws single queries.
    level: confidence level, as 0.95.
    samples: number of bootstrap samples.
    seed: seed of the random numbers.

  Returns:
    [figures, 2], lower and upper ends.
  """
  if people is None:
    people = np.arange(len(values))
  _, people, queries = np.unique(
    people, return_inverse=True, return_counts=True
  )
  number = len(queries)
  sums = np.zeros((number, values.shape[1]))
  np.add.at(sums, people, values)
  rng = np.random.default_rng(seed)
  means = np.empty((samples, values.shape[1]))
  for sample in range(samples):
    drawn = rng.integers(number, size=number, dtype=np.int32)
    times = np.bincount(drawn, minlength=number)
    means[sample] = times @ sums / (times @ queries)
  tail = (1 - level) / 2
  return np.quantile(means, [tail, 1 - tail], axis=0).T


def compare(
  a: Mapping, b: Mapping, level: float, samples: int, seed: int
) -> list[str]:
  """Formats a table of two cards, with confidence intervals of B - A.

  Args:
    a: a result card.
    b: another result card.
    level: see `bootstrap_intervals`.
    samples: see `bootstrap_intervals`.
    seed: see `bootstrap_intervals`.

  Returns:
    Lines with figures in percent. There are no intervals unless both cards have
    figures of the same queries.
  """
  paired = paired_differences(a, b)
  intervals = {}
  if paired:
    found = bootstrap_intervals(
      paired.values, paired.people, level, samples, seed
    )
    intervals = dict(zip(paired.names, 100 * found))
  last = f'{100 * level:g}% interval' if paired else ''
  first, second = table_figures(a), table_figures(b)
  names = [name for name in first if name in second]
  width = max(map(len, names), default=0) + 1
  lines = [f'{"":{width}}{"A":>8}{"B":>8}{"B - A":>9}{last:>20}'.rstrip()]
  lines.append('-' * len(lines[0]))
  for name in names:
    one, two = 100 * first[name], 100 * second[name]
    line = f'{name:{width}}{one:8.1f}{two:8.1f}{two - one:+9.1f}'
    if name in intervals:
      low, high = intervals[name]
      line += f'{f"{low:+.1f} to {high:+.1f}":>20}'
      line += '' if low <= 0 <= high else ' *'
    lines.append(line)
  lines.append(
    f'* zero is not in the interval. Paired bootstrap: {paired.drawn}, drawn'
    f' {samples:,} times, the same for both cards.'
    if paired
    else 'No interval: the cards do not have figures of the same queries.'
  )
  return lines + [paired.warning] if paired and paired.warning else lines


def remarks(a: Mapping, b: Mapping) -> list[str]:
  """Says in lines what queries two cards leave out, and whether few count."""
  lines = []
  for name, card in (('A', a), ('B', b)):
    valid, skipped = (card['queries'].get(k) for k in ('valid', 'skipped'))
    if not all(type(n) is int and n >= 0 for n in (valid, skipped)):
      continue
    if skipped:
      lines.append(
        f'Card {name}: figures of {describe_queries(valid, skipped)}.'
      )
    if warning := few_queries_warning(valid):
      lines.append(f'Card {name}: {warning}')
  return lines
