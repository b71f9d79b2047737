"""Imports libraries that only some extras of this package install."""

import importlib
import os

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


def quieten_tensorflow() -> None:
  """Silences what TensorFlow logs when it is imported.

  It reads these variables then. Variables that the user has set are kept.
  """
  # JAX sets this one to '1', which lets through lines of no use to a user.
  if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'
  # oneDNN logs two lines when it is loaded.
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
