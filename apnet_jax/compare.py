"""Compares two result cards, or two images.

  python -m apnet_jax compare A.json B.json
  python -m apnet_jax compare --ckpt=runs/market A.jpg B.jpg

Two cards become a table that says whether a difference may be chance.

The interval is that of the difference B - A if the queries were drawn again
(paired bootstrap: both cards are averaged over the same queries each time). It
says nothing of another training run, whose seed changes more than that.

Cards that were not made under the same rules, or not of the same images, are
refused, unless --unlike says that this is meant.

Of two images it says whether they show one person, by the threshold that
`eval.py --choose_threshold` has stored with the network, or --threshold.
"""

from collections.abc import Iterator, Mapping
import pathlib
import sys

from absl import flags
import numpy as np

from apnet_jax import checkpoint, cli, search

# What must be alike in both cards, and is said if it is not.
ALIKE = ('dataset', 'fingerprint', 'protocol', 'gallery')
# What may differ, and is said.
NOTED = ('checkpoint', 'network', 'versions')


def read_cards(path: str) -> dict[str, dict]:
  """The cards of a file, by data set.

  Raises:
    ValueError: it is no result card of `eval.py` or `train.py`, nor several by
      data set, nor a record that holds one.
  """
  content = checkpoint.parse_json(pathlib.Path(path))
  if isinstance(content, dict) and isinstance(content.get('card'), dict):
    content = content['card']
  if isinstance(content, dict) and 'figures' in content:
    content = {'the card': content}
  if not isinstance(content, dict) or not content:
    raise ValueError(f'{path} holds no result card.')
  for name, card in content.items():
    _check(f'{path}: {name}', card)
  return {str(card.get('dataset')): card for card in content.values()}


def _check(name: str, card) -> None:
  """Checks what the comparison relies on; the rest is only shown."""
  if not isinstance(card, dict) or not isinstance(card.get('figures'), dict):
    raise ValueError(f'{name} is not a result card: it has no figures.')
  for part in ('protocol', 'queries', 'gallery'):
    if not isinstance(card.get(part), dict):
      raise ValueError(f'{name} is not a result card: it has no {part}.')
  if not shown_figures(card):
    raise ValueError(f'{name} is not a result card: it has no mAP.')
  for figure, value in shown_figures(card).items():
    if not isinstance(value, int | float) or not 0 <= value <= 1:
      raise ValueError(f'{name}: {figure} is {value!r}, not a share.')
  per_query = card['queries'].get('figures', {})
  if not isinstance(per_query, dict):
    raise ValueError(f'{name}: the figures of the queries are not by name.')
  for figure, values in per_query.items():
    _check_values(f'{name}: {figure} of the queries', values)


def _check_values(name: str, values) -> None:
  if not isinstance(values, list) or not all(
    v is None or isinstance(v, int | float) and 0 <= v <= 1 for v in values
  ):
    raise ValueError(f'{name} is not a list of shares.')


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


def compare_files(first: str, second: str, unlike_allowed: bool, **bootstrap):
  """Prints the comparison of two files of cards; see `compare`.

  Raises:
    ValueError: they are no cards, or unlike.
  """
  a, b = read_cards(first), read_cards(second)
  pairs = [(name, name) for name in a if name in b]
  if len(a) == len(b) == 1:
    pairs = [(*a, *b)]
  if not pairs:
    raise ValueError(f'no data set in common: {", ".join(a)} | {", ".join(b)}.')
  print(f'A: {first}\nB: {second}')
  alone = sorted((a.keys() ^ b.keys()) - {name for p in pairs for name in p})
  if alone:
    print(f'In one file only: {", ".join(alone)}')
  for name, other in pairs:
    print(f'\n{name}' + (f' | {other}' if other != name else ''))
    found = unlike(a[name], b[other])
    if found and not unlike_allowed:
      raise ValueError(
        'these figures cannot be compared; A | B were not made alike:\n'
        + '\n'.join(found)
        + '\n--unlike compares them all the same.'
      )
    if found:
      print('NOT MADE ALIKE, A | B:', *found, sep='\n')
    noted = list(differences(a[name], b[other], NOTED))
    if noted:
      print('A | B:', *noted, sep='\n')
    print(*compare(a[name], b[other], **bootstrap), sep='\n')


def compare_images(network: search.Network, first: str, second: str) -> None:
  """Prints how alike two images are, and whether they show one person."""
  one, two = network.embed([first, second])
  similarity = float(one @ two)
  print(network.about, file=sys.stderr)
  print(f'{similarity:.4f}  {search.verdict(similarity, network.threshold)}')


def command():
  ckpt, which, threshold = cli.define_network()
  unlike_allowed = flags.DEFINE_bool(
    'unlike', False, 'Compares cards of unlike rules or images all the same.'
  )
  level = flags.DEFINE_float(
    'level', 0.95, 'Of confidence of the interval.', 0.5, 0.9999
  )
  samples = flags.DEFINE_integer(
    'samples', 10_000, 'How often the queries are drawn.', 100
  )
  seed = flags.DEFINE_integer('seed', 0, 'For drawing them.', 0)

  def main(argv):
    if len(argv) != 3:
      raise ValueError(f'compare takes two files; {len(argv) - 1} are given.')
    if all(name.lower().endswith('.json') for name in argv[1:]):
      compare_files(
        *argv[1:],
        unlike_allowed.value,
        level=level.value,
        samples=samples.value,
        seed=seed.value,
      )
      return
    if not ckpt.value:
      raise ValueError(
        'to compare images give --ckpt, a workdir of train.py; result cards end'
        ' in .json.'
      )
    cli.quieten()
    network = search.open_network(ckpt.value, which.value, threshold.value)
    compare_images(network, *argv[1:])

  return main
