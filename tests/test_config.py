import ast
import pathlib

import pytest

from configs import common

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


@pytest.mark.parametrize(
  'path', sorted((ROOT / 'configs').glob('[!_]*.py')), ids=lambda p: p.stem
)
def test_configurations_only_override_common_fields(path):
  namespace = {}
  exec(compile(path.read_text(), str(path), 'exec'), namespace)
  config = namespace['get_config']()
  assert set(leaves(config)) == set(leaves(common.get_config()))
  assert namespace['__doc__']
  if path.stem != 'common':
    assert config.name == path.stem


def test_types_hold_on_the_command_line():
  """A default of the wrong type would refuse a sensible override."""
  config = common.get_config()
  config.train.learning_rate = 1e-3
  with pytest.raises(TypeError):
    config.train.P = 'many'
  with pytest.raises(AttributeError):
    config.train.lock().epoch = 3
