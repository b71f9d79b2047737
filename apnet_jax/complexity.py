"""Parameters and multiply-adds of the paper's networks, beside its Table III.

  python -m apnet_jax complexity
  python -m apnet_jax complexity --variant=apnet_c2 --variant=official2

Counted from the traced computation: nothing is computed or allocated.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import math
import pathlib
import textwrap
from typing import Any

from absl import flags
import flax.linen as nn
import jax
from jax.extend import core
import ml_collections
from ml_collections import config_flags
import tqdm

from apnet_jax import cli, variants
from apnet_jax.models.apnet import create_model
from apnet_jax.models.attention import ChannelAttention
from apnet_jax.models.layers import BatchNorm
from apnet_jax.models.pyramid import AttentionPyramid
from apnet_jax.variants import VARIANTS

TABLE_III_SIZE = (224, 224)
# Networks of Table III that are not built here, in GFLOPs.
FIGURES_OF_THE_PAPER = {'Pyramid ReID': 9.96, 'SCSN': 7.24}


@dataclasses.dataclass(frozen=True)
class Complexity:
  """Of embedding one image; the classifier, which training alone needs, is out.

  Attributes:
    parameters: trainable ones.
    multiply_adds: of convolutions and matrix products.
    normalized: elements that batch normalisations read.
    pooled: elements that the global averages of the head and of each
      `ChannelAttention` read and write.
  """

  parameters: int
  multiply_adds: int
  normalized: int
  pooled: int

  @property
  def operations(self) -> int:
    """What PyTorch-OpCounter reports, which the paper used for Table III.

    In its release of 2020 it counts multiply-adds, 2 for each element that is
    normalised, and 1 for each that an average pooling *module* reads or writes.
    (The shared attention of the released code pools by a function.)
    """
    return self.multiply_adds + 2 * self.normalized + self.pooled


def count(model: nn.Module, image_size: tuple[int, int]) -> Complexity:
  """Counts what it takes to embed one image of `image_size` (height, width).

  Args:
    model: made by `create_model`; the number of its classes does not matter.
    image_size: height and width.
  """
  normalized = pooled = 0
  features = None  # shape of the last feature map, which the head averages
  maps = {}  # sizes of what pyramids attend, by path

  def watch(call, args, kwargs, context):
    nonlocal normalized, pooled, features
    if isinstance(context.module, AttentionPyramid):
      maps[context.module.path] = args[0].size
    out = call(*args, **kwargs)
    if context.method_name == '__call__':
      if isinstance(context.module, BatchNorm):
        normalized += args[0].size
      elif isinstance(context.module, ChannelAttention):
        # A pyramid averages once; the usual code pools at each level.
        read = maps.get(context.module.path[:-1], args[0].size)
        pooled += read + out.size
      elif len(context.module.path) == 1 and getattr(out, 'ndim', 0) == 4:
        features = out.shape
    return out

  params, equations = trace(model, image_size, watch)
  return Complexity(
    parameters=sum(leaf.size for leaf in params.values()),
    multiply_adds=sum(multiply_adds(equation) for equation in equations),
    normalized=normalized,
    pooled=pooled + math.prod(features) + features[-1],
  )


def trace(
  model: nn.Module, image_size: tuple[int, int], watch: Callable
) -> tuple[dict[tuple[str, ...], jax.ShapeDtypeStruct], list]:
  """Traces the embedding of one image.

  Args:
    model: made by `create_model`.
    image_size: height and width.
    watch: an interceptor of calls, see `flax.linen.intercept_methods`.

  Returns:
    The trainable parameters, by path, and the equations that the embedding
    depends on.
  """
  images = jax.ShapeDtypeStruct((1, *image_size, 3), 'float32')

  def embed(images):
    out, variables = model.init_with_output(jax.random.key(0), images)
    return out.embedding, variables['params']

  with nn.intercept_methods(watch):
    jaxpr, (_, shapes) = jax.make_jaxpr(embed, return_shape=True)(images)
  embedding, *outputs = jaxpr.jaxpr.outvars
  equations, needed = _needed(jaxpr.jaxpr, [embedding])
  params = {
    tuple(key.key for key in path): shape
    for (path, shape), output in zip(jax.tree.leaves_with_path(shapes), outputs)
    if output in needed
  }
  return params, equations


def _needed(jaxpr: core.Jaxpr, outputs: Iterable) -> tuple[list, set]:
  """Equations and variables that some outputs depend on."""
  needed = set(_variables(outputs))
  equations = []
  for equation in reversed(jaxpr.eqns):
    if needed & set(equation.outvars):
      needed |= set(_variables(equation.invars))
      equations.append(equation)
  return equations[::-1], needed


def _variables(atoms: Iterable) -> Iterator[core.Var]:
  return (atom for atom in atoms if isinstance(atom, core.Var))


def multiply_adds(equation) -> int:
  """Multiply-adds of one equation of a jaxpr, and of all inside it."""
  shapes = [atom.aval.shape for atom in equation.invars]
  size = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
  match equation.primitive.name:
    case 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      return size * math.prod(shapes[0][axis] for axis in contracted)
    case 'conv_general_dilated':
      # The kernel's input channels are those of one group already. Zeros
      # between pixels, as in the gradient of a stride, are no work.
      features = equation.params['dimension_numbers'].rhs_spec[0]
      size //= math.prod(equation.params['lhs_dilation'])
      return size * math.prod(shapes[1]) // shapes[1][features]
    case 'cond':
      return max(map(count_jaxpr, equation.params['branches']))
    case 'scan':
      return equation.params['length'] * count_jaxpr(equation.params['jaxpr'])
  inside = sum(map(count_jaxpr, _jaxprs(equation.params)))
  if inside and equation.primitive.name == 'while':
    raise NotImplementedError(
      'The multiply-adds of a while loop depend on its input.'
    )
  return inside


def count_jaxpr(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> int:
  """Multiply-adds of a traced computation; of one device, if it is mapped.

  What no output depends on is not counted: compilers leave it out.
  """
  jaxpr = getattr(jaxpr, 'jaxpr', jaxpr)  # of a closed one
  equations, _ = _needed(jaxpr, jaxpr.outvars)
  return sum(multiply_adds(equation) for equation in equations)


def _jaxprs(params: Mapping[str, Any]) -> Iterator:
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else [value]:
      if isinstance(item, (core.Jaxpr, core.ClosedJaxpr)):
        yield item


def measure(name: str, config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What is known of a variant, under the names of the JSON file.

  Args:
    name: of `VARIANTS`.
    config: a `config.model`, for what the variant leaves open.
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
  except ValueError as error:  # a pyramid that does not divide 224x224
    return result | {'at_224': None, 'why': str(error)}
  at_224 = dataclasses.asdict(square) | {'operations': square.operations}
  return result | {'at_224': at_224}


# Heading, unit and width of the columns; the first two to the left.
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
  """The table, its rows under headings with their place in the paper."""
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
    f'{_difference(row):+.1%}' if figure else '',
    f'{at_224["operations"] / 1e9:.3f}' if at_224 else '',
    f'{height}x{width}{row["multiply_adds"] / 1e9:7.3f}',
  ]
  line = _columns(cells)
  if not at_224:  # the reason stands where the figures would
    start = sum(abs(width) for _, _, width in COLUMNS[:3]) + 2
    reason = row['why'].split(' parts at level')[0].split(': ')[-1]
    line = line[:start] + reason + line[start + len(reason) :]
  return line


def _difference(row: Mapping[str, Any]) -> float:
  """Of the multiply-adds from the paper's figure, as a fraction of it."""
  return row['at_224']['multiply_adds'] / (1e9 * row['paper_gflops']) - 1


def notes(rows: list[Mapping[str, Any]]) -> list[str]:
  """What a reader needs to compare the rows with the paper."""
  result = [
    'Multiply-adds of convolutions and matrix products to embed one image, and'
    ' trainable parameters. Without the classifier, which training alone needs'
    ' and which has (features x identities) of both.'
  ]
  compared = [row for row in rows if row['paper_gflops'] and row['at_224']]
  if compared:
    result.append(_note_on_opcounter(compared))
  fewer = []
  models = [VARIANTS[row['network']].model for row in rows]
  if any(model['attention'] == 'spatial' for model in models):
    fewer.append('spatial attention never forms its relations')
  if any(model['backbone'] == 'densenet169' for model in models):
    fewer.append("DenseNet's transitions average before they convolve")
  if fewer:
    result.append(
      f'Counted is what is computed here: {" and ".join(fewer)}, and the usual'
      ' code takes more.'
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
      unequal.append(f'{row["network"]}, {shown} for {row["paper_gflops"]}')
  return (
    'OpCounter: PyTorch-OpCounter, with which the paper counted, adds 2 for'
    ' each element that a batch normalisation reads and 1 for each that goes'
    f' into or out of a global average: for {rows[0]["network"]},'
    f' {first["multiply_adds"] / 1e9:.4f} + 2 x {first["normalized"] / 1e9:.4f}'
    f' + {first["pooled"] / 1e9:.4f} = {first["operations"] / 1e9:.4f} G.'
    f" Rounded, that is the paper's figure of {', '.join(equal) or 'none'}"
    + (f', but not of {"; ".join(unequal)}.' if unequal else '.')
  )


def command() -> Callable:
  """Defines the flags; returns main."""
  config = config_flags.DEFINE_config_file(
    'config',
    'configs/market.py',
    'Configuration whose model the variants change; what the paper leaves open'
    ' is taken from it (config.model.reduction).',
  )
  names = flags.DEFINE_multi_enum(
    'variant', [], list(VARIANTS), 'Counts this network; repeat it for more.'
  )
  json = flags.DEFINE_string('json', '', 'Also writes the counts to this file.')

  def main(argv):
    cli.no_more_arguments(argv)
    rows = [
      measure(name, config.value.model)
      for name in tqdm.tqdm(
        names.value or VARIANTS, 'Counting', unit=' networks', leave=False
      )
    ]
    print(format_table(rows))
    if not names.value:
      print('\nTable III, figures of the paper')
      for title, gflops in FIGURES_OF_THE_PAPER.items():
        print(_columns(['', title, '', '', f'{gflops:.2f}']))
    for note in notes(rows):
      print('\n' + textwrap.fill(note, WIDTH))
    if json.value:
      _write(pathlib.Path(json.value), rows)

  return main


def _write(path: pathlib.Path, rows: list[Mapping[str, Any]]) -> None:
  from apnet_jax.checkpoint import write_json  # Orbax takes a second

  write_json(
    path.parent,
    path.name,
    {'networks': rows, 'figures_of_the_paper': FIGURES_OF_THE_PAPER},
  )
