"""Chooses the form of an operation that suits a kind of device.

An operation may have several forms that compute the same result, of which each
suits some devices. A program that is lowered for a device takes its form.
Graphs for other runtimes take a form that all of them can run.
"""

from collections.abc import Callable, Iterator
import contextlib
import contextvars

import jax
from jax import lax

_portable = contextvars.ContextVar('portable', default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
  """Makes operations traced in a `with` block take their portable form.

  The traced program then has no choice by device in it, and the size of a batch
  may be symbolic (`jax.export.symbolic_shape`).
  """
  token = _portable.set(True)
  try:
    yield
  finally:
    _portable.reset(token)


def choose(
  *arrays: jax.Array,
  default: Callable,
  for_export: Callable | None = None,
  **forms: Callable,
):
  """Applies the form of an operation that suits the device.

  Args:
    *arrays: arguments of the operation.
    default: form for devices that `forms` does not name.
    for_export: form within `portable`; None for `default`.
    **forms: form by the kind of device, such as `cpu`.

  Returns:
    The result of the form that was chosen.
  """
  if _portable.get():
    return (for_export or default)(*arrays)
  return lax.platform_dependent(*arrays, default=default, **forms)
