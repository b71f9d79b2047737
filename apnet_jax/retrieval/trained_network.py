"""A trained network that embeds image files, with its similarity threshold."""

from collections.abc import Callable, Container, Iterator, Sequence
import dataclasses
import functools

import ml_collections
import numpy as np

from apnet_jax import images
from apnet_jax.errors import UserError
from apnet_jax.feed import Split
from apnet_jax.parallel import devices
from apnet_jax.retrieval import threshold
from apnet_jax.retrieval.embed import make_embed
from apnet_jax.workdir import run_files
from apnet_jax.workdir.checkpoints import open_for_reading
from apnet_jax.workdir.restore import restore_model

SAME_PERSON, OTHER_PERSON = 'same person', 'another'  # verdicts
NAMED = 10  # unreadable images that a warning lists


@dataclasses.dataclass(frozen=True)
class Embedded:
  """Embeddings of those image files of a group that could be read.

  Attributes:
    paths: the files that could be read, in the order of the group.
    embeddings: float32 [paths, features], of length 1.
    unreadable: error messages by path, of the files that could not be read.
  """

  paths: list
  embeddings: np.ndarray
  unreadable: dict


@dataclasses.dataclass(frozen=True)
class Network:
  """A trained network with its similarity threshold.

  Attributes:
    embed: `embed(*groups, optional=()) -> list[Embedded]` embeds groups of
      image files, one result for each. A group is a list of paths. Files that
      cannot be read are left out if they are among `optional`; otherwise the
      first raises UserError, as does a group without a file that can be read.
    threshold: lowest cosine similarity at which two images are taken to show
      one person; None if unknown.
    about: the threshold and its origin, as a sentence.
  """

  embed: Callable[..., list[Embedded]]
  threshold: float | None
  about: str


def open_network(workdir: str, which: str, given: float | None) -> Network:
  """Opens a trained network from a workdir of `train.py`.

  If a threshold is stored for this checkpoint, images are embedded with the
  settings under which that threshold was chosen. Otherwise, the settings are
  those of the run's evaluation. Images are compared by cosine similarity.

  Args:
    workdir: workdir of the run.
    which: checkpoint to open, 'last' or 'best'.
    given: threshold given by the user; None uses the stored one.

  Raises:
    UserError: the workdir or its threshold cannot be read.
  """
  with open_for_reading(workdir) as checkpoints:
    config = run_files.load_config(workdir)
    devices.keep_compiled_programs(config.compilation_cache_dir)
    stored = threshold.load(workdir)
    classes = run_files.load_run(workdir)['num_classes']
    step, model, variables = restore_model(checkpoints, which, config, classes)
  rules = config.eval.copy_and_resolve_references()
  rules.distance = 'cosine'  # thresholds apply to cosine similarities
  if stored and stored['step'] == step:
    rules.update(feature=stored['feature'], flip=stored['flip'])

  def embed_split(split):
    small_batch = ml_collections.ConfigDict(rules)
    small_batch.batch_size = min(rules.batch_size, len(split.paths))
    embed_rows = make_embed(model, small_batch)
    return embed_rows(variables, split, np.arange(len(split.paths)))

  embed = functools.partial(
    embed_files, embed_split, tuple(config.data.image_size)
  )
  return Network(embed, *_choose_threshold(stored, given, step, rules))


def embed_files(
  embed_split: Callable[[Split], np.ndarray],
  image_size: tuple[int, int],
  *groups: Sequence,
  optional: Container = (),
) -> list[Embedded]:
  """Embeds groups of image files; see `Network.embed`.

  All groups are embedded in one call, which compiles once.

  Args:
    embed_split: `embed_split(split) -> float32 [images, features]`.
    image_size: height and width of the network's images, in pixels.
    *groups: lists of paths.
    optional: paths of the files that are left out if they cannot be read.

  Raises:
    UserError: a file that is not optional cannot be read, or no file of a group
      can.
  """
  paths = [path for group in groups for path in group]
  errors = {}

  def on_error(row, error):
    if paths[row] not in optional:
      raise error
    errors[row] = str(error)

  embeddings = embed_split(images.make_split(paths, image_size, on_error))
  embedded, start = [], 0
  for group in groups:
    rows = range(start, start + len(group))
    start = rows.stop
    readable = [row for row in rows if row not in errors]
    if not readable:
      raise UserError(
        f'none of {len(group)} images can be read. The first:'
        f' {errors[rows.start]}'
      )
    unreadable = {paths[row]: errors[row] for row in rows if row in errors}
    embedded.append(
      Embedded(
        [paths[row] for row in readable], embeddings[readable], unreadable
      )
    )
  return embedded


def describe_unreadable(embedded: Sequence[Embedded]) -> str:
  """Returns a warning that counts the unreadable images, else ''.

  Args:
    embedded: groups of images; the first `NAMED` of their unreadable files are
      named.
  """
  errors, paths = {}, set()  # groups may share files
  for group in embedded:
    errors.update(group.unreadable)
    paths.update(group.paths, group.unreadable)
  if not errors:
    return ''
  more = len(errors) - NAMED
  return '\n'.join(
    [
      f'{len(errors):,} of {len(paths):,} images could not be read and were'
      ' left out:',
      *(f'  {error}' for error in list(errors.values())[:NAMED]),
      *[f'  and {more:,} more'] * (more > 0),
    ]
  )


def _choose_threshold(stored, given, step, rules) -> tuple[float | None, str]:
  """Returns the threshold to use, and its origin as a sentence.

  Args:
    stored: the result of `threshold.load`.
    given: threshold given by the user, or None.
    step: step of the checkpoint in use.
    rules: `config.eval` as in use.

  Returns:
    The threshold, None if unknown; and the sentence.
  """
  if given is not None:
    return given, f'Threshold {given:g}, as given.'
  if stored is None:
    return None, (
      'No threshold is known: give --threshold, or let eval.py choose one'
      ' (--choose_threshold).'
    )
  reason = threshold.mismatch(stored, step, rules)
  if reason:
    return None, reason
  return stored['threshold'], threshold.describe(stored)


def search(
  queries: np.ndarray, gallery: np.ndarray, top: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Finds the closest gallery images of each query.

  Args:
    queries: float [queries, features], embeddings of length 1.
    gallery: float [images, features], embeddings of length 1.
    top: number of images to find for each query.

  Yields:
    For each query, rows of `gallery` and cosine similarities, both [top],
    closest first. Ties rank by row.
  """
  for similarity in queries @ gallery.T:
    order = np.argsort(-similarity, kind='stable')[:top]
    yield order, similarity[order]


def verdict(similarity: float, threshold: float | None) -> str:
  """Returns in words whether two images show one person.

  Args:
    similarity: cosine similarity of their embeddings.
    threshold: see `Network`.

  Returns:
    `SAME_PERSON` or `OTHER_PERSON`; '' if the threshold is unknown.
  """
  if threshold is None:
    return ''
  return SAME_PERSON if similarity >= threshold else OTHER_PERSON
