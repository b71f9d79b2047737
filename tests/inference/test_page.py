"""The examples of docs/embed_and_search.md run as they are printed."""

import pathlib
import re

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]


def test_examples_run(workdir, tmp_path, monkeypatch):
  page = (ROOT / 'docs' / 'embed_and_search.md').read_text()
  examples = re.findall(r'<!-- test: \w+ -->\n```python\n(.*?)```', page, re.S)
  assert len(examples) == 2
  frame = np.random.default_rng(0).integers(0, 256, (180, 200, 3), np.uint8)
  for name in ('a.jpg', 'b.jpg'):
    Image.fromarray(frame).save(tmp_path / name)
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'runs' / 'market').symlink_to(workdir)
  names = {'frame': frame}
  for example in examples:
    exec(example, names)
  assert names['similarity'] > 0.999 and names['embedder'].threshold is None
  assert names['people'].shape == (2, names['embedder'].dimensions)
