"""Fuzzes every reader of files from outside.

Given a damaged file, a reader returns a result or raises a `UserError` that
names the file. It raises nothing else, does not crash or hang, and does not
exceed its limit of memory. This command gives 200 damaged files to each of two
readers, with limited memory:

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

import hypothesis
from hypothesis import strategies as st
import numpy as np
from PIL import ExifTags, Image

from apnet_jax import images
from apnet_jax.commands import compare
from apnet_jax.errors import UserError
from apnet_jax.models.weight_files import read_weights, write_weights
from apnet_jax.retrieval import threshold
from apnet_jax.workdir import json_files, restore, run_files
from configs import common

DATA = pathlib.Path(__file__).parents[1] / 'data'
ROOM = 2**30  # bytes that a reader may use beyond those of loaded libraries
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
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
      try:
        self.read()
      except UserError as error:
        # Errors about several files together name the folder.
        assert self.path.name in str(error) or str(self.root) in str(error)


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
    restore_variables=lambda which, variables: (1, variables),
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
    },
    'gallery': {'of_query_identities': 3},
    'versions': {'jax': '0'},
  }


def _compare(root):
  path = str(root / 'card.json')
  with np.errstate(all='ignore'):
    compare.compare_files(path, path, True, level=0.9, samples=20, seed=0)


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


def fuzz(name: str, root: pathlib.Path, examples: int) -> None:
  """Checks a reader with a number of damaged files in the folder `root`."""
  reader = READERS[name](root)
  whole = reader.path.read_bytes()
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


def limit_memory() -> None:
  """Limits data memory; threads reserve address space without using it."""
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[5])
  limit = pages * resource.getpagesize() + ROOM
  _, hard = resource.getrlimit(resource.RLIMIT_DATA)
  resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


if __name__ == '__main__':
  main()
