"""Makes the page of all configuration fields from `apnet_jax/config.py`."""

import ast
from collections.abc import Iterator
import inspect
import io
import tokenize

from apnet_jax import config as fields
from apnet_jax.paper.fields import FIELDS, SILENT

HEAD = """# Configuration

Every field can be set on the command line, as `--config.train.epochs=60`. The
defaults are the values of the paper's APNet-C where the paper states them; the
files in `configs/` change a few for each data set. `python -m apnet_jax explain
--config=configs/market.py` lists where a configuration differs from the paper.
"""
SECTIONS = {
  '': 'The run',
  'model': 'The network',
  'data': 'Data',
  'augment': 'Augmentation',
  'train': 'Training',
  'eval': 'Evaluation',
}


def make_page() -> str:
  """Returns the page as Markdown, with a table for each section."""
  meanings = dict(read_comments(inspect.getsource(fields)))
  defaults = fields.get_config()
  page = [HEAD]
  for section, title in SECTIONS.items():
    values = defaults[section] if section else defaults
    prefix = f'{section}.' if section else ''
    page += [f'## {title}', '', '| `--config.` | default | meaning | paper |']
    page.append('|---|---|---|---|')
    names = [field for field in meanings if field.startswith(prefix)]
    for field in names:
      name = field.removeprefix(prefix)
      if '.' in name or name in SECTIONS:
        continue
      cells = (
        f'`{field}`',
        f'`{values[name]!r}`',
        meanings[field] + _allowed(field),
        _place(section, field, defaults),
      )
      page.append(
        '| ' + ' | '.join(c.replace('|', r'\|') for c in cells) + ' |'
      )
    page.append('')
  return '\n'.join(page)


def read_comments(source: str) -> Iterator[tuple[str, str]]:
  """Yields the fields of a configuration file with their comments.

  A comment stands in the lines above an assignment, behind it, or both.

  Args:
    source: Python code that assigns fields, as `model.levels = 2`.

  Yields:
    Path of a field, as 'model.levels', and its comment in one line.
  """
  comments = {
    token.start[0]: token.string.lstrip('# ')
    for token in tokenize.generate_tokens(io.StringIO(source).readline)
    if token.type == tokenize.COMMENT
  }
  code = {
    node.lineno: node
    for node in ast.walk(ast.parse(source))
    if isinstance(node, ast.Assign)
    and isinstance(node.targets[0], ast.Attribute)
  }
  for line, node in code.items():
    above = line - 1
    while above in comments and above not in code:
      above -= 1
    own = [
      comments[i]
      for i in range(above + 1, node.end_lineno + 1)
      if i in comments
    ]
    section, name = node.targets[0].value.id, node.targets[0].attr
    section = {'config': '', 'rules': 'eval.'}.get(section, f'{section}.')
    yield section + name, ' '.join(own)


def _allowed(field: str) -> str:
  """Returns the values that a field may have, as a sentence."""
  if field in fields.CHOICES:
    values = ', '.join(f'`{value}`' for value in fields.CHOICES[field])
    return f' (One of {values}.)'
  if field in fields.AT_LEAST:
    return f' (At least {fields.AT_LEAST[field]}.)'
  if field in fields.RANGES:
    low, high = fields.RANGES[field]
    return f' (From {low} to {high}.)'
  return ''


def _place(section: str, field: str, defaults) -> str:
  """Returns where the paper states a field's value, or that it is silent."""
  for stated in FIELDS.get(section, ()):
    if stated.field == field:
      silent = stated.paper_value(defaults) is SILENT
      return 'silent' if silent else stated.place(defaults)
  return ''
