"""Fuzzes every reader of files from outside.

Given a damaged file, a reader returns a result or raises a `UserError` that
names the file. It raises nothing else, does not crash or hang, and does not
exceed its limit of memory. Where a file has checksums, the result is that of
the whole file. This command gives 200 damaged files to each of two
readers, with limited memory and CPU time:

  python -m tests.fuzzing 200 png_of_pillow npz
"""

import contextlib
import importlib.util
import io
import json
import pathlib
import resource
import shutil
import sys
import tempfile
import types
from unittest import mock

import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
from PIL import ExifTags, Image

from apnet_jax import images
from apnet_jax.commands import compare
from apnet_jax.errors import UserError
from apnet_jax.index import changes, codes, projection, store
from apnet_jax.inference import embedding_files
from apnet_jax.inference.embedder import Embedder
from apnet_jax.models.apnet import variable_shapes
from apnet_jax.models.weight_files import read_weights, write_weights
from apnet_jax.retrieval import threshold
from apnet_jax.workdir import json_files, lock, pack, restore, run_files
from configs import common
from tests.inference import networks
from tests.tiny import tiny_config, tiny_model

DATA = pathlib.Path(__file__).parents[1] / 'data'
ROOM = 2**30  # bytes that a reader may use beyond those of loaded libraries
SECONDS = 90  # of CPU time for all readers; they take a third of it
WEIGHTS = {
  'conv1.weight': np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
  'bn1.num_batches_tracked': np.zeros((), np.int64),
}


# Damage


@st.composite
def damaged(draw, content: bytes) -> bytes:
  """Flips, removes, inserts or repeats bytes, or changes numbers in headers."""
  content = bytearray(content)
  for _ in range(draw(st.integers(1, 3))):
    size = len(content)
    at = draw(
      st.one_of(
        st.integers(0, min(size, 64)),
        st.integers(max(size - 64, 0), size),
        st.integers(0, size),
      )
    )
    match draw(st.sampled_from(['flip', 'cut', 'insert', 'repeat', 'number'])):
      case 'flip' if at < size:
        content[at] ^= 1 << draw(st.integers(0, 7))
      case 'cut':
        del content[at : at + draw(st.sampled_from([1, 7, size]))]
      case 'insert':
        content[at:at] = draw(st.binary(min_size=1, max_size=9))
      case 'repeat':
        content[at:at] = content[at : at + draw(st.integers(1, 300))]
      case 'number':
        width = draw(st.sampled_from([1, 2, 4, 8]))
        number = draw(
          st.sampled_from(
            [0, 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width) - 1]
          )
        )
        order = draw(st.sampled_from(['little', 'big']))
        content[at : at + width] = number.to_bytes(width, order)
  return bytes(content)


STRANGE = [
  None, True, -1, 0, 10**30, 1e308, float('nan'), float('inf'), 'x', '', [], {},
  [[0]], {'x': {}}, ['y', None], '__import__("os").abort()',
]  # fmt: skip


@st.composite
def damaged_json(draw, content: bytes) -> bytes:
  """Damages bytes, or replaces a random value of the JSON by a strange one."""
  if draw(st.booleans()):
    return draw(damaged(content))
  value = json.loads(content)
  node = value
  while True:
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    if not keys:
      break
    key = draw(st.sampled_from(keys))
    if not isinstance(node[key], dict | list) or draw(st.integers(0, 3)) == 0:
      node[key] = draw(st.sampled_from(STRANGE))
      break
    node = node[key]
  return json.dumps(value).encode()


# Readers


class Reader:
  """A reader, with a folder of files for it, one of which is damaged.

  Attributes:
    root: the folder.
    path: the file that is damaged.
    damage: Hypothesis strategy that damages its content.
    read: function that reads the files.
  """

  def __init__(self, root: pathlib.Path, name: str, damage=damaged):
    self.root, self.damage = root, damage
    self.path = root / name

  def check(self, content: bytes) -> None:
    """Reads the files with another content of the damaged one."""
    self.path.write_bytes(content)
    try:
      self.read_quietly()
    except UserError as error:
      # Errors about several files together name the folder.
      assert self.path.name in str(error) or str(self.root) in str(error)

  def read_quietly(self):
    """Returns the result of `read`, which prints nothing."""
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
      return self.read()

  def content(self):
    """Returns the content of the whole file."""
    return self.path.read_bytes()


class ExactReader(Reader):
  """A reader of files with checksums, one of which is damaged or missing.

  Its results are those of the whole files; its errors name the damaged file.
  """

  def __init__(self, root: pathlib.Path, names: list[str], read):
    super().__init__(root, names[0], self._damage)
    self._names, self.read = names, read
    self._whole = self.content()
    self._expected = self.read_quietly()

  def content(self):
    """Returns the contents of the whole files by name."""
    return {name: (self.root / name).read_bytes() for name in self._names}

  @staticmethod
  @st.composite
  def _damage(draw, whole):
    name = draw(st.sampled_from(sorted(whole)))
    kind = damaged_json if name.endswith('.json') else damaged
    content = draw(st.one_of(kind(whole[name]), st.none()))
    return whole | {name: content}

  def check(self, contents: dict[str, bytes | None]) -> None:
    """Reads the files with other contents; None is a file that is missing."""
    changed = [n for n in self._names if contents[n] != self._whole[n]]
    for name in changed:
      (self.root / name).unlink(missing_ok=True)
      if contents[name] is not None:
        (self.root / name).write_bytes(contents[name])
    try:
      found = self.read_quietly()
    except UserError as error:
      assert all(name in str(error) for name in changed)
    else:
      assert found == self._expected
    finally:
      for name in changed:
        (self.root / name).write_bytes(self._whole[name])


def _image(form: str, orientation: int | None = None) -> bytes:
  rng = np.random.default_rng(0)
  file = io.BytesIO()
  pixels = rng.integers(0, 256, (24, 16, 3), np.uint8)
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  options = {'exif': exif} if orientation else {}
  Image.fromarray(pixels).save(file, form, **options)
  return file.getvalue()


def _image_reader(form: str, read, orientation: int | None = None):
  def make(root):
    reader = Reader(root, f'image.{form.lower()}')
    reader.path.write_bytes(_image(form, orientation))
    reader.read = lambda: read(reader.path)
    return reader

  return make


def _by_pillow(path):
  assert images.read_image(path, (8, 4)).shape == (8, 4, 3)


def _by_tensorflow(path):
  from data import decoding, raw

  decoding.check_readable([raw.RawImage(path.name, path, 1, 0)])


def _by_doctor(path):
  from data.health import images

  images.check_image(path, decode=True)


def _layout_reader(name: str, file: str):
  def make(root):
    from data import datasets
    from data.cuhk03_np import layout as cuhk03

    layout = datasets.find(name)
    folder = root / layout.dataset
    shutil.copytree(DATA / layout.dataset / 'dummy_data', folder)
    reader = Reader(folder, file)

    def read():
      cuhk03._open.cache_clear()
      for image in layout.read(folder).splits['train']:
        with contextlib.suppress(OSError):  # callers add the image's name
          image.read()

    reader.read = read
    return reader

  return make


def _weights_reader(suffix: str):
  def make(root):
    reader = Reader(root, f'weights{suffix}')
    write_weights(reader.path, WEIGHTS)
    reader.read = lambda: read_weights(reader.path, 2**22)
    return reader

  return make


def _json_reader(name: str, content, read):
  def make(root):
    reader = Reader(root, name, damaged_json)
    json_files.write_json(root / name, content())
    reader.read = lambda: read(root)
    return reader

  return make


def _config():
  config = common.get_config()
  config.model.update(backbone='resnet14', levels=1, sites=(4,))
  return config.to_dict()


def _read_config(root):
  """Reads a configuration as `eval.py` does, up to the checkpoint."""
  directory = root / 'checkpoints'
  stand_in = types.SimpleNamespace(
    directory=directory,
    restore_variables=lambda which, variables, *_: (1, variables),
  )
  config = run_files.load_config(root)
  restore.restore_model(stand_in, 'last', config, num_classes=2)


def _threshold():
  return {
    'threshold': 0.5, 'wanted_fpr': 1e-3, 'step': 3, 'feature': 'embedding',
    'flip': True, 'dataset': 'noise', 'fingerprint': 'x', 'fpr': 1e-3,
  }  # fmt: skip


def _card():
  figures = {'mAP': 0.5, 'mINP': 0.25, 'Rank-1': 0.5}
  return {
    'dataset': 'noise',
    'fingerprint': 'x',
    'checkpoint': {'step': 3, 'trained_on': {'dataset': 'noise'}},
    'figures': figures,
    'reranked': {'variant': 'k', 'figures': figures},
    'protocol': {'ap': 'step', 'flip': True},
    'network': {'sites': [1, 2], 'image_size': [4, 2]},
    'queries': {
      'valid': 2,
      'skipped': 1,
      'names': 'x',
      'figures': {name: [0.5, 0.5, None] for name in figures},
      'reranked': {name: [0.5, 0.5, None] for name in figures},
    },
    'gallery': {'of_query_identities': 3},
    'versions': {'jax': '0'},
  }


def _compare(root):
  path = str(root / 'card.json')
  with np.errstate(all='ignore'):
    compare.compare_files(path, path, True, level=0.9, samples=20, seed=0)


ROW_COUNT, FEATURES = 30, 24


def _write_embeddings(path):
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(ROW_COUNT, FEATURES)).astype(np.float32)
  columns = {
    'path': np.array([f'{i}.jpg' for i in range(ROW_COUNT)]),
    'pid': np.arange(ROW_COUNT) // 3,
  }
  embedding_files.write(
    path, {'fingerprint': 'x'}, columns, [rows], rows.shape, 'float32'
  )


def _embeddings_reader(suffix: str):
  def make(root):
    path = root / f'gallery{suffix}'
    _write_embeddings(path)

    def read():
      with embedding_files.reading(path) as file:
        columns = {name: c.tolist() for name, c in file.columns.items()}
        return file.info, columns, np.concatenate([*file.blocks]).tolist()

    return ExactReader(root, [path.name], read)

  return make


def _index_reader(root):
  """Searches in an index of a projection, from which a row was removed."""
  _write_embeddings(root / 'a.npz')
  short = projection.fit(root / 'a.npz', 16)
  folder = root / 'index'
  changes.add(folder, root / 'a.npz', 'float16', short)
  store.Index(folder).remove(['3.jpg'])
  queries = np.random.default_rng(1).normal(size=(1, FEATURES))
  names = sorted(p.name for p in folder.iterdir() if p.name != lock.FILE)

  def read():
    with mock.patch.object(codes, 'CANDIDATES', 5):
      return search(store.Index(folder))

  def search(index):
    found = [
      (index.row(int(row)), float(similarity))
      for fast in (False, True)
      for result in index.search(queries, 5, fast)
      for row, similarity in zip(*result)
    ]
    return found, index.sample(5).tolist(), index.info['recall']

  return ExactReader(folder, names, read)


def _pack_reader(root):
  """Loads a packed network, whose weights are ones."""
  config, path = tiny_config(), root / 'tiny.apnet'
  model = tiny_model(config.model, networks.CLASSES)
  shapes = variable_shapes(model, tuple(config.data.image_size))
  parts = {
    pack.CHECKPOINT: {'step': networks.STEP, 'which': 'last'},
    run_files.CONFIG_FILE: config.to_dict(),
    run_files.RUN_FILE: {'num_classes': networks.CLASSES, 'fingerprint': 'x'},
    run_files.THRESHOLD_FILE: networks.THRESHOLD,
  }
  ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
  pack.write(path, ones, parts)

  def read():
    with mock.patch.object(restore, 'create_model', tiny_model):
      embedder = Embedder.load(path)
      return embedder.fingerprint, embedder.threshold, embedder.step

  return ExactReader(root, [path.name], read)


READERS = {
  'jpeg_of_pillow': _image_reader('JPEG', _by_pillow),
  'png_of_pillow': _image_reader('PNG', _by_pillow),
  'bmp_of_pillow': _image_reader('BMP', _by_pillow),
  'webp_of_pillow': _image_reader('WEBP', _by_pillow, orientation=6),
  'exif_of_pillow': _image_reader('JPEG', _by_pillow, orientation=6),
  'jpeg_of_doctor': _image_reader('JPEG', _by_doctor),
  'png_of_doctor': _image_reader('PNG', _by_doctor),
  'bmp_of_doctor': _image_reader('BMP', _by_doctor),
  'webp_of_doctor': _image_reader('WEBP', _by_doctor, orientation=6),
  'exif_of_doctor': _image_reader('JPEG', _by_doctor, orientation=6),
  'npz': _weights_reader('.npz'),
  'safetensors': _weights_reader('.safetensors'),
  'config': _json_reader('config.json', _config, _read_config),
  'run': _json_reader(
    'run.json',
    lambda: {'num_classes': 3, 'fingerprint': 'x', 'versions': {'jax': '0'}},
    run_files.load_run,
  ),
  'threshold': _json_reader('threshold.json', _threshold, threshold.load),
  'card': _json_reader('card.json', _card, _compare),
  'embeddings': _embeddings_reader('.npz'),
  'index': _index_reader,
  'pack': _pack_reader,
  'csv': _layout_reader('folder', 'people.csv'),
  'list': _layout_reader('msmt17', 'list_train.txt'),
  'mat': _layout_reader('cuhk03', 'cuhk03_new_protocol_config_detected.mat'),
  'hdf5': _layout_reader('cuhk03', 'cuhk03_release/cuhk-03.mat'),
  'jpeg_of_tensorflow': _image_reader('JPEG', _by_tensorflow),
  'png_of_tensorflow': _image_reader('PNG', _by_tensorflow),
  'bmp_of_tensorflow': _image_reader('BMP', _by_tensorflow),
  'webp_of_tensorflow': _image_reader('WEBP', _by_tensorflow, orientation=6),
  'exif_of_tensorflow': _image_reader('JPEG', _by_tensorflow, orientation=6),
}
if importlib.util.find_spec('torch'):  # it is optional
  READERS['pth'] = _weights_reader('.pth')
if importlib.util.find_spec('pyarrow'):  # so is it
  READERS['parquet'] = _embeddings_reader('.parquet')


def fuzz(name: str, root: pathlib.Path, examples: int) -> None:
  """Checks a reader with a number of damaged files in the folder `root`."""
  reader = READERS[name](root)
  whole = reader.content()
  reader.check(whole)

  @hypothesis.settings(
    max_examples=examples,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
  )
  @hypothesis.given(reader.damage(whole))
  def run(content):
    reader.check(content)

  run()


def main() -> None:
  examples, *names = sys.argv[1:]
  limit_time()
  with tempfile.TemporaryDirectory() as folder:
    for name in names:
      root = pathlib.Path(folder, name)
      root.mkdir()
      fuzz(name, root, 2)  # loads what the reader needs
      shutil.rmtree(root)
      root.mkdir()
      limit_memory()
      fuzz(name, root, int(examples))
      print(name, flush=True)


def limit_time() -> None:
  """Limits CPU time, so that a reader that hangs ends with SIGXCPU."""
  _, hard = resource.getrlimit(resource.RLIMIT_CPU)
  resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, hard))


def limit_memory() -> None:
  """Limits data memory; threads reserve address space without using it."""
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[5])
  limit = pages * resource.getpagesize() + ROOM
  _, hard = resource.getrlimit(resource.RLIMIT_DATA)
  resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


if __name__ == '__main__':
  main()
