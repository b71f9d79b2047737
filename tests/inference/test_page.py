"""The examples of documents run as they are printed, with a tiny network."""

import pathlib
import re

import numpy as np
from PIL import Image
import pytest

from apnet_jax.index import changes
from apnet_jax.inference import embedding_job, rows
from apnet_jax.inference.embedder import Embedder

ROOT = pathlib.Path(__file__).parents[2]


def examples(page):
  """The examples of a document that are marked for a test."""
  text = (ROOT / 'docs' / page).read_text()
  return re.findall(r'<!-- test: \w+ -->\n```python\n(.*?)```', text, re.S)


@pytest.fixture
def frame(workdir, tmp_path, monkeypatch):
  """An image, which is also in four files beside the run of the documents."""
  frame = np.random.default_rng(0).integers(0, 256, (180, 200, 3), np.uint8)
  for name in ('a.jpg', 'b.jpg', 'A.jpg', 'B.jpg'):
    Image.fromarray(frame).save(tmp_path / name)
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'runs' / 'market').symlink_to(workdir)
  return frame


def test_examples_of_embedding_run(frame):
  names = {'frame': frame}
  embedding, boxes, _ = examples('embed_and_search.md')
  for example in (embedding, boxes):
    exec(example, names)
  assert names['similarity'] > 0.999 and names['embedder'].threshold is None
  assert names['people'].shape == (2, names['embedder'].dimensions)


def test_the_example_of_searching_runs(frame):
  names = {'embedder': Embedder.load('runs/market')}
  for path, picture in ('A.jpg', frame), ('B.jpg', 255 - frame):
    Image.fromarray(picture).save(path)
  _, _, search = examples('embed_and_search.md')
  add(names['embedder'], 'A.jpg')
  exec(search, names)
  assert names['path'] == 'A.jpg' and names['similarity'] > 0.999
  assert len(names['search'](['B.jpg'])[0]) == 1
  add(names['embedder'], 'B.jpg')
  assert names['search'](['B.jpg'])[0][0][0]['path'] == 'B.jpg'


def add(embedder, path):
  """Adds an image to the index of the documents."""
  embedding_job.embed_into('gallery.npz', embedder, rows.find([path]))
  changes.add('people', 'gallery.npz')


def test_the_example_of_attention_runs(frame, tmp_path):
  names = {}
  (example,) = examples('attention.md')
  exec(example, names)
  with Image.open(tmp_path / 'a.png') as picture:
    assert picture.size == names['network'].image_size[::-1]
