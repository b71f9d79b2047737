"""Draws the figures of `cost.py`: a row of plots for each sweep."""

from collections.abc import Mapping

from matplotlib.figure import Figure

SPEED, WORK, PYRAMID = '#1a9641', 'black', '#d7191c'
TITLES = {
  'size': 'Image size',
  'batch': 'Batch size',
  'level': 'Pyramid level',
  'radix': 'Radix',
  'backbone': 'Backbone',
  'spatial-size': 'APNet-S: image size',
  'spatial-level': 'APNet-S: pyramid level',
}


def formats() -> list[str]:
  """Returns the formats of pictures, which are suffixes of files."""
  return list(Figure().canvas.get_supported_filetypes())


def draw(figures: Mapping, base: str) -> Figure:
  """Plots images/s (left) and multiply-adds (right), in a row for each sweep.

  Args:
    figures: figures by sweep and value, see `cost.summarize`.
    base: description of the base configuration.
  """
  figure = Figure((9, 0.6 + 2.6 * len(figures)), layout='constrained')
  figure.suptitle(f'Training step; {base}', fontsize=10)
  rows = figure.subplots(len(figures), 2, squeeze=False)
  for (left, right), (sweep, points) in zip(rows, figures.items()):
    known = {value: point for value, point in points.items() if point}
    _draw(left, sweep, known, {'images/s': SPEED})
    fastest = max((point['images/s'] for point in known.values()), default=0)
    left.set(ylabel='images/s', ylim=(0, 1.1 * fastest or None))
    both = {'multiply-adds': WORK, 'of the pyramid': PYRAMID}
    _draw(right, sweep, known, both)
    right.set(ylabel='multiply-adds per image', yscale='log')
  lines, names = right.get_legend_handles_labels()
  figure.legend(lines, names, loc='outside lower right', ncols=2, fontsize=8)
  return figure


def _draw(axes, sweep: str, points: Mapping, colours: Mapping) -> None:
  sizes = sweep.endswith('size')
  x = [
    point['positions'] if sizes else place
    for place, point in enumerate(points.values())
  ]
  line = '' if sweep == 'backbone' else '-'  # backbones are not ordered
  for name, colour in colours.items():
    y = [point[name] or float('nan') for point in points.values()]
    axes.plot(x, y, marker='o', ls=line, color=colour, label=name)
  if sizes:
    axes.set_xscale('log')
    axes.minorticks_off()
  axes.set_xticks(x, [name.replace('_', '\n') for name in points], fontsize=8)
  axes.set_title(TITLES[sweep], fontsize=10)
  axes.grid(alpha=0.3)
