"""Draws the differences of tables of results, with both kinds of chance."""

from collections.abc import Sequence
import textwrap

from matplotlib.figure import Figure

from apnet_jax.paper.tables import Row, Table
from benchmarks.ablation_groups import Difference, Group, difference

CLEAR, UNCLEAR, SEED = '#2166ac', '#999999', 'black'
WIDTH = 76  # of a title's lines, in characters
# Title, what the rows are compared with, and the rows.
Plot = tuple[str, str, list[tuple[Row, Difference]]]


def differences(
  table: Table, title: str, label: str, results: Group, other: Group | None
) -> Plot:
  """Returns what a plot shows: the rows that are compared with another.

  Args:
    table: table of the paper.
    title: title of the plot.
    label: what the differences are.
    results: see `ablation_groups.difference`.
    other: see `ablation_groups.difference`.
  """
  found = [(row, difference(results, row, other)) for row in table.rows]
  return title, label, [(row, one) for row, one in found if one is not None]


def draw(plots: Sequence[Plot]) -> Figure:
  """Draws differences in mAP, in a plot for each table.

  A bar is the 95% interval over the people, a circle the mean over the seeds,
  and a dot the difference of one seed. Those that `Difference.is_clear` calls
  clear are in blue, others in grey.

  Args:
    plots: what to show, at least one row for each.
  """
  heights = [1.2 + 0.35 * len(rows) for *_, rows in plots]
  figure = Figure((7, sum(heights)), layout='constrained')
  axes = figure.subplots(len(plots), squeeze=False, height_ratios=heights)
  for (one,), (title, label, rows) in zip(axes, plots):
    one.set_title(textwrap.fill(title, WIDTH), fontsize=9)
    one.set_xlabel(label, fontsize=9)
    _draw(one, rows)
  return figure


def _draw(axes, rows) -> None:
  for place, (_, found) in enumerate(rows):
    colour = CLEAR if found.is_clear else UNCLEAR
    low, high = found.interval
    axes.barh(place, high - low, 0.3, low, color=colour, alpha=0.35)
    axes.plot(found.mean, place, 'o', color=colour, ms=8)
    seeds = [*found.seeds.values()]
    axes.plot(seeds, [place] * len(seeds), '.', color=SEED, ms=5)
  axes.axvline(0, color='black', lw=0.8)
  # The title of a recipe has all its fields.
  labels = [row.name if row.recipe else row.title for row, _ in rows]
  axes.set_yticks(range(len(rows)), labels)
  axes.set_ylim(len(rows) - 0.5, -0.5)
  axes.grid(axis='x', alpha=0.3)
