"""Compares two result cards, with a bootstrap interval over the queries."""

from collections.abc import Iterator, Mapping

import numpy as np

from apnet_jax.errors import UserError
from apnet_jax.workdir.json_files import read_json

# What must be alike in both cards, and is said if it is not.
ALIKE = ('dataset', 'fingerprint', 'protocol', 'gallery')


# What may differ, and is said.
NOTED = ('checkpoint', 'network', 'versions')


def read_cards(path: str) -> dict[str, dict]:
  """The cards of a file, by data set.

  Raises:
    UserError: it is no result card of `eval.py` or `train.py`, nor several by
      data set, nor a record that holds one.
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
  """Checks what the comparison relies on; the rest is only shown."""
  if not isinstance(card, dict) or not isinstance(card.get('figures'), dict):
    raise UserError(f'{name} is not a result card: it has no figures.')
  for part in ('protocol', 'queries', 'gallery'):
    if not isinstance(card.get(part), dict):
      raise UserError(f'{name} is not a result card: it has no {part}.')
  if not shown_figures(card):
    raise UserError(f'{name} is not a result card: it has no mAP.')
  for figure, value in shown_figures(card).items():
    if not isinstance(value, int | float) or not 0 <= value <= 1:
      raise UserError(f'{name}: {figure} is {value!r}, not a share.')
  per_query = card['queries'].get('figures', {})
  if not isinstance(per_query, dict):
    raise UserError(f'{name}: the figures of the queries are not by name.')
  for figure, values in per_query.items():
    _check_values(f'{name}: {figure} of the queries', values)


def _check_values(name: str, values) -> None:
  if not isinstance(values, list) or not all(
    v is None or isinstance(v, int | float) and 0 <= v <= 1 for v in values
  ):
    raise UserError(f'{name} is not a list of shares.')


def shown_figures(card: Mapping) -> dict[str, float]:
  """The figures that stand in tables; those after re-ranking come last."""
  shown = _shown(card['figures'])
  reranked = card.get('reranked')
  if isinstance(reranked, dict) and isinstance(reranked.get('figures'), dict):
    again = _shown(reranked['figures']).items()
    shown |= {f'{name}, re-ranked': value for name, value in again}
  return shown


def _shown(figures: Mapping) -> dict[str, float]:
  return {
    name: value
    for name, value in figures.items()
    if name in ('mAP', 'mINP') or name.startswith('Rank-')
  }


def differences(a: Mapping, b: Mapping, fields) -> Iterator[str]:
  """Lines that say where two cards differ."""
  for field in fields:
    yield from _differences(field, a.get(field), b.get(field))


def _differences(name: str, a, b) -> Iterator[str]:
  if isinstance(a, dict) and isinstance(b, dict):
    for key in sorted(a.keys() | b.keys()):
      yield from _differences(f'{name}.{key}', a.get(key), b.get(key))
  elif a != b:
    yield f'  {name}: {_show(a)} | {_show(b)}'


def _show(value) -> str:
  return '-' if value is None else str(value)


def unlike(a: Mapping, b: Mapping) -> list[str]:
  """Where two cards are not of the same rules, images or queries."""
  found = list(differences(a, b, ALIKE))
  for part in ('valid', 'skipped', 'names'):
    found += _differences(
      f'queries.{part}', a['queries'].get(part), b['queries'].get(part)
    )
  return found


def paired_differences(a: Mapping, b: Mapping) -> tuple[list[str], np.ndarray]:
  """B - A of each query that counts.

  Returns:
    Names of figures, and [queries, figures]; none and empty where not the same
    queries are known to count in both cards.
  """
  a, b = a['queries'], b['queries']
  names = [n for n in a.get('figures', {}) if n in b.get('figures', {})]
  if a.get('names') is None or a['names'] != b.get('names') or not names:
    return [], np.zeros((0, 0))
  ours, theirs = (
    [np.array(card['figures'][name], np.float64) for name in names]
    for card in (a, b)
  )
  if len({len(values) for values in ours + theirs}) > 1:
    return [], np.zeros((0, 0))
  ours, theirs = np.stack(ours, 1), np.stack(theirs, 1)
  skipped = np.isnan(ours)
  if (skipped != np.isnan(theirs)).any() or skipped.all():
    return [], np.zeros((0, 0))
  return names, (theirs - ours)[~skipped.any(1)]


def bootstrap_intervals(
  values: np.ndarray, level: float, samples: int, seed: int
) -> np.ndarray:
  """Percentile intervals of means, by the bootstrap (Efron, 1979).

  Args:
    values: [queries, figures]; a query is drawn with all its figures.
    level: of confidence, as 0.95.
    samples: how often as many queries are drawn.
    seed: for drawing.

  Returns:
    [figures, 2], low and high.
  """
  rng, number = np.random.default_rng(seed), len(values)
  means = np.empty((samples, values.shape[1]))
  for sample in range(samples):
    drawn = rng.integers(number, size=number, dtype=np.int32)
    means[sample] = np.bincount(drawn, minlength=number) @ values / number
  tail = (1 - level) / 2
  return np.quantile(means, [tail, 1 - tail], axis=0).T


def compare(
  a: Mapping, b: Mapping, level: float, samples: int, seed: int
) -> list[str]:
  """Lines: a table of two cards in percent, with intervals where possible."""
  paired, values = paired_differences(a, b)
  intervals = {}
  if paired:
    found = 100 * bootstrap_intervals(values, level, samples, seed)
    intervals = dict(zip(paired, found))
  last = f'{100 * level:g}% interval' if paired else ''
  ours, theirs = shown_figures(a), shown_figures(b)
  names = [name for name in ours if name in theirs]
  width = max(map(len, names), default=0) + 1
  lines = [f'{"":{width}}{"A":>8}{"B":>8}{"B - A":>9}{last:>20}'.rstrip()]
  lines.append('-' * len(lines[0]))
  for name in names:
    one, two = 100 * ours[name], 100 * theirs[name]
    line = f'{name:{width}}{one:8.1f}{two:8.1f}{two - one:+9.1f}'
    if name in intervals:
      low, high = intervals[name]
      line += f'{f"{low:+.1f} to {high:+.1f}":>20}'
      line += '' if low <= 0 <= high else ' *'
    lines.append(line)
  lines.append(
    f'* zero is not in the interval. {len(values):,} queries, drawn'
    f' {samples:,} times, the same for both.'
    if paired
    else 'No interval: the cards do not have figures of the same queries.'
  )
  return lines
