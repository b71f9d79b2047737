"""Keeps embeddings in a folder, to search in them without embedding again.

  python -m apnet_jax index --index=people --add=gallery.npz

Files that the command embed wrote are added to the index, which is made at the
first call. A file of another network is refused, and images that are in the
index already are not added again. --remove takes images out by their paths.
`search --index=people` finds images in it.

The command says which share of the ten most similar images `search --fast`
finds, measured on images of the index.
"""

from collections.abc import Callable

from absl import flags

from apnet_jax import cli
from apnet_jax.errors import UserError
from apnet_jax.index import store
from apnet_jax.inference import embedding_files


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
  dtype = flags.DEFINE_enum(
    'dtype',
    'float16',
    embedding_files.DTYPES,
    'Type of the embeddings in a new index.',
  )

  def main(argv):
    cli.no_more_arguments(argv)
    if not added.value and not removed.value:
      raise UserError('give --add or --remove.')
    cli.quieten()
    for path in added.value:
      _, new, known = store.add(folder.value, path, dtype.value)
      print(f'added {new:,} of {path}; {known:,} were in the index')
    if removed.value:
      count = store.Index(folder.value).remove(removed.value)
      print(f'removed {count:,}')
    print(describe(store.Index(folder.value)))

  return main


def describe(index: store.Index) -> str:
  """Returns the size of an index and the recall of fast search, as a text."""
  text = (
    f'{len(index):,} embeddings of {index.info["dimensions"]:,} features,'
    f' network {index.info["fingerprint"]}'
  )
  recall = index.info.get('recall')
  if recall is None:
    return text
  return f'{text}\nsearch --fast finds {100 * recall:.1f}% of the ten closest'
