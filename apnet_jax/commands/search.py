"""Finds the person of an image among other images.

  python -m apnet_jax search --ckpt=runs/market --gallery=DIR QUERY.jpg ...

A query is an image, or a folder of images. For each query, the command lists
the most similar gallery images with their cosine similarities. With a
threshold, the command also says whether the person is in the gallery at all.
The threshold is --threshold, or the one that `eval.py --choose_threshold` has
stored with the network.
"""

from collections.abc import Callable, Iterator
import sys

from absl import flags

from apnet_jax import cli, images
from apnet_jax.errors import UserError
from apnet_jax.printing import printable
from apnet_jax.retrieval import trained_network
from apnet_jax.workdir import json_files


def command() -> Callable:
  """Defines the absl flags of this command, and returns its `main(argv)`."""
  ckpt, which, given = cli.define_network()
  gallery = flags.DEFINE_string(
    'gallery', None, 'Folder of images to search, or one image.', required=True
  )
  top = flags.DEFINE_integer('top', 10, 'Images to list for each query.', 1)
  output = flags.DEFINE_string(
    'json', '', 'Also writes the results to this JSON file.'
  )
  flags.mark_flag_as_required('ckpt')

  def main(argv):
    queries = [path for name in argv[1:] for path in images.find_images(name)]
    if not queries:
      raise UserError('no query is given: name at least one image or folder.')
    items = images.find_images(gallery.value)
    cli.quieten()
    network = trained_network.open_network(ckpt.value, which.value, given.value)
    print(network.about, file=sys.stderr)
    results = []
    for query, (rows, cosines) in zip(
      queries, trained_network.search(network, queries, items, top.value)
    ):
      found = [
        {
          'image': str(items[row]),
          'similarity': round(float(cosine), 6),
          'verdict': trained_network.verdict(cosine, network.threshold) or None,
        }
        for row, cosine in zip(rows, cosines)
      ]
      results.append({'query': str(query), 'found': found})
      print(printable('\n'.join(_lines(query, found))))
    if output.value:
      content = {'threshold': network.threshold, 'results': results}
      json_files.write_json(output.value, content)

  return main


def _lines(query, found) -> Iterator[str]:
  yield str(query)
  for rank, one in enumerate(found, 1):
    verdict = one['verdict'] or ''
    yield f'{rank:5} {one["similarity"]:7.3f}  {verdict:13}{one["image"]}'
  if found[0]['verdict'] == trained_network.OTHER_PERSON:
    yield '      By the threshold, the person is not among these images.'
