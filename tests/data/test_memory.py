"""Tests of the limits of memory, in files as Linux has them."""

import pytest

from data import memory


@pytest.mark.parametrize(
  ('files', 'expected'),
  [
    ({}, None),
    # Version 2: a container, no limit, a file that is none.
    ({'sys/fs/cgroup/memory.max': '4096\n'}, 4096),
    ({'sys/fs/cgroup/memory.max': 'max\n'}, None),
    ({'sys/fs/cgroup/memory.max': ''}, None),
    # Version 2: a job, whose own group or one around it has the limit.
    (
      {
        'proc/self/cgroup': '0::/slurm/job_1/step_0\n',
        'sys/fs/cgroup/slurm/job_1/step_0/memory.max': 'max\n',
        'sys/fs/cgroup/slurm/job_1/memory.max': '2048\n',
        'sys/fs/cgroup/slurm/memory.max': '4096\n',
        'sys/fs/cgroup/slurm/job_2/memory.max': '1024\n',
      },
      2048,
    ),
    # Version 1: a container, and a job.
    ({'sys/fs/cgroup/memory/memory.limit_in_bytes': '4096\n'}, 4096),
    (
      {
        'proc/self/cgroup': '9:cpu,memory:/a:b\n4:pids:/c\n0::/\n',
        'sys/fs/cgroup/memory/a:b/memory.limit_in_bytes': '2048\n',
        'sys/fs/cgroup/memory/c/memory.limit_in_bytes': '1024\n',
        'sys/fs/cgroup/memory/memory.limit_in_bytes': f'{2**63 - 4096}\n',
      },
      2048,
    ),
    # A container that sees the name of its group, but not the group.
    (
      {
        'proc/self/cgroup': '4:memory:/docker/1\n',
        'sys/fs/cgroup/memory/memory.limit_in_bytes': '4096\n',
      },
      4096,
    ),
  ],
)
def test_the_least_limit_counts(files, expected, tmp_path):
  for name, content in files.items():
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
  assert memory.cgroup_limit(tmp_path) == expected


def test_the_least_of_machine_and_limit_is_available(monkeypatch):
  monkeypatch.setattr(memory, 'cgroup_limit', lambda: None)
  machine, name = memory.available()
  assert machine > 1e8 and name == 'this machine'
  monkeypatch.setattr(memory, 'cgroup_limit', lambda: 2**63 - 4096)
  assert memory.available() == (machine, 'this machine')
  monkeypatch.setattr(memory, 'cgroup_limit', lambda: 4096)
  assert memory.available() == (4096, 'this container or job (cgroup)')
