import pytest

from apnet_jax import cli
from apnet_jax.printing import printable


def test_what_a_terminal_would_obey_is_written_out():
  assert printable('\x1b[2Ka\r\x9bb\u202e.jpg') == (
    '\\x1b[2Ka\\r\\x9bb\\u202e.jpg'
  )
  assert printable('\udcff') == '\\udcff'  # bytes that are no UTF-8
  plain = 'Zürich 東京, a  b\n\tc\\'
  assert printable(plain) == plain


def test_errors_are_written_so(capsys):
  with pytest.raises(SystemExit), cli.errors_as_messages():
    raise OSError('\x1b[8mhidden')
  assert capsys.readouterr().err == 'error: \\x1b[8mhidden\n'
