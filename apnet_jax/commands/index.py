"""Keeps embeddings in a folder, to search in them without embedding again.

  python -m apnet_jax index --index=people --add=gallery.npz

Files that the command embed wrote are added to the index, which is made at the
first call. A file of another network is refused, and images that are in the
index already are not added again. --remove takes images out by their paths: a
search finds them no more. A call that also adds removes first, and so replaces
an image. --compact also takes what was removed from the disk. `search
--index=people` finds images in the index.

The command says which share of the ten most similar images `search --fast`
finds, measured on images of the index. If the file has columns `pid` (and
`camid`), it also says which mAP its embeddings have, in full and as stored.

--dimensions=256 --fit=train.npz keeps principal components only, fitted on the
embeddings of other images of the same network; --whiten scales them to equal
variance. An index that exists keeps its projection.

--check reads the whole index and compares its checksums. A search compares
those of what it reads.
"""

from collections.abc import Callable, Sequence

from absl import flags

from apnet_jax import cli
from apnet_jax.errors import UserError
from apnet_jax.index import accuracy, changes, files, projection, store
from apnet_jax.inference import embedding_files
from apnet_jax.printing import counted
from apnet_jax.workdir import lock


def command() -> Callable:
  """Defines the absl flags of this command, and returns its `main(argv)`."""
  folder = flags.DEFINE_string(
    'index', None, 'Folder of the index.', required=True
  )
  added = flags.DEFINE_multi_string(
    'add', [], 'File of embeddings to add; may be repeated.'
  )
  removed = flags.DEFINE_multi_string(
    'remove', [], 'Path of an image to take out; may be repeated.'
  )
  compact = flags.DEFINE_bool(
    'compact', False, 'Rewrites the index without the rows that were removed.'
  )
  dtype = flags.DEFINE_enum(
    'dtype',
    None,
    files.DTYPES,
    f'Type of the embeddings in a new index. Default: {changes.DTYPE}.',
  )
  dimensions = flags.DEFINE_integer(
    'dimensions', None, 'Principal components in a new index.', 1
  )
  fit = flags.DEFINE_string(
    'fit', None, 'File of embeddings that give the principal components.'
  )
  whiten = flags.DEFINE_bool(
    'whiten',
    False,
    'Scales the principal components of --dimensions to equal variance.'
    ' `eval.py --fit` tells what this costs.',
  )
  check = flags.DEFINE_bool(
    'check', False, 'Reads the whole index, and tells whether it is damaged.'
  )

  def main(argv):
    cli.no_more_arguments(argv)
    if not any(f.value for f in (added, removed, compact, check)):
      raise UserError('give --add, --remove, --compact or --check.')
    fits = check_projection(
      folder.value, dimensions.value, fit.value, whiten.value
    )
    check_networks([*added.value, *([fit.value] if fits else [])])
    cli.quieten()
    short = None
    if fits:
      short = projection.fit(fit.value, dimensions.value)
      short = short.whitened() if whiten.value else short
    elif fit.value:
      print(f'{folder.value} keeps its projection: --fit is not used')
    if added.value:
      add_files(folder.value, added.value, dtype.value, short, removed.value)
    elif removed.value:
      with lock.held(folder.value, '--index'):
        count = store.Index(folder.value).remove(removed.value)
      print(f'removed {count:,}')
    if compact.value:
      count = changes.compact(folder.value)
      print(
        f'rewrote the index without {counted(count, "removed row")}'
        if count
        else 'there is no removed row to take off the disk'
      )
      if not store.has_rows(folder.value):
        print('the index is empty: the next --add makes it again')
        return
    if check.value:
      store.Index(folder.value).check()
      print('the index is intact: all checksums match')
    print(describe(store.Index(folder.value)))

  return main


def add_files(
  folder: str,
  paths: Sequence[str],
  dtype: str | None,
  short: projection.Projection | None,
  removed: Sequence[str],
) -> None:
  """Adds files of embeddings, and prints what was added of each.

  Args:
    folder: folder of the index.
    paths: the files.
    dtype: value of --dtype.
    short: projection of the embeddings in a new index; None for none.
    removed: paths of images that are removed before; see `changes.add_files`.
  """
  rows = len(store.Index(folder)) if removed else 0
  for path, new, known in changes.add_files(
    folder, paths, dtype, short, removed
  ):
    rows += new
    print(
      f'added {counted(new, "row")} of {path}; {known:,} were already in the'
      ' index, or twice in the file'
    )
    found = accuracy.measure(store.Index(folder), path)
    print(describe_accuracy(found), end='')
  if removed:
    print(f'removed {rows - len(store.Index(folder)):,}')


def check_projection(
  folder: str, dimensions: int | None, fit: str | None, whiten: bool
) -> bool:
  """Checks the flags of a projection, and tells whether to fit one.

  Returns:
    False if none is wanted, or the index has one to as many dimensions.

  Raises:
    UserError: not both of the first two are given, or the index exists and is
      another one.
  """
  if not dimensions and not fit:
    if whiten:
      raise UserError('--whiten needs --dimensions and --fit.')
    return False
  if store.has_rows(folder):
    index = store.Index(folder)
    kept = index.info['dimensions']
    if index.projection and dimensions == kept:
      if whiten and not index.projection.is_whitened:
        raise UserError(
          f'--whiten is for a new index: {folder} exists, and is not whitened.'
        )
      return False
    raise UserError(
      f'--dimensions and --fit are for a new index: {folder} exists, and keeps'
      f' {kept:,} dimensions of all that is added. Leave them out.'
    )
  if not dimensions or not fit:
    raise UserError('--dimensions and --fit belong together: give both.')
  return True


def check_networks(paths: Sequence[str]) -> None:
  """Checks files of embeddings before anything is written.

  Raises:
    UserError: a file cannot be read, or two come from different networks.
  """
  found: dict[str, str] = {}
  for path in paths:
    with embedding_files.reading(path) as file:
      found.setdefault(file.info['fingerprint'], path)
  if len(found) > 1:
    (a, first), (b, second), *_ = found.items()
    raise UserError(
      f'{second} has embeddings of another network than {first}: the'
      f' fingerprints are {b} and {a}.'
    )


def describe_accuracy(found: dict | None) -> str:
  """Returns the result of `accuracy.measure` as a line, or '' for None."""
  if found is None:
    return ''
  return (
    f'mAP among {found["images"]:,} images: {100 * found["full"]:.2f}% in full,'
    f' {100 * found["index"]:.2f}% as stored,'
    f' {100 * found["codes"]:.2f}% by codes alone\n'
  )


def describe(index: store.Index) -> str:
  """Returns the size of an index and the recall of fast search, as a text."""
  text = (
    f'{counted(len(index), "embedding")} of {index.info["dimensions"]:,}'
    f' features, network {index.info["fingerprint"]}'
  )
  recall = index.info.get('recall')
  if recall is None:
    return text
  return f'{text}\nsearch --fast finds {100 * recall:.1f}% of the ten closest'
