"""The user's images with their labels, before splits are decided."""

import collections
from collections.abc import Iterable, Sequence
import dataclasses
import pathlib
import re
import unicodedata

from apnet_jax.errors import UserError
from data import raw

PERSON, DISTRACTOR, JUNK = ROLES = ('person', 'distractor', 'junk')
# Names of splits; `test` becomes query and gallery.
SPLIT_NAMES = (*raw.SPLITS, 'test')
# Names, in lower case, that say who a person is not.
NOBODY = (
  'unknown', 'unlabeled', 'unlabelled', 'distractor', 'distractors', 'junk',
  'other', 'others', 'misc', 'background',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Named:
  """An image with labels as the user wrote them.

  Attributes:
    name: path of the image relative to the folder of the data set.
    path: the image file.
    identity: name or number of the identity; distractors and junk need none.
    camera: name or number of the camera; None if it is unknown.
    split: one of `SPLIT_NAMES`; None if it is not given.
    role: one of `ROLES`. A distractor is a person without queries, junk is a
      bad box that no ranking counts.
  """

  name: str
  path: pathlib.Path
  identity: str
  camera: str | None = None
  split: str | None = None
  role: str = PERSON


@dataclasses.dataclass(frozen=True)
class Entry:
  """An image with numbered labels, before its split is decided.

  Attributes:
    name: path of the image relative to the folder of the data set.
    path: the image file.
    pid: number of the identity; 0 is a distractor, -1 junk.
    identity: name of the identity. Random splits depend on the name, because
      the number may change when people are added.
    camid: camera, from 0; None if it is unknown.
    split: one of `SPLIT_NAMES`; None if it is not given.
  """

  name: str
  path: pathlib.Path
  pid: int
  identity: str
  camid: int | None
  split: str | None


def note_on_left_out(
  others: Sequence[str], total: int, reason: str
) -> tuple[str, ...]:
  """Returns a note that names the images that are left out, if there are any.

  Args:
    others: their paths, relative to the folder.
    total: number of all images below the folder.
    reason: what they do not do, as 'do not match the pattern'.
  """
  if not others:
    return ()
  return (
    f'{len(others):,} of {total:,} images {reason} and are left out:\n'
    + raw.format_lines(others),
  )


def check_complete(
  root: pathlib.Path, images: Sequence[Named], noun: str
) -> None:
  """Raises UserError if only some of the images have a camera, or a split.

  Args:
    root: the folder or CSV file, for messages.
    images: images with named labels.
    noun: word for the images in the message, as 'lines'.
  """
  for label, field in (('camid', 'camera'), ('split', 'split')):
    missing = sum(getattr(image, field) is None for image in images)
    if 0 < missing < len(images):
      raise UserError(
        f'{root}: {missing} of {len(images)} {noun} have no {label}: either all'
        ' have one or none has.'
      )


def number(
  root: pathlib.Path, images: Sequence[Named]
) -> tuple[list[Entry], tuple[str, ...]]:
  """Numbers identities and cameras.

  Args:
    root: the folder or CSV file, for messages.
    images: images with named labels.

  Returns:
    The images with numbered labels, and notes for the user on the numbers and
    on names that may be two spellings of one.

  Raises:
    UserError: a person has identity -1; two people have the same number, as 1
      and 001; or a distractor or junk is in training or query.
  """
  _check_roles(root, images)
  spelling_notes = ()
  for label, noun in (('identity', 'people'), ('camera', 'cameras')):
    names = {getattr(image, label) for image in images if image.role == PERSON}
    _check_numbers(root, label, names - {None})
    spelling_notes += _note_on_spellings(noun, names - {None})
  people = {image.identity for image in images if image.role == PERSON}
  pids, pid_notes = _number_people(people)
  pid_notes += _note_on_nobody(people)
  camids, camera_notes = _number_cameras(
    {image.camera for image in images} - {None}
  )
  special = {DISTRACTOR: raw.DISTRACTOR_PID, JUNK: raw.JUNK_PID}
  entries = [
    Entry(
      name=image.name,
      path=image.path,
      pid=special.get(image.role, pids.get(image.identity)),
      identity=image.identity,
      camid=None if image.camera is None else camids[image.camera],
      split=image.split,
    )
    for image in images
  ]
  return entries, (*pid_notes, *camera_notes, *spelling_notes)


def _check_roles(root: pathlib.Path, images: Iterable[Named]) -> None:
  for image in images:
    if image.role == PERSON and image.identity == '-1':
      raise UserError(
        f'{root}: {image.name} has identity -1, which only Market-1501 uses,'
        ' for junk. Number people from 0. Junk is declared in a CSV file with a'
        ' column role, or by a group named junk in config.data.pattern.'
      )
    if image.role != PERSON and image.split in ('train', 'query'):
      raise UserError(
        f'{root}: {image.name} is {image.role}, which is allowed in the gallery'
        f' or in test, not in {image.split}.'
      )


def _check_numbers(root: pathlib.Path, label: str, names: set[str]) -> None:
  """Raises UserError if two names are the same number, as 1 and 001."""
  by_number = {}
  for name in sorted(names):
    if re.fullmatch(r'\d+', name, re.ASCII):
      other = by_number.setdefault(int(name), name)
      if other != name:
        raise UserError(
          f'{root}: {other} and {name} are different names of one number:'
          f' rename the files, so that each {label} has one name.'
        )


def _note_on_spellings(noun: str, names: set[str]) -> tuple[str, ...]:
  """Returns a warning if names are alike but for their spelling.

  This is no error: upper and lower case may tell tracks apart.

  Args:
    noun: plural word for what the names stand for.
    names: all names.
  """
  spellings = collections.defaultdict(list)
  for name in sorted(names):
    composed = unicodedata.normalize('NFC', name)
    # Those of one name in two Unicode forms look the same.
    shown = repr(name) if name == composed else ascii(name)
    spellings[composed.casefold().strip()].append(shown)
  alike = [' and '.join(each) for each in spellings.values() if len(each) > 1]
  if not alike:
    return ()
  return (
    f'warning: names of different {noun} that differ only in case, spaces or'
    f' Unicode form:\n{raw.format_lines(alike)}',
  )


def _note_on_nobody(names: set[str]) -> tuple[str, ...]:
  """Returns a warning if names of people are words for several or no people."""
  found = sorted(name for name in names if name.lower() in NOBODY)
  if not found:
    return ()
  return (
    f'warning: {", ".join(found)}: each of these names counts as one person. If'
    ' it is not, move its images away, or declare them as distractors or junk:'
    ' by the column role of a CSV file, or by a group of a pattern.',
  )


def _number_people(names: set[str]) -> tuple[dict[str, int], tuple[str, ...]]:
  """Numbers people from 1.

  Numbers stay as they are. If one of them is 0, each person gets the next
  number, because 0 stands for distractors. Words are numbered in their order.

  Returns:
    The number of each person, and a note for the user if a number changed.
  """
  numbers = _as_numbers(names)
  if numbers is None:
    numbers = {name: i for i, name in enumerate(sorted(names), 1)}
    return numbers, ('identities numbered from 1 in name order',)
  if 0 in numbers.values():
    numbers = {name: number + 1 for name, number in numbers.items()}
    return numbers, (
      'identity 0 is a person: each identity gets the next number, so that 0'
      ' becomes 1',
    )
  return numbers, ()


def _number_cameras(names: set[str]) -> tuple[dict[str, int], tuple[str, ...]]:
  """Numbers cameras: numbers stay as they are, words are numbered from 0.

  Returns:
    The number of each camera, and a note for the user if they were words.
  """
  numbers = _as_numbers(names)
  if numbers is not None:
    return numbers, ()
  numbers = {name: i for i, name in enumerate(sorted(names))}
  shown = [f'{name} is {i}' for name, i in list(numbers.items())[:8]]
  shown += ['...'] if len(numbers) > len(shown) else []
  return numbers, (f'cameras numbered from 0: {", ".join(shown)}',)


def _as_numbers(names: set[str]) -> dict[str, int] | None:
  """Returns the values of names that are all numbers, or None."""
  if not all(re.fullmatch(r'\d{1,9}', name, re.ASCII) for name in names):
    return None
  return {name: int(name) for name in names}
