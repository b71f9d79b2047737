"""JSON files: atomic writes, and reads with limits on size and depth."""

from collections.abc import Mapping
import json
import os
import re
from typing import Any

from apnet_jax.errors import UserError
from apnet_jax.writing import whole

# Bounds on files from elsewhere. The largest files of this project are result
# cards with a figure for each query.
MAX_BYTES = 64 * 2**20
MAX_DEPTH = 20
# A list of numbers, which may be long, is written on one line. (JSON strings
# hold no line breaks.)
_NUMBERS = re.compile(r'\[\n[\s\d.,eE+\-nul]*\]')


def write_json(path: str | os.PathLike, content: Mapping) -> None:
  """Writes a JSON file whole or not at all; makes its folder if needed."""
  text = json.dumps(content, indent=2, allow_nan=False)
  text = _NUMBERS.sub(lambda m: ' '.join(m[0].split()), text)
  with whole(path) as part:
    part.write_text(text + '\n')


def read_json(path: str | os.PathLike) -> Any:
  """Reads a JSON file.

  Raises:
    UserError: the file cannot be read, is larger than `MAX_BYTES`, or is nested
      deeper than `MAX_DEPTH`, which recursive functions could not walk.
  """
  try:
    with open(path) as file:
      if os.fstat(file.fileno()).st_size > MAX_BYTES:
        raise UserError(f'it is larger than {MAX_BYTES:,} bytes')
      text = file.read()
  except FileNotFoundError as error:
    raise UserError(f'{path} cannot be read: it does not exist.') from error
  except (OSError, ValueError) as error:  # ValueError: not UTF-8, too large
    raise UserError(f'{path} cannot be read as JSON: {error}') from error
  return parse_json(text, path)


def parse_json(text: str, name: str | os.PathLike) -> Any:
  """Parses JSON with the limits of `read_json`.

  Args:
    text: the JSON.
    name: name of its origin, for messages.

  Raises:
    UserError: the text is not JSON, is larger than `MAX_BYTES`, or is nested
      too deeply.
  """
  try:
    if len(text) > MAX_BYTES:
      raise UserError(f'it is larger than {MAX_BYTES:,} bytes')
    content = json.loads(text)
    if _is_deep(content):
      raise UserError('it is nested too deeply')
    return content
  except (ValueError, RecursionError) as error:
    raise UserError(f'{name} cannot be read as JSON: {error}') from error


def read_fields(path: str | os.PathLike) -> dict[str, Any]:
  """Reads a JSON object as a dict; raises UserError if the file is damaged."""
  return check_fields(read_json(path), path)


def check_fields(content: Any, name: str | os.PathLike) -> dict[str, Any]:
  """Returns the content of a JSON file, which must be a dict.

  Args:
    content: the content.
    name: name of the file, for messages.

  Raises:
    UserError: the content is no dict.
  """
  if not isinstance(content, dict):
    raise UserError(f'{name} is damaged: it holds no fields.')
  return content


def _is_deep(content) -> bool:
  level = [content]
  for _ in range(MAX_DEPTH):
    level = [
      child
      for value in level
      if isinstance(value, dict | list)
      for child in (value.values() if isinstance(value, dict) else value)
    ]
  return bool(level)
