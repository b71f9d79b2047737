"""Finds the person of an image among other images.

  python -m apnet_jax search --ckpt=runs/market --gallery=DIR QUERY.jpg ...

With a threshold it also says whether the person is there at all: that of
--threshold, or the one that `eval.py --choose_threshold` has stored with the
network.
"""

from collections.abc import Callable, Iterator
import dataclasses
import pathlib
import sys

from absl import flags
import ml_collections
import numpy as np

from apnet_jax import checkpoint, cli, images
from apnet_jax.printing import printable
from apnet_jax.retrieval import evaluation, threshold
from apnet_jax.retrieval.embed import make_embed

SAME, OTHER = 'same person', 'another'


@dataclasses.dataclass(frozen=True)
class Network:
  """A trained network, and from which similarity two images are of one person.

  Attributes:
    embed: `embed(paths) -> float32 [images, features]`, of length 1.
    threshold: cosine similarity, None if none is known.
    about: what to say of it.
  """

  embed: Callable[[list], np.ndarray]
  threshold: float | None
  about: str


def open_network(workdir: str, which: str, given: float | None) -> Network:
  """Opens a workdir of `train.py`.

  Images are embedded as they were when the stored threshold was chosen; else as
  the run evaluates.

  Args:
    workdir: of the run.
    which: checkpoint, 'last' or 'best'.
    given: threshold that a person gave; else the stored one counts.
  """
  with checkpoint.open_for_reading(workdir) as checkpoints:
    config = checkpoint.load_config(workdir)
    cli.cache_compilation(config.compilation_cache_dir)
    stored = threshold.load(workdir)
    classes = checkpoint.load_run(workdir)['num_classes']
    step, model, variables = evaluation.restore_model(
      checkpoints, which, config, classes
    )
  rules = config.eval.copy_and_resolve_references()
  rules.distance = 'cosine'  # thresholds are of cosines
  if stored and stored['step'] == step:
    rules.update(feature=stored['feature'], flip=stored['flip'])

  def embed(paths):
    split = images.make_split(paths, tuple(config.data.image_size))
    few = ml_collections.ConfigDict(rules)
    few.batch_size = min(rules.batch_size, len(paths))
    return make_embed(model, few)(variables, split, np.arange(len(paths)))

  return Network(embed, *_threshold(stored, given, step, rules))


def _threshold(stored, given, step, rules) -> tuple[float | None, str]:
  """The threshold that counts, and what to say of it."""
  if given is not None:
    return given, f'Threshold {given:g}, as given.'
  if stored is None:
    return None, (
      'No threshold is known: give --threshold, or let eval.py choose one'
      ' (--choose_threshold).'
    )
  problem = threshold.problem(stored, step, rules)
  if problem:
    return None, problem
  return stored['threshold'], threshold.describe(stored)


def search(
  network: Network, queries: list, gallery: list, top: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields rows of the closest gallery images, and cosines, for each query."""
  embeddings = network.embed([*queries, *gallery])  # at once: one compilation
  found, items = np.split(embeddings, [len(queries)])
  for similarity in found @ items.T:
    order = np.argsort(-similarity, kind='stable')[:top]
    yield order, similarity[order]


def verdict(similarity: float, threshold: float | None) -> str:
  """Whether two images are taken to be of one person, in words."""
  if threshold is None:
    return ''
  return SAME if similarity >= threshold else OTHER


def command():
  ckpt, which, given = cli.define_network()
  gallery = flags.DEFINE_string(
    'gallery', None, 'Folder of images to search, or one image.', required=True
  )
  top = flags.DEFINE_integer('top', 10, 'Images to list for each query.', 1)
  output = flags.DEFINE_string(
    'json', '', 'Writes what was found to this file.'
  )
  flags.mark_flag_as_required('ckpt')

  def main(argv):
    queries = [path for name in argv[1:] for path in images.find_images(name)]
    if not queries:
      raise ValueError('no query image is given.')
    items = images.find_images(gallery.value)
    cli.quieten()
    network = open_network(ckpt.value, which.value, given.value)
    print(network.about, file=sys.stderr)
    results = []
    for query, (rows, cosines) in zip(
      queries, search(network, queries, items, top.value)
    ):
      found = [
        {
          'image': str(items[row]),
          'similarity': round(float(cosine), 6),
          'verdict': verdict(cosine, network.threshold) or None,
        }
        for row, cosine in zip(rows, cosines)
      ]
      results.append({'query': str(query), 'found': found})
      print(printable('\n'.join(_lines(query, found))))
    if output.value:
      path = pathlib.Path(output.value)
      content = {'threshold': network.threshold, 'results': results}
      checkpoint.write_json(path.parent, path.name, content)

  return main


def _lines(query, found) -> Iterator[str]:
  yield str(query)
  for place, one in enumerate(found, 1):
    word = one['verdict'] or ''
    yield f'{place:5} {one["similarity"]:7.3f}  {word:13}{one["image"]}'
  if found[0]['verdict'] == OTHER:
    yield '      The person is not among these images, by the threshold.'
