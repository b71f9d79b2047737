"""Makes text from outside, such as file names, safe to print on a terminal."""


def printable(text: str) -> str:
  """Escapes control characters and characters that a terminal cannot show.

  A file name can contain an escape sequence that hides lines, or bytes that are
  not UTF-8. Line breaks and tabs are kept.
  """
  return ''.join(
    c if c.isprintable() or c in '\n\t' else ascii(c)[1:-1] for c in text
  )
