"""Reads images in folders by a pattern: a regular expression for their paths.

The pattern has named groups: `pid`, the identity; `camid`, the camera; `split`.
Identities and cameras may be words. A pattern may also mark images without an
identity, by a group `distractor` or `junk` that matches some text. The pattern
may match any part of the path, which is relative to the folder.
"""

import dataclasses
import pathlib
import re

from apnet_jax.errors import FieldError, UserError
from apnet_jax.images import images_below
from data import raw
from data.folder.entries import (
  DISTRACTOR,
  JUNK,
  PERSON,
  SPLIT_NAMES,
  Named,
  check_complete,
  note_on_left_out,
)

GROUPS = ('pid', 'camid', 'split', DISTRACTOR, JUNK)
FIELD = 'data.pattern'
EXAMPLE = r'cam_(?P<camid>[ab])/person_(?P<pid>\d+)'


def compile_pattern(pattern: str) -> re.Pattern:
  """Compiles the pattern of `config.data.pattern`.

  Raises:
    FieldError: the pattern is no regular expression, has no group `pid`, or has
      groups of other names.
  """
  try:
    compiled = re.compile(pattern)
  except re.error as error:
    raise FieldError(
      FIELD, f'={pattern!r} is not a regular expression: {error}.'
    ) from error
  unknown = sorted({*compiled.groupindex} - {*GROUPS})
  if unknown:
    raise FieldError(
      FIELD,
      f'={pattern!r} has groups named {", ".join(unknown)}: the names are'
      f' {", ".join(GROUPS)}.',
    )
  if 'pid' not in compiled.groupindex:
    raise FieldError(
      FIELD,
      f'={pattern!r} has no group named pid, which is the identity. An example'
      f" that has one: '{EXAMPLE}'.",
    )
  return compiled


def read(
  root: pathlib.Path, pattern: str
) -> tuple[list[Named], tuple[str, ...]]:
  """Reads the images below a folder whose paths a pattern matches.

  Args:
    root: the folder.
    pattern: value of `config.data.pattern`.

  Returns:
    The images, and notes for the user, which count and name the images that
    the pattern does not match.

  Raises:
    FieldError: the pattern is invalid, matches no image, or gives fewer than
      two identities.
    UserError: the pattern finds a camera or a split in some images only, or a
      word that names no split; or a folder cannot be read.
  """
  compiled = compile_pattern(pattern)
  images, others = [], []
  for path in sorted(images_below(root)):
    name = path.relative_to(root).as_posix()
    match = compiled.search(name)
    image = match and _named(root, name, path, match)
    if image:
      images.append(image)
    else:
      others.append(name)
  people = {image.identity for image in images if image.role == PERSON}
  if len(people) < 2:
    raise FieldError(FIELD, f'={pattern!r} {_complaint(root, people, others)}')
  check_complete(root, images, 'images')
  total = len(others) + len(images)
  return _gallery_of_test(images), (
    'labels from paths, by config.data.pattern',
    *note_on_left_out(others, total, 'do not match the pattern'),
  )


def _named(
  root: pathlib.Path, name: str, path: pathlib.Path, match: re.Match
) -> Named | None:
  """Returns an image with the labels of a match; None if it has no identity.

  Raises:
    UserError: the group `split` has matched another word than a split's name.
  """
  groups = {
    group: text.lower() if group == 'split' else text
    for group, text in match.groupdict().items()
    if text
  }
  roles = [role for role in (DISTRACTOR, JUNK) if role in groups]
  split = groups.get('split')
  if split not in (None, *SPLIT_NAMES):
    raise UserError(
      f'{root}: config.data.pattern finds the split {split!r} in {name}, which'
      f' is not one of {", ".join(SPLIT_NAMES)}.'
    )
  if not roles and 'pid' not in groups:
    return None
  return Named(
    name, path, groups.get('pid', ''), groups.get('camid'), split,
    roles[0] if roles else PERSON,
  )  # fmt: skip


def _complaint(root: pathlib.Path, people: set[str], others: list[str]) -> str:
  """Returns the rest of a message about a pattern with too few identities."""
  if people:
    return (
      f'gives all images below {root} the identity {next(iter(people))!r}: the'
      ' group pid must match the part of a path that tells people apart.'
    )
  if others:
    return (
      f'matches none of the {len(others):,} images below {root}. Their paths'
      f' are:\n{raw.format_lines(others, 3)}'
    )
  return f'finds no images below {root} ({", ".join(raw.IMAGE_SUFFIXES)}).'


def _gallery_of_test(images: list[Named]) -> list[Named]:
  """Renames the split `test` to `gallery` where there are queries beside it."""
  splits = {image.split for image in images}
  if not {'test', 'query'} <= splits or 'gallery' in splits:
    return images
  return [
    dataclasses.replace(image, split='gallery')
    if image.split == 'test'
    else image
    for image in images
  ]
