import pytest

from apnet_jax import cli
from apnet_jax.printing import counted, printable


def test_what_a_terminal_would_obey_is_written_out():
  assert printable('\x1b[2Ka\r\x9bb\u202e.jpg') == (
    '\\x1b[2Ka\\r\\x9bb\\u202e.jpg'
  )
  assert printable('\udcff') == '\\udcff'  # bytes that are no UTF-8
  plain = 'Zürich 東京, a  b\n\tc\\'
  assert printable(plain) == plain


def test_one_is_no_plural():
  assert [counted(n, 'image') for n in (0, 1, 1024)] == [
    '0 images', '1 image', '1,024 images',
  ]  # fmt: skip
  assert counted(1, 'box', 'boxes') == '1 box'
  assert counted(2, 'box', 'boxes') == '2 boxes'


def test_errors_are_written_so(capsys):
  with pytest.raises(SystemExit), cli.errors_as_messages():
    raise OSError('\x1b[8mhidden')
  assert capsys.readouterr().err == 'error: \\x1b[8mhidden\n'
