"""Reads the metrics of a run from its metrics.jsonl."""

from collections.abc import Iterator, Mapping, Sequence
import json
import os
import pathlib

from apnet_jax.errors import UserError

METRICS = 'metrics.jsonl'


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, float]]:
  """Reads the records of a run's metrics.jsonl, without a cut-off last line.

  Raises:
    UserError: the file cannot be read, or a line is damaged.
  """
  path = pathlib.Path(workdir) / METRICS
  try:
    lines = path.read_text().splitlines(True)
  except (OSError, UnicodeError) as error:
    raise UserError(f'{path} cannot be read: {error}') from error
  return [
    _parse(f'{path}, line {i}', line)
    for i, line in enumerate(lines, 1)
    if line.endswith('\n')  # a crash, or a write in progress, cuts it off
  ]


def _parse(name: str, line: str) -> dict[str, float]:
  try:
    record = json.loads(line)
  except ValueError as error:
    raise UserError(f'{name} is damaged: {error}') from error
  if not isinstance(record, dict) or not all(
    isinstance(value, int | float) for value in record.values()
  ):
    raise UserError(f'{name} is damaged: it is not a record of numbers.')
  if 'step' not in record:
    raise UserError(f'{name} is damaged: it has no step.')
  return record


def curve(
  records: Sequence[Mapping[str, float]], metric: str
) -> Iterator[tuple[float, float]]:
  """Yields epoch and value of each record that has a metric.

  Args:
    records: the result of `read_metrics`.
    metric: name of the metric, as 'eval/mAP'.
  """
  per_epoch = next(
    (r['step'] / r['train/epoch'] for r in records if r.get('train/epoch')), 1
  )
  for record in records:
    if metric in record:
      yield round(record['step'] / per_epoch, 4), record[metric]
