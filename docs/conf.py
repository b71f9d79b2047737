"""Builds the documentation as a site, by Sphinx: `make docs`.

The pages are those that people read in the repository, so that links between
them work in both places. The API reference and the page of all configuration
fields are generated.
"""

import pathlib
import re
import sys

from pygments.lexers.special import TextLexer

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'docs'))

import configuration_page  # noqa: E402

from apnet_jax.version import __version__  # noqa: E402

project = html_title = 'APNet in JAX'
version = release = __version__
extensions = [
  'myst_parser',
  'sphinx.ext.apidoc',
  'sphinx.ext.autodoc',
  'sphinx.ext.napoleon',
]
GENERATED = 'build/pages'
root_doc = 'docs/index'
include_patterns = [
  'README.md',
  'CHANGELOG.md',
  'CONTRIBUTING.md',
  'data/README.md',
  'data/*/README.md',
  'docs/*.md',
  f'{GENERATED}/**',
]
exclude_patterns = ['.*', 'datasets', 'runs', 'docs/records']
html_theme = 'furo'
html_extra_path = ['start']  # leads from / to the first page
myst_heading_anchors = 3  # for links as `evaluation.md#rules`
# Links to folders work in the repository only; here they are text.
nitpick_ignore_regex = [('myst', 'records.*|tests/golden')]
napoleon_use_ivar = True  # attributes of a class are documented once
autodoc_member_order = 'bysource'
apidoc_modules = [
  {
    'path': '../apnet_jax',
    'destination': f'{GENERATED}/api',
    'separate_modules': True,
  }
]


def write_configuration(app) -> None:
  """Writes the page of all configuration fields."""
  page = ROOT / GENERATED / 'configuration.md'
  page.parent.mkdir(parents=True, exist_ok=True)
  page.write_text(configuration_page.make_page())


def to_rst(app, what, name, thing, options, lines: list[str]) -> None:
  """Turns the house style of docstrings into reStructuredText, in place.

  A name between single backticks is a literal, and an indented block after a
  colon is code, unless it lists arguments, attributes or the like.
  """
  for i, line in enumerate(lines):
    line = re.sub(r'(?<!`)`([^`]+)`(?!`)(?=(\w?))', _literal, line)
    follows = lines[i + 1 : i + 3]
    if line.endswith(':') and len(follows) == 2 and not follows[0]:
      if follows[1].startswith(' ') and not line.endswith('::'):
        line += ':'
    lines[i] = line


def _literal(match: re.Match) -> str:
  """Returns a literal; a letter that follows it needs a separator."""
  return f'``{match[1]}``' + ('\\ ' if match[2] else '')


def setup(app) -> None:
  """Registers what Sphinx shall call."""
  app.connect('builder-inited', write_configuration, priority=1)
  app.connect('autodoc-process-docstring', to_rst, priority=1)
  for name in ('files', 'csv'):  # blocks that are no code
    app.add_lexer(name, TextLexer)
