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

Images that cannot be read are left out and listed at the end; --strict makes
the first of them an error. Images whose path --pattern does not match have the
identity ? on the map, and are listed, too.
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

UNKNOWN = '?'  # identity or camera of an image that the pattern does not match


def command() -> Callable:
  """Defines the absl flags of this command, and returns its `main(argv)`."""
  ckpt = flags.DEFINE_string('ckpt', None, cli.CKPT_HELP, required=True)
  which, flip = cli.define_which(), cli.define_flip()
  output = flags.DEFINE_string('output', 'map.html', 'Page to write.')
  pattern = flags.DEFINE_string(
    'pattern',
    '',
    'Regular expression with the groups pid and camid, which is searched for in'
    ' paths.',
  )
  strict = cli.define_strict()

  def main(argv):
    cli.check_output(output.value, '--output')
    source = rows.find(argv[1:])
    if rows.BOX[0] in source.columns:
      raise UserError('the map shows whole images, not boxes in images.')
    some = thumbnails.evenly(len(source), map_page.MAX_POINTS)
    columns = {name: column[some] for name, column in source.columns.items()}
    identities, cameras = read_labels(columns, pattern.value)
    cli.quieten()
    embedder = Embedder.load(ckpt.value, which.value, flip=flip.value)
    paths = columns['path'].tolist()
    optional = set() if strict.value else {*paths}
    (found,) = image_files.embed_files(embedder, paths, optional=optional)
    kept = [i for i, path in enumerate(paths) if path not in found.unreadable]
    identities = [identities[i] for i in kept]
    data = map_page.describe_points(
      found.embeddings,
      found.paths,
      identities,
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
    if pattern.value:
      cli.warn(describe_unknown(found.paths, identities))

  return main


def read_labels(
  columns: Mapping[str, np.ndarray], pattern: str
) -> tuple[Sequence, Sequence | None]:
  """Returns the identity and the camera of each image.

  Args:
    columns: columns of the images by name: `path`, and perhaps `pid`, `camid`.
    pattern: regular expression that is searched for in paths; '' for none.

  Returns:
    The identities, and the cameras, which are None if they are not known. Both
    are `UNKNOWN` for a path that the pattern does not match.

  Raises:
    UserError: the pattern has a mistake or no group pid, or matches no path.
  """
  paths = columns['path'].tolist()
  if not pattern:
    folders = [pathlib.Path(path).parent.name for path in paths]
    pids, cameras = columns.get('pid', folders), columns.get('camid')
    return list(map(str, pids)), cameras if cameras is None else [*cameras]
  try:
    expression = re.compile(pattern)
  except re.error as error:
    raise UserError(f"--pattern='{pattern}': {error}.") from error
  if 'pid' not in expression.groupindex:
    raise UserError(f"--pattern='{pattern}' has no group (?P<pid>...).")
  found = [expression.search(path) for path in paths]
  if not any(found):
    raise UserError(
      f"--pattern='{pattern}' is found in none of {len(paths):,} paths. The"
      f' first: {paths[0]}.'
    )

  def groups(name):  # a group may be optional, and empty
    return [(match and match[name]) or UNKNOWN for match in found]

  has_cameras = 'camid' in expression.groupindex
  return groups('pid'), groups('camid') if has_cameras else None


def describe_unknown(paths: Sequence[str], identities: Sequence) -> str:
  """Returns a warning that counts the images without an identity, else ''.

  Args:
    paths: paths of the images.
    identities: identity of each, see `read_labels`.
  """
  unknown = [path for path, i in zip(paths, identities) if i == UNKNOWN]
  if not unknown:
    return ''
  return image_files.name_first(
    f'--pattern is not found in {len(unknown):,} of {len(paths):,} paths; these'
    f' images have the identity {UNKNOWN}:',
    unknown,
  )
