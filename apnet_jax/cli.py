"""What the commands share: set-up, and errors a person can read."""

from collections.abc import Callable, Sequence
import pathlib
import re
import sys
import traceback

from absl import app, logging
import jax

ROOT = pathlib.Path(__file__).parents[1]


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Parses flags and runs a command.

  A mistake of its user is a message and exit code 2, a loss that is not finite
  is 3, an interruption 130. A `ValueError` that a library raised is a bug, and
  keeps its traceback.
  """
  try:
    app.run(main, flags_parser=_parse_flags)
  except OSError as error:
    _fail(str(error), 2)
  except ValueError as error:
    if not _is_ours(error):
      raise
    _fail(str(error), 2)
  except FloatingPointError as error:
    _fail(str(error), 3)
  except KeyboardInterrupt:
    _fail('interrupted; the same command goes on from the last checkpoint', 130)


def _is_ours(error: Exception) -> bool:
  """Whether this project raised it, and so wrote its message for a person."""
  place = traceback.extract_tb(error.__traceback__)[-1].filename
  return pathlib.Path(place).is_relative_to(ROOT)


def _fail(message: str, code: int) -> None:
  print(f'error: {message}', file=sys.stderr)
  sys.exit(code)


def _parse_flags(argv: Sequence[str]) -> list[str]:
  try:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError) as error:
    # From ml_collections, for an unknown field or section.
    name = re.match(r'\W*(\w*)', str(error))[1]
    flags = (argument.split('=')[0] for argument in argv)
    given = [flag for flag in flags if name in flag.split('.')]
    raise ValueError(
      f'{", ".join(given) or name}: the configuration has no such field;'
      ' configs/common.py lists them all.'
    ) from error


def no_more_arguments(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise ValueError(f'unexpected arguments: {" ".join(argv[1:])}')


def quieten() -> None:
  """Silences libraries that log every file they write."""
  logging.set_verbosity(logging.ERROR)


def cache_compilation(folder: str) -> None:
  """Keeps compiled programs between runs, unless the folder is ''."""
  if folder:
    path = pathlib.Path(folder).expanduser()
    jax.config.update('jax_compilation_cache_dir', str(path))
