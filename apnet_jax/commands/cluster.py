"""Groups embedded images into people, across cameras.

  python -m apnet_jax embed --ckpt=runs/market --output=people.npz DIR
  python -m apnet_jax cluster people.npz --output=people.csv

The command joins groups of images, starting from single ones, as long as the
mean similarity between the images of two groups is at least the threshold
(average linkage). The threshold is --threshold, or the one that was stored with
the network when the images were embedded. Several files of one network are
grouped together.

With --tracks, a track is grouped as a whole, by the mean of its embeddings. A
box of track -1, or without a value there, is one of its own. If the files have
a column of identities (--identities), the groups are compared with them. Images
without an identity, and junk (-1), are left out of the comparison. So are
distractors and junk by a column role; without it, 0 is a person like others.

  purity        images that show the most frequent identity of their group
  completeness  images in the largest group of their identity
  precision     pairs of a group that show one person
  recall        pairs of one person that are in one group
"""

from collections.abc import Callable, Mapping, Sequence
import csv
import os

from absl import flags
import numpy as np

from apnet_jax import cli, labels
from apnet_jax.errors import UserError
from apnet_jax.inference import embedding_files, rows
from apnet_jax.printing import counted
from apnet_jax.retrieval import clustering
from apnet_jax.workdir import json_files
from apnet_jax.writing import whole

NO_TRACK = ('-1', labels.UNKNOWN)  # of boxes that no tracker has joined


def command() -> Callable:
  """Defines the absl flags of this command, and returns its `main(argv)`."""
  output = flags.DEFINE_string(
    'output', None, 'CSV file to write: a person for each image.', required=True
  )
  given = flags.DEFINE_float(
    'threshold',
    None,
    'Lowest mean similarity of groups that are joined. Default: the one stored'
    ' with the network.',
    lower_bound=-1,
    upper_bound=1,
  )
  tracks = flags.DEFINE_bool(
    'tracks',
    False,
    'Keeps each track in one group, by the mean of its embeddings. A track is'
    ' all rows with the same path and the same value in the column track,'
    ' except for -1 and an empty one.',
  )
  identities = flags.DEFINE_string(
    'identities', 'pid', 'Column of the true identities, if they are known.'
  )
  json = flags.DEFINE_string(
    'json', '', 'Also writes the results to this file.'
  )

  def main(argv):
    cli.quieten()
    if len(argv) < 2:
      raise UserError(
        'no file of embeddings is given; the command embed makes them.'
      )
    cli.check_output(json.value)
    cli.check_output(output.value, '--output')
    columns, embeddings, threshold = read_files(argv[1:], given.value)
    if identities.present and identities.value not in columns:
      raise UserError(
        f'--identities={identities.value}: the files have no such column, only'
        f' {", ".join(columns)}.'
      )
    people = group(columns, embeddings, threshold, tracks.value)
    write_people(output.value, columns, people)
    figures = describe(
      people, embedding_files.read_identities(columns, identities.value)
    )
    figures['threshold'] = threshold
    print(format_figures(figures))
    print(f'wrote {output.value}')
    if json.value:
      json_files.write_json(json.value, figures)

  return main


def read_files(
  paths: Sequence[str], threshold: float | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray, float]:
  """Reads files of embeddings that one network has made.

  Args:
    paths: the files.
    threshold: threshold to use; None for the one that was stored with the
      network when a file was made.

  Returns:
    The columns that all files have, by name; float32 [rows, features]; and the
    threshold.

  Raises:
    UserError: a file cannot be read, or is of another network; or the files
      have no embeddings, no threshold, or different ones.
  """
  tables, embeddings, infos = [], [], []
  for path in paths:
    with embedding_files.reading(path) as file:
      tables.append(file.columns)
      infos.append(file.info)
      embeddings += [block.astype(np.float32) for block in file.blocks]
    if infos[-1]['fingerprint'] != infos[0]['fingerprint']:
      raise UserError(
        f'{path} has embeddings of network {infos[-1]["fingerprint"]}, but'
        f' {paths[0]} of {infos[0]["fingerprint"]}: they cannot be compared.'
      )
  if not embeddings:
    raise UserError(f'{", ".join(paths)}: there are no embeddings to group.')
  names = [name for name in tables[0] if all(name in t for t in tables)]
  columns = {n: np.concatenate([t[n] for t in tables]) for n in names}
  if threshold is None:
    threshold = _stored_threshold(infos)
  return columns, np.concatenate(embeddings), threshold


def _stored_threshold(infos: Sequence[Mapping]) -> float:
  """Returns the threshold in the fields `info` of files of embeddings."""
  found = (info.get('threshold') for info in infos)
  stored = {threshold for threshold in found if threshold is not None}
  if not stored:
    raise UserError(
      'no threshold is known: give --threshold, or let eval.py choose one'
      ' (--choose_threshold) before the images are embedded.'
    )
  if len(stored) > 1:
    raise UserError(
      'the files were made with different thresholds'
      f' ({", ".join(map(str, sorted(stored)))}): give one by --threshold.'
    )
  return stored.pop()


def group(
  columns: dict[str, np.ndarray],
  embeddings: np.ndarray,
  threshold: float,
  by_track: bool,
) -> np.ndarray:
  """Groups images, or whole tracks, into people.

  Args:
    columns: columns of the images by name.
    embeddings: float32 [rows, features], of length 1.
    threshold: see `clustering.cluster`.
    by_track: whether the images of a track are one group from the beginning.
      Images without a track (`NO_TRACK`) are groups of their own.

  Returns:
    int [rows], the person of each image, from 0.

  Raises:
    UserError: there are no tracks, or see `clustering.cluster`.
  """
  if not by_track:
    return clustering.cluster(embeddings, threshold)
  if 'track' not in columns:
    raise UserError('--tracks needs a column track, which the files lack.')
  names = embedding_files.read_labels(columns['track'])
  tracks = [
    f'{name} {path}' if name not in NO_TRACK else f'{row}'
    for row, (name, path) in enumerate(zip(names, columns['path']))
  ]
  means, track = clustering.mean_embeddings(embeddings, np.array(tracks))
  return clustering.cluster(means, threshold)[track]


def write_people(
  path: str | os.PathLike, columns: dict[str, np.ndarray], people: np.ndarray
) -> None:
  """Writes a CSV file: the columns of the images, and their person.

  A column of the images that is called `person` gets another name.
  """
  names = [rows.rename(n, columns) if n == 'person' else n for n in columns]
  # A file name that is not UTF-8 keeps its bytes, so that it can be opened.
  with (
    whole(path) as part,
    part.open(
      'w', encoding='utf-8', errors='surrogateescape', newline=''
    ) as file,
  ):
    writer = csv.writer(file)
    writer.writerow([*names, 'person'])
    writer.writerows(zip(*columns.values(), people))


def describe(people: np.ndarray, identities: np.ndarray | None) -> dict:
  """Returns the sizes of groups, and their agreement with identities.

  Args:
    people: int [rows], the person of each image.
    identities: the result of `embedding_files.read_identities`.
  """
  sizes = np.bincount(people)
  figures: dict[str, float] = {
    'images': len(people),
    'people': len(sizes),
    'people with one image': int((sizes == 1).sum()),
    'images of the largest': int(np.max(sizes)),
  }
  if identities is None:
    return figures
  known = identities != labels.UNKNOWN
  figures['images of no known person'] = int((~known).sum())
  figures['identities'] = len(np.unique(identities[known]))
  if not known.any():
    return figures
  return figures | clustering.compare_with_identities(
    people[known], identities[known]
  )


def format_figures(figures: dict) -> str:
  """Formats the figures of `describe` for the screen."""
  text = (
    f'{counted(figures["images"], "image")},'
    f' {counted(figures["people"], "person", "people")} at threshold'
    f' {figures["threshold"]:.3f}: {figures["people with one image"]:,} with'
    f' one image, the largest with {figures["images of the largest"]:,}'
  )
  if 'purity' in figures:
    shares = ', '.join(
      f'{name} {100 * figures[name]:.1f}%'
      for name in ('purity', 'completeness', 'precision', 'recall')
    )
    text += f'\n{figures["identities"]:,} identities are known: {shares}'
  if unknown := figures.get('images of no known person'):
    text += (
      f'\nleft out of this: {counted(unknown, "image")} of no known person'
    )
  return text
