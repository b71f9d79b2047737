import pytest

from tests.faults.runs import SMOKE, Preloaded


@pytest.fixture(scope='session')
def train(tmp_path_factory):
  preloaded = Preloaded(tmp_path_factory.mktemp('output') / 'out.txt')
  yield preloaded
  preloaded.close()


@pytest.fixture(scope='session')
def flags(own):
  """Flags of runs in one process; the first run prepares the data set."""
  return (*SMOKE, *own)
