"""The memory of this machine, and the limits of a container or job on it."""

from collections.abc import Iterator
import os
import pathlib


def available() -> tuple[int, str]:
  """Returns the memory that programs may use here.

  Returns:
    The number of bytes, and who has them, for messages: the machine, or a
    container or job with a limit below that.
  """
  machine = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  limit = cgroup_limit()
  if limit is not None and limit < machine:
    return limit, 'this container or job (cgroup)'
  return machine, 'this machine'


def shortage(needed: int, sharing: int) -> str:
  """Returns the memory that there is, as text, if that is too little.

  Args:
    needed: number of bytes that each process needs.
    sharing: number of processes that share the memory.

  Returns:
    Words such as 'this machine has 8.00 GB of memory'; '' if it is enough.
  """
  size, owner = available()
  if sharing * needed <= size:
    return ''
  shared = f', which {sharing} processes share' if sharing > 1 else ''
  return f'{owner} has {size / 1e9:.2f} GB of memory{shared}'


def cgroup_limit(root: str | os.PathLike = '/') -> int | None:
  """Returns the memory limit of the control groups of this process, in bytes.

  A group is limited by all groups that it lies in: containers see theirs at
  the root, while a job (of SLURM or systemd) has one below. Linux's versions 1
  and 2 of control groups are read. A limit that cannot be read counts as none.

  Args:
    root: root of the file system.

  Returns:
    The least limit; None if there is none. Version 1 has a huge number instead.
  """
  limits = []
  for file in _limit_files(pathlib.Path(root)):
    try:
      limits.append(int(file.read_text()))
    except (OSError, ValueError):  # there is none, or it is 'max'
      continue
  return min(limits, default=None)


def _limit_files(root: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields the files that may hold the limits, for both versions.

  Lines of /proc/self/cgroup are 'number:controllers:path'; version 2 names no
  controllers.
  """
  groups = {'': '/', 'memory': '/'}
  try:
    lines = (root / 'proc/self/cgroup').read_text().splitlines()
  except OSError:
    lines = []
  for line in lines:
    _, controllers, path = line.split(':', 2)
    for controller in set(controllers.split(',')) & set(groups):
      groups[controller] = path
  for controller, name in (
    ('', 'memory.max'),
    ('memory', 'memory.limit_in_bytes'),
  ):
    top = root / 'sys/fs/cgroup' / controller
    group = pathlib.PurePosixPath(groups[controller])
    for each in (group, *group.parents):
      yield top / str(each).lstrip('/') / name
