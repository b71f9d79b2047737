"""Draws the training curves of one run or of several, as a page.

  python -m apnet_jax curves runs/market
  python -m apnet_jax curves runs/a runs/b --output=curves.html

The page shows loss, learning rate, accuracy, active triplets, mAP and Rank-1 by
epoch, the time that a run took, and where its configuration differs from the
paper. It is made of metrics.jsonl and config.json of each workdir alone, also
while the run goes on. Training renews WORKDIR/report.html by itself after each
evaluation.
"""

from collections.abc import Callable
import pathlib

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

  def main(argv):
    from apnet_jax.visualize import page, training_page

    workdirs = argv[1:]
    if not workdirs:
      raise UserError('curves takes one or several workdirs of train.py.')
    if len(set(workdirs)) < len(workdirs):
      raise UserError('curves: a workdir is given twice.')
    if len(workdirs) > 1 and not output.value:
      raise UserError('for several runs give --output, the file for the page.')
    path = pathlib.Path(
      output.value or pathlib.Path(workdirs[0], training_page.PAGE)
    )
    if path.suffix != '.html':
      raise UserError(f'--output={path} does not end in .html.')
    page.write_page(path, training_page.make_page(workdirs))
    print(f'The curves are in {path.absolute().as_uri()}')

  return main
