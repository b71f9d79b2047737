"""The paper's tables of experiments: their networks and published figures.

One table is not of the paper: that of recipes of other work.
"""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from apnet_jax.errors import UserError
from apnet_jax.paper.recipes import RECIPES
from apnet_jax.paper.variants import APNET_C2, CHANNEL_SIZE, VARIANTS

Figures = tuple[float, ...]  # mAP, Rank-1 and Rank-5 if known, in percent
COLUMNS = ('mAP', 'Rank-1', 'Rank-5')
# Weights of ImageNet by network, in the place of ResNet-50's: of the same
# training, with one exception.
RESNET50_WEIGHTS = 'hf://timm/resnet50.tv_in1k'
WEIGHTS = {
  RESNET50_WEIGHTS: {
    'resnet101': 'hf://timm/resnet101.tv_in1k',
    'inception_v3': 'hf://timm/inception_v3.tv_in1k',
    'densenet169': 'hf://timm/densenet169.tv_in1k',
    # torchvision has no SE-ResNet. These come from a stronger training.
    'seresnet50': 'hf://timm/seresnet50.ra2_in1k',
  },
  'hf://timm/resnet50.a1_in1k': {
    'resnet101': 'hf://timm/resnet101.a1_in1k',
    'seresnet50': 'hf://timm/seresnet50.a1_in1k',
  },
}
# The network in the name of weights of timm, as resnet50 in those above.
_TIMM = re.compile(r'hf://timm/(?P<network>[^./@]+)')


@dataclasses.dataclass(frozen=True)
class Row:
  """A network of a table.

  Attributes:
    variant: its name in `variants.VARIANTS`.
    against: name of the row that its figures are compared with; '' for none.
    published: figures in percent by data set. A network that was trained on
      another data set than it was evaluated on has both names, as
      'market1501 > dukemtmc_reid'.
    recipe: name of its recipe in `recipes.RECIPES`; '' for that of the
      configuration.
  """

  variant: str
  against: str = ''
  published: Mapping[str, Figures] = dataclasses.field(default_factory=dict)
  recipe: str = ''

  @property
  def name(self) -> str:
    """Name of the row on a command line."""
    return self.recipe or self.variant

  @property
  def name_in_results(self) -> str:
    """Name of the row in results, the same in all tables that it stands in."""
    return self.recipe or first_name(self.variant)

  @property
  def against_in_results(self) -> str:
    """Name in results of the row that its figures are compared with."""
    is_recipe = self.against in RECIPES
    return self.against if is_recipe else first_name(self.against)

  @property
  def title(self) -> str:
    """Name of the network in the paper, or the fields of the recipe."""
    if not self.recipe:
      return VARIANTS[self.variant].title
    fields = RECIPES[self.recipe].items()
    return '+ ' + ', '.join(f'`{name}={value}`' for name, value in fields)

  @property
  def recipe_fields(self) -> Mapping[str, Any]:
    """Fields of the recipe, by dotted name."""
    return RECIPES[self.recipe] if self.recipe else {}

  @property
  def changes(self) -> dict[str, Any]:
    """Fields of `config.model` that make this network of the default one.

    `attention` and `levels` always stand among them: a configuration may have
    other values.
    """
    model = VARIANTS[self.variant].model
    return {
      name: value
      for name, value in model.items()
      if value != APNET_C2[name] or name in ('attention', 'levels')
    }

  @property
  def image_size(self) -> tuple[int, int] | None:
    """Height and width if they are not those of the default network."""
    size = VARIANTS[self.variant].image_size
    return None if size == CHANNEL_SIZE else size

  def weights(self, model: Mapping[str, Any]) -> str:
    """Returns the initial weights that fit this network.

    Args:
      model: `config.model` of the whole table. Only weights of timm for another
        network are replaced; nothing is known of others.

    Raises:
      UserError: they are to be replaced, and `WEIGHTS` has none for this row.
    """
    source = model['pretrained']
    fields = {**model, **self.changes}
    network = 'se' * bool(fields['se_blocks']) + fields['backbone']
    named = _TIMM.match(source)
    if not named or named['network'] == network:
      return source
    if network in WEIGHTS.get(source, {}):
      return WEIGHTS[source][network]
    fitting = [name for name, others in WEIGHTS.items() if network in others]
    advice = f' It has weights with {" or ".join(fitting)}.' if fitting else ''
    raise UserError(
      f'config.model.pretrained={source} does not fit the row {self.name}, a'
      f' {network}, and no weights are known in its place.{advice}'
      ' --rows chooses other rows.'
    )


@dataclasses.dataclass(frozen=True)
class Table:
  """A table or figure of the paper, or the table of recipes.

  Attributes:
    title: its name, in the paper if it is from there.
    rows: its networks, in order.
    across: whether networks are evaluated on other images than those of the
      data set that they were trained on.
    counted: whether the networks are counted instead of trained.
  """

  title: str
  rows: tuple[Row, ...]
  across: bool = False
  counted: bool = False


def first_name(variant: str) -> str:
  """Returns the first name of a network that has several in `VARIANTS`.

  Args:
    variant: a key of `VARIANTS`, as 'radix2', which is 'apnet_c2'.
  """
  model, size = VARIANTS[variant].model, VARIANTS[variant].image_size
  return next(
    name
    for name, other in VARIANTS.items()
    if other.model == model and other.image_size == size
  )


def _rows(against: str, data_sets: tuple[str, ...], **figures) -> tuple:
  """Returns the rows of a table.

  Args:
    against: variant that all rows are compared with.
    data_sets: data sets of the figures.
    **figures: by variant, figures for each data set.
  """
  return tuple(
    Row(
      variant,
      '' if variant == against else against,
      dict(zip(data_sets, values, strict=True)),
    )
    for variant, values in figures.items()
  )


def _backbones() -> tuple[Row, ...]:
  """Returns the rows of Table V: each backbone without and with attention."""
  figures = {
    'resnet101': (89.6, 95.3, 98.5),
    'resnet101_apnet_c': (91.2, 96.4, 98.8),
    'inception_v3': (86.3, 95.1, 98.2),
    'inception_v3_apnet_c': (88.0, 96.0, 98.5),
    'densenet169': (89.0, 95.1, 98.7),
    'densenet169_apnet_c': (90.5, 96.2, 98.9),
  }
  return tuple(
    Row(
      name,
      name.removesuffix('_apnet_c') if 'apnet' in name else '',
      {'market1501': values},
    )
    for name, values in figures.items()
  )


TABLE_II = _rows(
  'apnet_c0',
  ('market1501', 'dukemtmc_reid', 'msmt17/trainval'),
  apnet_c0=((87.8, 95.0, 98.6), (77.2, 88.4, 94.4), (51.2, 75.3, 84.9)),
  se_resnet50=((88.6, 95.5, 98.5), (78.7, 88.5, 95.1), (58.5, 81.1, 90.3)),
  stacked_c=((89.4, 95.3, 98.7), (78.7, 88.4, 95.1), (58.0, 80.5, 89.5)),
  apnet_c1=((89.6, 95.5, 98.6), (79.0, 88.6, 95.2), (59.5, 81.9, 90.7)),
  apnet_c2=((90.5, 96.2, 98.8), (81.5, 90.4, 95.6), (63.5, 83.7, 91.7)),
  apnet_c3=((90.3, 96.1, 98.8), (81.3, 90.2, 95.8), (63.1, 82.8, 91.2)),
  stacked_s=((87.9, 95.5, 98.5), (77.6, 88.6, 94.7), (56.1, 78.7, 89.0)),
  apnet_s1=((88.0, 95.7, 98.5), (77.5, 88.8, 94.7), (55.8, 78.2, 88.7)),
  apnet_s2=((89.0, 96.1, 98.7), (78.8, 89.3, 95.0), (58.9, 80.8, 89.7)),
  apnet_s3=((89.3, 96.1, 98.6), (78.8, 89.2, 94.8), (59.0, 80.7, 89.8)),
)
# The paper's Fig. 5 has no numbers.
FIGURE_5 = tuple(
  Row(f'radix{radix}', '' if radix == 2 else 'radix2', {'market1501': ()})
  for radix in (1, 2, 4, 8, 16, 32)
)
TABLE_IV = _rows(
  '',
  ('cuhk03_np/detected', 'cuhk03_np/labeled'),
  apnet_c2=((81.5, 83.0), (85.3, 87.4)),
  apnet_s2=((78.1, 80.9), (81.1, 83.5)),
)
TABLE_VI = _rows(
  'apnet_c1',
  ('occluded_duke',),
  apnet_c1=((46.6, 53.9, 68.6),),
  apnet_c2=((54.1, 62.2, 76.3),),
)
# Of the row of the baseline, 15.6 mAP is legible. Its other figures follow from
# the gains of APNet-C_2 over the baseline in Section IV.F.
TABLE_VII = _rows(
  'apnet_c1',
  ('market1501 > dukemtmc_reid', 'dukemtmc_reid > market1501'),
  apnet_c0=((15.6, 29.1), (19.4, 44.6)),
  apnet_c1=((16.6, 30.1, 43.9), (23.0, 50.4, 65.2)),
  apnet_c2=((21.3, 35.9, 50.1), (24.0, 51.0, 66.4)),
  apnet_c3=((22.8, 37.7, 52.4), (23.7, 50.9, 66.6)),
)
TABLE_OF_RECIPES = (
  Row('apnet_c2'),
  *(Row('apnet_c2', 'apnet_c2', recipe=name) for name in RECIPES),
)
TABLES = {
  'table2': Table('Table II', TABLE_II),
  'table3': Table(
    'Table III',
    tuple(
      Row(name)
      for name in ('apnet_c0', 'apnet_c1', 'apnet_c2', 'apnet_c3')
      + ('se_resnet50',)
    ),
    counted=True,
  ),
  'table4': Table('Table IV', TABLE_IV),
  'table5': Table('Table V', _backbones()),
  'table6': Table('Table VI', TABLE_VI),
  'table7': Table('Table VII', TABLE_VII, across=True),
  'figure5': Table('Fig. 5', FIGURE_5),
  'recipes': Table('Recipes', TABLE_OF_RECIPES),
}
