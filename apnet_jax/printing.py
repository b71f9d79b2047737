"""Makes outside text, such as file names, safe to print on a terminal."""


def printable(text: str) -> str:
  """Escapes characters that a terminal would obey or cannot show.

  A file name may hold an escape sequence that hides lines, or bytes that are
  not UTF-8. Line breaks and tabs are kept.
  """
  return ''.join(
    c if c.isprintable() or c in '\n\t' else ascii(c)[1:-1] for c in text
  )
