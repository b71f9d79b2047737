"""Compares two result cards or reports of eval.py, or two images.

  python -m apnet_jax compare A.json B.json
  python -m apnet_jax compare runs/a runs/b --report=DIR
  python -m apnet_jax compare --ckpt=runs/market A.jpg B.jpg

For two cards the command prints a table of the metrics, with a confidence
interval of the difference B - A. The interval is a paired bootstrap: the people
of the queries are sampled with replacement, and both cards are averaged over
the same sample. The interval does not cover the variation between training runs
with other seeds, which is often larger.
Cards with different rules or images are an error unless --unlike is given.
For two folders, those of eval.py --report or workdirs that have one in
`report`, --report=DIR also writes a page that shows their ranked lists side by
side. The queries on which the two differ most come first.

For two images the command prints their cosine similarity and, with a threshold,
whether they show one person. The threshold is --threshold, or the one that
`eval.py --choose_threshold` has stored with the network. With --gallery, a
folder of images of other people, the command says where the similarity lies
among those of the pairs in that folder, and whether the network embeds all
images alike.
"""

from collections.abc import Callable, Sequence
import contextlib
import io
import os
import pathlib
import sys

from absl import flags

from apnet_jax import cli, images
from apnet_jax.errors import UserError
from apnet_jax.inference import image_files
from apnet_jax.inference.embedder import Embedder
from apnet_jax.retrieval import collapse, comparison, gallery_pairs
from apnet_jax.retrieval.threshold import verdict


def compare_files(first: str, second: str, allow_unlike: bool, **bootstrap):
  """Prints a comparison of the result cards in two JSON files.

  Args:
    first: path of a file; see `comparison.read_cards`.
    second: path of the other file.
    allow_unlike: whether to compare cards with different rules or images.
    **bootstrap: settings of the confidence intervals: `level`, `samples` and
      `seed` of `comparison.compare`.

  Raises:
    UserError: a file has no result cards, or the cards are not comparable.
  """
  a, b = comparison.read_cards(first), comparison.read_cards(second)
  pairs = [(name, name) for name in a if name in b]
  if len(a) == len(b) == 1:
    pairs = list(zip(a, b))
  if not pairs:
    raise UserError(
      f'the files have no data set in common: {", ".join(a)} | {", ".join(b)}.'
    )
  print(f'A: {first}\nB: {second}')
  single = sorted((a.keys() ^ b.keys()) - {name for p in pairs for name in p})
  if single:
    print(f'In one file only: {", ".join(single)}')
  for name, other in pairs:
    print(f'\n{name}' + (f' | {other}' if other != name else ''))
    found = comparison.incompatibilities(a[name], b[other])
    if found and not allow_unlike:
      raise UserError(
        'these metrics cannot be compared, because the cards differ (A | B):\n'
        + '\n'.join(found)
        + '\n--unlike compares them anyway.'
      )
    if found:
      print('NOT COMPARABLE (A | B):', *found, sep='\n')
    other_differences = list(
      comparison.differences(a[name], b[other], comparison.MAY_DIFFER)
    )
    if other_differences:
      print('Other differences (A | B):', *other_differences, sep='\n')
    print(*comparison.compare(a[name], b[other], **bootstrap), sep='\n')
    for line in comparison.remarks(a[name], b[other]):
      print(line)


def compare_reports(
  first: str, second: str, report: str, allow_unlike: bool, **bootstrap
) -> None:
  """Prints a comparison of two reports, and writes a page of both.

  Args:
    first: folder of a report, or a workdir; see `comparison_page.find_report`.
    second: the other folder.
    report: folder for the page; '' for none.
    allow_unlike: see `compare_files`.
    **bootstrap: see `compare_files`.

  Raises:
    UserError: a folder has no report, the cards are not comparable, or the page
      cannot be written.
  """
  from apnet_jax.visualize import comparison_page, page, report_page

  folders = [comparison_page.find_report(f) for f in (first, second)]
  if report:
    page.check_folder(report, (comparison_page.PAGE,))
  printed = io.StringIO()
  card, other = (str(f / comparison_page.CARD) for f in folders)
  with contextlib.redirect_stdout(printed):
    compare_files(card, other, allow_unlike, **bootstrap)
  print(printed.getvalue(), end='')
  if report:
    names = f'A: {first}', f'B: {second}'
    a, b = map(comparison_page.read_report, folders)
    shown = report_page.make_page(
      comparison_page.merge(a, b, names),
      'Two evaluations side by side',
      [printed.getvalue()],
    )
    path = pathlib.Path(report, comparison_page.PAGE)
    page.write_page(path, shown)
    print(f'The report is {path.absolute().as_uri()}')


NO_GALLERY = (
  'With --gallery=FOLDER (images of other people), the command also shows how'
  ' this similarity compares with those between strangers.'
)
SUSPICIOUS = (
  f'a similarity above {collapse.COLLAPSED} proves little by itself: a'
  ' network that embeds all images alike gives it to strangers, too.'
  f' --gallery=FOLDER shows whether this is so. {collapse.describe_causes()}'
)


def compare_images(
  network: Embedder,
  first: str | os.PathLike,
  second: str | os.PathLike,
  gallery: Sequence = (),
  strict: bool = False,
) -> None:
  """Prints the cosine similarity of two images, and how high it is.

  With a threshold, a verdict says whether the images show one person. Otherwise
  the pairs of gallery images give a scale.

  Args:
    network: network that embeds the images.
    first: path of an image.
    second: path of the other image.
    gallery: paths of images of other people, if any.
    strict: whether an unreadable gallery image is an error; it is left out
      otherwise.

  Raises:
    UserError: one of the two images cannot be read, or no gallery image.
  """
  groups = [[first, second], gallery] if gallery else [[first, second]]
  optional = set() if strict else {*gallery} - {first, second}
  embedded = image_files.embed_files(network, *groups, optional=optional)
  one, two = embedded[0].embeddings
  similarity = float(one @ two)
  print(network.about, file=sys.stderr)
  note, warning = verdict(similarity, network.threshold), ''
  if gallery:
    pairs = gallery_pairs.sample(embedded[1].embeddings)
    print(gallery_pairs.legend(pairs), file=sys.stderr)
    share = gallery_pairs.share_below(pairs, similarity)
    note = '  '.join(filter(None, [note, gallery_pairs.place(share)]))
    warning = gallery_pairs.describe_collapse(pairs)
  elif network.threshold is None:
    print(NO_GALLERY, file=sys.stderr)
    warning = SUSPICIOUS if similarity > collapse.COLLAPSED else ''
  print(f'{similarity:.4f}  {note}')
  cli.warn(warning)
  cli.warn(image_files.describe_unreadable(embedded))


def command() -> Callable:
  """Defines the absl flags of this command, and returns its `main(argv)`."""
  ckpt, which, flip, threshold, strict = cli.define_network()
  gallery = flags.DEFINE_string(
    'gallery',
    None,
    'Folder of images of other people. The command also compares the similarity'
    ' of the two images with the similarities between pairs of images in this'
    ' folder.',
  )
  allow_unlike = flags.DEFINE_bool(
    'unlike', False, 'Compares cards even if their rules or images differ.'
  )
  level = flags.DEFINE_float(
    'level', 0.95, 'Confidence level of the intervals.', 0.5, 0.9999
  )
  samples = flags.DEFINE_integer(
    'samples', 10_000, 'Number of bootstrap samples of the people.', 100
  )
  seed = flags.DEFINE_integer('seed', 0, 'Seed of the bootstrap.', 0)

  report = flags.DEFINE_string(
    'report',
    '',
    'New or empty folder for a page (index.html) that shows the ranked lists of'
    ' two reports side by side.',
  )

  def main(argv):
    if len(argv) != 3:
      raise UserError(f'compare takes two files; {len(argv) - 1} are given.')
    bootstrap = {
      'level': level.value, 'samples': samples.value, 'seed': seed.value,
    }  # fmt: skip
    if all(os.path.isdir(name) for name in argv[1:]):
      compare_reports(*argv[1:], report.value, allow_unlike.value, **bootstrap)
      return
    if report.value:
      raise UserError(
        '--report compares two folders that eval.py --report has written;'
        f' {" and ".join(argv[1:])} are not.'
      )
    if all(name.lower().endswith('.json') for name in argv[1:]):
      compare_files(*argv[1:], allow_unlike.value, **bootstrap)
      return
    if not ckpt.value:
      raise UserError(
        'to compare images give --ckpt, a trained network; to compare'
        ' result cards give two files that end in .json.'
      )
    others = images.find_images(gallery.value) if gallery.value else ()
    cli.quieten()
    network = Embedder.load(
      ckpt.value, which.value, threshold.value, flip.value
    )
    first, second = map(pathlib.Path, argv[1:])
    compare_images(network, first, second, others, strict.value)

  return main
