"""Tests the benchmark of start-up with fake programs."""

import json
import pathlib

import pytest

from benchmarks import startup

RECORD = (
  pathlib.Path(__file__).parents[2] / 'docs/records/benchmarks/startup.json'
)
# Prints its first argument, and logs to the folder if one is given.
PROGRAM = """\
import pathlib, sys, time
lines, folder = sys.argv[1:]
print(lines)
if not folder:
  sys.exit('no folder')
pathlib.Path(folder, 'metrics.jsonl').write_text('{}\\n')
time.sleep(60)
"""


@pytest.fixture
def program(tmp_path):
  path = tmp_path / 'program.py'
  path.write_text(PROGRAM)
  return str(path)


def said(*phases):
  return '\n'.join(f'{startup.PHASES[phase]} and more' for phase in phases)


def test_a_program_is_timed_until_it_logs(program, tmp_path):
  lines = said(*list(startup.PHASES)[:-1])
  seconds = startup.time_phases([program, lines, str(tmp_path)], tmp_path)
  assert list(seconds) == list(startup.PHASES)
  assert all(0 <= value < 60 for value in seconds.values())


def test_a_program_that_fails_is_an_error(program, tmp_path):
  with pytest.raises(RuntimeError, match='(?s)ended with code 1.*no folder'):
    startup.time_phases([program, '', ''], tmp_path)


def test_medians_and_phases_stand_beside_the_limits():
  turns = [
    {
      'import apnet_jax': startup.Start({'all': seconds}, 1.0),
      'demo, warm': startup.Start(
        {'a': seconds, 'b': 10 * seconds}, 3 * seconds
      ),
      'demo, cold': startup.Start({'a': seconds, 'b': 30 * seconds}, 1.0),
    }
    for seconds in (1.0, 9.0, 2.0)
  ]
  figures = startup.summarize(turns)
  assert figures['demo, warm'] == {
    'seconds': 22, 'limit': 25, 'turns': [11, 99, 22], 'cpu seconds': 6,
    'phases': {'a': 2, 'b': 20},
  }  # fmt: skip
  table = startup.format_table(figures).splitlines()
  over = [line for line in table if 'over the limit' in line]
  assert [line.split('  ')[0] for line in over] == [
    'import apnet_jax', 'demo, cold',
  ]  # fmt: skip


def test_cpu_seconds_are_those_of_the_program_that_ended(monkeypatch):
  usages = iter([10.0, 11.0, 11.0, 61.0, 61.0, 81.0])
  monkeypatch.setattr(startup, '_cpu_of_ended_programs', lambda: next(usages))
  monkeypatch.setattr(startup, 'measure_import', lambda: {'all': 1.0})
  monkeypatch.setattr(startup, 'measure_demo', lambda folder: {'all': 2.0})
  cpu = {name: start.cpu for name, start in startup.measure().items()}
  assert cpu == {'import apnet_jax': 1, 'demo, cold': 50, 'demo, warm': 20}


def test_mistakes_are_messages(capsys):
  with pytest.raises(SystemExit, match='2'):
    startup.main(['--turns=0'])
  assert '--turns=0: must be at least 1' in capsys.readouterr().err


def test_the_record_says_what_is_allowed():
  figures = json.loads(RECORD.read_text())['figures']
  assert {name: values['limit'] for name, values in figures.items()} == (
    startup.LIMITS
  )
