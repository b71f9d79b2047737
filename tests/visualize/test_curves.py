from matplotlib.figure import Figure
import numpy as np
from PIL import Image
from scipy.stats import norm

from apnet_jax.retrieval import verification
from apnet_jax.visualize import curves


def test_pictures_are_drawn():
  rng = np.random.default_rng(0)
  similarity = [rng.normal(mean, 0.2, 5000) for mean in (0.6, 0.1, 0.7, 0.4)]
  counts = [
    np.bincount(verification._bins(s.clip(-1, 1)), minlength=verification.BINS)
    for s in similarity
  ]
  summary = verification.summarize(verification.Verification(*counts))
  picture = np.asarray(curves.draw_verification(summary).convert('RGB'))
  # Pairs of one person are green, pairs of two persons are red.
  red, green, _ = np.moveaxis(picture.astype(int), -1, 0)
  assert (green > red + 40).sum() > 1000 and (red > green + 40).sum() > 1000

  histogram, roc, det = Figure().subplots(1, 3)
  curves._draw_histogram(histogram, summary)
  hatches = [patch.get_hatch() for patch in histogram.patches]
  assert len(set(hatches)) == 2  # for those who cannot tell red from green
  curves._draw_roc(roc, summary)
  curves._draw_det(det, summary)
  (line,) = roc.lines
  drawn = dict(line.get_xydata())
  for point in summary['at_fpr'].values():
    near = min(drawn, key=lambda fpr: abs(np.log(fpr / point['fpr'])))
    np.testing.assert_allclose(drawn[near], point['tpr'], atol=0.03)
  pairs, queries = (line.get_xydata().T for line in det.lines)
  for x, y in (pairs, queries):  # fewer false accepts mean more misses
    assert (np.diff(x) <= 0).all() and (np.diff(y) >= 0).all()
  equal = summary['equal_error']['eer']
  place = np.argmin(abs(pairs[0] - pairs[1]))
  np.testing.assert_allclose(norm.cdf(pairs[:, place]), equal, atol=0.02)


def test_cameras_are_drawn():
  cameras = {
    'query_cameras': [1, 2],
    'gallery_cameras': [1, 2, 3],
    'mAP': [[None, 0.1, 0.9], [0.5, None, 0.7]],
  }
  table = curves.draw_cameras(cameras)
  assert isinstance(table, Image.Image)
  assert len(np.unique(np.asarray(table.convert('L')))) > 20


def test_of_many_cameras_some_are_named(monkeypatch):
  figures = []
  monkeypatch.setattr(curves, '_picture', figures.append)
  for number, names in ((20, 20), (21, 7), (300, 10)):
    named = [*range(1, number + 1)]
    curves.draw_cameras(
      {
        'query_cameras': named[:3],
        'gallery_cameras': named,
        'mAP': [[0.5] * number] * 3,
      }
    )
    axes, _ = figures.pop().axes
    assert [x.get_text() for x in axes.get_yticklabels()] == ['1', '2', '3']
    texts = [x.get_text() for x in axes.get_xticklabels()]
    assert len(texts) == names
    assert texts == [str(round(x) + 1) for x in axes.get_xticks()]
    assert len(axes.texts) == (60 if number == 20 else 0)
