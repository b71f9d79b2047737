"""Fuzzes each reader with a few files; tests/faults/test_fuzz.py uses more."""

import pytest

from tests import fuzzing

FEW = {'config': 6, 'jpeg_of_tensorflow': 10, 'png_of_tensorflow': 10} | {
  f'{form}_of_tensorflow': 5 for form in ('bmp', 'webp', 'exif')
}


@pytest.mark.parametrize('name', fuzzing.READERS)
def test_damage_is_a_result_or_an_error_that_names_the_file(name, tmp_path):
  fuzzing.fuzz(name, tmp_path, FEW.get(name, 20))
