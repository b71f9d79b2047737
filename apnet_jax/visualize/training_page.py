"""The page of a training run, or of several: curves made of metrics.jsonl."""

from collections.abc import Mapping, Sequence
import os
import pathlib

from apnet_jax.paper.differences import differences
from apnet_jax.visualize import page, thumbnails
from apnet_jax.workdir import metric_reader, run_files

TEMPLATE = 'training.html.j2'
PAGE = 'report.html'
# Charts by heading: the metrics that they show, and the scale of the axis.
CHARTS = {
  'Loss': (
    ('train/loss', 'train/cross_entropy', 'train/triplet'), 'linear',
  ),
  'Learning rate': (('train/learning_rate',), 'log'),
  'Accuracy on the batch': (('train/accuracy',), 'linear'),
  'Active triplets': (('train/active_triplets',), 'linear'),
  'mAP and Rank-1': (
    ('eval/mAP', 'eval/Rank-1', 'eval/mAP_expected', 'eval/mAP_least'),
    'linear',
  ),
  'Gradient norm': (('train/gradient_norm',), 'log'),
  'Images per second': (('train/images_per_second',), 'linear'),
}  # fmt: skip
MAX_POINTS = 1000  # of a line
TIMES = ('step', 'data', 'save', 'evaluation')  # train/seconds_NAME


def page_data(runs: Mapping[str, Sequence[Mapping]]) -> dict:
  """Collects what the page shows, ready for JSON.

  Args:
    runs: records of `metric_reader.read_metrics` by the name of the run.

  Returns:
    `charts`, whose lines have points of epoch and value; `runs`, the names; and
    `times`, for each run.
  """
  charts = []
  for title, (metrics, scale) in CHARTS.items():
    lines = [
      {
        'run': i,
        'name': ': '.join([*[name] * (len(runs) > 1), metric.split('/')[1]]),
        'metric': j,
        'points': points,
      }
      for i, (name, records) in enumerate(runs.items())
      for j, metric in enumerate(metrics)
      if (points := _points(records, metric, scale))
    ]
    if lines:
      charts.append({'title': title, 'scale': scale, 'lines': lines})
  return {
    'charts': charts,
    'runs': [*runs],
    'times': [_times(records) for records in runs.values()],
  }


def _points(records, metric: str, scale: str) -> list[tuple]:
  """Returns epoch and value of the records that have a metric to draw.

  All evaluations are drawn. Of other records, at most `MAX_POINTS` are, evenly
  spaced and with the last, so that the page of a long run stays small.
  """
  points = [
    (epoch, float(f'{value:.6g}'))
    for epoch, value in metric_reader.curve(records, metric)
    if scale != 'log' or value > 0
  ]
  if metric.startswith('eval/'):
    return points
  return [points[i] for i in thumbnails.evenly(len(points), MAX_POINTS)]


def _times(records) -> dict[str, float]:
  """Returns the seconds that a run has spent in each of `TIMES`.

  The records hold seconds for each step since the record before.
  """
  seconds, before = dict.fromkeys(TIMES, 0.0), 0
  for record in records:
    if 'train/seconds_step' in record:
      for name in TIMES:
        each = record.get(f'train/seconds_{name}', 0)
        seconds[name] += each * (record['step'] - before)
      before = record['step']
  return {name: round(value, 3) for name, value in seconds.items()}


def make_page(workdirs: Sequence[str | os.PathLike]) -> str:
  """Returns the page of some runs.

  Raises:
    UserError: a file of a workdir cannot be read or is damaged.
  """
  names = [str(workdir) for workdir in workdirs]
  if len(workdirs) == 1:
    names = [pathlib.Path(workdirs[0]).absolute().name]
  runs = {
    name: metric_reader.read_metrics(workdir)
    for name, workdir in zip(names, workdirs)
  }
  found = {
    name: list(differences(run_files.load_full_config(workdir)))
    for name, workdir in zip(names, workdirs)
  }
  return page.render(
    TEMPLATE,
    page_data(runs),
    title=f'Training of {", ".join(names)}',
    most=MAX_POINTS,
    differences=found,
    steps={
      name: max((record['step'] for record in records), default=0)
      for name, records in runs.items()
    },
  )


def renew(workdir: str | os.PathLike) -> None:
  """Writes report.html in a workdir, from the metrics so far.

  Raises:
    UserError: a file of the workdir cannot be read or is damaged.
    OSError: the page cannot be written.
  """
  page.write_page(pathlib.Path(workdir) / PAGE, make_page([workdir]))
