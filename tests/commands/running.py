"""Runs a command of the package as a user does."""

from collections.abc import Callable, Iterator
import contextlib
import os
import pathlib
import subprocess
import sys

from absl import flags
from absl.testing import flagsaver

from apnet_jax import cli

ROOT = pathlib.Path(__file__).parents[2]


def run_command(*arguments: str) -> subprocess.CompletedProcess:
  """Runs `python -m apnet_jax` in an interpreter of its own.

  The exit code must be 0.

  Args:
    *arguments: the name of the command, and its arguments.
  """
  result = subprocess.run(
    [sys.executable, '-m', 'apnet_jax', *arguments],
    cwd=ROOT,
    env=dict(os.environ, XLA_FLAGS=''),
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  return result


@contextlib.contextmanager
def in_this_process(command: Callable) -> Iterator[Callable[..., int]]:
  """Defines the flags of a command while a `with` block lasts.

  Args:
    command: the function `command` of its module.

  Yields:
    A function that runs the command with arguments, and returns its exit code.
  """
  before = set(flags.FLAGS)
  main = command()

  def run(*arguments):
    with flagsaver.flagsaver():
      try:
        with cli.errors_as_messages():
          main(cli._parse_flags(['command', *arguments]))
      except SystemExit as end:
        return end.code
    return 0

  try:
    yield run
  finally:
    flags.FLAGS.unparse_flags()
    for name in set(flags.FLAGS) - before:
      delattr(flags.FLAGS, name)
