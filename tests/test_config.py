import ast
from functools import partial
import pathlib

import pytest

import apnet_jax
from configs import _variants, common, market

ROOT = pathlib.Path(__file__).parents[1]


def leaves(config, prefix=()):
  for name, value in config.items():
    if hasattr(value, 'items'):
      yield from leaves(value, (*prefix, name))
    else:
      yield (*prefix, name)


def names_read():
  """Attributes and string literals in the code that is not configuration."""
  names = set()
  files = [ROOT / 'train.py', ROOT / 'eval.py']
  for folder in ('apnet_jax', 'data'):
    files += (ROOT / folder).rglob('*.py')
  for file in files:
    for node in ast.walk(ast.parse(file.read_text())):
      if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        names.add(node.attr)
  return names


def test_every_field_is_read():
  read = names_read()
  assert [
    leaf for leaf in leaves(common.get_config()) if leaf[-1] not in read
  ] == []


def configurations():
  """Every file and every variant of it."""
  for path in sorted((ROOT / 'configs').glob('[!_]*.py')):
    namespace = {}
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


def test_types_hold_on_the_command_line():
  """A default of the wrong type would refuse a sensible override."""
  config = common.get_config()
  config.train.learning_rate = 1e-3
  with pytest.raises(TypeError):
    config.train.P = 'many'
  with pytest.raises(AttributeError):
    config.train.lock().epoch = 3
