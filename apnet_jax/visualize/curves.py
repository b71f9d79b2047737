"""Draws plots of a result card: error rates by threshold and mAP by camera.

A result card is the dictionary of figures that eval.py writes as JSON.
"""

from collections.abc import Mapping
import io

import numpy as np
from PIL import Image
from scipy.stats import norm

# Colours of pairs of images of one person and of two persons.
GENUINE, IMPOSTOR = '#1a9641', '#d7191c'
# Error rates on the axes of the DET curve.
TICKS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5, 0.8, 0.95)
# With more cameras, cells have no numbers, and an axis has at most 10 ticks.
MAX_CAMERAS, FEW_TICKS = 20, 10


def draw_verification(verification: Mapping) -> Image.Image:
  """Draws a histogram of similarities, the ROC curve and the DET curves.

  Args:
    verification: section `verification` of a result card, with the entries
      `histogram`, `curve` and `equal_error`.

  Returns:
    A picture with the three plots side by side.
  """
  figure, (left, middle, right) = _figure(3)
  _draw_histogram(left, verification)
  _draw_roc(middle, verification)
  _draw_det(right, verification)
  return _picture(figure)


def _draw_histogram(axes, verification) -> None:
  """Draws histograms of the similarities of genuine and impostor pairs."""
  histogram = verification['histogram']
  # Hatches tell the two apart without colours.
  for name, colour, hatch in (
    ('impostor', IMPOSTOR, '///'), ('genuine', GENUINE, None),
  ):  # fmt: skip
    counts = np.array(histogram[name])
    edges = np.linspace(histogram['from'], histogram['to'], len(counts) + 1)
    axes.stairs(
      counts / counts.sum(), edges, fill=True, alpha=0.5, color=colour,
      hatch=hatch, label=f'{counts.sum():,} pairs of {_WORDS[name]}',
    )  # fmt: skip
  equal = verification['equal_error']
  axes.axvline(equal['threshold'], color='black', lw=1, ls='--')
  axes.set(
    title=f'Equal error rate {100 * equal["eer"]:.2f}% at'
    f' {equal["threshold"]:.3f}',
    xlabel='cosine similarity',
    ylabel='fraction of pairs',
  )
  axes.legend()


_WORDS = {'genuine': 'one person', 'impostor': 'two persons'}


def _draw_roc(axes, verification) -> None:
  """Draws the ROC curve on a logarithmic FPR axis, without points at FPR 0."""
  curve = verification['curve']
  fpr = np.array(curve['fpr'])
  shown = fpr > 0
  axes.plot(fpr[shown], np.array(curve['tpr'])[shown], color='black')
  axes.set(
    title='ROC: accepted pairs',
    xlabel='FPR (pairs of two persons)',
    ylabel='TPR (pairs of one person)',
    xscale='log',
    ylim=(0, 1),
  )
  axes.grid(alpha=0.3)


def _draw_det(axes, verification) -> None:
  """Draws the DET curves: miss rate against false-accept rate, on probit axes.

  One curve is for pairs of images (1 - TPR against FPR), the other for queries
  (FNIR against FPIR).

  Martin et al., The DET Curve in Assessment of Detection Task Performance,
  Eurospeech 1997.
  """
  curve = {k: np.array(v) for k, v in verification['curve'].items()}
  for false, missed, label, dash in (
    (curve['fpr'], 1 - curve['tpr'], 'pairs: FPR, 1 - TPR', '-'),
    (curve['fpir'], curve['fnir'], 'queries: FPIR, FNIR', '--'),
  ):
    shown = (0 < false) & (false < 1) & (0 < missed) & (missed < 1)
    axes.plot(
      norm.ppf(false[shown]), norm.ppf(missed[shown]), dash, label=label
    )
  ticks = norm.ppf(TICKS)
  labels = [f'{100 * tick:g}%' for tick in TICKS]
  axes.set_xticks(ticks, labels, rotation=45)
  axes.set_yticks(ticks, labels)
  axes.set(
    title='DET: errors at each threshold',
    xlabel='false accepts',
    ylabel='misses',
  )
  axes.grid(alpha=0.3)
  axes.legend()


def draw_cameras(by_cameras: Mapping) -> Image.Image:
  """Draws a heat map of mAP, by query camera and gallery camera.

  Args:
    by_cameras: entry `by_cameras` in section `diagnosis` of a result card: the
      numbers of the cameras, and mAP [query cameras, gallery cameras] from 0 to
      1, None where there is none. Of many cameras, only some are named.
  """
  values = np.array(by_cameras['mAP'], np.float64)
  figure, (axes,) = _figure(1)
  image = axes.imshow(100 * values, cmap='viridis', vmin=0, vmax=100)
  rows, columns = values.shape
  for axis, cameras in (
    (axes.yaxis, by_cameras['query_cameras']),
    (axes.xaxis, by_cameras['gallery_cameras']),
  ):
    number = len(cameras)
    step = 1 if number <= MAX_CAMERAS else -(-number // FEW_TICKS)
    axis.set_ticks(range(0, number, step), cameras[::step])
  if max(rows, columns) <= MAX_CAMERAS:
    for i, j in np.argwhere(~np.isnan(values)):
      axes.text(
        j, i, f'{100 * values[i, j]:.0f}', ha='center', va='center',
        fontsize=8, color='white' if values[i, j] < 0.6 else 'black',
      )  # fmt: skip
  axes.set(
    title='mAP, each gallery camera alone',
    xlabel='gallery camera',
    ylabel='query camera',
  )
  figure.colorbar(image, ax=axes, shrink=0.8)
  return _picture(figure)


def _figure(panels: int):
  """Returns a Matplotlib figure with plots side by side, and their axes."""
  from matplotlib.figure import Figure  # slow to import

  figure = Figure((5.5 * panels, 4.8), layout='constrained')
  return figure, figure.subplots(1, panels, squeeze=False)[0]


def _picture(figure) -> Image.Image:
  """Renders a Matplotlib figure as a picture."""
  file = io.BytesIO()
  figure.savefig(file, format='png', dpi=110)
  return Image.open(file)
