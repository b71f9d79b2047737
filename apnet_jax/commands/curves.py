"""Draws the training curves of runs as a page, or compares them with a record.

  python -m apnet_jax curves runs/market
  python -m apnet_jax curves runs/a runs/b --output=curves.html
  python -m apnet_jax curves runs/0 runs/1 runs/2 --record=market.json
  python -m apnet_jax curves runs/market --expected=market.json

The page shows loss, learning rate, accuracy, active triplets, mAP and Rank-1 by
epoch, the time that a run took, and where its configuration differs from the
paper. It is made of metrics.jsonl and config.json of each workdir alone, also
while the run goes on. Training renews WORKDIR/report.html by itself after each
evaluation.

--record keeps the mAP by epoch of at least three runs that differ in their
seeds alone. --expected compares other runs of the same recipe with that record,
and exits with code 1 if one lies below the lower limit at its last evaluation.
Training compares each evaluation by itself if config.eval.expected_curve names
a record.
"""

from collections.abc import Callable, Sequence
import pathlib
import sys

from absl import flags

from apnet_jax.errors import UserError


def command() -> Callable:
  """Defines the absl flags of this command, and returns its `main(argv)`."""
  output = flags.DEFINE_string(
    'output',
    '',
    'File for the page, which ends in .html; needed for several runs. Default'
    ' for a single run: report.html in its workdir.',
  )
  record = flags.DEFINE_string(
    'record', '', 'File for a record of the runs, in place of the page.'
  )
  expected = flags.DEFINE_string(
    'expected', '', 'Record to compare the runs with, in place of the page.'
  )

  def main(argv):
    workdirs = argv[1:]
    if not workdirs:
      raise UserError('curves takes one or several workdirs of train.py.')
    if len(set(workdirs)) < len(workdirs):
      raise UserError('curves: a workdir is given twice.')
    given = [f for f in (output, record, expected) if f.value]
    if len(given) > 1:
      raise UserError('give one of --output, --record and --expected.')
    if record.value:
      write_record(workdirs, record.value)
    elif expected.value:
      if not compare(workdirs, expected.value):
        sys.exit(1)
    else:
      draw(workdirs, output.value)

  return main


def draw(workdirs: Sequence[str], output: str) -> None:
  """Writes the page of runs.

  Raises:
    UserError: the name of the page is missing or does not end in .html, or a
      file of a workdir is damaged.
  """
  from apnet_jax.visualize import page, training_page

  if len(workdirs) > 1 and not output:
    raise UserError('for several runs give --output, the file for the page.')
  path = pathlib.Path(output or pathlib.Path(workdirs[0], training_page.PAGE))
  if path.suffix != '.html':
    raise UserError(f'--output={path} does not end in .html.')
  page.write_page(path, training_page.make_page(workdirs))
  print(f'The curves are in {path.absolute().as_uri()}')


def write_record(workdirs: Sequence[str], path: str) -> None:
  """Writes the record of runs, and prints its band.

  Raises:
    UserError: the runs cannot stand in one record.
  """
  from apnet_jax.training import expected_curve
  from apnet_jax.workdir import json_files

  json_files.write_json(path, expected_curve.make_record(workdirs))
  expected = expected_curve.read(path)
  for epoch in expected.epochs:
    band = expected.band(epoch)
    assert band is not None  # the record has this epoch
    mean, least = (100 * value for value in band)
    print(f'epoch {epoch:g}: mean mAP {mean:.1f}, lower limit {least:.1f}')
  print(f'wrote {path}')


def compare(workdirs: Sequence[str], path: str) -> bool:
  """Prints how runs compare with a record.

  Returns:
    Whether no run lies below the band at the last evaluation that the record
    has, too.

  Raises:
    UserError: the record cannot be read, a run is of another recipe, or has no
      evaluation that could be compared.
  """
  from apnet_jax.training import expected_curve

  expected = expected_curve.read(path)
  last = []
  for workdir in workdirs:
    verdicts = list(expected_curve.judge_run(workdir, expected))
    if not verdicts:
      raise UserError(f'{workdir} has no evaluation at an epoch of {path} yet.')
    for verdict in verdicts:
      print(f'{workdir}, {verdict}')
    last.append(verdicts[-1])
  return not any(verdict.is_below for verdict in last)
