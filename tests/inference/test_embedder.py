import concurrent.futures
import sys
import threading

import jax
import numpy as np
from PIL import Image
import pytest

import apnet_jax
from apnet_jax import images
from apnet_jax.errors import UserError
from apnet_jax.inference import embedder as module
from apnet_jax.inference import packing
from apnet_jax.inference.embedder import Embedder
from apnet_jax.parallel import devices
from apnet_jax.retrieval import threshold
from apnet_jax.retrieval.embed import make_embed
from apnet_jax.workdir import json_files
from data import records
from tests.inference import networks
from tests.tiny import tiny_model


@pytest.fixture(scope='module')
def people(raw):
  return images.find_images(raw / 'query')


@pytest.fixture(scope='module')
def embedder(workdir):
  return Embedder.load(workdir)


def test_it_is_part_of_the_library():
  assert apnet_jax.Embedder is Embedder and 'Embedder' in apnet_jax.__all__
  with pytest.raises(AttributeError, match='no attribute .Embeder'):
    apnet_jax.Embeder  # noqa: B018


def test_embeddings_are_those_of_an_evaluation(
  workdir, people, tmp_path_factory, monkeypatch
):
  """The evaluation reads by TensorFlow; the embedder does without."""
  config, variables = networks.write_workdir(tmp_path_factory.mktemp('again'))
  encoded = [path.read_bytes() for path in people]
  zeros = np.zeros(len(people), int)
  stored = records.Records(
    records.tf.Variable(encoded), zeros, zeros, np.array(people, str)
  )
  split = records.make_split(stored, tuple(config.data.image_size))
  evaluate = make_embed(tiny_model(config.model, 3), config.eval)
  expected = evaluate(
    devices.replicate(variables), split, np.arange(len(people))
  )
  for name in ('tensorflow', 'tensorflow_datasets'):
    monkeypatch.setitem(sys.modules, name, None)  # an import raises an error
  found = Embedder.load(workdir)(people)
  assert found.dtype == np.float32
  assert (found * expected).sum(1).min() > 0.9999
  assert np.median(found @ found.T) < 0.9  # it tells images apart


def test_boxes_are_embedded_like_images(embedder, people):
  frame = np.concatenate([np.asarray(Image.open(p)) for p in people[:2]], 1)
  height, width = frame.shape[:2]
  boxes = [[0, 0, width / 2, height], [width / 2, 0, width, height]]
  expected = embedder(people[:2])
  found = embedder(frame, boxes)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  found = embedder([frame[..., ::-1]], [boxes], order='bgr')
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert embedder(frame, []).shape == (0, embedder.dimensions)
  assert embedder([]).shape == (0, expected.shape[1])


def test_few_programs_are_compiled(embedder, people, monkeypatch):
  sizes = []

  def embed_batch(variables, batch):
    sizes.append(batch.shape[0] * batch.shape[1])
    return np.zeros((*batch.shape[:2], 2))

  monkeypatch.setattr(embedder, '_embed_batch', embed_batch)
  monkeypatch.setattr(embedder, '_sizes', [4, 8, 64])
  for count in (1, 3, 11, 83):
    assert len(embedder([people[0]] * count)) == count
  assert sizes == [4, 4, 8, 4, 64, 64]


def test_sizes_are_multiples_of_the_devices():
  assert module.batch_sizes(128) == [4, 8, 64]  # of four devices
  assert module.batch_sizes(6) == [4, 8]
  assert [module.batch_size(n, [1, 8, 64]) for n in (1, 2, 15, 16, 65)] == [
    1, 8, 8, 64, 64,
  ]  # fmt: skip


def test_threads_get_their_own_embeddings(embedder, people):
  expected = embedder(people[:6])
  with concurrent.futures.ThreadPoolExecutor(6) as pool:
    found = list(pool.map(embedder, people[:6]))
  np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-5)


def test_an_unreadable_image_is_an_error(embedder, people, tmp_path):
  bad = tmp_path / 'bad.jpg'
  bad.touch()
  with pytest.raises(UserError, match='bad.jpg cannot be read'):
    embedder([*people[:2], bad])
  errors = {}
  found = embedder([people[0], bad, people[1]], on_error=errors.__setitem__)
  assert [*errors] == [1]
  np.testing.assert_allclose(found[::2], embedder(people[:2]), atol=1e-5)


def test_a_callback_may_embed_another_image(workdir, people):
  embedder = Embedder.load(workdir)  # its lock would stay closed
  instead = []

  def on_error(row, error):
    del row, error
    instead.append(embedder(people[0]))

  call = threading.Thread(
    target=embedder, args=(['gone.jpg'],), kwargs={'on_error': on_error},
    daemon=True,
  )  # fmt: skip
  call.start()
  call.join(60)
  assert not call.is_alive()
  np.testing.assert_allclose(instead, [embedder(people[0])], atol=1e-5)


def test_embeddings_that_are_not_finite_are_an_error(
  embedder, people, monkeypatch
):
  broken = jax.tree.map(lambda x: x * np.nan, embedder.variables)
  monkeypatch.setattr(embedder, 'variables', broken)
  message = f'2 of 2 embeddings are not finite, as that of {people[0]}. If all'
  with pytest.raises(UserError, match=message):
    embedder(people[:2])


def test_a_batch_is_fetched_before_the_next_one_is_computed(
  embedder, people, monkeypatch
):
  on_devices = []

  class Output:
    shape = (4, 1, 2)

    def __array__(self, dtype=None, copy=None):
      on_devices.remove(self)
      return np.zeros(self.shape)

  def embed_batch(variables, batch):
    assert not on_devices
    on_devices.append(Output())
    return on_devices[-1]

  monkeypatch.setattr(embedder, '_embed_batch', embed_batch)
  monkeypatch.setattr(embedder, '_sizes', [4])
  assert embedder([people[0]] * 18).shape == (18, 2)


def test_float64_for_other_parts_of_a_program_changes_nothing(
  embedder, workdir, people, tmp_path, x64
):
  packing.pack_network(workdir, tmp_path / 'x.apnet')
  expected = embedder(people[:2])
  for source in (workdir, tmp_path / 'x.apnet'):
    loaded = Embedder.load(source)
    assert loaded.fingerprint == embedder.fingerprint
    found = loaded(people[:2])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_loading_leaves_the_program_that_loads_as_it_is(
  tiny_networks, tmp_path, compilation_cache, caplog
):
  config, _ = networks.write_workdir(tmp_path)
  config.compilation_cache_dir = str(tmp_path / 'own')
  json_files.write_json(tmp_path / 'config.json', config.to_dict())
  caplog.clear()
  Embedder.load(tmp_path)
  assert not caplog.records
  assert jax.config.jax_compilation_cache_dir == str(compilation_cache)
  try:
    jax.config.update('jax_compilation_cache_dir', None)
    Embedder.load(tmp_path)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / 'own')
  finally:
    jax.config.update('jax_compilation_cache_dir', str(compilation_cache))


def test_a_threshold_is_used_where_queries_were_averaged(
  tiny_networks, tmp_path
):
  config, _ = networks.write_workdir(tmp_path)
  config.eval.multi_query = True
  json_files.write_json(tmp_path / 'config.json', config.to_dict())
  threshold.save(tmp_path, networks.THRESHOLD)
  assert Embedder.load(tmp_path).threshold == 0.25


def test_a_fingerprint_tells_networks_and_settings_apart(
  embedder, workdir, tmp_path
):
  assert Embedder.load(workdir).fingerprint == embedder.fingerprint
  networks.write_workdir(tmp_path)
  assert Embedder.load(tmp_path).fingerprint == embedder.fingerprint
  changed = networks.THRESHOLD | {'flip': False}
  threshold.save(tmp_path, changed)
  other = Embedder.load(tmp_path)
  assert other.threshold == 0.25 and other.fingerprint != embedder.fingerprint
  networks.write_workdir(tmp_path / 'seed', seed=1)
  other = Embedder.load(tmp_path / 'seed')
  assert other.fingerprint != embedder.fingerprint


def test_the_home_folder_may_be_a_tilde(workdir, monkeypatch):
  monkeypatch.setenv('HOME', str(workdir.parent))
  assert Embedder.load(f'~/{workdir.name}').step == networks.STEP


def test_a_checkpoint_is_the_last_or_the_best(workdir):
  for which in ('Best', 'foo', ''):
    with pytest.raises(UserError, match=f"which='{which}' must be 'last' or"):
      Embedder.load(workdir, which)


def test_another_image_size_is_another_fingerprint(tmp_path, monkeypatch):
  networks.use_tiny_networks(monkeypatch)
  config, _ = networks.write_workdir(tmp_path)
  embedder = Embedder.load(tmp_path)
  config.data.image_size = (48, 16)
  json_files.write_json(tmp_path / 'config.json', config.to_dict())
  assert Embedder.load(tmp_path).fingerprint != embedder.fingerprint
