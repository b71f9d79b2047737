"""A trained network that embeds image files, with its similarity threshold."""

from collections.abc import Callable, Iterator
import dataclasses

import ml_collections
import numpy as np

from apnet_jax import images
from apnet_jax.parallel import devices
from apnet_jax.retrieval import threshold
from apnet_jax.retrieval.embed import make_embed
from apnet_jax.workdir import run_files
from apnet_jax.workdir.checkpoints import open_for_reading
from apnet_jax.workdir.restore import restore_model

SAME_PERSON, OTHER_PERSON = 'same person', 'another'  # verdicts


@dataclasses.dataclass(frozen=True)
class Network:
  """A trained network with its similarity threshold.

  Attributes:
    embed: `embed(paths) -> float32 [images, features]`, embeddings of length 1.
    threshold: lowest cosine similarity at which two images are taken to show
      one person; None if unknown.
    about: the threshold and its origin, as a sentence.
  """

  embed: Callable[[list], np.ndarray]
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

  def embed(paths):
    split = images.make_split(paths, tuple(config.data.image_size))
    small_batch = ml_collections.ConfigDict(rules)
    small_batch.batch_size = min(rules.batch_size, len(paths))
    embed_rows = make_embed(model, small_batch)
    return embed_rows(variables, split, np.arange(len(paths)))

  return Network(embed, *_choose_threshold(stored, given, step, rules))


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
  network: Network, queries: list, gallery: list, top: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Finds the closest gallery images of each query.

  Args:
    network: network that embeds the images.
    queries: paths of the images to search for.
    gallery: paths of the images to search in.
    top: number of images to find for each query.

  Yields:
    For each query, indices into `gallery` and cosine similarities, both [top],
    closest first. Ties rank by index.
  """
  embeddings = network.embed([*queries, *gallery])  # one call compiles once
  query, items = np.split(embeddings, [len(queries)])
  for similarity in query @ items.T:
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
