"""Self-contained HTML pages: templates, and data that scripts can read."""

from collections.abc import Collection, Mapping
import json
import os
import pathlib
import re

import jinja2

from apnet_jax.errors import UserError
from apnet_jax.printing import printable
from apnet_jax.version import __version__
from apnet_jax.writing import check_place, whole

DATA_BLOCK = re.compile(
  r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL
)


def render(template: str, data: Mapping, **texts) -> str:
  """Returns an HTML page that needs no other file and no network.

  Args:
    template: name of a file in `templates/`.
    data: what the scripts of the page show, ready for JSON.
    **texts: variables of the template. It escapes them.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('apnet_jax.visualize'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters['printable'] = printable
  data_text = jinja2.utils.markupsafe.Markup(to_json(data))
  return environment.get_template(template).render(
    data=data_text, version=__version__, **texts
  )


def to_json(data: Mapping) -> str:
  """Returns JSON in ASCII that may stand inside an HTML script element.

  Args:
    data: content; a string in it, such as a file name, may hold anything.
  """
  text = json.dumps(data, separators=(',', ':'), allow_nan=False)
  return text.replace('<', '\\u003c')  # no `</script>` and no `<!--`


def read_data(path: str | os.PathLike) -> dict:
  """Reads the data of a page that `render` made.

  Raises:
    UserError: the file cannot be read, or is no such page.
  """
  try:
    found = DATA_BLOCK.search(pathlib.Path(path).read_text('utf-8'))
    content = json.loads(found[1]) if found else None
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f'{path} cannot be read: {error}') from error
  if not isinstance(content, dict):
    raise UserError(f'{path} is not a page of eval.py --report.')
  return content


def write_page(path: str | os.PathLike, page: str) -> None:
  """Writes a page whole or not at all; makes its folder if needed."""
  with whole(path) as part:
    part.write_text(page, encoding='utf-8')


def check_folder(folder: str | os.PathLike, allowed: Collection[str]) -> None:
  """Checks that pages may be written to a folder.

  Args:
    folder: the folder, which need not exist.
    allowed: names of the files that an earlier command may have left.

  Raises:
    UserError: the folder is a file, cannot be made or written, or has other
      files.
  """
  folder = pathlib.Path(folder)
  if not folder.exists():
    check_place(folder, f'--report={folder}')
    return
  if not folder.is_dir():
    raise UserError(f'--report={folder} is a file, not a folder.')
  others = sorted({entry.name for entry in folder.iterdir()} - {*allowed})
  if others:
    raise UserError(
      f'--report={folder} has other files than a report:'
      f' {", ".join(others[:3])}{" ..." if len(others) > 3 else ""}. Give a new'
      ' or an empty folder.'
    )
  if not os.access(folder, os.W_OK):
    raise UserError(f'--report={folder} is not writable.')
