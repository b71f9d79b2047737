"""Plans the training runs of a table, one for each network and seed."""

from collections.abc import Sequence
import dataclasses
import pathlib

from absl import flags
import ml_collections
from ml_collections import config_flags

from apnet_jax import cli
from apnet_jax import config as config_fields
from apnet_jax.errors import UserError
from apnet_jax.paper.tables import Row, Table
from apnet_jax.training import recipe

# What every row sets. With these values, all other fields of the network have
# an effect.
SET_BY_ROWS = {'attention': 'channel', 'levels': 2}


@dataclasses.dataclass(frozen=True)
class Run:
  """A training run of a table.

  Attributes:
    variant: name of the row, as of the network in `paper.variants.VARIANTS`.
    seed: seed of the run.
    words: flags of train.py.
    config: the whole configuration that these flags make.
    recipe: hash of the configuration that the table was asked for, without
      networks and seeds: equal for all runs that one table may compare.
  """

  variant: str
  seed: int
  words: tuple[str, ...]
  config: ml_collections.ConfigDict
  recipe: str

  @property
  def hash(self) -> str:
    """Hash of all fields that change the result, the seed among them."""
    return recipe.digest(recipe.relevant_fields(self.config))

  @property
  def name(self) -> str:
    """Name of the folder of this run."""
    return f'{self.variant}-seed{self.seed}-{self.hash}'


def read_config(words: Sequence[str]) -> ml_collections.ConfigDict:
  """Returns the configuration that train.py makes of flags.

  Args:
    words: the flags --config and --config.FIELD.

  Raises:
    UserError: there is no such file or field, or a value is not allowed.
  """
  for word in words:
    cli.check_config_file(word)
  values = flags.FlagValues()
  arguments = ['train.py', *words]
  holder = config_flags.DEFINE_config_file(
    'config', flag_values=values, sys_argv=arguments
  )
  try:
    values(arguments)
    config = holder.value
  except (flags.Error, AttributeError, KeyError) as error:
    raise cli.flag_error(error, words) from error
  except (OSError, TypeError) as error:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    raise UserError(f'{" ".join(words)}: {lines[-1].strip()}') from error
  config_fields.check(config)
  return config


def recipe_hash(config: ml_collections.ConfigDict) -> str:
  """Returns the hash of what the networks of a table have in common."""
  base = config.copy_and_resolve_references()
  base.model.update(SET_BY_ROWS)
  # A row may give an effect to a field of training that has none here.
  fields = recipe.changed_fields(base)
  fields.pop('seed', None)
  return recipe.digest(fields)


def plan(
  table: Table,
  config_file: str,
  overrides: Sequence[str],
  seeds: Sequence[int],
) -> list[Run]:
  """Lists the runs of a table: all its networks with the first seed, and so on.

  So the networks can be compared before all seeds are done. A network that
  stands in two tables is one run, with one name and one hash.

  Args:
    table: the table.
    config_file: value of --config, as 'configs/market.py'.
    overrides: changed fields, as 'train.epochs=60'.
    seeds: seeds of the runs.

  Raises:
    UserError: the configuration is not valid, or its initial weights do not fit
      a network.
  """
  changed = [f'--config.{override}' for override in overrides]
  base = read_config([f'--config={config_file}', *changed])
  common = recipe_hash(base)
  runs = []
  for seed in seeds:
    for row in table.rows:
      words = [
        f'--config={_file_of(row, config_file)}',
        *changed,
        *_row_words(row, base, overrides),
        f'--config.seed={seed}',
      ]
      runs.append(
        Run(row.name_in_results, seed, tuple(words), read_config(words), common)
      )
  return runs


def _file_of(row: Row, config_file: str) -> str:
  """Returns the value of --config for a row.

  Paper: APNet-S is trained by the settings of RGA, which the benchmarks'
  configurations have as a variant.
  """
  file = config_file.removesuffix(':paper')  # the default variant
  if row.changes['attention'] != 'spatial' or ':' in file:
    return config_file
  try:
    read_config([f'--config={file}:spatial'])
  except UserError:  # this configuration has no variants
    return config_file
  return f'{file}:spatial'


def _row_words(
  row: Row, base: ml_collections.ConfigDict, overrides: Sequence[str]
) -> list[str]:
  """Returns the flags that make the network and the recipe of a row.

  An image size that the user has chosen stays.

  Raises:
    UserError: the initial weights do not fit the network.
  """
  fields = {f'model.{name}': value for name, value in row.changes.items()}
  fields |= row.recipe_fields
  weights = row.weights(base.model)
  if weights != base.model.pretrained:
    fields['model.pretrained'] = weights
  default = config_fields.get_config().data.image_size
  chosen = tuple(base.data.image_size) != tuple(default) or any(
    override.startswith('data.image_size=') for override in overrides
  )
  if row.image_size and not chosen:
    fields['data.image_size'] = row.image_size
  return [f'--config.{name}={value}' for name, value in fields.items()]


def absolute_folders(overrides: Sequence[str], name: str) -> list[str]:
  """Returns overrides whose folders of images are absolute.

  Args:
    overrides: changed fields, as 'data.dir=photos'.
    name: `config.data.name`. Only if it names several data sets, commas
      separate folders in data.dir; otherwise they belong to its name.
  """
  found = []
  for override in overrides:
    field, equals, value = override.partition('=')
    if field in ('data.dir', 'data.prepared_dir') and value:
      several = field == 'data.dir' and ',' in name
      value = ','.join(
        str(pathlib.Path(part.strip()).expanduser().absolute())
        for part in (value.split(',') if several else [value])
      )
    found.append(field + equals + value)
  return found
