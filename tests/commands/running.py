"""Runs a command of the package as a user does."""

import os
import pathlib
import subprocess
import sys

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
