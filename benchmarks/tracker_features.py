"""Lets a tracker embed boxes of a frame by an ONNX file, for `export_trackers`.

This runs in the tracker's own environment, of which it needs nothing but numpy
and the tracker:

  python benchmarks/tracker_features.py boxmot FRAME.npz FILE.onnx OUTPUT.npz

FRAME.npz has `frame`, uint8 BGR [height, width, 3], and `boxes`, float32
[boxes, 4], x1, y1, x2, y2. OUTPUT.npz gets `features` [boxes, features];
`pixels`, float32 [boxes, height, width, 3], 0..255, RGB, that the tracker gave
to the file; `crop_0`, `crop_1` and so on, RGB, that it cut out; and `about`,
JSON with the versions; or, if the tracker cannot embed by this file, `about`
alone, with the reason.
"""

import importlib
import importlib.metadata
import inspect
import json
import pathlib
import sys
import types

import numpy as np

# Where boxmot keeps the class that loads a network, from version 25 to 10.
BOXMOT = (
  ('boxmot.reid.core.runtime', 'ReID'),
  ('boxmot.reid.core.reid', 'ReID'),
  ('boxmot.reid.core.auto_backend', 'ReidAutoBackend'),
  ('boxmot.appearance.reid.auto_backend', 'ReidAutoBackend'),
  ('boxmot.appearance.reid_auto_backend', 'ReidAutoBackend'),
)
MEAN = np.float32([0.485, 0.456, 0.406])
STD = np.float32([0.229, 0.224, 0.225])


def boxmot(path, frame, boxes):
  """Returns the output of a class that loads networks in boxmot."""
  backend = open_boxmot(path).model
  tensors = np.asarray(backend.get_crops(boxes, frame))
  crops = [frame[y1:y2, x1:x2, ::-1] for x1, y1, x2, y2 in boxes.astype(int)]
  return {
    'features': backend.get_features(boxes, frame),
    'pixels': 255 * (tensors.transpose(0, 2, 3, 1) * STD + MEAN),
    'crops': crops,
    'about': {},
  }


def open_boxmot(path):
  """Returns boxmot's runtime of a network, whatever the version calls it."""
  for module, name in BOXMOT:
    try:
      cls = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
      if not error.name.startswith('boxmot'):
        raise
      continue
    first = list(inspect.signature(cls.__init__).parameters)[1]
    return cls(**{first: pathlib.Path(path), 'device': 'cpu'})
  raise SystemExit('this version of boxmot has no class that is known here.')


def ultralytics(path, frame, boxes):
  """Returns the output of BoT-SORT, which tracks the boxes for two frames."""
  from ultralytics.engine.results import Boxes
  from ultralytics.trackers.bot_sort import BOTSORT
  from ultralytics.utils import ROOT, YAML

  settings = YAML.load(ROOT / 'cfg/trackers/botsort.yaml')
  settings.update(with_reid=True, model=str(path), device='cpu')
  tracker = BOTSORT(types.SimpleNamespace(**settings))
  scores = np.tile(np.float32([0.9, 0]), (len(boxes), 1))
  found = Boxes(np.concatenate([boxes, scores], 1), frame.shape[:2])
  for _ in range(2):
    tracks = tracker.update(found, frame)
  crops = tracker.encoder._crop_detections(frame, found.xywh)
  tensors = np.asarray(tracker.encoder._crops_to_tensor(crops))
  return {
    'features': np.stack(tracker.encoder(frame, found.xywh)),
    'pixels': 255 * tensors.transpose(0, 2, 3, 1),
    'crops': [crop[..., ::-1] for crop in crops],
    'about': {'tracks': len(set(tracks[:, 4]))},
  }


def main() -> None:
  name, given, path, output = sys.argv[1:]
  with np.load(given) as arrays:
    frame, boxes = arrays['frame'], arrays['boxes']
  versions = {
    package: importlib.metadata.version(package)
    for package in (name, 'numpy', 'onnxruntime', 'torch')
  }
  embed = {'boxmot': boxmot, 'ultralytics': ultralytics}[name]
  try:
    found = embed(path, frame, boxes)
  except Exception as error:  # of a class that each version chooses
    reason = ' '.join(str(error).split())[:200]
    found = {'about': {'failure': f'{type(error).__name__}: {reason}'}}
  about = json.dumps({'versions': versions, **found.pop('about')})
  crops = found.pop('crops', [])
  found |= {f'crop_{i}': crop for i, crop in enumerate(crops)}
  np.savez(output, about=about, **found)


if __name__ == '__main__':
  main()
