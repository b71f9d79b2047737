"""Reads labels of people, cameras and tracks from the fields of tables."""

import re

UNKNOWN = ''  # the label of an unknown person, camera or track
# What programs write for an unknown value. As a name, it would make one person
# of all unknown ones.
_NO_VALUE = ('nan', 'none', 'null', 'na', 'n/a', '<na>')
# Pandas may write 1.0.
_NUMBER = re.compile(r'(?:(-?)0*([1-9]\d*)|-?0+)(\.0+)?', re.ASCII)


def plain(text: str) -> str:
  """Returns a label in the form in which equal labels are equal texts.

  Args:
    text: a field of a table.

  Returns:
    The text without spaces around it. A whole number has neither leading zeros
    nor a fraction: `7` for `007` and `7.0`. `UNKNOWN` if the text stands for an
    unknown value, as `NaN`.
  """
  text = text.strip()
  if text.lower() in _NO_VALUE:
    return UNKNOWN
  number = _NUMBER.fullmatch(text)
  if not number:
    return text
  return number[1] + number[2] if number[2] else '0'
