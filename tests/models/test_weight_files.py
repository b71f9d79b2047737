import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

from apnet_jax.models import weight_files
from apnet_jax.models.weight_files import (
  FORMATS,
  read_weights,
  write_weights,
)
from tests import hub_server

WEIGHTS = {
  'base.conv1.weight': np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
  'base.bn1.num_batches_tracked': np.zeros((), np.int64),
}


def assert_same(a, b):
  assert a.keys() == b.keys()
  for name in a:
    assert a[name].dtype == b[name].dtype
    np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
def test_a_file_gives_back_what_was_written(tmp_path, suffix):
  path = tmp_path / 'folder' / f'weights{suffix}'
  write_weights(path, WEIGHTS)
  assert_same(read_weights(path), WEIGHTS)
  assert_same(read_weights(str(path)), WEIGHTS)
  assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_weights_that_cannot_be_written_leave_nothing(tmp_path):
  class Broken:
    def __array__(self, dtype=None, copy=None):
      raise OSError('disk full')

  with pytest.raises(OSError, match='disk full'):
    write_weights(tmp_path / 'weights.npz', WEIGHTS | {'z': Broken()})
  assert not list(tmp_path.iterdir())


def test_a_dict_is_weights():
  assert read_weights(WEIGHTS) is WEIGHTS


def test_pth_of_pytorch(tmp_path):
  """Reads bfloat16 and shared tensors; drops entries that are no tensors."""
  torch = pytest.importorskip('torch')
  path = tmp_path / 'weights.pth'
  shared = WEIGHTS['base.conv1.weight']
  write_weights(path, WEIGHTS | {'base_1.0.weight': shared})
  assert path.stat().st_size < 3000
  assert_same(
    read_weights(path)['model'], WEIGHTS | {'base_1.0.weight': shared}
  )
  half = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
  torch.save({'model': {'w': half}, 'epoch': 3}, path)
  content = read_weights(path)
  assert content.keys() == {'model'}
  assert_same(content['model'], {'w': np.ones(3, np.float32)})
  torch.save([1, 2], path)
  with pytest.raises(ValueError, match='contain a list, not a state_dict'):
    read_weights(path)


@pytest.mark.parametrize(
  'name', ['moco_v2_800ep_pretrain.PTH.tar', 'model.pth.tar-60']
)
def test_pth_tar_of_moco_and_torchreid_is_of_pytorch(
  tmp_path, monkeypatch, name
):
  path = tmp_path / name
  path.touch()
  monkeypatch.setattr(weight_files, '_read_torch', lambda *_: WEIGHTS)
  assert read_weights(path) is WEIGHTS
  with pytest.raises(ValueError, match='do not end in one of'):
    write_weights(path, WEIGHTS)


class Harm:
  """An object whose pickle creates a file when it is read."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return open, (str(self.path), 'w')


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path):
  torch = pytest.importorskip('torch')
  path, trace = tmp_path / 'weights.pth', tmp_path / 'harm'
  torch.save({'w': Harm(trace)}, path)
  with pytest.raises(ValueError, match='refused.*could run code'):
    read_weights(path)
  path.write_bytes(pickle.dumps({'w': Harm(trace)}, protocol=2))
  with pytest.raises(ValueError, match='refused|cannot be read'):
    read_weights(path)
  assert not trace.exists()
  path.write_text('<html>not found</html>')
  with pytest.raises(ValueError, match='cannot be read: it is not a file of'):
    read_weights(path)


def test_a_numpy_pickle_is_refused(tmp_path):
  path, trace = tmp_path / 'weights.npz', tmp_path / 'harm'
  np.savez(path, w=np.array([Harm(trace)], dtype=object))
  trace.unlink(missing_ok=True)
  with pytest.raises(ValueError, match='cannot be read'):
    read_weights(path)
  assert not trace.exists()


@pytest.mark.parametrize('suffix', FORMATS)
def test_a_pickle_runs_under_no_name(tmp_path, suffix):
  """A pickle is refused under every suffix, with and without PyTorch."""
  path, trace = tmp_path / f'weights{suffix}', tmp_path / 'harm'
  for protocol in (0, 2, 4):
    path.write_bytes(pickle.dumps({'w': Harm(trace)}, protocol))
    with pytest.raises(ValueError, match='refused|cannot be read|needs torch'):
      read_weights(path)
  assert not trace.exists()
  pickle.loads(path.read_bytes())['w'].close()
  assert trace.exists()  # it would have run


@pytest.mark.parametrize('suffix', ['.npz', '.pth'])
def test_an_archive_that_grows_is_not_inflated(tmp_path, suffix, monkeypatch):
  path = tmp_path / f'weights{suffix}'
  with path.open('wb') as file:
    np.savez_compressed(file, w=np.zeros(2**20, np.float32))
  assert path.stat().st_size < 2**13
  if suffix == '.npz':
    assert read_weights(path, 2**23)['w'].shape == (2**20,)
  monkeypatch.setattr(zipfile.ZipFile, 'open', None)  # nothing is inflated
  with pytest.raises(
    ValueError, match=f'{path.name} take 4,194,.* bytes: more'
  ):
    read_weights(path, 2**22)


def test_an_array_that_claims_more_than_is_there(tmp_path):
  """An array larger than its file is an error, before memory is used."""
  path = tmp_path / 'weights.npz'
  np.savez(path, w=np.zeros(8, np.float32))
  content = path.read_bytes()
  claim = content.replace(b"'shape': (8,), }      ", b"'shape': (8888888,), }")
  assert len(claim) == len(content) and claim != content
  path.write_bytes(claim)
  with pytest.raises(ValueError, match='weights.npz cannot be read'):
    read_weights(path)


def test_tensors_that_repeat_a_number(tmp_path):
  """Expanded tensors are small in a file, and too large as arrays."""
  torch = pytest.importorskip('torch')
  path = tmp_path / 'weights.pth'
  torch.save({'w': torch.zeros(1).expand(2**40)}, path)
  with pytest.raises(ValueError, match='take 4,398,046,511,104 bytes'):
    read_weights(path)


def test_pytorch_is_asked_for_weights_only(tmp_path, monkeypatch):
  """A stand-in for PyTorch records the arguments of its `load`."""
  calls = []
  path = tmp_path / 'weights.pth'
  path.write_bytes(b'PK')

  def load(path, **options):
    calls.append(options)
    raise pickle.UnpicklingError('Unsupported global: GLOBAL os.system')

  monkeypatch.setitem(sys.modules, 'torch', types.SimpleNamespace(load=load))
  with pytest.raises(ValueError, match='refused.*could run code'):
    read_weights(path)
  assert calls == [{'map_location': 'cpu', 'weights_only': True}]


def test_a_library_that_is_missing_is_named(tmp_path, monkeypatch):
  path = tmp_path / 'weights.pth'
  path.touch()
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(
    ValueError, match=r"needs torch, .*pip install '.\[torch\]"
  ):
    read_weights(path)


@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
def test_a_damaged_file_is_named(tmp_path, suffix):
  path = tmp_path / f'weights{suffix}'
  write_weights(path, WEIGHTS)
  whole = path.read_bytes()
  for damaged in (b'', whole[: len(whole) // 2], b'\xff' * 100):
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=f'weights{suffix} cannot be read'):
      read_weights(path)


def test_what_is_not_there_and_what_is_not_known(tmp_path):
  with pytest.raises(ValueError, match='nowhere.npz are not a file'):
    read_weights('nowhere.npz')
  path = tmp_path / 'weights.h5'
  path.touch()
  for call in (lambda: read_weights(path), lambda: write_weights(path, {})):
    with pytest.raises(ValueError, match=r"do not end in one of \('.pth'"):
      call()


@pytest.fixture
def server(tmp_path, monkeypatch):
  write_weights(tmp_path / 'model.safetensors', WEIGHTS)
  files = {'timm/resnet50.tv_in1k': [tmp_path / 'model.safetensors']}
  with hub_server.serving(files, tmp_path / 'cache', monkeypatch) as server:
    yield server


def test_weights_come_from_the_hub(server):
  source = 'hf://timm/resnet50.tv_in1k'
  assert_same(read_weights(source), WEIGHTS)
  assert_same(read_weights(f'{source}/model.safetensors'), WEIGHTS)
  assert any('/resolve/main/model.safetensors' in path for path in server.asked)
  assert_same(read_weights(f'{source}@v1.0'), WEIGHTS)
  assert any('/resolve/v1.0/model.safetensors' in path for path in server.asked)
  assert_same(read_weights(f'{source}@refs%2Fpr%2F1'), WEIGHTS)
  assert any('/resolve/refs%2Fpr%2F1/' in path for path in server.asked)


@pytest.mark.usefixtures('server')
def test_a_repository_that_is_not_there_is_named():
  for source in (
    'hf://timm/nothing',
    'hf://timm/resnet50.tv_in1k/nothing.safetensors',
  ):
    with pytest.raises(ValueError, match=f'{source} cannot be downloaded'):
      read_weights(source)
  with pytest.raises(ValueError, match='hf://OWNER/NAME'):
    read_weights('hf://resnet50')
