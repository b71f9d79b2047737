"""Finds the person of an image among other images.

  python -m apnet_jax search --ckpt=runs/market --gallery=DIR QUERY.jpg ...

A query is an image, or a folder of images. For each query, the command lists
the most similar gallery images with their cosine similarities. With a
threshold, the command also says whether the person is in the gallery at all.
The threshold is --threshold, or the one that `eval.py --choose_threshold` has
stored with the network. Without a threshold, the command says where each
similarity lies among those of the pairs of gallery images.

Images of a folder that cannot be read are left out and listed at the end;
--strict makes the first of them an error. A query that is named itself must be
readable.
"""

from collections.abc import Callable, Iterable, Iterator
import pathlib
import sys

from absl import flags

from apnet_jax import cli, images
from apnet_jax.errors import UserError
from apnet_jax.inference import image_files
from apnet_jax.inference.embedder import Embedder
from apnet_jax.printing import printable
from apnet_jax.retrieval import gallery_pairs, nearest
from apnet_jax.retrieval.threshold import OTHER_PERSON, verdict
from apnet_jax.workdir import json_files


def command() -> Callable:
  """Defines the absl flags of this command, and returns its `main(argv)`."""
  ckpt, which, given, strict = cli.define_network()
  gallery = flags.DEFINE_string(
    'gallery', None, 'Folder of images to search, or one image.', required=True
  )
  top = flags.DEFINE_integer('top', 10, 'Images to list for each query.', 1)
  output = flags.DEFINE_string(
    'json', '', 'Also writes the results to this JSON file.'
  )
  flags.mark_flag_as_required('ckpt')

  def main(argv):
    named = [pathlib.Path(name) for name in argv[1:]]
    queries = [path for name in named for path in images.find_images(name)]
    if not queries:
      raise UserError('no query is given: name at least one image or folder.')
    items = images.find_images(gallery.value)
    cli.quieten()
    network = Embedder.load(ckpt.value, which.value, given.value)
    print(network.about, file=sys.stderr)
    results = search_files(
      network, queries, items, top.value, named, strict.value
    )
    if output.value:
      json_files.write_json(output.value, results)

  return main


def search_files(
  network: Embedder,
  queries: list,
  gallery: list,
  top: int,
  named: Iterable = (),
  strict: bool = False,
) -> dict:
  """Prints the gallery images closest to each query, and warnings.

  Args:
    network: network that embeds the images.
    queries: paths of the images to search for.
    gallery: paths of the images to search in.
    top: number of images to list for each query.
    named: paths of images that must be readable. Others that cannot be read are
      left out.
    strict: whether all images must be readable.

  Returns:
    The results, ready for JSON.

  Raises:
    UserError: an image that must be readable is not, or no query is, or no
      gallery image.
  """
  optional = set() if strict else {*queries, *gallery} - {*named}
  query, item = image_files.embed_files(
    network, queries, gallery, optional=optional
  )
  pairs = gallery_pairs.sample(item.embeddings)
  if network.threshold is None:
    print(gallery_pairs.legend(pairs), file=sys.stderr)
  results = []
  for path, (rows, cosines) in zip(
    query.paths,
    nearest.search(query.embeddings, item.embeddings, top),
  ):
    found = [
      {
        'image': str(item.paths[row]),
        'similarity': round(float(cosine), 6),
        'verdict': verdict(cosine, network.threshold) or None,
        'share_of_pairs_below': gallery_pairs.share_below(pairs, cosine),
      }
      for row, cosine in zip(rows, cosines)
    ]
    results.append({'query': str(path), 'found': found})
    print(printable('\n'.join(_lines(path, found))))
  cli.warn(gallery_pairs.describe_collapse(pairs))
  cli.warn(image_files.describe_unreadable([query, item]))
  unreadable = query.unreadable | item.unreadable
  return {
    'threshold': network.threshold,
    'results': results,
    'unreadable': {str(path): error for path, error in unreadable.items()},
  }


def _lines(query, found) -> Iterator[str]:
  yield str(query)
  for rank, one in enumerate(found, 1):
    note = one['verdict'] or gallery_pairs.place(one['share_of_pairs_below'])
    yield f'{rank:5} {one["similarity"]:7.3f}  {note:21}  {one["image"]}'
  if found[0]['verdict'] == OTHER_PERSON:
    yield '      By the threshold, the person is not among these images.'
