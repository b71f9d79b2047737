import numpy as np
from PIL import Image

from apnet_jax.retrieval import verification
from apnet_jax.visualize import curves


def test_pictures_are_drawn():
  rng = np.random.default_rng(0)
  similarity = [rng.normal(mean, 0.2, 5000) for mean in (0.6, 0.1, 0.7, 0.4)]
  counts = [
    np.bincount(verification._bins(s), minlength=verification.BINS)
    for s in similarity
  ]
  summary = verification.summarize(verification.Verification(*counts))
  picture = np.asarray(curves.draw_verification(summary).convert('RGB'))
  # Green and red, for pairs of one and of two persons.
  red, green, _ = np.moveaxis(picture.astype(int), -1, 0)
  assert (green > red + 40).sum() > 1000 and (red > green + 40).sum() > 1000

  cameras = {
    'query_cameras': [1, 2],
    'gallery_cameras': [1, 2, 3],
    'mAP': [[None, 0.1, 0.9], [0.5, None, 0.7]],
  }
  table = curves.draw_cameras(cameras)
  assert isinstance(table, Image.Image)
  assert len(np.unique(np.asarray(table.convert('L')))) > 20
