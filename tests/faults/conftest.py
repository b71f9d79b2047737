import pytest

from tests.faults.runs import SMOKE, Train


@pytest.fixture(scope='session')
def train(tmp_path_factory):
  """Runs train.py, one run at a time."""
  train = Train(tmp_path_factory.mktemp('output'))
  yield train
  train.close()


@pytest.fixture(scope='session')
def flags(own):
  """Flags of runs in one process; the first run prepares the data set."""
  return (*SMOKE, *own)
