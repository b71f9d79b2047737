import pytest

from data.synthetic import draw
from tests.faults.runs import SMOKE, Preloaded


@pytest.fixture(scope='session')
def train(tmp_path_factory):
  preloaded = Preloaded(tmp_path_factory.mktemp('output') / 'out.txt')
  yield preloaded
  preloaded.close()


@pytest.fixture(scope='session')
def flags(tmp_path_factory, compilation_cache):
  """Of all runs; the data set is small, and is prepared by the first."""
  root = tmp_path_factory.mktemp('raw')
  draw.draw_dataset(
    root / 'drawn', train_identities=8, test_identities=4, distractors=2,
    junk=2, progress=False,
  )  # fmt: skip
  return (
    *SMOKE,
    f'--config.data.dir={root / "drawn"}',
    '--config.data.allow_other_counts=True',
    f'--config.data.prepared_dir={root / "prepared"}',
    f'--config.compilation_cache_dir={compilation_cache}',
  )
