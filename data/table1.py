"""Compares the paper's Table I with the counts of prepared data sets.

  python -m data.table1                          counts all prepared data sets
  python -m data.table1 market=DIR cuhk03=DIR    prepares these two first

The labels of every prepared image are counted. Notes say which images each
figure of the table counts, and which figures are mistakes.
"""

import argparse
from collections.abc import Callable, Iterator
import dataclasses
import json
import pathlib
import sys

import tensorflow_datasets as tfds
from tqdm import tqdm

from apnet_jax import cli
from apnet_jax.errors import UserError
from apnet_jax.printing import printable
from configs import common
from data import datasets, raw
from data.listing import prepared_root
from data.prepare import damage_error, prepare, read_builder

COLUMNS = ('train IDs', 'train images', 'test IDs', 'test images', 'cameras')


@dataclasses.dataclass(frozen=True)
class PaperRow:
  """A row of the paper's Table I: the sizes of a data set.

  Attributes:
    layout: layout of the data set.
    figures: figures of the paper, in the order of `COLUMNS`.
    with_queries: whether the figure of test images includes the queries.
    note: explanation of the figures.
  """

  layout: raw.Layout
  figures: tuple[int, ...]
  with_queries: bool
  note: str


ROWS = (
  PaperRow(
    datasets.find('market1501'), (751, 12_936, 750, 19_732, 6), False,
    'test images are the gallery with 2,798 distractors and 3,819 junk boxes,'
    ' but without the 3,368 queries',
  ),
  PaperRow(
    datasets.find('dukemtmc_reid'), (702, 16_522, 702, 19_889, 8), True,
    'test images are 2,228 queries and 17,661 gallery images; 408 more people'
    ' are in the gallery',
  ),
  PaperRow(
    datasets.find('cuhk03_np/detected'), (767, 7_365, 700, 5_332, 6), False,
    'detected boxes, without the 1,400 queries; six cameras, but the labels'
    ' distinguish only two views',
  ),
  PaperRow(
    datasets.find('msmt17/trainval'), (4_101, 32_621, 3_060, 93_820, 15), True,
    'a mistake: the whole data set has 4,101 identities; 1,041 are trained on,'
    " as the paper's text says",
  ),
  PaperRow(
    datasets.find('occluded_duke'), (702, 15_618, 519, 19_871, 8), True,
    'test images are 2,210 queries and 17,661 gallery images',
  ),
)  # fmt: skip


def figures(counts: dict[str, raw.Counts], with_queries: bool) -> tuple:
  """Computes the figures in a row of Table I, in the order of `COLUMNS`.

  Args:
    counts: counts of each split.
    with_queries: whether the figure of test images includes the queries.
  """
  test = counts['gallery'].images
  if with_queries:
    test += counts['query'].images
  train, query = counts['train'], counts['query']
  return (
    train.identities, train.images, query.identities, test,
    max(split.cameras for split in counts.values()),
  )  # fmt: skip


def prepared_counts(
  layout: raw.Layout,
  root: pathlib.Path,
  on_damage: Callable[[UserError], None] | None = None,
) -> Iterator[tuple[str, dict[str, raw.Counts]]]:
  """Yields fingerprint and counts of each prepared copy of a data set.

  Args:
    layout: layout of the data set.
    root: folder of prepared data sets.
    on_damage: called with the error of each copy that is damaged, which is then
      omitted. By default, the error is raised.

  Raises:
    UserError: a copy is damaged, and there is no `on_damage`.
  """
  for folder in sorted(root.glob('reid-*')):
    if not (folder / layout.dataset).is_dir():
      continue
    try:
      builder = read_builder(layout, folder)
      counts = count_records(builder) if builder.data_path.exists() else None
    except UserError as error:
      if on_damage is None:
        raise
      on_damage(error)
      continue
    if counts:
      yield folder.name.removeprefix('reid-'), counts


def count_records(builder: tfds.core.DatasetBuilder) -> dict[str, raw.Counts]:
  """Counts the records of each split of a prepared data set.

  Raises:
    UserError: the prepared files are damaged.
  """
  counts = {}
  for split in raw.SPLITS:
    try:
      labels = _labels(builder, split)
    except Exception as error:  # ArrayRecord raises all kinds
      raise damage_error(builder, split, error) from error
    counts[split] = raw.count(split, *zip(*labels))
  return counts


def _labels(
  builder: tfds.core.DatasetBuilder, split: str
) -> list[tuple[int, int]]:
  """Returns identity and camera of each record of a split."""
  source = builder.as_data_source(
    split, decoders={'image': tfds.decode.SkipDecoding()}
  )
  name = f'{builder.info.full_name} {split}'
  return [
    (example['pid'], example['camid'])
    for example in tqdm(source, name, unit=' images', leave=False)
  ]


def format_table(found: list[dict]) -> str:
  """Formats a table of the paper's figures and those of prepared data sets.

  Args:
    found: fields of each prepared copy of a data set, as `main` writes them to
      JSON.
  """
  width = max(len(row.layout.title) for row in ROWS) + 2
  head = ' ' * (width + 10) + ''.join(f'{name:>14}' for name in COLUMNS)
  lines = [head, '-' * len(head)]
  for row in ROWS:
    lines.append(_line(row.layout.title, width, 'paper', row.figures))
    here = [one for one in found if one['name'] == row.layout.name]
    for one in here:
      line = _line('', width, 'here', one['figures'], row.figures)
      if not one['as_published']:
        line += f'  other images ({one["fingerprint"]})'
      lines.append(line)
    if not here:
      lines.append(f'{"":{width}}here          not prepared')
    lines.append(f'{"":{width}}{row.note}')
  return '\n'.join(lines)


def _line(title, width, source, values, paper=None) -> str:
  """Formats a line of the table, with `*` at differences from the paper.

  Args:
    title: title of the data set.
    width: width of the title's column, in characters.
    source: origin of the figures, 'paper' or 'here'.
    values: figures in the order of `COLUMNS`.
    paper: figures of the paper to compare with, or None.
  """
  cells = ''.join(
    f'{value:13,}{"*" if paper and value != paper[i] else " "}'
    for i, value in enumerate(values)
  )
  return f'{title:{width}}{source:10}{cells}'.rstrip()


def prepare_sets(arguments: list[str], prepared_dir: str) -> None:
  """Prepares data sets that are given as NAME=DIR.

  Args:
    arguments: NAME=DIR for each data set: its name and its raw folder.
    prepared_dir: `config.data.prepared_dir`.

  Raises:
    UserError: an argument has another form, or the data set cannot be prepared.
  """
  for argument in arguments:
    name, equals, directory = argument.partition('=')
    if not equals:
      raise UserError(
        f'{argument!r} is not NAME=DIR, such as market=datasets/market1501.'
      )
    config = common.get_config().data
    config.update(name=name, dir=directory, prepared_dir=prepared_dir)
    prepare(config)


def main() -> int:
  """Runs the command and returns its exit code: 2 if a data set is damaged."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    'sets', nargs='*', metavar='NAME=DIR',
    help='name and raw folder of a data set to prepare first',
  )  # fmt: skip
  parser.add_argument(
    '--prepared_dir', default='', help='folder of prepared data sets'
  )
  parser.add_argument(
    '--json', type=pathlib.Path, help='file to write the counts to'
  )
  options = parser.parse_args()
  prepare_sets(options.sets, options.prepared_dir)
  root, damaged = prepared_root(options.prepared_dir), []
  found = [
    {
      'name': row.layout.name,
      'fingerprint': fingerprint,
      'as_published': counts == row.layout.published,
      'figures': figures(counts, row.with_queries),
      'counts': {k: dataclasses.asdict(v) for k, v in counts.items()},
    }
    for row in ROWS
    for fingerprint, counts in prepared_counts(row.layout, root, damaged.append)
  ]
  print(format_table(found))
  if options.json:
    options.json.write_text(json.dumps(found, indent=2) + '\n')
  for error in damaged:
    print(printable(f'error: {error}'), file=sys.stderr)
  return 2 if damaged else 0


if __name__ == '__main__':
  with cli.errors_as_messages():
    sys.exit(main())
