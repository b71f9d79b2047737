"""Tests of listing raw images, before they are prepared."""

import os

from configs import folder as config_file
from data import listing
from tests.data.test_folder import images


def test_a_name_that_is_not_utf8_can_be_printed(tmp_path, capsys):
  images(tmp_path, *(f'{who}/{n}.jpg' for who in 'abc' for n in range(2)))
  images(tmp_path, os.fsdecode(b'other/\xff.jpg'))
  config = config_file.get_config().data
  config.update(dir=str(tmp_path), pattern='^(?P<pid>[abc])/')
  listing.read(config)
  printed = capsys.readouterr().out
  assert r'other/\udcff.jpg' in printed and printed.encode()
