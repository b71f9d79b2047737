"""The images or boxes that the command embed embeds, one a row."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
import csv
import glob
import hashlib
import io
import itertools
import json
import math
import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from apnet_jax import images
from apnet_jax.errors import UserError
from apnet_jax.inference import crops, embedding_files

if TYPE_CHECKING:  # it imports Orbax
  from apnet_jax.inference.embedder import Embedder

BOX = ('x1', 'y1', 'x2', 'y2')  # columns of a box
# Other names of columns of a box: its upper left corner, width and height.
SIZED_BOXES = (
  ('x', 'y', 'w', 'h'),
  ('left', 'top', 'width', 'height'),
  ('bb_left', 'bb_top', 'bb_width', 'bb_height'),
)
# Columns of files of MOTChallenge, which have no header: of det.txt and of what
# trackers write; and of gt.txt, which has nine. (MOTChallenge counts pixels
# from 1, most trackers from 0. That pixel is left as it is.)
MOT = ('frame', 'track', *SIZED_BOXES[1], 'confidence')
MOT_TRUTH = (*MOT, 'class', 'visibility')
# Fields of an image that a search found, which are not columns of it.
JUDGEMENT = ('image', 'similarity', 'verdict', 'share_of_pairs_below')
RENAMED = 'column_'  # put before the name of a column that is one of them
# Characters of a field of a CSV file, as many as a path of Linux may have. The
# longest text of a column determines the space of all its rows.
LONGEST_FIELD = 4096


class ImageRows:
  """Image files, or boxes in them.

  Args:
    columns: arrays [rows] by name: `path`, the columns of `BOX` or none of
      them, and others, which are kept with the embeddings.

  Attributes:
    columns: see above.
    first_frame: None; see `VideoRows`.
  """

  first_frame = None

  def __init__(self, columns: dict[str, np.ndarray]):
    self.columns = columns

  def __len__(self) -> int:
    return len(self.columns['path'])

  def embed(
    self,
    embedder: 'Embedder',
    start: int,
    stop: int,
    on_error: Callable[[int, UserError], None],
  ) -> np.ndarray:
    """Embeds rows `start` to `stop - 1`.

    An image with several boxes in following rows is decoded once.

    Args:
      embedder: an `Embedder`.
      start: first row.
      stop: row after the last one.
      on_error: `on_error(row, error)` is called for a row that cannot be read.

    Returns:
      float32 [stop - start, features].
    """
    paths = self.columns['path'][start:stop].tolist()
    by_image = None
    if BOX[0] in self.columns:
      boxes = _boxes(self.columns, slice(start, stop))
      lengths = [len([*same]) for _, same in itertools.groupby(paths)]
      starts = np.cumsum([0, *lengths])
      paths = [paths[i] for i in starts[:-1]]
      by_image = [boxes[a:b] for a, b in itertools.pairwise(starts)]
    with images.strict_pillow():
      return embedder(
        paths,
        by_image,
        on_error=lambda row, error: on_error(start + row, error),
      )


def _boxes(columns: dict, rows: slice) -> np.ndarray:
  """Returns the boxes of rows, [rows, 4]."""
  return np.stack([columns[name][rows] for name in BOX], 1)


def is_in_video(row: Mapping[str, Any]) -> bool:
  """Tells whether an embedded row is a box in a video.

  Args:
    row: columns of the row. `frame` is a number for boxes in videos only; a CSV
      file of images keeps such a column as text.
  """
  return isinstance(row.get('frame'), int)


def found_row(columns: Mapping[str, Any]) -> dict[str, Any]:
  """Returns an embedded row as a search names its columns.

  Args:
    columns: columns of the row, with `path`.

  Returns:
    `image`, the path, and the other columns. None of them has the name of a
    field in `JUDGEMENT`: `RENAMED` is put before it.
  """
  found = {'image': columns['path']}
  for name, value in columns.items():
    if name in JUDGEMENT:
      name = rename(name, columns)
    if name != 'path':
      found[name] = value
  return found


def rename(name: str, columns: Container[str]) -> str:
  """Returns a free name for a column, with `RENAMED` before its own one.

  Args:
    name: name of the column, which is needed for something else.
    columns: names that are not free.
  """
  name = RENAMED + name
  return rename(name, columns) if name in columns else name


def read_picture(
  path: str | os.PathLike, row: Mapping[str, Any]
) -> Image.Image:
  """Reads the image of an embedded row in its own size; its box is cut out.

  Args:
    path: path of the image.
    row: other columns of the row.

  Returns:
    An upright image of mode RGB.

  Raises:
    UserError: the image cannot be read, has no such box, or lies in a video.
  """
  if is_in_video(row):
    raise UserError(f'frame {row["frame"]} of {path} is in a video.')
  image = images.read_upright(path)
  if BOX[0] not in row:
    return image
  return crops.cut_out(image, [row[side] for side in BOX], f'the box of {path}')


def digest(columns: dict[str, np.ndarray]) -> str:
  """Returns a hash of the columns of rows."""
  digest = hashlib.sha256()
  for name, column in sorted(columns.items()):
    digest.update(json.dumps([name, column.tolist()]).encode())
  return digest.hexdigest()


def find(names: Sequence[str]) -> ImageRows:
  """Finds the images that arguments of a command name.

  Args:
    names: images, folders, patterns with `*`, lists of paths (.txt, a path on
      each line) or CSV files. A CSV file has a column path, and the columns of
      `BOX` or of one of `SIZED_BOXES`, or none of them; other columns are kept.
      Paths in lists and CSV files are relative to them.

  Raises:
    UserError: nothing is named, or a name leads to no image.
  """
  tables = [_find_one(name) for name in names]
  if not tables:
    raise UserError(
      'no image is given: name images, folders, patterns, .txt or .csv files.'
    )
  columns = tables[0].keys()
  for name, table in zip(names, tables):
    if table.keys() != columns:
      raise UserError(
        f'{names[0]} has the columns {", ".join(columns)}, but {name} has'
        f' {", ".join(table)}: embed them one after the other.'
      )
  found = {c: np.concatenate([t[c] for t in tables]) for c in columns}
  return ImageRows(found)


def _find_one(name: str) -> dict[str, np.ndarray]:
  path = pathlib.Path(name)
  if path.suffix.lower() == '.csv':
    return read_csv(path, ('path',))
  if path.suffix.lower() == '.txt':
    lines = _lines(path)
    found = [str(path.parent / line) for line in lines if line.strip()]
    if not found:
      raise UserError(f'{path} lists no image.')
  elif glob.has_magic(name) and not path.exists():
    matches = map(pathlib.Path, sorted(glob.glob(name, recursive=True)))
    found = [str(match) for match in matches if images.is_image(match)]
    if not found:
      raise UserError(f'no image matches {name}.')
  else:
    found = [str(image) for image in images.find_images(path)]
  return {'path': np.array(found)}


def _lines(path: pathlib.Path) -> list[str]:
  """Returns the lines of a text file.

  They end at line feeds and carriage returns only: names of files may have the
  other characters at which `str.splitlines` splits.

  Raises:
    UserError: the file cannot be read, or is not UTF-8.
  """
  return _read_text(path, newline=None).split('\n')


def _read_text(path: pathlib.Path, newline: str | None) -> str:
  """Returns the content of a text file; `newline` as `open` has it."""
  try:
    with path.open(encoding='utf-8-sig', newline=newline) as file:
      return file.read()
  except ValueError as error:
    raise UserError(f'{path} is not UTF-8 text.') from error
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}.') from error


def mot_columns(path: pathlib.Path) -> tuple[str, ...] | None:
  """Returns the names of the columns of a file of MOTChallenge.

  Such a file has no header, and at least six columns of numbers: frame, track,
  left, top, width and height. Columns without a name in `MOT` or `MOT_TRUTH`
  are called `column_8` and so on.

  Returns:
    The names; None if the first line has something else than numbers.
  """
  first = next(filter(str.strip, _lines(path)), '').split(',')
  try:
    _ = [float(field) for field in first]
  except ValueError:
    return None
  count = len(first)
  if count < len(MOT) - 1:
    return None
  known = MOT_TRUTH if count == len(MOT_TRUTH) else MOT
  others = [f'column_{i + 1}' for i in range(len(known), count)]
  return (*known[:count], *others)


def read_csv(
  path: pathlib.Path,
  required: Sequence[str],
  names: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
  """Reads a CSV file of images or boxes.

  Args:
    path: the file.
    required: names of columns that it must have. Those of one of `SIZED_BOXES`
      stand for those of `BOX`.
    names: names of all its columns; None if its first line has them, where
      spaces around a name do not count.

  Returns:
    Arrays by name: the columns of `BOX` are float64, `frame` and `track` are
    int64 if they are required, all others are text. `path` is relative to the
    working directory.

  Raises:
    UserError: the file is not such a table; the message names the line.
  """
  text = io.StringIO(_read_text(path, newline=''), newline='')
  reader = csv.DictReader(text, names)
  try:
    reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
    names = _check_names(reader.fieldnames, required, path)
    rows = list(_read_rows(reader, names, required, path))
  except csv.Error as error:
    line = reader.reader.line_num  # the other counts whole rows only
    raise UserError(f'{path}, line {line}: {error}.') from error
  if not rows:
    raise UserError(f'{path} lists no image.')
  columns = {name: np.array(values) for name, values in zip(names, zip(*rows))}
  sized = _sized_box(names)
  if not sized:
    return columns
  left, top, width, height = (columns.pop(name) for name in sized)
  return columns | dict(zip(BOX, (left, top, left + width, top + height)))


def _sized_box(names: Sequence[str]) -> tuple[str, ...]:
  """Returns which of `SIZED_BOXES` a table has instead of `BOX`, or ()."""
  if any(name in names for name in BOX):
    return ()
  return next((box for box in SIZED_BOXES if {*box} <= {*names}), ())


def _check_names(
  names: Sequence[str], required: Sequence[str], path: pathlib.Path
) -> Sequence[str]:
  """Returns the names of columns, which may have no name.

  Raises:
    UserError: a name is missing, not allowed, or given twice.
  """
  given = {*names, *(BOX if _sized_box(names) else ())}
  missing = [name for name in required if name not in given]
  some = [name for name in BOX if name in names]
  if some and len(some) < len(BOX):
    missing += [name for name in BOX if name not in names]
  if missing:
    raise UserError(
      f'{path} has no column {", ".join(missing)}; its first line is'
      f' {",".join(names)}.'
    )
  for name in filter(None, names):
    if names.count(name) > 1:
      raise UserError(
        f'{path} has two columns {name}: give one of them another name.'
      )
  for name in (embedding_files.EMBEDDING, embedding_files.INFO):
    if name in names:
      raise UserError(
        f'{path} has a column {name}. Files of embeddings have one of their own'
        ' with this name: give it another name.'
      )
  return names


def _read_rows(
  reader: csv.DictReader, names, required, path: pathlib.Path
) -> Iterator[list]:
  """Yields the values of each row, in the order of the names."""
  kinds: dict[str, Callable[[str], float]] = dict.fromkeys(required, _whole)
  kinds |= dict.fromkeys(_sized_box(names) or BOX, float)
  for row in reader:
    if None in row or None in row.values():
      raise UserError(
        f'{path}, line {reader.line_num}: {len(names)} fields are needed.'
      )
    yield [_value(row[n], n, kinds, path, reader.line_num) for n in names]


def _value(text: str, name: str, kinds, path: pathlib.Path, line: int):
  if len(text) > LONGEST_FIELD:
    raise UserError(
      f'{path}, line {line}: {name} has {len(text):,} characters, but'
      f' {LONGEST_FIELD:,} are the most.'
    )
  if name == 'path':
    return str(path.parent / text)
  kind = kinds.get(name, str)
  try:
    value = kind(text)
  except ValueError as error:
    raise UserError(
      f'{path}, line {line}: {name}={text!r} is not a number.'
    ) from error
  if kind is _whole and abs(value) > np.iinfo(np.int64).max:
    raise UserError(f'{path}, line {line}: {name}={text!r} is too large.')
  if kind is float and not math.isfinite(value):
    raise UserError(f'{path}, line {line}: {name}={text!r} is not finite.')
  return value


def _whole(text: str) -> int:
  """Returns a whole number, which some trackers write as 1.0 or 1e+00."""
  try:
    return int(text)
  except ValueError:
    number = float(text)
    if not number.is_integer():
      raise
    return int(number)


class VideoRows:
  """Boxes in the frames of a video, or of a sequence of image files.

  A video is decoded in its order: `embed` must be called for growing rows.

  Args:
    video: path of the video, read by PyAV, or pattern of the images, such as
      'DIR/%06d.jpg'. The number of a frame is that in the name of its image.
    boxes: path of a CSV file with the columns frame, x1, y1, x2, y2 and track,
      or of one of MOTChallenge; see `mot_columns`.
    first_frame: number of the first frame of a video; None for 1 in a file of
      MOTChallenge, and 0 in any other.

  Attributes:
    columns: arrays [rows] by name, sorted by frame.
    first_frame: number of the first frame; 0 for images.

  Raises:
    UserError: PyAV is missing, a file cannot be read, or `first_frame` is given
      for images.
  """

  def __init__(self, video: str, boxes: str, first_frame: int | None = None):
    from apnet_jax.inference import video as videos

    names = mot_columns(pathlib.Path(boxes))
    if is_sequence := videos.is_sequence(video):
      if first_frame is not None:
        raise UserError(
          f'--first_frame is for videos: the images {video} have the numbers of'
          ' their frames in their names. Leave it out.'
        )
      first_frame = 0
    elif first_frame is None:
      first_frame = 1 if names else 0
    columns = read_csv(pathlib.Path(boxes), ('frame', *BOX, 'track'), names)
    order = np.argsort(columns['frame'], kind='stable')
    columns = {name: column[order] for name, column in columns.items()}
    early = columns['frame'][0]
    if early < first_frame:
      raise UserError(
        f'{boxes} has a frame {early}, but the first is {first_frame}'
        + (f' in {video}.' if is_sequence else ' (--first_frame).')
      )
    if 'path' in columns:
      columns[rename('path', columns)] = columns.pop('path')
    self.columns = {'path': np.full(len(order), video), **columns}
    self._video, self.first_frame = video, first_frame
    self._frames: videos.ImageSequence | videos.Frames = (
      videos.ImageSequence(video) if is_sequence else videos.Frames(video)
    )

  def __len__(self) -> int:
    return len(self.columns['path'])

  def embed(
    self,
    embedder: 'Embedder',
    start: int,
    stop: int,
    on_error: Callable[[int, UserError], None],
  ) -> np.ndarray:
    """Embeds rows `start` to `stop - 1`; see `ImageRows.embed`."""
    boxes = _boxes(self.columns, slice(start, stop))
    black = np.zeros((*embedder.image_size, 3), np.uint8)
    found = []
    for row, box in enumerate(boxes, start):
      frame = int(self.columns['frame'][row])
      name = f'the box of track {self.columns["track"][row]} in frame {frame}'
      try:
        image = self._frames.read(frame - self.first_frame)
        name = f'{name} of {self._video}'
        found.append(crops.crop(image, box, embedder.image_size, name))
      except UserError as error:
        on_error(row, error)
        found.append(black)
    return embedder(found)
