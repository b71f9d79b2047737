"""Draws what a trained network looks at (Grad-CAM and learned attention).

  python -m apnet_jax attention --ckpt=runs/market A.jpg
  python -m apnet_jax attention --ckpt=runs/market --match=B.jpg A.jpg
  python -m apnet_jax attention --ckpt=runs/market --summary DIR

For each image, the command writes a picture of Grad-CAM after each level of the
attention pyramid, and of the attention that each level has learned, and the
arrays as .npz. What is explained is the logit of a training identity: the one
that the network predicts, or that of --identity. With --match it is the cosine
similarity to another image, and both images are shown.

A table gives the entropy and the area of each map, and how faithful it is: how
far the target falls when the most attended pixels are replaced (attended), and
when the same region at a random place is (random). --summary averages the table
over all images, and draws no pictures. docs/attention.md explains the measures.

Images of a folder that cannot be read are left out and listed at the end;
--strict makes the first of them an error. An image that is named itself must be
readable.
"""

from collections.abc import Callable, Iterator, Sequence
import os
import pathlib

from absl import flags
import jax
import numpy as np
from tqdm import tqdm

from apnet_jax import cli, hub, images
from apnet_jax.errors import UserError
from apnet_jax.inference import image_files
from apnet_jax.parallel import devices
from apnet_jax.printing import printable
from apnet_jax.visualize import attention_maps, attention_sheet
from apnet_jax.workdir import json_files, run_files
from apnet_jax.workdir.checkpoints import open_for_reading
from apnet_jax.workdir.restore import restore_model
from apnet_jax.writing import whole

SUMMARY_BATCH = 8  # images that are explained at once
SUMMARY_FILE = 'summary.json'


def command() -> Callable:
  """Defines the absl flags of this command, and returns its `main(argv)`."""
  ckpt = flags.DEFINE_string('ckpt', None, cli.CKPT_HELP, required=True)
  which = cli.define_which()
  output = flags.DEFINE_string('output', 'attention', 'Folder to write to.')
  match = flags.DEFINE_string(
    'match', None, 'Image whose similarity to each of the others is explained.'
  )
  identity = flags.DEFINE_integer(
    'identity',
    None,
    'Number of the training identity whose logit is explained, from 0. Default:'
    ' the one that the network predicts.',
  )
  site = flags.DEFINE_integer(
    'site',
    None,
    'Stage of the backbone to look at: 1 to 4, or 0 for the stem, after which'
    " the released code's network has a pyramid, too. Default: the last stage"
    ' with a pyramid, or the last of a network without pyramids.',
  )
  all_sites = flags.DEFINE_bool(
    'all_sites',
    False,
    'Looks at all stages that have a pyramid, or all of a network without'
    ' pyramids.',
  )
  level = flags.DEFINE_multi_integer(
    'level',
    [],
    'Level of the pyramid to look at; 0 is the map before it. May be repeated.'
    ' Default: all.',
  )
  road = flags.DEFINE_integer(
    'road',
    1,
    'Random regions that the faithfulness score compares with; 0 leaves the'
    ' score out.',
    0,
  )
  seed = flags.DEFINE_integer(
    'seed', 0, 'Seed of random pixels and regions.', 0
  )
  summary = flags.DEFINE_bool(
    'summary',
    False,
    'Prints the means of the measures over all images, and draws no pictures.',
  )
  strict = cli.define_strict()

  def main(argv):
    paths = [path for name in argv[1:] for path in images.find_images(name)]
    if not paths:
      raise UserError('no image is given: name at least one image or folder.')
    for given, name, problem in (
      (match, 'identity', identity.value is not None),
      (match, 'summary', summary.value),
      (site, 'all_sites', all_sites.value),
    ):
      if given.value is not None and problem:
        raise UserError(f'--{given.name} and --{name} exclude each other.')
    cli.quieten()
    source = hub.find_network(ckpt.value)
    with open_for_reading(source) as checkpoints:
      config = run_files.load_config(source)
      devices.keep_compiled_programs(config.compilation_cache_dir)
      classes = run_files.load_run(source)['num_classes']
      step, model, variables = restore_model(
        checkpoints, which.value, config, classes
      )
    label = attention_maps.PREDICTED
    if identity.value is not None:
      label = _check_identity(identity.value, classes)
    explainer = attention_maps.Explainer(
      model,
      jax.device_put(jax.device_get(variables)),  # on one device
      config.eval.feature,
      site=site.value,
      all_sites=all_sites.value,
      levels=level.value,
      draws=road.value,
      seed=seed.value,
    )
    size = tuple(config.data.image_size)
    if match.value:
      images.read_image(match.value, size)  # before anything is written
    paths, unreadable = check_images(paths, argv[1:], size, strict.value)
    folder = make_folder(output.value)
    if summary.value:
      summarize(explainer, paths, size, label, folder, step)
    else:
      draw(explainer, paths, size, label, match.value, folder)
    cli.warn(unreadable)

  return main


def _check_identity(identity: int, classes: int) -> int:
  """Returns the identity; raises UserError if the network does not have it."""
  if not 0 <= identity < classes:
    raise UserError(
      f'--identity={identity} is not one of the {classes} identities that the'
      f' network was trained on: 0 to {classes - 1}.'
    )
  return identity


def check_images(
  paths: Sequence[pathlib.Path],
  names: Sequence[str],
  size: tuple[int, int],
  strict: bool = False,
) -> tuple[list[pathlib.Path], str]:
  """Leaves out the images of folders that cannot be read.

  Args:
    paths: the images.
    names: the images and folders that the command line names, whose images
      `paths` are.
    size: height and width of the network's images.
    strict: whether all images must be readable.

  Returns:
    The images that can be read, and a warning about the others, else ''.

  Raises:
    UserError: an image that is named itself cannot be read, or none can.
  """
  optional = set() if strict else {*paths} - {*map(pathlib.Path, names)}
  readable, errors = image_files.check_files(paths, size, optional)
  return readable, image_files.list_unreadable(errors, len(paths))


def make_folder(name: str) -> pathlib.Path:
  """Makes the output folder; raises UserError if that is not possible."""
  folder = pathlib.Path(name)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f'--output={name} cannot be made: {error}') from error
  if not os.access(folder, os.W_OK | os.X_OK):
    raise UserError(f'--output={name} is not writable.')
  return folder


def draw(
  explainer: attention_maps.Explainer,
  paths: Sequence[pathlib.Path],
  size: tuple[int, int],
  label: int,
  match: str | None,
  folder: pathlib.Path,
) -> None:
  """Writes a picture and the arrays of each image, and prints its table.

  Args:
    explainer: explains the network.
    paths: the images.
    size: height and width of the network's images.
    label: identity whose logit is explained; see `explain_identity`.
    match: image whose similarity to the others is explained instead, or None.
    folder: existing folder to write to.

  Raises:
    UserError: a picture would replace one of the images.
  """
  names = file_names(paths)
  check_targets(folder, names, [*paths, match] if match else paths)
  for path, name in zip(paths, names):
    image = images.read_image(path, size)
    if match:
      titles = [pathlib.Path(file).name for file in (path, match)]
      other = images.read_image(match, size)
      rows = list(zip(titles, explainer.explain_pair(image, other)))
    else:
      (explained,) = explainer.explain_identity(image[None], label)
      rows = [(path.name, explained)]
    titled = [
      (printable(f'{title}: {describe(explained)}'), explained)
      for title, explained in rows
    ]
    for title, explained in titled:
      print(title)
      print('\n'.join(attention_maps.table(figures(explained))))
    sheet = attention_sheet.draw_sheet(titled)
    target = folder / f'{name}.png'
    with whole(target) as part:
      sheet.save(part, 'PNG')
    # An open file, because numpy adds .npz to other names.
    with whole(target.with_suffix('.npz')) as part, part.open('wb') as file:
      arrays = dict(named_arrays(rows))
      np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # of numpy
    print(printable(f'wrote {target} and .npz'))


def describe(explained: attention_maps.Explained) -> str:
  """Returns the explained target in words."""
  if explained.label is None:
    return f'similarity {explained.value:.3f}'
  return f'logit {explained.value:.2f} of identity {explained.label}'


def figures(explained: attention_maps.Explained) -> dict[str, dict]:
  """Returns the figures of an image by the names of its maps."""
  return {
    attention_maps.map_name(level, name): found.figures
    for level in explained.levels
    for name, found in level.maps.items()
  }


def named_arrays(rows: Sequence[tuple]) -> Iterator[tuple[str, np.ndarray]]:
  """Yields the arrays of images with their names in the .npz file.

  Args:
    rows: name and explanation of each image. Arrays of the second, if there is
      one, begin with `match_`.
  """
  for prefix, (_, explained) in zip(('', 'match_'), rows):
    yield f'{prefix}image', explained.image
    for level in explained.levels:
      start = f'{prefix}site{level.site}_level{level.level}'
      yield f'{start}_grad_cam', level.heat.values
      if level.attention:
        yield f'{start}_attention', level.attention.values
        yield f'{start}_parts', level.parts
      if level.weights is not None:
        yield f'{start}_channels', level.weights


def file_names(paths: Sequence[pathlib.Path]) -> list[str]:
  """Returns a name for each image: its own, numbered where names repeat."""
  names, taken = [], set()
  for path in paths:
    name, number = path.stem, 1
    while name in taken:
      number += 1
      name = f'{path.stem}-{number}'
    taken.add(name)
    names.append(name)
  return names


def check_targets(
  folder: pathlib.Path, names: Sequence[str], inputs: Sequence
) -> None:
  """Raises UserError if a picture would replace an image that it shows."""
  targets = {(folder / f'{name}.png').resolve() for name in names}
  for path in inputs:
    if pathlib.Path(path).resolve() in targets:
      raise UserError(
        f'--output={folder}: a picture would replace the image {path}. Choose'
        ' another folder.'
      )


def summarize(
  explainer: attention_maps.Explainer,
  paths: Sequence[pathlib.Path],
  size: tuple[int, int],
  label: int,
  folder: pathlib.Path,
  step: int,
) -> None:
  """Prints the mean figures over all images, and writes them as JSON.

  Args:
    explainer: explains the network.
    paths: the images.
    size: height and width of the network's images.
    label: identity whose logit is explained; see `explain_identity`.
    folder: existing folder to write to.
    step: training step of the network.
  """
  split = images.make_split(paths, size)
  summary = attention_maps.Summary()
  batch_size = min(SUMMARY_BATCH, len(paths))
  with tqdm(
    total=len(paths), desc='Explaining', unit=' images', leave=False, delay=1
  ) as bar:
    for batch in split.batches(np.arange(len(paths)), batch_size):
      padded = np.resize(batch, (batch_size, *batch.shape[1:]))
      for explained in explainer.explain_identity(padded, label)[: len(batch)]:
        summary.add(explained)
      bar.update(len(batch))
  means = summary.means()
  print(f'means over {summary.images:,} images, after step {step}')
  print('\n'.join(attention_maps.table(means)))
  path = folder / SUMMARY_FILE
  json_files.write_json(
    path, {'step': step, 'images': summary.images, 'maps': means}
  )
  print(f'wrote {path}')
