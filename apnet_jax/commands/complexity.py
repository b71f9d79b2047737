"""Counts parameters and multiply-adds of the paper's networks (Table III).

  python -m apnet_jax complexity
  python -m apnet_jax complexity --variant=apnet_c2 --variant=official2

Operations are counted in the traced program, without running it.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import textwrap
from typing import Any

from absl import flags
import ml_collections
from ml_collections import config_flags
import tqdm

from apnet_jax import cli
from apnet_jax.errors import UserError
from apnet_jax.models.apnet import create_model
from apnet_jax.models.counting import count
from apnet_jax.models.network_fields import NETWORK_FIELDS
from apnet_jax.models.pyramid import SplitError
from apnet_jax.paper import variants
from apnet_jax.paper.variants import VARIANTS
from apnet_jax.workdir.json_files import write_json

TABLE_III_SIZE = (224, 224)
# GFLOPs of networks in Table III that this project does not have.
FIGURES_OF_THE_PAPER = {'Pyramid ReID': 9.96, 'SCSN': 7.24}


def measure(name: str, config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Counts the parameters and multiply-adds of a network of the paper.

  Args:
    name: name of the network in `VARIANTS`.
    config: the `model` section of a configuration, for fields that the network
      in `VARIANTS` does not set.

  Returns:
    The counts, as the command writes them to JSON. `multiply_adds` is for an
    image of `image_size`, the size in training. `at_224` has the counts for
    224x224 pixels, the size in Table III. If the pyramid cannot divide such an
    image, `at_224` is None, and `why` and `no_split` give the reason.
  """
  variant = VARIANTS[name]
  model = create_model(variants.apply(variant, config), num_classes=1)
  trained = count(model, variant.image_size)
  result = {
    'network': name,
    'title': variant.title,
    'where': variant.where,
    'parameters': trained.parameters,
    'image_size': variant.image_size,
    'multiply_adds': trained.multiply_adds,
    'paper_gflops': variant.gflops,
  }
  try:
    square = count(model, TABLE_III_SIZE)
  except SplitError as error:  # the pyramid does not divide 224x224 pixels
    failure = {'size': error.size, 'along': error.along, 'parts': error.parts}
    return result | {'at_224': None, 'why': str(error), 'no_split': failure}
  at_224 = dataclasses.asdict(square) | {'operations': square.operations}
  return result | {'at_224': at_224}


# Heading, unit and width of the columns; negative widths align to the left.
COLUMNS = (
  ('network', '', -23),
  ('in the paper', '', -22),
  ('param.', 'M', 6),
  ('224x224', 'G', 8),
  ('paper', 'G', 6),
  ('off by', '', 7),
  ('OpCounter', 'G', 11),
  ('trained at', 'G', 16),
)
WIDTH = sum(abs(width) for _, _, width in COLUMNS)


def format_table(rows: list[Mapping[str, Any]]) -> str:
  """Formats counts as a text table, grouped by place in the paper.

  Args:
    rows: results of `measure`.
  """
  lines = [
    _columns([heading for heading, _, _ in COLUMNS]),
    _columns([unit for _, unit, _ in COLUMNS]),
  ]
  for where in dict.fromkeys(row['where'] for row in rows):
    lines += ['', where]
    lines += [_format_row(row) for row in rows if row['where'] == where]
  return '\n'.join(lines)


def _columns(cells: Iterable[str]) -> str:
  return ''.join(
    f'{cell:{"<" if width < 0 else ">"}{abs(width)}}'
    for cell, (_, _, width) in zip(cells, COLUMNS)
  ).rstrip()


def _format_row(row: Mapping[str, Any]) -> str:
  height, width = row['image_size']
  at_224, figure = row['at_224'], row['paper_gflops']
  cells = [
    f'  {row["network"]}',
    row['title'],
    f'{row["parameters"] / 1e6:.2f}',
    f'{at_224["multiply_adds"] / 1e9:.3f}' if at_224 else '',
    f'{figure:.2f}' if figure else '',
    f'{at_224["multiply_adds"] / (1e9 * figure) - 1:+.1%}' if figure else '',
    f'{at_224["operations"] / 1e9:.3f}' if at_224 else '',
    f'{height}x{width}{row["multiply_adds"] / 1e9:7.3f}',
  ]
  line = _columns(cells)
  if not at_224:  # the reason stands where the figures would
    start = sum(abs(width) for _, _, width in COLUMNS[:3]) + 2
    reason = '{size} {along} do not split into {parts}'.format(
      **row['no_split']
    )
    line = line[:start] + reason + line[start + len(reason) :]
  return line


def notes(rows: list[Mapping[str, Any]]) -> list[str]:
  """Returns paragraphs that compare the counts with the paper's figures.

  Args:
    rows: results of `measure`.
  """
  result = [
    'Multiply-adds are those of convolutions and matrix products to embed one'
    ' image. Parameters are the trainable ones. Both exclude the classifier,'
    ' which only training needs: it would add features x identities to each.'
  ]
  compared = [row for row in rows if row['paper_gflops'] and row['at_224']]
  if compared:
    result.append(_note_on_opcounter(compared))
  savings = []
  models = [VARIANTS[row['network']].model for row in rows]
  if any(model['attention'] == 'spatial' for model in models):
    savings.append('spatial attention never forms its matrix of relations')
  if any(model['backbone'] == 'densenet169' for model in models):
    savings.append("DenseNet's transitions average before they convolve")
  if savings:
    result.append(
      'The counts are those of this implementation. Usual implementations need'
      f' more operations, since here {" and ".join(savings)}.'
    )
  return result


def _note_on_opcounter(rows: list[Mapping[str, Any]]) -> str:
  first = rows[0]['at_224']
  equal, unequal = [], []
  for row in rows:
    shown = round(row['at_224']['operations'] / 1e9, 2)
    if shown == row['paper_gflops']:
      equal.append(row['network'])
    else:
      unequal.append(f'{row["network"]} ({shown}, paper {row["paper_gflops"]})')
  return (
    'OpCounter is the count of PyTorch-OpCounter, which the paper used: the'
    ' multiply-adds, plus 2 for each element that a batch normalisation reads,'
    ' plus 1 for each element that a global average reads or writes. For'
    f' {rows[0]["network"]} this is {first["multiply_adds"] / 1e9:.4f} + 2 x'
    f' {first["normalized"] / 1e9:.4f} + {first["pooled"] / 1e9:.4f} ='
    f' {first["operations"] / 1e9:.4f} G. To compare the counts with the'
    " paper's, they are rounded to two decimals."
    + (f' They are equal for {", ".join(equal)}.' if equal else '')
    + (f' They differ for {", ".join(unequal)}.' if unequal else '')
  )


def check_overrides(fields: Iterable[str]) -> None:
  """Raises UserError for fields that every network of the paper sets itself.

  Args:
    fields: fields that the command line changes, as 'model.levels'.
  """
  own = {'data.image_size', *(f'model.{name}' for name in NETWORK_FIELDS)}
  for field in fields:
    if field in own:
      raise UserError(
        f'--config.{field} has no effect here: each network of the paper sets'
        ' this field. Choose networks by --variant, or count the network of a'
        ' configuration by python -m apnet_jax explain.'
      )


def command() -> Callable:
  """Defines the absl flags of this command, and returns its `main(argv)`."""
  config = cli.define_config(
    'Configuration for fields that the variants do not set, as'
    ' config.model.reduction.',
  )
  names = flags.DEFINE_multi_enum(
    'variant', [], list(VARIANTS), 'Network to count; repeat the flag for more.'
  )
  json = flags.DEFINE_string(
    'json', '', 'Also writes the counts to this JSON file.'
  )

  def main(argv):
    cli.no_more_arguments(argv)
    cli.check_output(json.value)
    check_overrides(config_flags.get_override_values(flags.FLAGS['config']))
    rows = [
      measure(name, config.value.model)
      for name in tqdm.tqdm(
        names.value or VARIANTS, 'Counting', unit=' networks', leave=False
      )
    ]
    print(format_table(rows))
    if not names.value:
      print('\nTable III, other networks (figures of the paper)')
      for title, gflops in FIGURES_OF_THE_PAPER.items():
        print(_columns(['', title, '', '', f'{gflops:.2f}']))
    for note in notes(rows):
      print('\n' + textwrap.fill(note, WIDTH))
    if json.value:
      counts = {'networks': rows, 'figures_of_the_paper': FIGURES_OF_THE_PAPER}
      write_json(json.value, counts)

  return main
