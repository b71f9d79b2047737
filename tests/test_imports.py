"""The walls between the packages, told from what is imported."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TENSORFLOW = {'tensorflow', 'tensorflow_datasets'}
# What only training, checkpoints and pictures need.
SLOW = {'matplotlib', 'optax', 'orbax', 'PIL', 'tensorboardX', 'tensorstore'}
OUTSIDE_DATA = sorted(
  path.relative_to(ROOT)
  for pattern in ('*.py', 'apnet_jax/**/*.py', 'configs/**/*.py')
  for path in ROOT.glob(pattern)
)


def imported(source):
  """The top-level packages that a module imports, wherever in it."""
  packages = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      packages |= {alias.name.split('.')[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and not node.level:
      packages.add(node.module.split('.')[0])
    elif isinstance(node, ast.Call) and node.args:
      name = getattr(node.func, 'id', getattr(node.func, 'attr', None))
      if name in ('import_optional', 'import_module'):
        text = getattr(node.args[0], 'value', None)
        packages |= {text.split('.')[0]} if isinstance(text, str) else set()
  return packages


def test_imports_are_found():
  source = 'import a.b as c\nfrom . import d\ndef f():\n  from e.g import h\n'
  source += "  import_optional('i.j', 'x')\n  importlib.import_module('k')\n"
  assert imported(source) == {'a', 'e', 'i', 'k'}


def test_only_data_and_saved_model_import_tensorflow():
  importing = {
    path.as_posix()
    for path in OUTSIDE_DATA
    if imported((ROOT / path).read_text()) & TENSORFLOW
  }
  assert importing == {'apnet_jax/export/saved_model.py'}


@pytest.mark.parametrize(
  'path', [p for p in OUTSIDE_DATA if p.parts[0] == 'apnet_jax'], ids=str
)
def test_the_package_imports_neither_configs_nor_data(path):
  assert not imported((ROOT / path).read_text()) & {'configs', 'data'}


# Rooms of the library; each may import those before it, and itself.
ROOMS = (
  (
    'config', 'errors', 'feed', 'hub', 'images', 'labels', 'optional',
    'printing', 'version', 'writing',
  ),
  ('models',), ('parallel',), ('paper',), ('workdir',), ('retrieval',),
  ('inference',), ('export',), ('index',), ('visualize',), ('training',),
  ('accelerators',),
  ('cli', 'commands', '__main__'),
)  # fmt: skip


def rooms_imported(source):
  """The rooms of the library that a module imports, wherever in it."""
  names = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  parts = [name.split('.') for name in names]
  return {p[1] for p in parts if p[0] == 'apnet_jax' and len(p) > 1}


def test_rooms_import_only_rooms_before_them():
  level = {room: i for i, rooms in enumerate(ROOMS) for room in rooms}
  seen = set()
  for path in (ROOT / 'apnet_jax').rglob('*.py'):
    room = path.relative_to(ROOT / 'apnet_jax').parts[0].removesuffix('.py')
    if room != '__init__':  # the public interface, which is on top of all
      imported = rooms_imported(path.read_text())
      above = {i for i in imported if level[i] > level[room]}
      assert not above, f'{path} imports {above}'
      seen |= {room, *imported}
  assert seen == level.keys()


def test_what_the_package_loads():
  """By all that is imported: packages that are slow, or are not needed."""
  code = (
    'import pkgutil, sys\n'
    'def tell():\n'
    "  print(*{name.split('.')[0] for name in sys.modules})\n"
    'import apnet_jax.cli, apnet_jax.commands.complexity\n'
    'import apnet_jax.commands.explain\n'
    'tell()\n'
    "for module in pkgutil.walk_packages(apnet_jax.__path__, 'apnet_jax.'):\n"
    '  __import__(module.name)\n'
    'tell()\n'
  )
  result = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
  networks_alone, everything = map(str.split, result.stdout.splitlines())
  assert 'apnet_jax' in networks_alone
  assert not (TENSORFLOW | SLOW) & set(networks_alone)
  assert not TENSORFLOW & set(everything)


def mentions(source, name):
  """Returns whether a module names an attribute such as `jax.pmap`."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Attribute) and node.attr == name:
      return True
    if isinstance(node, ast.ImportFrom):
      if name in (alias.name for alias in node.names):
        return True
  return False


@pytest.mark.parametrize(
  'source',
  [
    'import jax\njax.pmap(f)',
    'from jax import pmap',
    'from jax import pmap as p',
    'import jax as j\nm = j.pmap',
  ],
)
def test_a_mention_is_found_however_it_is_imported(source):
  assert mentions(source, 'pmap')
  assert not mentions(source, 'vmap')


def test_pmap_stands_in_one_file():
  package = ROOT / 'apnet_jax'
  users = {
    path.relative_to(package).as_posix()
    for path in package.rglob('*.py')
    if mentions(path.read_text(), 'pmap')
  }
  assert users == {'parallel/devices.py'}
