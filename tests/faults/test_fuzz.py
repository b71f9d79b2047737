"""Many damaged files for every reader, in processes with limits.

Readers that need TensorFlow have a process of their own, since loading it takes
seconds and much memory.
"""

import pathlib
import subprocess
import sys

import pytest

from tests import fuzzing

ROOT = pathlib.Path(__file__).parents[2]
# Ends a deadlock; tests/fuzzing.py limits CPU time, which load does not change.
SECONDS = 600
OF_DATA = (
  'csv',
  'list',
  'mat',
  'hdf5',
  'jpeg_of_tensorflow',
  'png_of_tensorflow',
  'bmp_of_tensorflow',
  'webp_of_tensorflow',
  'exif_of_tensorflow',
)
WITH_CHECKSUMS = tuple(
  name
  for name in ('embeddings', 'parquet', 'index', 'pack')
  if name in fuzzing.READERS
)
OTHERS = tuple(
  name for name in fuzzing.READERS if name not in OF_DATA + WITH_CHECKSUMS
)


@pytest.mark.parametrize(
  ('names', 'examples'),
  [
    (OF_DATA, 300),
    (tuple(name for name in OTHERS if name != 'config'), 600),
    (WITH_CHECKSUMS, 400),
    (('config',), 60),  # each example builds a network
  ],
  ids=['data', 'others', 'checksums', 'config'],
)
def test_damage_within_bounds_of_memory_and_time(names, examples):
  result = subprocess.run(
    [sys.executable, '-m', 'tests.fuzzing', str(examples), *names],
    cwd=ROOT, capture_output=True, text=True, timeout=SECONDS,
  )  # fmt: skip
  assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
  assert result.stdout.split() == [*names]
