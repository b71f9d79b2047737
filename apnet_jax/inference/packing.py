"""Packs a trained network with all that its use needs into one file."""

from collections.abc import Sequence
import os

from apnet_jax import hub
from apnet_jax.models import normalization
from apnet_jax.retrieval import threshold as thresholds
from apnet_jax.retrieval.card import step_of
from apnet_jax.workdir import pack, restore, run_files
from apnet_jax.workdir.checkpoints import open_for_reading
from apnet_jax.workdir.pack import CHECKPOINT, PREPROCESSING


def pack_network(
  source: str | os.PathLike, output: str | os.PathLike, which: str = 'last'
) -> dict:
  """Packs a trained network into one file; see `workdir.pack`.

  The file contains the weights, the configuration, the facts of the run, the
  preprocessing of images, and the threshold and the result card if they belong
  to the checkpoint, all without the folders of this machine.

  Args:
    source: workdir of `train.py`, or another packed network; see
      `hub.find_network`.
    output: file to write, whose name ends in .apnet.
    which: checkpoint to pack, 'last' or 'best'.

  Returns:
    The JSON files that were packed, by name.

  Raises:
    UserError: the network cannot be read, or the name of the file is wrong.
  """
  pack.check_name(output)
  source = hub.find_network(source)
  with open_for_reading(source) as checkpoints:
    config, run = run_files.load_config(source), run_files.load_run(source)
    step, _, variables = restore.restore_model(
      checkpoints, which, config, run['num_classes']
    )
    which = checkpoints.chosen(which)
  parts = collect(source, step, which)
  pack.write(output, variables, parts)
  return parts


def collect(
  source: str | os.PathLike,
  step: int,
  which: str,
  flip: bool | None = None,
  image_size: Sequence[int] | None = None,
) -> dict:
  """Collects what is known about a checkpoint besides its weights.

  Folders of the machine that trained are left out.

  Args:
    source: workdir of `train.py`, or packed network.
    step: step of the checkpoint.
    which: how the checkpoint was chosen, 'last' or 'best'.
    flip: whether images are embedded with their mirror images; None for the
      settings of the threshold, or of the run.
    image_size: height and width of images, if it is not that of the training,
      for which threshold and result card hold.

  Returns:
    Contents of JSON files, by names of `pack.PARTS`.

  Raises:
    UserError: a file is damaged.
  """
  config, threshold = run_files.load_config(source), thresholds.load(source)
  embedding = config.copy_and_resolve_references()
  thresholds.adopt_settings(embedding.eval, threshold, step)
  if flip is not None:
    embedding.eval.flip = flip
  parts = {
    CHECKPOINT: {'step': step, 'which': which},
    PREPROCESSING: preprocessing(embedding),
    run_files.CONFIG_FILE: pack.config_without_places(config.to_dict()),
    run_files.RUN_FILE: pack.run_without_places(run_files.load_run(source)),
  }
  if image_size and [*image_size] != [*config.data.image_size]:
    parts[PREPROCESSING]['height_width'] = [*image_size]
    return parts
  flip = embedding.eval.flip
  if threshold and (threshold['step'], threshold['flip']) == (step, flip):
    parts[run_files.THRESHOLD_FILE] = threshold
  card = run_files.read_file(source, run_files.RESULT_FILE)
  if card and step_of(card) == step:
    parts[run_files.RESULT_FILE] = pack.card_without_places(card)
  return parts


def preprocessing(config) -> dict:
  """Returns in words and numbers how images become the network's input.

  Args:
    config: the whole configuration, with `eval` as images are embedded.
  """
  return {
    'channels': 'RGB',
    'upright': 'turned by the EXIF orientation',
    'height_width': list(config.data.image_size),
    'resize': 'bilinear with antialiasing, of the whole image (Pillow)',
    'scale': 1 / 255,
    'mean': list(normalization.MEAN),
    'std': list(normalization.STD),
    'feature': config.eval.feature,
    'average_with_mirror_image': config.eval.flip,
    'embedding_length': 1,
  }
