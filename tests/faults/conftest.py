import pytest

from data.synthetic import draw
from tests.faults.runs import SMOKE, Preloaded


@pytest.fixture(scope='session')
def train(tmp_path_factory):
  preloaded = Preloaded(tmp_path_factory.mktemp('output') / 'out.txt')
  yield preloaded
  preloaded.close()


@pytest.fixture(scope='session')
def drawn(tmp_path_factory):
  """A small data set."""
  root = tmp_path_factory.mktemp('raw') / 'drawn'
  draw.draw_dataset(
    root, train_identities=8, test_identities=4, distractors=2, junk=2,
    progress=False,
  )  # fmt: skip
  return root


@pytest.fixture(scope='session')
def flags(drawn, compilation_cache):
  """Of runs in one process; the first prepares the data set."""
  return (
    *SMOKE,
    f'--config.data.dir={drawn}',
    '--config.data.allow_other_counts=True',
    f'--config.data.prepared_dir={drawn.parent / "prepared"}',
    f'--config.compilation_cache_dir={compilation_cache}',
  )
