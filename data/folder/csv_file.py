"""Reads and writes CSV files that list images."""

from collections.abc import Iterable, Mapping
import csv
import pathlib
import re
import uuid

from apnet_jax import labels
from apnet_jax.errors import UserError
from apnet_jax.images import is_hidden
from data import raw
from data.folder.entries import (
  DISTRACTOR,
  JUNK,
  PERSON,
  ROLES,
  SPLIT_NAMES,
  Named,
  check_complete,
)

# Advice for files that are no list of images.
STRAY = (
  'A CSV file in the folder is taken for its list of images: if this is none,'
  ' move it away.'
)
NUMBER = re.compile(r'-?\d+', re.ASCII)
LONGEST = 20  # characters of a number that is looked at; Python refuses 4301
COLUMNS = ('path', 'pid', 'camid', 'split', 'role')  # the first two are needed


def files_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the CSV files directly in a folder, except hidden ones."""
  files = sorted(folder.glob('*.[cC][sS][vV]'))
  return [file for file in files if not is_hidden(file.name)]


def read(file: pathlib.Path) -> tuple[list[Named], tuple[str, ...]]:
  """Reads a CSV file that lists images with their labels.

  The columns are path and pid, and optionally camid, split and role.

  Returns:
    The images, and notes for the user, which name columns that are not read:
    one may be a misspelt name of these.

  Raises:
    UserError: the file is invalid; the message names the line.
  """
  listed, images = raw.ListedFiles(file.parent, file), []
  others = []
  for line, row in _rows(file):
    others = [column for column in row if column and column not in COLUMNS]
    image = _read_row(row, line, listed)
    images += [image] if image else []
  raw.check_all_found([listed])
  check_complete(file, images, 'lines')
  notes = (f'listed in {file.name}',)
  if others:
    notes = (
      *notes,
      f'columns that are not read: {", ".join(others)[:200]} (known:'
      f' {", ".join(COLUMNS)})',
    )
  return images, notes


def _read_row(
  row: Mapping[str, str], line: int, listed: raw.ListedFiles
) -> Named | None:
  """Returns the image of a line, or None if its file does not exist.

  Args:
    row: fields of the line, by column name.
    line: number of the line, for messages.
    listed: finds the files of the list.

  Raises:
    UserError: a field is invalid; the message names the line.
  """
  where = f'{listed.list_file}, line {line}'
  role = row.get('role') or PERSON
  split = row.get('split') or None
  for column, value, allowed in (
    ('role', role, ROLES),
    ('split', split, (None, *SPLIT_NAMES)),
  ):
    if value not in allowed:
      names = ', '.join(filter(None, allowed))
      raise UserError(f'{where}: {column} {value!r} is not one of {names}.')
  identity = row['pid']
  if role == PERSON or identity:
    identity = _label(row, 'pid', raw.JUNK_PID, where)
  camera = _label(row, 'camid', 0, where) if row.get('camid') else None
  path = listed.find(row['path'], line)
  if not path:
    return None
  name = path.relative_to(listed.folder).as_posix()
  return Named(name, path, identity, camera, split, role)


def _rows(file: pathlib.Path) -> Iterable[tuple[int, dict[str, str]]]:
  """Yields the rows of a CSV file: line number, and fields by column name.

  The columns may be in any order, and their names in upper or lower case.

  Raises:
    UserError: the file is not a valid CSV file with the required columns.
  """
  try:
    # Accepts a byte-order mark and any line ends.
    with file.open(encoding='utf-8-sig', newline='') as lines:
      reader = csv.reader(lines, strict=True)
      header = [name.strip().lower() for name in next(reader, [])]
      missing = [name for name in COLUMNS[:2] if name not in header]
      if missing:
        raise UserError(
          f'{file} has no column {" and ".join(missing)}. Its first line must'
          f' name the columns {",".join(COLUMNS)}; the last three are optional.'
          f' It is: {",".join(header)[:200]}\n{STRAY}'
        )
      twice = sorted({name for name in COLUMNS if header.count(name) > 1})
      if twice:
        raise UserError(f'{file} has two columns {" and ".join(twice)}.')
      for fields in reader:
        if fields and len(fields) != len(header):
          raise UserError(
            f'{file}, line {reader.line_num}: {len(fields)} fields instead of'
            f' {len(header)}.'
          )
        if fields:
          values = (field.strip() for field in fields)
          yield reader.line_num, dict(zip(header, values))
  except UnicodeDecodeError as error:
    raise UserError(
      f'{file} is not a text file in UTF-8: {error}.\n{STRAY}'
    ) from error
  except csv.Error as error:
    raise UserError(f'{file}, line {reader.line_num}: {error}.') from error


def _label(row: Mapping[str, str], name: str, low: int, where: str) -> str:
  """Returns the name of a person or camera in a CSV field.

  Args:
    row: fields of a line, by column name.
    name: column of the field.
    low: smallest allowed number.
    where: file and line, for messages.

  Returns:
    The name as `labels.plain` has it.

  Raises:
    UserError: the field has no value, a fraction, or a number that is not from
      `low` to `raw.MAX_ID`.
  """
  label = labels.plain(row[name])
  number = NUMBER.fullmatch(label)
  if label == labels.UNKNOWN or (not number and _is_float(label)):
    raise UserError(
      f'{where}: {name} {row[name]!r} is neither a whole number nor a name.'
    )
  if number and (len(label) > LONGEST or not low <= int(label) <= raw.MAX_ID):
    raise UserError(
      f'{where}: {name} {label[:LONGEST]} is not from {low} to {raw.MAX_ID}.'
    )
  return label


def _is_float(text: str) -> bool:
  if '_' in text:  # Python takes 3_12 for 312; here it is a name
    return False
  try:
    float(text)
  except ValueError:
    return False
  return True


def write(dataset: raw.RawDataset, file: pathlib.Path) -> None:
  """Writes a data set to a CSV file, from which it can be read again.

  The file is written whole or not at all. Several processes may write it at
  once: the last one counts.

  Args:
    dataset: the data set.
    file: the file to write. To be read, it must be in `dataset.root`, which its
      paths are relative to.
  """
  columns = list(COLUMNS)
  roles = {raw.DISTRACTOR_PID: DISTRACTOR, raw.JUNK_PID: JUNK}
  if not dataset.has_cameras:
    columns.remove('camid')
  if all(i.pid > 0 for s in ('query', 'gallery') for i in dataset.splits[s]):
    columns.remove('role')
  # Other processes, on other machines too, have parts of other names.
  part = file.with_name(f'{file.stem}.{uuid.uuid4().hex}.part')
  try:
    with part.open('x', encoding='utf-8', newline='') as lines:
      writer = csv.writer(lines)
      writer.writerow(columns)
      for split in raw.SPLITS:
        for image in dataset.splits[split]:
          role = roles.get(image.pid, PERSON) if split != 'train' else PERSON
          row = {
            'path': image.name, 'pid': image.pid, 'camid': image.camid,
            'split': split, 'role': role,
          }  # fmt: skip
          writer.writerow([row[column] for column in columns])
    part.replace(file)
  finally:
    part.unlink(missing_ok=True)
