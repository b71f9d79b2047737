"""Draws embeddings as a map of points in two dimensions.

  python -m apnet_jax map --ckpt=runs/market --output=map.html DIR

Arguments are images, folders, patterns, lists or CSV files, as for the command
embed. The page shows each image as a point: by UMAP if umap-learn is installed,
otherwise on the first two principal components. Near points have similar
embeddings. Colours tell the identity or the camera, so that a network that sees
cameras more than people shows at a glance. Pointing at a point shows its image.

Identities and cameras are the columns pid and camid of a CSV file, or what
--pattern finds in the paths: --pattern='(?P<pid>\\d+)_c(?P<camid>\\d+)'.
Otherwise the folder of an image stands for its identity. More than 2,000 images
are sampled evenly.
"""

from collections.abc import Callable, Mapping, Sequence
import pathlib
import re

from absl import flags
import numpy as np

from apnet_jax import cli, images
from apnet_jax.errors import UserError
from apnet_jax.inference import image_files, rows
from apnet_jax.inference.embedder import Embedder
from apnet_jax.visualize import map_page, page, thumbnails


def command() -> Callable:
  """Defines the absl flags of this command, and returns its `main(argv)`."""
  ckpt = flags.DEFINE_string('ckpt', None, cli.CKPT_HELP, required=True)
  which = cli.define_which()
  output = flags.DEFINE_string('output', 'map.html', 'Page to write.')
  pattern = flags.DEFINE_string(
    'pattern',
    '',
    'Regular expression with the groups pid and camid, which is searched for in'
    ' paths.',
  )

  def main(argv):
    cli.check_output(output.value, '--output')
    source = rows.find(argv[1:])
    if rows.BOX[0] in source.columns:
      raise UserError('the map shows whole images, not boxes in images.')
    some = map_page.sample(len(source))
    columns = {name: column[some] for name, column in source.columns.items()}
    identities, cameras = read_labels(columns, pattern.value)
    cli.quieten()
    embedder = Embedder.load(ckpt.value, which.value)
    paths = columns['path'].tolist()
    (found,) = image_files.embed_files(embedder, paths, optional={*paths})
    kept = [i for i, path in enumerate(paths) if path not in found.unreadable]
    data = map_page.describe_points(
      found.embeddings,
      found.paths,
      [identities[i] for i in kept],
      cameras and [cameras[i] for i in kept],
      [
        thumbnails.encode(images.read_upright(path), map_page.HEIGHT)
        for path in found.paths
      ],
      len(source),
    )
    title = f'Map of {len(found.paths):,} images'
    page.write_page(output.value, map_page.make_page(data, title))
    print(f'wrote {output.value}')
    cli.warn(image_files.describe_unreadable([found]))

  return main


def read_labels(
  columns: Mapping[str, np.ndarray], pattern: str
) -> tuple[Sequence, Sequence | None]:
  """Returns the identity and the camera of each image.

  Args:
    columns: columns of the images by name: `path`, and perhaps `pid`, `camid`.
    pattern: regular expression that is searched for in paths; '' for none.

  Returns:
    The identities, and the cameras, which are None if they are not known.

  Raises:
    UserError: the pattern has a mistake or no group pid, or a path lacks it.
  """
  paths = columns['path'].tolist()
  if not pattern:
    folders = [pathlib.Path(path).parent.name for path in paths]
    pids, cameras = columns.get('pid', folders), columns.get('camid')
    return list(map(str, pids)), cameras if cameras is None else [*cameras]
  try:
    expression = re.compile(pattern)
  except re.error as error:
    raise UserError(f'--pattern={pattern!r}: {error}.') from error
  if 'pid' not in expression.groupindex:
    raise UserError(f'--pattern={pattern!r} has no group (?P<pid>...).')
  found = [expression.search(path) for path in paths]
  for path, match in zip(paths, found):
    if not match:
      raise UserError(f'--pattern={pattern!r} is not found in {path}.')
  has_cameras = 'camid' in expression.groupindex
  cameras = [match['camid'] for match in found] if has_cameras else None
  return [match['pid'] for match in found], cameras
