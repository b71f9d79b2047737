"""What the commands share: set-up, and errors a person can read."""

from collections.abc import Callable, Sequence
import pathlib
import sys

from absl import logging
import jax


def run(command: Callable[[], None]) -> None:
  """Runs a command; a mistake of its user is a message and exit code 2."""
  try:
    command()
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
  except FloatingPointError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(3)
  except KeyboardInterrupt:
    print('interrupted; the same command goes on', file=sys.stderr)
    sys.exit(130)


def no_more_arguments(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise ValueError(f'unexpected arguments: {" ".join(argv[1:])}')


def set_up_jax(compilation_cache_dir: str) -> None:
  """Keeps compiled programs between runs, unless the folder is ''.

  Also quietens the libraries that log every file they write.
  """
  logging.set_verbosity(logging.WARNING)
  if compilation_cache_dir:
    path = pathlib.Path(compilation_cache_dir).expanduser()
    jax.config.update('jax_compilation_cache_dir', str(path))
