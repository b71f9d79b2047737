"""What the commands share: set-up, and errors a person can read."""

from collections.abc import Callable, Sequence
import pathlib
import sys

from absl import app, logging
import jax


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Parses flags and runs a command.

  A mistake of its user is a message and exit code 2, a loss that is not finite
  is 3, an interruption 130.
  """
  try:
    app.run(main, flags_parser=_parse_flags)
  except (ValueError, OSError) as error:
    _fail(str(error), 2)
  except FloatingPointError as error:
    _fail(str(error), 3)
  except KeyboardInterrupt:
    _fail('interrupted; the same command goes on from the last checkpoint', 130)


def _fail(message: str, code: int) -> None:
  print(f'error: {message}', file=sys.stderr)
  sys.exit(code)


def _parse_flags(argv: Sequence[str]) -> list[str]:
  try:
    return app.parse_flags_with_usage(argv)
  except AttributeError as error:  # from ml_collections: an unknown field
    field = str(error).strip('"\'')
    given = [
      argument.split('=')[0]
      for argument in argv
      if f'.{field}' in argument.split('=')[0]
    ]
    raise ValueError(
      f'{", ".join(given) or field}: the configuration has no such field;'
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
