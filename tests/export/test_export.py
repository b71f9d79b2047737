import functools
import importlib.util
import json

import jax
import numpy as np
from PIL import Image
import pytest

from apnet_jax import images
from apnet_jax.errors import UserError
from apnet_jax.export import (
  job,
  onnx_file,
  onnx_preprocessing,
  parity,
  resizing,
  saved_model,
  stablehlo,
  tflite,
)
from apnet_jax.export.graph import Graph
from apnet_jax.inference import model_card, packing
from apnet_jax.inference.embedder import Embedder
from apnet_jax.models import normalization
from apnet_jax.retrieval import threshold
from apnet_jax.workdir import json_files
from tests.inference import networks

SIZE = (32, 16)
NOISE = np.random.default_rng(1).integers(0, 256, (5, 40, 30, 3), np.uint8)
needs_onnx = pytest.mark.skipif(
  importlib.util.find_spec('jax2onnx') is None,
  reason="needs jax2onnx: pip install '.[onnx]'",
)


@pytest.fixture(scope='module')
def embedder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('exported') / 'run'
  folder.mkdir()
  with pytest.MonkeyPatch.context() as patch:
    networks.use_tiny_networks(patch)
    networks.write_workdir(folder)
    return Embedder.load(folder)


@pytest.fixture(scope='module')
def parts(embedder, tmp_path_factory):
  folder = tmp_path_factory.mktemp('parts')
  networks.write_workdir(folder)
  return packing.collect(folder, networks.STEP, 'last')


@pytest.mark.parametrize('size', [(80, 40), (30, 64)])
def test_images_are_resized_as_by_pillow(size):
  expected = [
    np.asarray(Image.fromarray(x).resize(size[::-1], Image.Resampling.BILINEAR))
    for x in NOISE
  ]
  found = np.asarray(resizing.resize(NOISE, size))
  assert np.abs(found - np.stack(expected)).max() <= 1
  assert (found != np.stack(expected)).mean() < 0.1  # 0.23 in the other order


def test_stablehlo_is_written_with_its_facts_and_a_card(
  embedder, parts, tmp_path
):
  path = tmp_path / 'a.stablehlo'
  card = {'dataset': 'drawn', 'figures': {'mAP': 0.5}, 'queries': [1, 2]}
  graph = Graph(embedder, SIZE, 'uint8', card=card)
  found = job.export(graph, 'stablehlo', path, card=parts)
  assert found['batches'] == [1, 7, 32]
  assert found['largest_difference'] < 1e-3
  run = stablehlo.open_file(path)
  np.testing.assert_allclose(run(NOISE), embedder(NOISE), atol=1e-3)
  about = json.loads((tmp_path / 'a.stablehlo.metadata.json').read_text())
  assert json.loads(about['imgsz']) == [32, 16]
  assert about['fingerprint'] == embedder.fingerprint
  assert about['jax'] == jax.__version__
  shown = {'dataset': 'drawn', 'figures': {'mAP': 0.5}}
  assert json.loads(about['card']) == shown
  model_card.write(model_card.path_beside(tmp_path / 'a.apnet'), parts)
  cards = {file.name for file in tmp_path.glob('*MODEL_CARD.md')}
  assert cards == {'a.stablehlo.MODEL_CARD.md', 'a.apnet.MODEL_CARD.md'}
  for card in cards:
    assert 'Intended use' in (tmp_path / card).read_text()
  with pytest.raises(UserError, match='a.stablehlo exists'):
    job.export(graph, 'stablehlo', path)


def test_facts_are_those_of_the_size_that_is_exported(tmp_path, monkeypatch):
  networks.use_tiny_networks(monkeypatch)
  config, _ = networks.write_workdir(tmp_path)
  threshold.save(tmp_path, networks.THRESHOLD)
  card = {'checkpoint': {'step': networks.STEP}, 'figures': {'mAP': 0.5}}
  json_files.write_json(tmp_path / 'result.json', card)
  embedder = Embedder.load(tmp_path)
  about = Graph(embedder, SIZE, card=card).metadata()
  assert about['threshold'] == '0.25' and 'mAP' in about['card']
  collect = functools.partial(
    packing.collect, tmp_path, networks.STEP, 'last', None
  )
  assert collect(SIZE).keys() >= {'threshold.json', 'result.json'}
  about = Graph(embedder, (64, 32), card=card).metadata()
  assert about['threshold'] == 'null' and 'card' not in about
  assert '32x16 is that of the training' in about['threshold_origin']
  assert json.loads(about['network'])['image_size'] == [64, 32]
  parts = collect((64, 32))
  assert not parts.keys() & {'threshold.json', 'result.json'}
  text = model_card.text(parts)
  assert '| images | 64x32, ' in text and 'No threshold is known' in text
  config.data.image_size = (64, 32)
  json_files.write_json(tmp_path / 'config.json', config.to_dict())
  assert about['fingerprint'] == Embedder.load(tmp_path).fingerprint


def test_images_of_another_size_are_resized_in_the_graph(embedder, monkeypatch):
  monkeypatch.setattr(Embedder, 'embed_normalized', lambda self, _, x: x)
  graph = Graph(embedder, SIZE, size_of_input=NOISE.shape[1:3])
  seen = graph.function_of_pixels()(normalization.normalize(NOISE))
  expected = [images.resize(Image.fromarray(image), SIZE) for image in NOISE]
  differences = np.rint(normalization.denormalize(seen)) - np.stack(expected)
  assert np.abs(differences).max() <= 1
  assert (differences != 0).mean() < 0.05
  assert json.loads(graph.metadata()['imgsz']) == [40, 30]
  assert json.loads(graph.metadata()['network_imgsz']) == [32, 16]


def test_exported_programs_hold_no_choice_by_device(embedder):
  (batch,) = jax.export.symbolic_shape('batch')
  images = jax.ShapeDtypeStruct((batch, *SIZE, 3), 'float32')
  function = Graph(embedder, SIZE).function()
  traced = str(jax.jit(function).trace(images).jaxpr)
  assert 'conv_general_dilated' in traced
  assert 'platform_index' not in traced


def test_a_bfloat16_network_is_exported_in_float32(tmp_path, monkeypatch):
  networks.use_tiny_networks(monkeypatch)
  config, _ = networks.write_workdir(tmp_path)
  in_float32 = Embedder.load(tmp_path)
  config.model.dtype = 'bfloat16'
  json_files.write_json(tmp_path / 'config.json', config.to_dict())
  embedder = Embedder.load(tmp_path)
  graph = Graph(embedder, SIZE, 'uint8')
  images = jax.ShapeDtypeStruct((1, *SIZE, 3), 'float32')
  assert 'bf16' not in str(jax.jit(graph.function()).trace(images).jaxpr)
  found = parity.compare(graph, in_float32, NOISE, batches=[5])
  assert found['largest_difference'] < 1e-5
  np.testing.assert_allclose(in_float32(NOISE), embedder(NOISE), atol=0.01)


def test_without_the_mirror_image_the_network_is_there_once(
  tmp_path, monkeypatch
):
  networks.use_tiny_networks(monkeypatch)
  networks.write_workdir(tmp_path)
  images = jax.ShapeDtypeStruct((1, *SIZE, 3), 'float32')
  convolutions = [
    str(jax.jit(Graph(network, SIZE).function()).trace(images).jaxpr).count(
      'conv_general_dilated['
    )
    for network in (
      Embedder.load(tmp_path, flip=flip) for flip in (True, False)
    )
  ]
  assert convolutions[0] == 2 * convolutions[1] > 0


def test_saved_model_is_the_network(embedder, tmp_path):
  path = tmp_path / 'a.savedmodel'
  graph = Graph(embedder, SIZE, weights='float16')
  found = job.export(graph, 'savedmodel', path)
  assert found['batches'] == [1, 7, 32]
  assert found['lowest_cosine'] > 0.9999
  assert json.loads((path / saved_model.FACTS).read_text()) == graph.metadata()
  assert [file.name for file in tmp_path.iterdir()] == [path.name]
  kernels = [x for x in jax.tree.leaves(graph.stored()) if x.ndim > 1]
  assert {x.dtype.name for x in kernels} == {'float16'}
  data = path / 'variables' / 'variables.data-00000-of-00001'
  most = 4 * sum(x.size for x in jax.tree.leaves(graph.stored()))
  assert data.stat().st_size < 0.8 * most


def test_tflite_is_the_network(embedder, tmp_path):
  graph = Graph(embedder, SIZE, 'uint8', 'float16')
  tflite.write(graph, tmp_path / 'a.tflite')
  found = parity.compare(graph, tflite.open_file(tmp_path / 'a.tflite'), NOISE)
  assert found['lowest_cosine'] > 0.9999


def test_kernels_in_float16_halve_the_file(embedder):
  small = Graph(embedder, SIZE, weights='float16')
  sizes = [
    len(stablehlo.build(graph)) for graph in (small, Graph(embedder, SIZE))
  ]
  assert sizes[0] < 0.85 * sizes[1]


def test_another_network_is_not_written(embedder, monkeypatch, tmp_path):
  monkeypatch.setattr(
    stablehlo,
    'open_file',
    lambda _: lambda x: embedder(NOISE[:1]) + 0 * x.sum(),
  )
  with pytest.raises(UserError, match='Nothing was written|nothing was'):
    job.export(Graph(embedder, SIZE), 'stablehlo', tmp_path / 'a.stablehlo')
  assert not list(tmp_path.iterdir())


def test_a_difference_is_an_error(embedder, tmp_path):
  graph = Graph(embedder, NOISE.shape[1:3])
  stablehlo.write(graph, tmp_path / 'a')
  right = stablehlo.open_file(tmp_path / 'a')
  assert parity.compare(graph, right, NOISE)['lowest_cosine'] > 0.9999
  with pytest.raises(UserError, match='differs from the trained one'):
    parity.compare(graph, lambda x: right(x[..., ::-1]), NOISE)


def test_wrong_sizes_and_names_are_errors(embedder, tmp_path):
  with pytest.raises(UserError, match='must be positive'):
    job.export(Graph(embedder, (0, 16)), 'stablehlo', tmp_path / 'a.stablehlo')
  with pytest.raises(UserError, match='must end in .onnx'):
    job.export(Graph(embedder, SIZE), 'onnx', tmp_path / 'a.stablehlo')
  assert not list(tmp_path.iterdir())


def test_a_missing_library_leaves_no_folder(embedder, tmp_path, monkeypatch):
  def fail():
    raise UserError('onnx is not installed')

  monkeypatch.setattr(onnx_file, 'import_libraries', fail)
  with pytest.raises(UserError, match='not installed'):
    job.export(Graph(embedder, SIZE), 'onnx', tmp_path / 'new' / 'a.onnx')
  assert not list(tmp_path.iterdir())


def test_a_folder_to_write_to_is_new_or_empty(tmp_path):
  assert job.check_folder(tmp_path) == tmp_path
  assert job.check_folder(tmp_path / 'new') == tmp_path / 'new'
  (tmp_path / 'a').touch()
  with pytest.raises(UserError, match=f'--output={tmp_path} is not empty'):
    job.check_folder(tmp_path)
  with pytest.raises(UserError, match='a is a file; give a folder'):
    job.check_folder(tmp_path / 'a')
  for check in (job.check_folder, lambda path: job.check_output(path, 'onnx')):
    with pytest.raises(UserError, match='a, which is not a folder'):
      check(tmp_path / 'a' / 'b.onnx')


def test_the_suffix_chooses_the_format():
  assert [job.format_of(f'a{x}') for x in job.SUFFIXES.values()] == [
    *job.FORMATS
  ]
  message = r'a.bin must end in one of .onnx, .stablehlo, .savedmodel, .tflite;'
  with pytest.raises(UserError, match=message):
    job.format_of('a.bin')


def test_files_for_boxmot():
  files = job.boxmot_exports((384, 192), 'market1501')
  assert list(files) == [
    'resnet50_apnet_market1501_256x128.onnx',
    'resnet50_apnet_market1501_384x192.onnx',
  ]
  size, side_file = files['resnet50_apnet_market1501_384x192.onnx']
  assert size == (384, 192)
  assert side_file['model_kwargs'] == {'img_size': [384, 192]}
  assert len(job.boxmot_exports((256, 128), 'x')) == 1


def test_model_card_tells_what_is_known(parts):
  text = model_card.text(parts)
  assert 'Not recorded for this checkpoint' in text
  assert 'No threshold is known' in text
  card = {
    'dataset': 'market1501', 'figures': {'mAP': 0.5, 'Rank-1': 0.75},
    'protocol': {'ap': 'step'},
  }  # fmt: skip
  train = {'learning_rate': 1e-3, 'ema_decay': 0.99}
  config = parts['config.json'] | {'data': {'name': 'duke'}, 'train': train}
  text = model_card.text(
    parts
    | {'result.json': card, 'threshold.json': networks.THRESHOLD}
    | {'config.json': config}
  )
  assert 'mAP 50.0, Rank-1 75.0' in text and 'ap: step' in text
  assert 'epochs 160, learning rate 0.001, ' in text
  assert '`train.ema_decay=0.99`' in text and 'jitter' not in text
  assert 'withdrawn' in text and 'Threshold 0.2500' in text
  several = {'name': 'market1501,msmt17/train,folder,market1501/train'}
  text = model_card.text(parts | {'config.json': config | {'data': several}})
  terms = [
    line
    for line in text.split('## Training data')[1].splitlines()
    if line.startswith('- ')
  ][:3]
  known = model_card.TERMS
  assert terms == [
    f'- {known["market"]}', f'- {known["msmt17"]}', f'- {model_card.OWN_DATA}',
  ]  # fmt: skip


@needs_onnx
def test_onnx_is_written_with_its_facts(embedder, tmp_path):
  import onnx

  path = tmp_path / 'a.onnx'
  graph = Graph(embedder, SIZE)
  found = job.export(graph, 'onnx', path)
  assert found['lowest_cosine'] > 0.9999
  run = onnx_file.open_file(path)
  assert run(np.zeros((5, *SIZE, 3), np.float32)).shape == (5, 16)
  model = onnx.load(path)
  about = {prop.key: prop.value for prop in model.metadata_props}
  assert about == graph.metadata()
  assert model.ir_version <= 8
  assert [o.version for o in model.opset_import if not o.domain] == [18]


@needs_onnx
def test_onnx_that_resizes_has_each_set_of_operations_once(embedder):
  import onnx

  graph = Graph(embedder, (80, 40), 'uint8')
  model = onnx.load_from_string(onnx_file.build(graph))
  domains = [version.domain for version in model.opset_import]
  assert len(domains) == len(set(domains))


@needs_onnx
@pytest.mark.parametrize('size', [(80, 40), (30, 64), (16, 12)])
def test_onnx_resizes_as_pillow(embedder, size):
  import onnx
  import onnx.inliner
  import onnx.parser
  import onnxruntime

  graph = Graph(embedder, size, 'uint8')
  model = onnx_preprocessing.build(onnx, graph, 'images', 18, 8)
  onnx.checker.check_model(model)
  session = onnxruntime.InferenceSession(model.SerializeToString())
  (found,) = session.run(None, {'images': NOISE})
  expected = np.stack(
    [images.resize(Image.fromarray(image), size) for image in NOISE]
  )
  found = found.transpose(0, 2, 3, 1) * normalization.STD + normalization.MEAN
  differences = np.rint(found * 255) - expected
  assert np.abs(differences).max() <= 1
  assert (differences != 0).mean() < 0.05  # 0.2 in the other order


@needs_onnx
@pytest.mark.parametrize(
  ('takes', 'given'),
  [('uint8', None), ('unit', None), ('normalized', (64, 40))],
)
def test_onnx_that_resizes_is_the_network(embedder, takes, given, tmp_path):
  graph = Graph(embedder, SIZE, takes, size_of_input=given)
  found = job.export(graph, 'onnx', tmp_path / 'a.onnx')
  assert found['largest_difference'] < 1e-3


@pytest.mark.skipif(
  importlib.util.find_spec('jax2onnx') is not None,
  reason='jax2onnx is installed',
)
def test_a_missing_library_names_its_extra(embedder, tmp_path):
  with pytest.raises(UserError, match=r"pip install '\.\[onnx\]'"):
    job.export(Graph(embedder, SIZE), 'onnx', tmp_path / 'a.onnx')
  assert not list(tmp_path.iterdir())
