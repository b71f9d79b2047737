"""Makes Markdown tables of the results of `python -m benchmarks.ablations`.

  python -m benchmarks.report runs/ablations/results.jsonl
  python -m benchmarks.report --published

A table holds results of one recipe on one set of images by one protocol.
Results that differ in any of these stand in tables of their own, and the
paper's figures stand only beside results on the published images. A figure is
the mean over the seeds, with the standard deviation between them.

Differences are those to the row that the paper compares with, which is level 0
in Table II. Two kinds of chance stand side by side. The interval is a paired
bootstrap over the queries, of the mean over the seeds: it tells what other
queries might give. The differences of the single seeds tell what other
trainings might give. A star marks an interval without zero, if all of at least
two seeds agree in sign.
"""

import argparse
import collections
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json
import pathlib
import statistics
import sys
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this also runs as a file

from apnet_jax.errors import UserError  # noqa: E402
from apnet_jax.paper.tables import (  # noqa: E402
  COLUMNS,
  TABLES,
  Row,
  Table,
  first_name,
)
from apnet_jax.retrieval import comparison  # noqa: E402
from benchmarks.ablation_runs import read_lines  # noqa: E402

NOT_RUN = 'not run'
LEVEL, SAMPLES, SEED = 0.95, 10_000, 0  # of the bootstrap
Line = Mapping[str, Any]  # a line of results.jsonl


@dataclasses.dataclass(frozen=True)
class Group:
  """Results that one table may compare.

  Attributes:
    lines: results by network and seed; see `tables.first_name`.
  """

  lines: Mapping[str, Mapping[int, Line]]

  @property
  def any(self) -> Line:
    """One of the results, for what all have in common."""
    return next(iter(next(iter(self.lines.values())).values()))

  @property
  def published_key(self) -> str:
    """Name of the paper's figures for these images, or '' for other images."""
    card = self.any['card']
    trained, evaluated = card['checkpoint']['trained_on'], card['dataset']
    if not card.get('as_published'):
      return ''
    if trained['dataset'] == evaluated:
      return evaluated
    return f'{trained["dataset"]} > {evaluated}'

  def figures(self, variant: str, name: str) -> list[float]:
    """Returns a figure of a network in percent, for each seed."""
    found = self.lines.get(first_name(variant), {})
    return [
      100 * line['card']['figures'][name] for _, line in sorted(found.items())
    ]


@dataclasses.dataclass(frozen=True)
class Difference:
  """The mAP of a network minus that of another, in percent.

  Attributes:
    seeds: the difference for each seed that both have.
    interval: lower and upper end of the bootstrap over the queries.
  """

  seeds: Mapping[int, float]
  interval: tuple[float, float]

  @property
  def mean(self) -> float:
    """The mean over the seeds."""
    return statistics.mean(self.seeds.values())

  @property
  def is_clear(self) -> bool:
    """Whether queries and seeds agree that there is a difference.

    The interval has no zero, and at least two seeds have the same sign.
    """
    low, high = self.interval
    signs = {value > 0 for value in self.seeds.values()}
    apart = low > 0 or high < 0
    return apart and len(self.seeds) > 1 and len(signs) == 1


def group(lines: Iterable[Line]) -> list[Group]:
  """Separates results whose figures cannot be compared.

  Args:
    lines: lines of results.jsonl. Of two that differ in nothing, the last one
      counts.
  """
  groups: dict[str, dict] = {}
  for line in lines:
    found = groups.setdefault(_protocol(line), collections.defaultdict(dict))
    found[first_name(line['variant'])][line['seed']] = line
  return [Group(lines) for lines in groups.values()]


def _protocol(line: Line) -> str:
  """Returns all that results must have in common, as a text."""
  card = line['card']
  queries = {k: card['queries'][k] for k in ('valid', 'skipped', 'names')}
  shared = {name: card.get(name) for name in comparison.MUST_BE_EQUAL}
  trained_on = card['checkpoint']['trained_on']
  which = card['checkpoint']['which']
  return json.dumps(
    [shared, queries, trained_on, which, line['recipe']], sort_keys=True
  )


def difference(results: Group, row: Row) -> Difference | None:
  """Compares a network with the one that the paper compares it with.

  Args:
    results: results of one protocol.
    row: row of the network.

  Returns:
    None if there is nothing to compare with, or no seed that both have.

  Raises:
    UserError: two results are not of the same queries.
  """
  if not row.against:
    return None
  ours, theirs = (
    results.lines.get(first_name(name), {})
    for name in (row.variant, row.against)
  )
  seeds = sorted(ours.keys() & theirs.keys())
  if not seeds:
    return None
  per_query = []
  for seed in seeds:
    names, values = comparison.paired_differences(
      theirs[seed]['card'], ours[seed]['card']
    )
    if 'mAP' not in names:
      raise UserError(
        f'{row.variant} and {row.against}, seed {seed}: the cards do not have'
        ' figures of the same queries.'
      )
    per_query.append(100 * values[:, names.index('mAP')])
  interval = comparison.bootstrap_intervals(
    np.mean(per_query, axis=0)[:, None], LEVEL, SAMPLES, SEED
  )[0]
  means = {seed: float(v.mean()) for seed, v in zip(seeds, per_query)}
  return Difference(means, tuple(interval.tolist()))


def format_group(table: Table, results: Group) -> list[str]:
  """Returns the lines of a Markdown table: a row for each network.

  Args:
    table: table of the paper.
    results: results of one protocol.
  """
  key = results.published_key
  has_paper = any(key in row.published for row in table.rows)
  head = ['network', *(f'paper: {c}' for c in COLUMNS[:2] if has_paper)]
  head += [*COLUMNS[:2], 'seeds', 'mAP against', '95% interval', 'by seed']
  lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
  for row in table.rows:
    cells = [row.title]
    if has_paper:
      cells += _published(row, key)[:2]
    cells += _figure_cells(results, row) + _difference_cells(results, row)
    lines.append('| ' + ' | '.join(cells) + ' |')
  return lines


def _published(row: Row, key: str) -> list[str]:
  figures = [f'{value:.1f}' for value in row.published.get(key, ())]
  return figures + [''] * (len(COLUMNS) - len(figures))


def _figure_cells(results: Group, row: Row) -> list[str]:
  columns = [results.figures(row.variant, name) for name in COLUMNS[:2]]
  if not columns[0]:
    return [NOT_RUN, '', '']
  return [*map(mean_and_spread, columns), str(len(columns[0]))]


def mean_and_spread(values: Sequence[float]) -> str:
  """Formats a mean, with the standard deviation of several values."""
  text = f'{statistics.mean(values):.1f}'
  if len(values) > 1:
    text += f' ± {statistics.stdev(values):.1f}'
  return text


def _difference_cells(results: Group, row: Row) -> list[str]:
  found = difference(results, row)
  if found is None:
    return ['', '', '']
  low, high = found.interval
  star = ' *' if found.is_clear else ''
  return [
    f'{found.mean:+.1f}{star}',
    f'{low:+.1f} to {high:+.1f}',
    ', '.join(f'{value:+.1f}' for value in found.seeds.values()),
  ]


def heading(table: Table, results: Group) -> str:
  """Returns a line that says what a table was measured on.

  Args:
    table: table of the paper.
    results: results of one protocol.
  """
  line, card = results.any, results.any['card']
  queries, network = card['queries'], card['network']
  height, width = network['image_size']
  images = line['target'] or line['images']
  trained = f', trained on {line["images"]}' if line['target'] else ''
  other = '' if card['as_published'] else ', not the published images'
  return (
    f'**{table.title}, {images}** ({card["dataset"]}{other};'
    f' {queries["valid"]} queries{trained}; {network["backbone"]},'
    f' {height}x{width} pixels, step {card["checkpoint"]["step"]})'
  )


def published_table(table: Table) -> list[str]:
  """Returns a Markdown table of the paper's figures, with what to run.

  Args:
    table: table of the paper.
  """
  keys = list(dict.fromkeys(key for row in table.rows for key in row.published))
  head = ['network', *keys, 'fields', 'here']
  lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
  for row in table.rows:
    figures = [
      ' '.join(f'{value:.1f}' for value in row.published.get(key, ()))
      for key in keys
    ]
    cells = [row.title, *figures, _fields(row), NOT_RUN]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return lines


def _fields(row: Row) -> str:
  """Returns the fields of `config.model` that a row changes."""
  changes = dict(row.changes)
  for name, default in (('attention', 'channel'), ('levels', 2)):
    if changes.get(name) == default:
      del changes[name]
  return ', '.join(f'`{name}={value}`' for name, value in changes.items())


def report(table: Table, lines: Sequence[Line]) -> str:
  """Returns all Markdown tables of a table of the paper.

  Args:
    table: table of the paper.
    lines: lines of results.jsonl. Networks of other tables are left out.
  """
  variants = {first_name(row.variant) for row in table.rows}
  chosen = [line for line in lines if first_name(line['variant']) in variants]
  parts = []
  for results in group(chosen):
    across = results.any['target'] is not None
    if across == table.across:
      parts.append('\n'.join(
        [heading(table, results), '', *format_group(table, results)]
      ))  # fmt: skip
  return '\n\n'.join(parts)
