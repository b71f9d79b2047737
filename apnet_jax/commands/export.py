"""Exports a trained network to another runtime, or for trackers.

  python -m apnet_jax export --ckpt=runs/market --output=market.onnx

The suffix of --output chooses the format: .onnx (needs the extra onnx);
.stablehlo, which jax.export reads on CPUs, CUDA and TPUs, for about six months;
.savedmodel, a folder for TensorFlow, or .tflite (both need the extra data). The
size of batches is dynamic. Embeddings have length 1. By default, images are
resized and normalised before; --preprocess=inside puts both into the file,
which then takes uint8 images of any size. --noflip leaves out the mirror image,
which halves the time.

--for=boxmot writes a folder of ONNX files that trackers of boxmot take
unchanged, and --for=ultralytics a file for those of Ultralytics. A model card
lies beside each export. Before a file is kept, it is run and compared with the
network. docs/export.md has the details.
"""

from collections.abc import Callable
import pathlib

from absl import flags

from apnet_jax import cli, hub
from apnet_jax.errors import UserError
from apnet_jax.export import job
from apnet_jax.export.graph import Graph
from apnet_jax.inference import packing
from apnet_jax.inference.embedder import Embedder
from apnet_jax.workdir import run_files
from apnet_jax.workdir.checkpoints import open_for_reading


def command() -> Callable:
  """Defines the absl flags of this command, and returns its `main(argv)`."""
  ckpt = flags.DEFINE_string('ckpt', None, cli.CKPT_HELP, required=True)
  output = flags.DEFINE_string(
    'output',
    None,
    'File or folder to write; with --for=boxmot, a new or empty folder.',
    required=True,
  )
  which, flip = cli.define_which(), cli.define_flip()
  tracker = flags.DEFINE_enum(
    'for', None, ['boxmot', 'ultralytics'], 'Tracker that takes the file.'
  )
  preprocess = flags.DEFINE_enum(
    'preprocess', 'outside', ['outside', 'inside'],
    'Whether the file resizes and normalises images.',
  )  # fmt: skip
  weights = flags.DEFINE_enum(
    'weights', 'float32', ['float32', 'float16'], 'Type of the stored kernels.'
  )
  image_size = flags.DEFINE_list(
    'image_size', None, 'Height and width; default: those of the training.'
  )
  images = flags.DEFINE_string(
    'images', '', 'Images to compare with; default: drawn patterns.'
  )

  def main(argv):
    cli.no_more_arguments(argv)
    cli.quieten()
    if tracker.value and preprocess.present:
      raise UserError(f'--for={tracker.value} sets --preprocess.')
    if tracker.value == 'boxmot' and image_size.present:
      raise UserError('--for=boxmot sets --image_size.')
    if tracker.value == 'boxmot':
      job.check_folder(output.value)
    else:
      chosen = 'onnx' if tracker.value else job.format_of(output.value)
      job.check_output(output.value, chosen)

    source = hub.find_network(ckpt.value)
    embedder = Embedder.load(source, which.value, flip=flip.value)
    with open_for_reading(source) as checkpoints:
      which_one = checkpoints.chosen(which.value)
    size = _image_size(image_size.value) or embedder.image_size
    card = packing.collect(source, embedder.step, which_one, flip.value, size)

    def write(path, size, format, takes, side_file=None, given=None):
      figures = card.get(run_files.RESULT_FILE)
      graph = Graph(embedder, size, takes, weights.value, given, figures)
      found = job.export(graph, format, path, images.value, card, side_file)
      _tell(path, found)

    if tracker.value == 'boxmot':
      dataset = card['config.json']['data']['name']
      files = job.boxmot_exports(embedder.image_size, dataset)
      for name, (given, side_file) in files.items():
        path = pathlib.Path(output.value, name)
        write(path, size, 'onnx', 'normalized', side_file, given)
    elif tracker.value == 'ultralytics':
      write(output.value, size, 'onnx', 'unit')
    else:
      takes = {'outside': 'normalized', 'inside': 'uint8'}[preprocess.value]
      write(output.value, size, chosen, takes)

  return main


def _image_size(given: list[str] | None) -> tuple[int, int] | None:
  """Returns the height and width of --image_size; None without the flag."""
  if given is None:
    return None
  try:
    height, width = map(int, given)
  except ValueError as error:
    raise UserError(
      f'--image_size={",".join(given)} must be HEIGHT,WIDTH, as 256,128.'
    ) from error
  return height, width


def _tell(path, found) -> None:
  path = pathlib.Path(path).expanduser()
  print(
    f'wrote {path}: {found["bytes"] / 1e6:.1f} MB; a feature differs by'
    f' {found["largest_difference"]:.1e} at most, the lowest cosine is'
    f' {found["lowest_cosine"]:.6f} ({found["images"]}, batches of'
    f' {", ".join(map(str, found["batches"]))})'
  )
