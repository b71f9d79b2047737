"""Finds the person of an image among other images.

  python -m apnet_jax search --ckpt=runs/market --gallery=DIR QUERY.jpg ...

With --index=people in place of --gallery it searches an index, made by the
command index, whose images are not embedded again.

A query is an image, or a folder of images; lists and CSV files are for the
command embed. For each query, the command lists the most similar gallery images
with their cosine similarities. With a threshold, the command also says whether
the person is in the gallery at all. The threshold is --threshold, or the one
that `eval.py --choose_threshold` has stored with the network; this one does not
hold for an index with --dimensions. Without a threshold, the command says where
each similarity lies among those of the pairs of gallery images.

--report=DIR writes a page, DIR/index.html, with each query and the images that
were found for it.

Images of a folder that cannot be read are left out and listed at the end;
--strict makes the first of them an error. A query that is named itself must be
readable.
"""

from collections.abc import Callable, Iterable, Iterator
import pathlib
import sys

from absl import flags
import numpy as np

from apnet_jax import cli, images
from apnet_jax.errors import UserError
from apnet_jax.index import copies
from apnet_jax.index.store import Index
from apnet_jax.inference import image_files, rows
from apnet_jax.inference.embedder import Embedder
from apnet_jax.printing import counted, printable
from apnet_jax.retrieval import gallery_pairs, nearest
from apnet_jax.retrieval.threshold import OTHER_PERSON, verdict
from apnet_jax.workdir import json_files

PLACES = ('frame', 'track', *rows.BOX)  # columns that say where in a file
NOT_OF_PROJECTED = (
  'The threshold of the network does not hold for an index with --dimensions:'
  ' give --threshold.'
)
SAMPLE = 1000  # embeddings of an index that give the scale of similarities


def command() -> Callable:
  """Defines the absl flags of this command, and returns its `main(argv)`."""
  ckpt, which, flip, given, strict = cli.define_network()
  gallery = flags.DEFINE_string(
    'gallery', None, 'Folder of images to search, or one image.'
  )
  index = flags.DEFINE_string('index', None, 'Index to search.')
  fast = flags.DEFINE_bool(
    'fast',
    False,
    'Approximate search: compares binary codes first, then only the closest'
    ' thousand embeddings exactly. The command index prints which share of the'
    ' ten closest images this finds.',
  )
  top = flags.DEFINE_integer('top', 10, 'Images to list for each query.', 1)
  output = flags.DEFINE_string(
    'json', '', 'Also writes the results to this JSON file.'
  )
  copy_to = flags.DEFINE_string(
    'copy_to', '', 'Also copies the images that were found to this folder.'
  )
  report = flags.DEFINE_string(
    'report',
    '',
    'Folder for a page (index.html) that shows each query and its results. It'
    ' must be new, empty, or that of an earlier search.',
  )
  flags.mark_flag_as_required('ckpt')

  def main(argv):
    if bool(gallery.value) == bool(index.value):
      raise UserError('give either --gallery or --index.')
    if fast.value and not index.value:
      raise UserError('--fast needs --index.')
    cli.check_output(output.value)
    copies.check_folder(copy_to.value)
    check_report(report.value, copy_to.value)
    named = [pathlib.Path(name) for name in argv[1:]]
    queries = [path for name in named for path in images.find_images(name)]
    if not queries:
      raise UserError('no query is given: name at least one image or folder.')
    stored = Index(index.value) if index.value else None
    items = images.find_images(gallery.value) if gallery.value else None
    cli.quieten()
    network = Embedder.load(ckpt.value, which.value, given.value, flip.value)
    if stored:
      results = search_index(
        network,
        queries,
        stored,
        top.value,
        named,
        strict.value,
        fast.value,
        given.value,
      )
    else:
      results = search_files(
        network, queries, items, top.value, named, strict.value
      )
    if output.value:
      json_files.write_json(output.value, results)
    if report.value:
      write_report(report.value, results, index.value or gallery.value)
    if copy_to.value:
      copied = copies.copy_found(results['results'], copy_to.value)
      print(describe_copies(copied, copy_to.value))
      cli.warn(
        image_files.list_unreadable(
          [*copied.unreadable.values()], copied.images
        )
      )

  return main


def check_report(folder: str, copy_to: str) -> None:
  """Checks that a page can be written to a folder.

  Args:
    folder: value of --report.
    copy_to: value of --copy_to.

  Raises:
    UserError: the folder has other files, cannot be written, or is that of the
      copies.
  """
  if not folder:
    return
  from apnet_jax.visualize import page, search_page

  page.check_folder(folder, (search_page.PAGE,))
  if (
    copy_to
    and pathlib.Path(folder).resolve() == pathlib.Path(copy_to).resolve()
  ):
    raise UserError('--report and --copy_to need a folder each.')


def write_report(folder: str, results: dict, searched: str) -> None:
  """Writes the page of a search, and prints its address.

  Args:
    folder: folder of the page.
    results: the results, ready for JSON.
    searched: name of the gallery or of the index.
  """
  from apnet_jax.visualize import page, search_page

  data = search_page.page_data(results)
  shown = search_page.make_page(
    data, f'Search in {searched}', results['remarks']
  )
  path = pathlib.Path(folder, search_page.PAGE)
  page.write_page(path, shown)
  print(f'The report is {path.absolute().as_uri()}')


def describe_copies(copied: copies.Copied, folder: str) -> str:
  """Returns what was copied to a folder, and what was not, as a line."""
  text = f'copied {counted(copied.copies, "image")} to {folder}'
  if not copied.in_videos:
    return text
  return (
    f'{text}, without {counted(copied.in_videos, "box", "boxes")} in videos'
  )


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
  print(network.about, file=sys.stderr)
  optional = set() if strict else {*queries, *gallery} - {*named}
  query, item = image_files.embed_files(
    network, queries, gallery, optional=optional
  )
  found = nearest.search(query.embeddings, item.embeddings, top)
  return _print_found(
    network.threshold,
    network.about,
    [query, item],
    found,
    lambda row: {'image': str(item.paths[row])},
    gallery_pairs.sample(item.embeddings),
  )


def search_index(
  network: Embedder,
  queries: list,
  index: Index,
  top: int,
  named: Iterable = (),
  strict: bool = False,
  fast: bool = False,
  threshold: float | None = None,
) -> dict:
  """Prints the images of an index closest to each query, and warnings.

  Args:
    network: network that embeds the queries, as it embedded the index.
    queries: paths of the images to search for.
    index: the index.
    top: number of images to list for each query.
    named: see `search_files`.
    strict: see `search_files`.
    fast: see `Index.search`.
    threshold: threshold for an index of projected embeddings, for which that of
      the network does not hold; None for none.

  Returns:
    The results, ready for JSON.

  Raises:
    UserError: another network made the index, the index is empty, or a query
      that must be readable is not.
  """
  index.check_network(network.fingerprint, 'this network')
  about, limit = network.about, network.threshold
  if index.projection and threshold is None:
    about, limit = NOT_OF_PROJECTED, None
  print(about, file=sys.stderr)
  optional = set() if strict else {*queries} - {*named}
  (query,) = image_files.embed_files(network, queries, optional=optional)

  return _print_found(
    limit,
    about,
    [query],
    index.search(query.embeddings, top, fast),
    lambda row: rows.found_row(index.row(row)),
    gallery_pairs.sample(index.sample(SAMPLE)),
  )


def _print_found(
  threshold: float | None,
  about: str,
  embedded: list[image_files.Embedded],
  found: Iterable,
  describe: Callable[[int], dict],
  pairs: np.ndarray,
) -> dict:
  """Prints the images that were found, and warnings.

  Args:
    threshold: cosine from which two images show one person, or None.
    about: the threshold and its origin, as a sentence that was printed.
    embedded: queries, and the gallery if it was embedded now.
    found: rows and similarities of the images found for each query.
    describe: returns the columns of a row, with `image`.
    pairs: the result of `gallery_pairs.sample`.

  Returns:
    The results, ready for JSON.
  """
  remarks = [about]
  if threshold is None:
    remarks.append(gallery_pairs.legend(pairs))
    print(remarks[-1], file=sys.stderr)
  results = []
  for path, (numbers, cosines) in zip(embedded[0].paths, found):
    cosines = np.clip(cosines, -1, 1)  # lengths are 1 up to rounding
    hits = [
      {
        **describe(int(row)),
        'similarity': round(float(cosine), 6),
        'verdict': verdict(cosine, threshold) or None,
        'share_of_pairs_below': gallery_pairs.share_below(pairs, cosine),
      }
      for row, cosine in zip(numbers, cosines)
    ]
    results.append({'query': str(path), 'found': hits})
    print(printable('\n'.join(_lines(path, hits))))
  collapse = gallery_pairs.describe_collapse(pairs)
  cli.warn(collapse)
  cli.warn(image_files.describe_unreadable(embedded))
  unreadable: dict[str, str] = {}
  for group in embedded:
    unreadable |= {str(p): error for p, error in group.unreadable.items()}
  return {
    'threshold': threshold,
    'remarks': remarks + [collapse] * bool(collapse),
    'results': results,
    'unreadable': unreadable,
  }


def _lines(query, found) -> Iterator[str]:
  yield str(query)
  for rank, one in enumerate(found, 1):
    note = one['verdict'] or gallery_pairs.place(one['share_of_pairs_below'])
    place = ', '.join(
      f'{name} {one[name]}' for name in PLACES if one.get(name) is not None
    )
    image = f'{one["image"]} ({place})' if place else one['image']
    yield f'{rank:5} {one["similarity"]:7.3f}  {note:21}  {image}'
  if found[0]['verdict'] == OTHER_PERSON:
    yield '      By the threshold, the person is not among these images.'
