"""The library in an environment of its own, without the clone."""

import os
import pathlib
import re
import shutil
import site
import subprocess
import sys

import numpy as np
import pytest

from apnet_jax import __main__

ROOT = pathlib.Path(__file__).parents[1]
# Runs a command of the library in a forked child for each list of arguments.
RUN_COMMANDS = """
import os, runpy, sys
import apnet_jax.cli
for command in sys.argv[1:]:
  print('==', command, flush=True)
  if not (child := os.fork()):
    sys.argv = ['apnet_jax', command, '--helpshort']
    sys.stderr = sys.stdout
    runpy.run_module('apnet_jax', run_name='__main__', alter_sys=True)
  print('== code', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """Builds the wheel and unpacks it; returns a function that runs Python there.

  The interpreter sees the wheel and the packages that the library depends on,
  but neither the clone nor the test environment's editable installation.
  """
  root = tmp_path_factory.mktemp('wheel')
  source = root / 'source'
  source.mkdir()
  for name in ('pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  ignored = shutil.ignore_patterns('__pycache__')
  shutil.copytree(ROOT / 'apnet_jax', source / 'apnet_jax', ignore=ignored)
  build = 'from setuptools import build_meta as b; b.build_wheel("..")'
  subprocess.run(
    [sys.executable, '-c', build], cwd=source, check=True, capture_output=True
  )
  (wheel,) = root.glob('*.whl')
  shutil.unpack_archive(wheel, root / 'installed', 'zip')
  packages = [str(root / 'installed'), *site.getsitepackages()]

  def run(*arguments, stdin=''):
    # The base interpreter runs no .pth file of the test environment.
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(packages))
    result = subprocess.run(
      [sys._base_executable, '-W', 'error::UserWarning', *map(str, arguments)],
      cwd=root,
      env=environment,
      input=stdin,
      capture_output=True,
      text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout

  return run


def test_it_holds_the_library_alone(installed):
  out = installed(
    '-c',
    'import apnet_jax, importlib.util as u, pathlib\n'
    'folder = pathlib.Path(apnet_jax.__file__).parent\n'
    "print(folder.parent.name, (folder / 'py.typed').exists())\n"
    "print(u.find_spec('configs'), u.find_spec('data'))",
  )
  assert out.split() == ['installed', 'True', 'None', 'None']


def test_the_readme_library_code_runs(installed):
  text = (ROOT / 'README.md').read_text()
  (code,) = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  small = code.replace(
    'config = apnet_jax.get_config()',
    "config = apnet_jax.get_config(); config.model.backbone = 'resnet14'",
  ).replace('(4, 384, 192, 3)', '(4, 32, 16, 3)')
  assert small.count('resnet14') == 1 and '32, 16' in small
  shown = '\nprint(*out.embedding.shape, result.mAP)'
  *shape, mAP = map(float, installed('-', stdin=small + shown).split())
  assert shape == [4, 2048]
  assert 0 < mAP < 1


def test_each_command_has_help(installed):
  out = installed('-c', RUN_COMMANDS, *__main__.COMMANDS)
  parts = out.split('== ')[1:]
  assert [part.split()[0] for part in parts[::2]] == list(__main__.COMMANDS)
  for command, (text, code) in zip(
    __main__.COMMANDS, zip(parts[::2], parts[1::2], strict=True), strict=True
  ):
    assert f'python -m apnet_jax {command}' in text
    assert code.split() == ['code', '0']


def test_the_default_configuration_needs_no_file(installed):
  out = installed('-m', 'apnet_jax', 'complexity', '--variant=apnet_c1')
  figure = float(re.search(r'APNet-C_1 +([\d.]+)', out)[1])
  np.testing.assert_allclose(figure, 24.9, atol=1)
