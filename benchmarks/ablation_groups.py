"""Groups results of ablations by what can be compared, and compares them."""

import collections
from collections.abc import Collection, Iterable, Mapping, Sequence
import dataclasses
import json
import statistics
from typing import Any

import numpy as np

from apnet_jax.errors import UserError
from apnet_jax.paper.tables import Row, Table
from apnet_jax.retrieval import comparison

LEVEL, SAMPLES, SEED = 0.95, 10_000, 0  # of the bootstrap
Line = Mapping[str, Any]  # a line of results.jsonl


@dataclasses.dataclass(frozen=True)
class Group:
  """Results that one table may compare.

  Attributes:
    lines: results by row and seed; see `Row.name_in_results`.
    published: fingerprints of training images that are the published ones.
  """

  lines: Mapping[str, Mapping[int, Line]]
  published: Collection[str] = ()

  @property
  def all(self) -> list[Line]:
    """All results."""
    return [line for found in self.lines.values() for line in found.values()]

  @property
  def sample(self) -> Line:
    """One of the results, for what all have in common."""
    return self.all[0]

  @property
  def recipe(self) -> str:
    """Hash of the recipe; see `ablation_plan.Run`."""
    return self.sample['recipe']

  @property
  def published_key(self) -> str:
    """Name of the paper's figures for these images, or '' for other images."""
    card = self.sample['card']
    trained, evaluated = card['checkpoint']['trained_on'], card['dataset']
    if not card.get('as_published'):
      return ''
    if self.sample['target'] is None:
      return evaluated
    if trained['fingerprint'] not in self.published:
      return ''
    return f'{trained["dataset"]} > {evaluated}'

  def figures(self, row: Row, name: str) -> list[float]:
    """Returns a figure of a row in percent, for each seed."""
    found = self.lines.get(row.name_in_results, {})
    return [
      100 * line['card']['figures'][name] for _, line in sorted(found.items())
    ]


@dataclasses.dataclass(frozen=True)
class Difference:
  """The mAP of a network minus that of another, in percent.

  Attributes:
    seeds: the difference for each seed that both have.
    interval: lower and upper end of the bootstrap over the people.
  """

  seeds: Mapping[int, float]
  interval: tuple[float, float]

  @property
  def mean(self) -> float:
    """The mean over the seeds."""
    return statistics.mean(self.seeds.values())

  @property
  def is_clear(self) -> bool:
    """True if all seeds and the interval over people show a difference.

    The interval has no zero, and at least two seeds have the same sign.
    """
    low, high = self.interval
    signs = {value > 0 for value in self.seeds.values()}
    apart = low > 0 or high < 0
    return apart and len(self.seeds) > 1 and len(signs) == 1


def select(
  table: Table, lines: Sequence[Line], images: str = '', target: str = ''
) -> list[Group]:
  """Returns the results that belong to a table.

  Args:
    table: table of the paper.
    lines: lines of results.jsonl.
    images: name of the folder of the training images; '' for any.
    target: name of the folder of the target; '' for the test images of the
      training set, or for any target if the table is across data sets.
  """
  names = {row.name_in_results for row in table.rows}
  chosen = (
    line
    for line in lines
    if line['variant'] in names
    and images in ('', line['images'])
    and (
      line['target'] == target
      if target
      else (line['target'] is not None) == table.across
    )
  )
  published = {
    line['card']['fingerprint']
    for line in lines
    if line['target'] is None and line['card'].get('as_published')
  }
  return group(chosen, published)


def group(
  lines: Iterable[Line], published: Collection[str] = ()
) -> list[Group]:
  """Separates results whose figures cannot be compared.

  Args:
    lines: lines of results.jsonl. Of two with the same configuration, the last
      one counts.
    published: see `Group`.

  Raises:
    UserError: two networks have the same row, seed and recipe.
  """
  groups: dict[tuple, dict] = {}
  for line in lines:
    key = (protocol(line), line['recipe'])
    found = groups.setdefault(key, collections.defaultdict(dict))
    before = found[line['variant']].get(line['seed'], line)
    if before['configuration'] != line['configuration']:
      raise UserError(
        f'{line["variant"]}, seed {line["seed"]}, recipe {line["recipe"]}: two'
        f' configurations ({before["configuration"]} and'
        f' {line["configuration"]}) cannot share a cell of a table. Keep their'
        ' lines in two files.'
      )
    found[line['variant']][line['seed']] = line
  return [Group(lines, published) for lines in groups.values()]


def protocol(line: Line) -> str:
  """Returns all but the recipe that results must have in common, as a text."""
  card = line['card']
  queries = {k: card['queries'][k] for k in ('valid', 'skipped', 'names')}
  shared = {name: card.get(name) for name in comparison.MUST_BE_EQUAL}
  trained_on = card['checkpoint']['trained_on']
  which = card['checkpoint']['which']
  return json.dumps([shared, queries, trained_on, which], sort_keys=True)


def difference(
  results: Group, row: Row, other: Group | None = None
) -> Difference | None:
  """Compares a network with another, or with itself by another recipe.

  Args:
    results: results of one recipe and protocol.
    row: row of the network.
    other: results of another recipe by the same protocol, whose same row is
      compared with. None compares with `row.against` of the same recipe.

  Returns:
    None if there is nothing to compare with, or no seed that both have.

  Raises:
    UserError: two results are not of the same queries.
  """
  if not other and not row.against:
    return None
  ours = results.lines.get(row.name_in_results, {})
  theirs = compared_lines(results, row, other)
  seeds = sorted(ours.keys() & theirs.keys())
  if not seeds:
    return None
  per_query = []
  for seed in seeds:
    found = comparison.paired_differences(
      theirs[seed]['card'], ours[seed]['card']
    )
    if found is None or 'mAP' not in found.names:
      raise UserError(
        f'{row.name} and {row.against or other.recipe}, seed {seed}: the cards'
        ' do not have figures of the same queries.'
      )
    per_query.append(100 * found.values[:, found.names.index('mAP')])
  interval = comparison.bootstrap_intervals(
    np.mean(per_query, axis=0)[:, None], found.people, LEVEL, SAMPLES, SEED
  )[0]
  means = {seed: float(v.mean()) for seed, v in zip(seeds, per_query)}
  return Difference(means, tuple(interval.tolist()))


def compared_lines(
  results: Group, row: Row, other: Group | None
) -> Mapping[int, Line]:
  """Returns what a row is compared with, by seed; see `difference`."""
  if other:
    return other.lines.get(row.name_in_results, {})
  return results.lines.get(row.against_in_results, {})


def with_baseline(table: Table, name: str) -> Table:
  """Returns a table whose rows are all compared with one of them.

  Args:
    table: table of the paper.
    name: `Row.name` of the row.

  Raises:
    UserError: the table has no such row.
  """
  if name not in (known := [row.name for row in table.rows]):
    raise UserError(f'--against={name} is not one of {", ".join(known)}.')
  rows = tuple(
    dataclasses.replace(row, against='' if row.name == name else name)
    for row in table.rows
  )
  return dataclasses.replace(table, rows=rows)


def pair_up(
  groups: Sequence[Group], recipe: str = ''
) -> list[tuple[Group, Group | None]]:
  """Returns results, each with those of another recipe to compare with.

  Args:
    groups: results.
    recipe: hash of the other recipe. Results that cannot be compared with it
      are left out. '' keeps all, with None for the other recipe.

  Raises:
    UserError: none can be compared with the other recipe.
  """
  if not recipe:
    return [(one, None) for one in groups]
  others = {protocol(one.sample): one for one in groups if one.recipe == recipe}
  pairs = [
    (one, others.get(protocol(one.sample)))
    for one in groups
    if one.recipe != recipe
  ]
  pairs = [(one, other) for one, other in pairs if other]
  if not pairs:
    known = ', '.join(dict.fromkeys(one.recipe for one in groups))
    raise UserError(
      f'--against_recipe={recipe}: there is nothing to compare. The recipes are'
      f' {known or "none"}; two can be compared if their networks were trained'
      ' on the same images and evaluated by the same rules.'
    )
  return pairs
