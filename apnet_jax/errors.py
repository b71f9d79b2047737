"""Errors that the user can correct, and tools for their messages."""

from collections.abc import Iterator, Mapping
import contextlib


class UserError(ValueError):
  """A mistake of the user: commands print its message and exit with code 2.

  Any other `ValueError` is a fault of the program and keeps its traceback.
  """


class FieldError(UserError):
  """A configuration field has a value that is not allowed.

  Attributes:
    field: path of the field, such as `data.dir`.
    problem: the part of the message that follows the field's name.
  """

  def __init__(self, field: str, problem: str):
    super().__init__(f'config.{field}{problem}')
    self.field, self.problem = field, problem

  def named(self, name: str) -> UserError:
    """Returns an error with the same message, but another name of the field.

    Args:
      name: the name that the user knows, such as the flag --data_dir.
    """
    return UserError(f'{name}{self.problem}')


class EnvironmentFieldError(FieldError):
  """A value of a configuration field needs another environment."""


@contextlib.contextmanager
def naming_flags(flags: Mapping[str, str]) -> Iterator[None]:
  """Makes the errors of a `with` block name flags instead of fields.

  Errors about fields without a flag in `flags` stay as they are.

  Args:
    flags: the flag that sets each field, such as {'data.dir': '--data_dir'}.
  """
  try:
    yield
  except FieldError as error:
    if error.field not in flags:
      raise
    raise error.named(flags[error.field]) from error


def causes(error: BaseException) -> Iterator[BaseException]:
  """Yields an error, the error behind it, and so on to the first one.

  Args:
    error: an error that was raised from another one, or while another one was
      handled; or any other error, which comes alone.
  """
  cause: BaseException | None = error
  while cause is not None:
    yield cause
    cause = cause.__cause__ or cause.__context__


def first_line(error: BaseException) -> str:
  """Returns the first line of an error's message, at most 200 characters.

  The name of the error's class stands in for an empty message.
  """
  lines = str(error).strip().splitlines() or ['']
  return lines[0][:200] or type(error).__name__
