import pytest

from tests.inference import networks


@pytest.fixture(scope='package')
def tiny_networks():
  with pytest.MonkeyPatch.context() as patch:
    networks.use_tiny_networks(patch)
    yield


@pytest.fixture(scope='package')
def workdir(tiny_networks, tmp_path_factory):
  """The workdir of a tiny network, which tests must not change."""
  folder = tmp_path_factory.mktemp('trained') / 'run'
  folder.mkdir()
  networks.write_workdir(folder)
  return folder
