"""Imports libraries that only some extras of this package install."""

import importlib

from apnet_jax.errors import UserError


def import_optional(name: str, extra: str):
  """Imports a module of an optional library.

  Args:
    name: full name of the module.
    extra: extra of this package that installs the library.

  Raises:
    UserError: the library is not installed. The message names the extra.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(
      f'this needs {name.split(".")[0]}, which is not installed. Install it'
      f" with pip install '.[{extra}]'."
    ) from error
