import ast
from functools import partial
import json
import math
import pathlib
import re

from flax.traverse_util import flatten_dict
import pytest

import apnet_jax
from apnet_jax.config import AT_LEAST, CHOICES, check, check_section, flat
from apnet_jax.training import recipe
from configs import _variants, common, cuhk03, market

ROOT = pathlib.Path(__file__).parents[1]


def leaves(config, prefix=()):
  for name, value in config.items():
    if hasattr(value, 'items'):
      yield from leaves(value, (*prefix, name))
    else:
      yield (*prefix, name)


# Modules whose `config` is a section and not the whole configuration, in all or
# some of their functions. Everywhere, `rules` is `config.eval`, `data_config`
# is `config.data`, and `train_config` is `config.train`.
SECTION_OF_MODULE = {
  'apnet_jax/models/apnet.py': 'model',
  'apnet_jax/training/augment.py': 'augment',
  'apnet_jax/training/not_finite.py': 'train',
  'apnet_jax/training/optim.py': 'train',
  'apnet_jax/training/train_step.py': 'train',
  'data/prepare.py': 'data',
}
SECTION_OF_NAME = {
  'rules': 'eval', 'data_config': 'data', 'train_config': 'train',
}  # fmt: skip
# Code that checks, prints or records fields, and does nothing else with them.
NO_USE = (
  'apnet_jax/commands/', 'apnet_jax/config.py', 'apnet_jax/paper/',
  'apnet_jax/models/network_fields.py', 'apnet_jax/retrieval/card.py',
  'apnet_jax/retrieval/threshold.py', 'apnet_jax/training/checks.py',
  'apnet_jax/workdir/run_files.py',
)  # fmt: skip
NO_USE_FUNCTIONS = re.compile('_*(check|describe)')
# Fields that these rules miss: one stands on result cards alone, and one in the
# name of the default workdir.
EXCEPTIONS = {('profile',), ('name',)}


def used_fields(tree, section=None):
  """Yields the fields that a module reads, other than in checks and messages.

  Args:
    tree: its syntax tree.
    section: see `SECTION_OF_MODULE`.
  """
  pending = [tree]
  while pending:
    node = pending.pop()
    if isinstance(node, ast.JoinedStr):
      continue
    if isinstance(node, ast.FunctionDef) and NO_USE_FUNCTIONS.match(node.name):
      continue
    names = names_of(node)
    for holder in {'config', *SECTION_OF_NAME} & {*names[:-1]}:
      path = names[names.index(holder) + 1 :]
      of_section = SECTION_OF_NAME.get(holder, section)
      yield (of_section, *path) if of_section and len(path) == 1 else path
    pending += ast.iter_child_nodes(node)


def names_of(node):
  """Returns ('a', 'b', 'c') for the expressions `a.b.c` and `a.b['c']`."""
  match node:
    case ast.Name(name):
      return (name,)
    case ast.Attribute(value, name, ast.Load()):
      return (*names_of(value), name)
    case ast.Subscript(value, ast.Constant(str(name)), ast.Load()):
      return (*names_of(value), name)
  return ()


def test_every_field_is_used():
  files = [ROOT / 'train.py', ROOT / 'eval.py']
  for folder in ('apnet_jax', 'data'):
    files += (ROOT / folder).rglob('*.py')
  used = set(EXCEPTIONS)
  for file in files:
    name = file.relative_to(ROOT).as_posix()
    if not name.startswith(NO_USE):
      tree = ast.parse(file.read_text())
      used.update(used_fields(tree, SECTION_OF_MODULE.get(name)))
  assert set(leaves(common.get_config())) - used == set()


def test_cuhk03_reranks_as_published_which_is_of_no_recipe():
  config = cuhk03.get_config('official')
  values = {k: v for k, v in config.eval.items() if k.startswith('rerank_')}
  assert values == {'rerank_k1': 7, 'rerank_k2': 3, 'rerank_lambda': 0.85}
  fields = recipe.relevant_fields(config)
  assert not any(name.startswith('eval.rerank_') for name in fields)


def test_other_attributes_of_a_fields_name_are_no_use_of_it():
  source = """
def check_it(config):
  config.train.P
def crop(config, rules):
  jnp.pad(config.dtype)
  config.train.K, run.config.eval.ap, rules.flip, data_config['seed']
  config.model.levels = 3
  print(f'{config.train.epochs}')
"""
  used = set(used_fields(ast.parse(source), 'augment'))
  unused = {'pad', 'P', 'levels', 'epochs'}
  assert not unused & {name for path in used for name in path}
  assert used >= {
    ('augment', 'dtype'), ('train', 'K'), ('eval', 'ap'), ('eval', 'flip'),
    ('data', 'seed'),
  }  # fmt: skip


def configurations():
  """Every file and every variant of it."""
  for path in sorted((ROOT / 'configs').glob('[!_]*.py')):
    namespace = {'__file__': str(path)}
    exec(compile(path.read_text(), str(path), 'exec'), namespace)
    assert namespace['__doc__']
    get_config = namespace['get_config']
    yield pytest.param(path, get_config, id=path.stem)
    takes_variant = get_config.__code__.co_argcount
    for variant in _variants.VARIANTS if takes_variant else ():
      yield pytest.param(
        path, partial(get_config, variant), id=f'{path.stem}:{variant}'
      )


@pytest.mark.parametrize(('path', 'get_config'), list(configurations()))
def test_configurations_only_override_common_fields(path, get_config):
  config = get_config()
  assert set(leaves(config)) == set(leaves(common.get_config()))
  if path.stem != 'common':
    assert config.name == path.stem
    apnet_jax.create_model(config.model, 10)


def test_variants_are_not_the_same():
  configs = [market.get_config(variant) for variant in _variants.VARIANTS]
  assert len({config.to_json() for config in configs}) == len(configs) == 3
  assert configs[0] == market.get_config()
  with pytest.raises(
    ValueError, match=r'market.py:best: .* \(paper, spatial, of'
  ):
    market.get_config('best')


def test_flat_fields_have_the_values_that_json_reads_back():
  config = common.get_config()
  read = json.loads(json.dumps(config.to_dict()))
  assert flat(config) == flatten_dict(read, sep='.')


def test_types_hold_on_the_command_line():
  """A default of the wrong type would refuse a sensible override."""
  config = common.get_config()
  config.train.learning_rate = 1e-3
  with pytest.raises(TypeError):
    config.train.P = 'many'
  with pytest.raises(AttributeError):
    config.train.lock().epoch = 3


@pytest.mark.parametrize('field', AT_LEAST)
def test_a_bound_itself_is_allowed(field):
  section, name = field.split('.')
  check_section(section, {name: AT_LEAST[field]})
  with pytest.raises(ValueError, match=f'config.{field}=.* must be at least'):
    check_section(section, {name: AT_LEAST[field] - 1})
  for value in (math.inf, math.nan):
    with pytest.raises(ValueError, match=f'config.{field}=.* is not a finite'):
      check_section(section, {name: value})


def test_seeds_have_32_bits():
  config = common.get_config()
  config.seed = 2**32 - 1
  check(config)
  config.seed = 2**32
  with pytest.raises(ValueError, match='seed=4294967296 must be from 0 to'):
    check(config)


def test_probabilities_may_be_0_and_1():
  check_section('augment', {'flip': 0.0, 'erase': 1.0})
  with pytest.raises(ValueError, match='augment.flip=1.5 must be from 0 to 1'):
    check_section('augment', {'flip': 1.5})


def test_fractions_may_be_0_and_1():
  check_section('train', {'circle_margin': 0.0})
  check_section('train', {'circle_margin': 1.0})
  with pytest.raises(ValueError, match='circle_margin=1.5 must be from 0 to 1'):
    check_section('train', {'circle_margin': 1.5})
  with pytest.raises(ValueError, match='erase_fill=.0, 0. is not a value of'):
    check_section('augment', {'erase_fill': (0, 0)})
  for milestones in ((1.5,), (40, -1)):
    with pytest.raises(ValueError, match='milestones=.* are not all whole'):
      check_section('train', {'milestones': milestones})
  check_section('augment', {'hue': 0.5})
  with pytest.raises(ValueError, match='augment.hue=0.6 must be from 0 to 0.5'):
    check_section('augment', {'hue': 0.6})
  check_section('augment', {'augmix': 10.0})
  with pytest.raises(
    ValueError, match='augment.augmix=11 must be from 0 to 10'
  ):
    check_section('augment', {'augmix': 11})


def test_every_whole_number_has_a_bound():
  config = common.get_config()
  numbers = {
    f'{section}.{name}'
    for section in ('model', 'data', 'augment', 'train', 'eval')
    for name, value in config[section].items()
    if type(value) is int
  }
  assert numbers - AT_LEAST.keys() - CHOICES.keys() == {
    'data.split_seed',  # any
  }
