"""Makes Markdown tables of the results of `python -m benchmarks.ablations`.

  python -m benchmarks.report table2 --results=runs/ablations/results.jsonl
  python -m benchmarks.report table2 --against_recipe=05c4bb06d724
  python -m benchmarks.report --update=docs/reproducing.md

table3 is that of operations, from the complexity.json beside the results.

A table holds results of one recipe on one set of images by one protocol.
Results that differ in any of these stand in tables of their own, and the
paper's figures stand only beside results on the published images. A figure is
the mean over the seeds, with the standard deviation between them.

Differences are those to one row: level 0 in Table II, level 1 in Tables VI and
VII, radix 2 in Fig. 5, the first row in `recipes`. In Table V they are those to
the same backbone without attention.

Two kinds of chance stand side by side. The interval is a paired bootstrap over
the people of the queries, of the mean over the seeds: it tells what other
people might give. (Over single queries, for cards of earlier versions, which do
not tell people.) The differences of the single seeds tell what other trainings
might give. A star marks an interval without zero, if at least two seeds were
run and all agree in sign.

--against_recipe compares each network with itself, trained by another recipe:
with other initial weights, say, or for longer. The line above a table ends with
the hash of its recipe.

--plot draws the differences: a bar for the interval over people, a circle for
the mean, a dot for each seed; in blue if they would have a star.

--update writes the tables of a page anew. A table stands between the lines
`<!-- report: TABLE IMAGES TARGET -->` and `<!-- end of report -->`. Without
IMAGES it shows the paper's figures, with "not run" where there is no result on
the published images.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
import pathlib
import re
import statistics
import sys
from typing import Any

from apnet_jax import config
from apnet_jax.errors import UserError
from apnet_jax.paper.tables import COLUMNS, TABLES, Row, Table
from apnet_jax.retrieval.card import WHOLE_GALLERY
from apnet_jax.workdir.json_files import read_json
from benchmarks import report_plot
from benchmarks.ablation_groups import (
  Difference,
  Group,
  Line,
  compared_lines,
  difference,
  pair_up,
  select,
  with_baseline,
)
from benchmarks.ablation_runs import RESULTS_FILE, read_lines
from benchmarks.ablations import COUNTS_FILE
from benchmarks.command import ROOT

RECORDS = ROOT / 'docs/records/ablations'
NOT_RUN = 'not run'
MARK_OF_END = '<!-- end of report -->'
MARKED = re.compile(
  rf'<!-- report: ([\w.,\- ]+?) -->\n(?:(?!<!-- report).*\n)*?{MARK_OF_END}'
)


def format_group(
  table: Table, results: Group, other: Group | None = None
) -> list[str]:
  """Returns the lines of a Markdown table: a row for each network.

  Notes follow on rows that have fewer seeds than what they are compared with.

  Args:
    table: table of the paper.
    results: results of one recipe and protocol.
    other: results of another recipe to compare with; see `difference`.
  """
  key = results.published_key
  has_paper = any(row.published.get(key) for row in table.rows)
  head = ['network', *(f'paper: {c}' for c in COLUMNS[:2] if has_paper)]
  head += [*COLUMNS[:2], 'seeds', *_difference_heads(table, other)]
  lines, differences = _head(head), []
  for row in table.rows:
    differences.append(difference(results, row, other))
    cells = [row.title]
    if has_paper:
      cells += _published(row, key)[:2]
    cells += _figure_cells(results, row) + _difference_cells(differences[-1])
    lines.append(_row(cells))
  return lines + _notes(table, results, other, differences)


def _notes(
  table: Table,
  results: Group,
  other: Group | None,
  differences: Sequence[Difference | None],
) -> list[str]:
  """Returns what rows with fewer seeds than their baseline are compared with.

  The difference of such a row is not that of the two means in the table.
  """
  notes = []
  for row, found in zip(table.rows, differences):
    if found is None:
      continue
    baseline = compared_lines(results, row, other)
    if found.seeds.keys() == baseline.keys():
      continue
    seeds = 'seed' + 's' * (len(found.seeds) > 1)
    seeds += f' {", ".join(map(str, found.seeds))}'
    values = (100 * baseline[s]['card']['figures']['mAP'] for s in found.seeds)
    mean = f'mAP {statistics.mean(values):.1f}.'
    if other:
      notes.append(
        f'{row.title} is compared in {seeds} alone, in which it has, by recipe'
        f' {other.recipe}, {mean}'
      )
    else:
      notes.append(
        f'Seeds are compared in pairs: a row with {seeds} alone is compared'
        f' with {seeds} of {_title_of(table, row.against)}, {mean}'
      )
  return [line for note in dict.fromkeys(notes) for line in ('', note)]


def _difference_heads(table: Table, other: Group | None) -> list[str]:
  against = {row.against for row in table.rows} - {''}
  if other:
    title = f'recipe {other.recipe}'
  elif len(against) == 1:
    title = _title_of(table, against.pop())
  else:
    title = 'its baseline'
  return [f'mAP minus {title}', '95% interval', 'by seed']


def _title_of(table: Table, name: str) -> str:
  """Returns a short title of the row that others are compared with."""
  (row,) = [row for row in table.rows if row.name == name]
  return row.name if row.recipe else row.title


def _published(row: Row, key: str) -> list[str]:
  figures = [f'{value:.1f}' for value in row.published.get(key, ())]
  return figures + [''] * (len(COLUMNS) - len(figures))


def _figure_cells(results: Group, row: Row) -> list[str]:
  columns = [results.figures(row, name) for name in COLUMNS[:2]]
  if not columns[0]:
    return [NOT_RUN, '', '']
  return [*map(mean_and_spread, columns), str(len(columns[0]))]


def mean_and_spread(values: Sequence[float]) -> str:
  """Formats a mean, with the standard deviation of several values."""
  text = f'{statistics.mean(values):.1f}'
  if len(values) > 1:
    text += f' ± {statistics.stdev(values):.1f}'
  return text


def _difference_cells(found: Difference | None) -> list[str]:
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
  """Returns a line that says what a table was measured on."""
  line, card = results.sample, results.sample['card']
  networks = [one['card']['network'] for one in results.all]
  backbones = _listed(network['backbone'] for network in networks)
  sizes = _listed('{}x{}'.format(*n['image_size']) for n in networks)
  steps = _listed(one['card']['checkpoint']['step'] for one in results.all)
  weights = _listed(filter(None, map(_initial_weights, results.all)))
  started = f', started from {weights}' * bool(weights)
  rules = ''.join(f'; {rule}' for rule in other_rules(card['protocol']))
  images = line['target'] or line['images']
  trained = f', trained on {line["images"]}' if line['target'] else ''
  other = ', not the published images' * (card['as_published'] is False)
  return (
    f'**{table.title}, {images}** ({card["dataset"]}{other}{trained};'
    f' {card["queries"]["valid"]} queries; {backbones}, {sizes} pixels,'
    f' {steps} steps{started}{rules}; recipe {results.recipe})'
  )


def _initial_weights(line: Line) -> str:
  """Names the initial weights of a run; '' for random ones."""
  source = line['card']['checkpoint'].get('started_from')
  if not source:
    return ''
  if 'weights' in source:
    return source['weights']
  return f'a network trained on {source["trained_on"]["dataset"]}'


def other_rules(protocol: Mapping[str, Any]) -> list[str]:
  """Returns the rules of an evaluation that differ from the default ones."""
  usual = config.get_config().eval
  defaults = {
    'ap': usual.ap,
    'cmc': WHOLE_GALLERY,
    'distance': usual.distance,
    'distractors': 'kept',
    'feature': usual.feature,
    'flip': usual.flip,
    'query': None,  # the rule of multi-query
    'rules': 'market1501',
  }
  return [
    f'{name}: {protocol[name]}'
    for name, value in defaults.items()
    if protocol.get(name, value) != value
  ]


def _listed(values: Iterable) -> str:
  return ' and '.join(dict.fromkeys(map(str, values)))


def published_table(table: Table, groups: Sequence[Group]) -> list[str]:
  """Returns a Markdown table of the paper's figures, with ours beside them.

  Below it, a line says what each column of ours was measured on.

  Args:
    table: table of the paper.
    groups: results. Only those on the published images are shown, each recipe
      in a column of its own.
  """
  keys = list(dict.fromkeys(key for row in table.rows for key in row.published))
  head, columns, shown = ['network'], [], []
  for key in keys:
    ours = [one for one in groups if one.published_key == key]
    head.append(key)
    for one in ours:
      shown.append(one)
      head.append(f'here ({len(shown)})')
    head += ['here'] * (not ours)
    columns.append((key, ours))
  lines = _head([*head, 'fields of `config.model`'])
  for row in table.rows:
    cells = [row.title]
    for key, ours in columns:
      figures = row.published.get(key, ())
      cells.append(' '.join(f'{value:.1f}' for value in figures))
      cells += [_ours(one, row) for one in ours] or [NOT_RUN]
    lines.append(_row([*cells, _fields(row)]))
  for number, one in enumerate(shown, 1):
    lines += ['', f'here ({number}): {heading(table, one)}']
  return lines


def _ours(results: Group, row: Row) -> str:
  columns = [results.figures(row, name) for name in COLUMNS]
  if not columns[0]:
    return NOT_RUN
  return ', '.join(map(mean_and_spread, columns))


def _head(cells: Sequence[str]) -> list[str]:
  return [_row(cells), '|' + '---|' * len(cells)]


def _row(cells: Sequence[str]) -> str:
  return '| ' + ' | '.join(cells) + ' |'


def _fields(row: Row) -> str:
  """Returns the fields of `config.model` that a row changes."""
  changes = dict(row.changes)
  for name, default in (('attention', 'channel'), ('levels', 2)):
    if changes.get(name) == default:
      del changes[name]
  return ', '.join(f'`{name}={value}`' for name, value in changes.items())


def counts_table(table: Table, counts: Mapping[str, Any]) -> list[str]:
  """Returns a Markdown table of operations, in units of 10^9."""
  found = {entry['network']: entry for entry in counts['networks']}
  lines = _head(
    ['network', 'paper', 'multiply-adds', 'as PyTorch-OpCounter counts']
  )
  for row in table.rows:
    entry = found.get(row.variant)
    if not entry:  # --rows chose others
      lines.append(_row([row.title, NOT_RUN, NOT_RUN, NOT_RUN]))
      continue
    at_224 = entry['at_224']
    figures = [f'{entry["paper_gflops"]:.2f}'] + [
      f'{at_224[name] / 1e9:.3f}' for name in ('multiply_adds', 'operations')
    ]
    lines.append(_row([row.title, *figures]))
  return lines


def make_tables(
  table: Table, pairs: Sequence[tuple[Group, Group | None]]
) -> str:
  """Returns the Markdown tables of results.

  Args:
    table: table of the paper.
    pairs: results, each with others to compare with; see `pair_up`.
  """
  return '\n\n'.join(
    '\n'.join([heading(table, one), '', *format_group(table, one, other)])
    for one, other in pairs
  )


def plot(
  table: Table,
  pairs: Sequence[tuple[Group, Group | None]],
  path: pathlib.Path,
) -> None:
  """Draws the differences of the tables of results; see `make_tables`.

  Args:
    table: table of the paper.
    pairs: see `make_tables`.
    path: file to write; its suffix is the format.

  Raises:
    UserError: no two networks can be compared, or the format is not known.
  """
  plots = [
    report_plot.differences(
      table,
      heading(table, one).replace('**', ''),
      _difference_heads(table, other)[0],
      one,
      other,
    )
    for one, other in pairs
  ]
  shown = [each for each in plots if each[-1]]
  if not shown:
    raise UserError(f'--plot={path}: there is no difference to draw.')
  try:
    report_plot.draw(shown).savefig(path, dpi=150)
  except ValueError as error:  # of a format
    raise UserError(f'--plot={path}: {error}') from error


def update(page: str, records: pathlib.Path = RECORDS) -> str:
  """Returns a page with its tables made anew.

  Args:
    page: text of the page.
    records: folder with results.jsonl and complexity.json.

  Raises:
    UserError: a mark names no table, or there are no results for it.
  """
  lines = read_lines(records / RESULTS_FILE)

  def block(match: re.Match) -> str:
    name, *words = match[1].split()
    if name not in TABLES or len(words) > 2:
      raise UserError(f'<!-- report: {match[1]} -->: there is no such table.')
    table = TABLES[name]
    if table.counted:
      text = counts_table(table, read_json(records / COUNTS_FILE))
    elif not words:
      text = published_table(table, select(table, lines))
    else:
      text = [make_tables(table, pair_up(select(table, lines, *words)))]
    if not any(text):
      raise UserError(f'<!-- report: {match[1]} -->: there are no results.')
    return '\n'.join([f'<!-- report: {match[1]} -->', *text, MARK_OF_END])

  return MARKED.sub(block, page)


def read_results(files: Sequence[pathlib.Path]) -> list[Line]:
  """Returns the lines of files of results.

  Raises:
    UserError: a file does not exist, or is damaged.
  """
  for file in files:
    if not file.is_file():
      raise UserError(
        f'--results={file} is not a file: give the {RESULTS_FILE} of a results'
        ' folder.'
      )
  return [line for file in files for line in read_lines(file)]


def make_parser() -> argparse.ArgumentParser:
  """Returns the parser of the command line."""
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.report',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add(
    'table', nargs='?', choices=list(TABLES),
    help='table of the paper, or that of recipes',
  )  # fmt: skip
  add(
    '--results', type=pathlib.Path, action='append', metavar='FILE',
    help='results of ablations; repeat it for more'
    ' (docs/records/ablations/results.jsonl)',
  )  # fmt: skip
  add('--images', default='', help='folder name of the training images (any)')
  add('--target', default='', help='folder name of the target')
  add('--recipe', default='', metavar='HASH', help='recipe to show (all)')
  add(
    '--against', default='', metavar='ROW',
    help='row that all others are compared with, as apnet_c1 (that of the'
    ' paper)',
  )  # fmt: skip
  add(
    '--against_recipe', default='', metavar='HASH',
    help='recipe that each network is compared with',
  )  # fmt: skip
  add(
    '--plot', type=pathlib.Path, metavar='FILE',
    help='also draws the differences, as .png, .svg or .pdf',
  )  # fmt: skip
  add(
    '--update', type=pathlib.Path, metavar='PAGE',
    help='writes the tables of this page anew, from docs/records/ablations',
  )  # fmt: skip
  return parser


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit code."""
  parser = make_parser()
  args = parser.parse_args(arguments)
  if bool(args.table) == bool(args.update):
    parser.error('give a table, or a page by --update.')
  for name in {*vars(args)} - {'table', 'update'}:
    if args.update and getattr(args, name):
      parser.error(f'--update and --{name} exclude each other.')
  table = TABLES.get(args.table)
  for name in {*vars(args)} - {'table', 'results'}:
    if table and table.counted and getattr(args, name):
      parser.error(f'{args.table} takes --results alone, not --{name}.')
  if args.against and args.against_recipe:
    parser.error('give --against or --against_recipe.')
  try:
    if args.update:
      args.update.write_text(update(args.update.read_text()))
      return 0
    results = args.results or [RECORDS / RESULTS_FILE]
    if table.counted:
      counts = read_json(results[0].with_name(COUNTS_FILE))
      print('\n'.join(counts_table(table, counts)))
      return 0
    wanted = {args.recipe, args.against_recipe}
    lines = [
      line
      for line in read_results(results)
      if not args.recipe or line['recipe'] in wanted
    ]
    if args.against:
      table = with_baseline(table, args.against)
    groups = select(table, lines, args.images, args.target)
    pairs = pair_up(groups, args.against_recipe)
    print(make_tables(table, pairs) or f'{args.table}: {NOT_RUN}')
    if args.plot:
      plot(table, pairs, args.plot)
  except (UserError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())
