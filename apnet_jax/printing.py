"""Makes texts safe to print, writes counts with nouns, keeps loggers quiet."""

from collections.abc import Iterator
import contextlib
import logging


def printable(text: str) -> str:
  """Escapes control characters and characters that a terminal cannot show.

  A file name can contain an escape sequence that hides lines, or bytes that are
  not UTF-8. Line breaks and tabs are kept.
  """
  return ''.join(
    c if c.isprintable() or c in '\n\t' else ascii(c)[1:-1] for c in text
  )


def counted(number: int, noun: str, plural: str = '') -> str:
  """Returns a number with its noun, as `1 image` or `1,024 images`.

  Args:
    number: the number.
    noun: the noun for 1.
    plural: its plural; by default with an s.
  """
  return f'{number:,} {noun if number == 1 else plural or noun + "s"}'


@contextlib.contextmanager
def quiet_loggers(
  *names: str, least: int = logging.CRITICAL + 1
) -> Iterator[None]:
  """Keeps some loggers quiet in a `with` block.

  Args:
    names: names of the loggers.
    least: lowest level of messages that are still shown; by default none are.
  """
  loggers = [logging.getLogger(name) for name in names]
  levels = [logger.level for logger in loggers]
  for logger, level in zip(loggers, levels):
    logger.setLevel(max(level, least))
  try:
    yield
  finally:
    for logger, level in zip(loggers, levels):
      logger.setLevel(level)
