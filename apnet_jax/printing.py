"""Text from outside, as names of files, made fit for a terminal."""


def printable(text: str) -> str:
  """Writes as escapes what a terminal would obey, or cannot show.

  A file may be called by an escape sequence that hides lines, and by bytes that
  are no UTF-8. Ends of lines and tabs stay.
  """
  return ''.join(
    c if c.isprintable() or c in '\n\t' else ascii(c)[1:-1] for c in text
  )
