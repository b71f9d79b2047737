"""Explains a configuration layer by layer and field by field.

  python -m apnet_jax explain --config=configs/market.py:official
  python -m apnet_jax explain --config.model.levels=3

The command lists the layers of the network, each field of the configuration
beside its values in the paper and in the paper's released code, and all
differences from the paper.
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import itertools
import textwrap

import flax.linen as nn
import jax
import ml_collections

from apnet_jax import cli
from apnet_jax.models import counting
from apnet_jax.models.apnet import create_model
from apnet_jax.models.attention import (
  ChannelAttention,
  SharedChannelAttention,
  SpatialAttention,
)
from apnet_jax.models.densenet import DenseLayer
from apnet_jax.models.layers import BatchNorm
from apnet_jax.models.pyramid import AttentionPyramid
from apnet_jax.models.resnet import Bottleneck
from apnet_jax.paper.differences import differences, show
from apnet_jax.paper.fields import FIELDS, SILENT
from apnet_jax.paper.variants import VARIANTS, name_of
from apnet_jax.printing import counted

WIDTH = 92
# Widths of the columns of a line about a layer: text, output, parameters,
# millions of multiply-adds.
LAYER_COLUMNS = (52, 14, 13, 13)
# Widths of the columns of a line about a field: field, value here, value of the
# paper, place in the paper. The value of the released code follows.
FIELD_COLUMNS = (26, 20, 18, 10)

# Descriptions of the modules other than the backbone and the pyramids.
OTHER_MODULES = {
  'bottleneck': 'batch norm without shift: the embedding',
  'classifier': 'features x identities, no bias; training only',
  'local': 'own layer4 after stage 3, in two stripes',
}

Path = tuple[str, ...]


@dataclasses.dataclass
class LayerRow:
  """A row in the table of layers, which describes one call of a Flax module.

  Attributes:
    module: the module.
    stage: number of the stage if the module is the backbone, which is called
      once for each stage; otherwise None.
    output: shape of the output without the batch; () if it is not one array.
    called: the module and the modules that it calls, by path in the network.
      Modules with a row of their own are excluded.
    params: shapes of the trainable parameters of `called`, by path. Parameters
      that do not affect the embedding are excluded.
    multiply_adds: number of multiply-adds for one image.
  """

  module: nn.Module
  stage: int | None = None
  output: tuple[int, ...] = ()
  called: dict[Path, nn.Module] = dataclasses.field(default_factory=dict)
  params: dict[Path, jax.ShapeDtypeStruct] = dataclasses.field(
    default_factory=dict
  )
  multiply_adds: int = 0

  def kernel(self, *path: str) -> tuple[int, ...]:
    """Returns the kernel's shape of the submodule at `path` in the module."""
    return self.params[*self.module.path, *path, 'kernel'].shape


def layers(model: nn.Module, image_size: tuple[int, int]) -> list[LayerRow]:
  """Returns the rows of a table of the network's layers, in calling order.

  The parameters and multiply-adds of all rows add up to the totals of
  `counting.count`.

  Args:
    model: a model made by `create_model`, with any number of classes.
    image_size: height and width in pixels.
  """
  rows: list[LayerRow] = []
  active: list[LayerRow] = []

  def watch(call, args, kwargs, context):
    module = context.module
    if context.method_name != '__call__' or not module.path:
      return call(*args, **kwargs)
    if len(module.path) > 1 and not _is_level(module):
      active[-1].called[module.path] = module
      return call(*args, **kwargs)
    row = LayerRow(module, args[1] if module.path == ('base',) else None)
    row.called[module.path] = module
    rows.append(row)
    active.append(row)
    with jax.named_scope(_scope(len(rows) - 1)):
      out = call(*args, **kwargs)
    row.output = getattr(out, 'shape', ())[1:]
    active.pop()
    return out

  params, equations = counting.trace(model, image_size, watch)
  for path, leaf in params.items():
    (row,) = (row for row in rows if path[:-1] in row.called)
    row.params[path] = leaf
  for equation in equations:
    scopes = str(equation.source_info.name_stack).split('/')
    numbers = [i for i in range(len(rows)) if _scope(i) in scopes]
    if numbers:  # rows are nested; the innermost has the largest number
      rows[numbers[-1]].multiply_adds += counting.multiply_adds(equation)
  return rows


def _is_level(module: nn.Module) -> bool:
  """Returns whether a module is an attention or norm layer of a pyramid."""
  return isinstance(module.parent, AttentionPyramid)


def _scope(number: int) -> str:
  return f'row{number}'


def explain(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields lines of text that explain a whole configuration.

  Raises:
    UserError: the network of the configuration cannot be built.
  """
  yield from _network(config)
  yield from _fields(config)
  yield from _list('Where the paper is silent', choices(config))
  yield from _list('Where this differs from the paper', differences(config))


def _network(config) -> Iterator[str]:
  name = name_of(config.model)
  height, width = config.data.image_size
  rows = layers(create_model(config.model, num_classes=1), (height, width))
  if name:
    yield f'{name}: {VARIANTS[name].title} ({VARIANTS[name].where})'
  else:
    yield 'A network that is not in the paper'
  yield ''
  yield _layer(
    f'Layer by layer, {height}x{width}', 'output', 'parameters', 'M mult-adds'
  )
  for row in rows:
    text, *more = describe(row)
    is_map = not _is_level(row.module) and row.module.name != 'classifier'
    output = row.output if is_map else ()
    yield _layer(text, 'x'.join(map(str, output)), *_sums([row]))
    yield from more
  yield _layer('Total to embed one image', '', *_sums(rows))


def _layer(text: str, *cells: str) -> str:
  widths = LAYER_COLUMNS[1:]
  right = ''.join(f'{cell:>{width}}' for cell, width in zip(cells, widths))
  # A long text extends over empty cells.
  space = sum(LAYER_COLUMNS) - len(text)
  return f'{text}{" " + right.lstrip():>{space}}'.rstrip()


def _sums(rows: Iterable[LayerRow]) -> tuple[str, str]:
  parameters = sum(p.size for row in rows for p in row.params.values())
  millions = sum(row.multiply_adds for row in rows) / 1e6
  return (
    f'{parameters:,}' if parameters else '',
    f'{millions:,.2f}' if millions else '',
  )


def describe(row: LayerRow) -> list[str]:
  """Describes a row of the table of layers, in one or more lines of text."""
  module = row.module
  if row.stage is not None:
    name = f'stage {row.stage}' if row.stage else 'stem'
    lines = [_stage(row)]
  elif _is_level(module):
    name = f'  {module.path[-1]}'
    lines = _attention(row)
  else:
    name = module.path[-1]
    lines = [OTHER_MODULES.get(name, 'attention pyramid')]
  return [f'{title:11}{text}' for title, text in zip([name, ''], lines)]


def _stage(row: LayerRow) -> str:
  """Names the modules of a backbone stage, with their numbers of blocks."""
  # torchvision's DenseNet has all its modules in `features`.
  depth = 2 if ('base', 'features') in row.called else 1
  blocks: dict[str, list[nn.Module]] = {}
  for path, module in row.called.items():
    if len(path) > depth:
      own = blocks.setdefault(path[depth], [])
      own += [module] * isinstance(module, (Bottleneck, DenseLayer))
  if len(blocks) > 3:  # of Inception-V3
    first, *_, last = blocks
    return f'{first} to {last}'
  return ', '.join(
    f'{name}: {counted(len(own), "block")}' if own else name
    for name, own in blocks.items()
  )


def _attention(row: LayerRow) -> list[str]:
  """Describes an attention module: its parts, widths and nonlinearity."""
  module = row.module
  match module:
    case BatchNorm():
      return ['batch norm without shift']
    case ChannelAttention():
      parts, size, hidden = row.kernel('fc1')
      return [f'{counted(parts, "part")} of {size}, {hidden} hidden, sigmoid']
    case SharedChannelAttention():
      _, size, hidden = row.kernel('fc1')
      return [
        f'{counted(module.parts, "part")} of {size} summed, {hidden} hidden,'
        ' softmax over parts'
      ]
    case SpatialAttention():
      parts, size, embedded = row.kernel('theta_spatial', '0')
      _, relations, summary = row.kernel('gg_spatial', '0')
      _, joined, hidden = row.kernel('W_spatial', '0')
      return [
        f'{counted(parts, "part")} of {relations // 2} positions, sigmoid',
        f'embedding {size} -> {embedded}; relations {relations} -> {summary};'
        f' scores {joined} -> {hidden} -> 1',
      ]
    case _:
      raise TypeError(f'{type(module).__name__} is no module of a pyramid.')


def _fields(config) -> Iterator[str]:
  yield ''
  yield _field('Field by field', 'here', 'paper', '', 'released code')
  for section, fields in FIELDS.items():
    yield f'config.{section}'
    for field in fields:
      mark = '*' if field.differs(config) else ' '
      paper = field.paper_value(config)
      yield _field(
        f'{mark if field.used(config) else "-"} {field.name}',
        show(field.value(config)),
        'silent' if paper is SILENT else show(paper),
        field.place(config),
        '' if field.released is None else show(field.released_value(config)),
      )
  yield '* differs from the paper   - has no effect in this configuration'


def _field(*cells: str) -> str:
  *others, last = cells
  # A long value, such as the name of a file, moves those to its right.
  left = ''.join(
    f'{cell:{width - 2}}  ' for cell, width in zip(others, FIELD_COLUMNS)
  )
  return (left + last).rstrip()


def _list(title: str, items: Iterable[str]) -> Iterator[str]:
  yield ''
  yield title
  for number, item in enumerate(items, start=1):
    yield textwrap.fill(
      item,
      WIDTH,
      initial_indent=f'{number:3}. ',
      subsequent_indent=' ' * 5,
      break_on_hyphens=False,
    )


def choices(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields a sentence for each field that the paper does not determine."""
  for field in itertools.chain(*FIELDS.values()):
    if field.is_choice(config):
      value = show(field.value(config))
      yield f'{field.field}: {value}, {field.source(config)}.'


def command() -> Callable:
  """Defines the absl flags of this command, and returns its `main(argv)`."""
  config = cli.define_config('Configuration to explain.')

  def main(argv):
    cli.no_more_arguments(argv)
    print('\n'.join(explain(config.value)))

  return main
