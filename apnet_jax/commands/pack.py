"""Packs a trained network into one file.

  python -m apnet_jax pack --ckpt=runs/market --output=market.apnet

Every --ckpt and --init_from, and `apnet_jax.Embedder.load`, takes the file in
place of the workdir. (eval.py --choose_threshold needs the workdir.)

The file holds the weights of one checkpoint, without the state of the
optimiser; the configuration; how images are prepared; and the threshold and the
result card, if they belong to the checkpoint. Reading it executes no code, and
a file that was changed or cut off is refused. Folders of the machine that
trained are left out, so that eval.py needs --data_dir. A model card is written
beside it (market.apnet.MODEL_CARD.md). An existing file is replaced, and a
message says so.
"""

from collections.abc import Callable
import pathlib

from absl import flags

from apnet_jax import cli
from apnet_jax.inference import model_card
from apnet_jax.inference.packing import pack_network
from apnet_jax.workdir import pack, run_files


def command() -> Callable:
  """Defines the absl flags of this command, and returns its `main(argv)`."""
  ckpt = flags.DEFINE_string('ckpt', None, cli.CKPT_HELP, required=True)
  output = flags.DEFINE_string(
    'output', None, 'File to write, which ends in .apnet.', required=True
  )
  which = cli.define_which()

  def main(argv):
    cli.no_more_arguments(argv)
    cli.quieten()
    path = pathlib.Path(output.value).expanduser()
    existed = path.exists()
    parts = pack_network(ckpt.value, output.value, which.value)
    card = model_card.path_beside(output.value)
    model_card.write(card, parts)
    print(
      f'{"replaced" if existed else "wrote"} {output.value}:'
      f' {path.stat().st_size / 1e6:.1f} MB, after step'
      f' {parts[pack.CHECKPOINT]["step"]},'
      f' {_with(parts, "threshold", run_files.THRESHOLD_FILE)},'
      f' {_with(parts, "result card", run_files.RESULT_FILE)}'
    )
    print(f'wrote {card}, its model card')

  return main


def _with(parts, name: str, file: str) -> str:
  return f'{"with" if file in parts else "without"} {name}'
