import jax.numpy as jnp
import pytest

from apnet_jax.parallel import processes
from apnet_jax.training import profiling


def test_time_is_split(monkeypatch):
  """Batches take 1 s, the rest of a step 3 s; the first step takes 100 s."""
  now = [0.0]
  monkeypatch.setattr(profiling.time, 'perf_counter', lambda: now[0])

  def batches():
    while True:
      now[0] += 1
      yield {}

  timer, source = profiling.StepTimer(batch_size=8), batches()
  for seconds in (100, 3, 3):
    timer.fetch(source)
    now[0] += seconds
    timer.count()
  with timer.phase('save'):
    now[0] += 4
  with timer.phase('evaluation'):
    now[0] += 20
  assert timer.figures() == {
    'images_per_second': 2.0,
    'data_wait': 0.25,
    'seconds_data': 1.0,
    'seconds_step': 3.0,
    'seconds_save': 2.0,
    'seconds_evaluation': 10.0,
  }
  assert timer.figures()['seconds_save'] == 0


def test_the_first_step_has_no_speed():
  """It is not timed, so that its speed would be 0 images per second."""
  timer = profiling.StepTimer(batch_size=8)
  timer.count()
  assert timer.figures() == {'seconds_save': 0, 'seconds_evaluation': 0}
  timer.count()
  assert timer.figures()['images_per_second'] > 0


def test_memory_is_told_by_the_device_or_else_of_the_process(monkeypatch):
  assert profiling.memory()['process_memory'] > 1e8

  class Device:
    def memory_stats(self):
      return {'peak_bytes_in_use': 7}

  monkeypatch.setattr(profiling.jax, 'local_devices', lambda: [Device()])
  assert profiling.memory() == {'device_memory': 7}


def test_steps_to_trace():
  assert profiling.parse_steps('') is None
  assert profiling.parse_steps('3:3') == (3, 3)
  for text in ('3', '3:2', '0:2', 'a:b', '3:', '3:4:5', '-1:2'):
    with pytest.raises(ValueError, match=f'--profile_steps={text} is not a:b'):
      profiling.parse_steps(text)


def test_a_trace_is_of_its_steps(tmp_path):
  profile = profiling.Profile((2, 3), tmp_path, start=0, total=3)
  for step in range(1, 4):
    with profile.step(step, None):
      x = jnp.arange(3) * step
    profile.end(step, x)
  (trace,) = (tmp_path / 'profile').rglob('*.xplane.pb')
  content = trace.read_bytes()
  assert b'train' in content
  assert str(tmp_path / 'profile') in profile.describe()


def test_each_process_traces_into_its_own_folder(tmp_path, monkeypatch):
  """JAX would give the traces of a machine's processes the same name."""
  monkeypatch.setattr(processes, 'is_distributed', lambda: True)
  traces = set()
  for i in range(2):
    monkeypatch.setattr(profiling.jax, 'process_index', lambda i=i: i)
    profile = profiling.Profile((1, 1), tmp_path, start=0, total=1)
    with profile.step(1, None):
      x = jnp.arange(3) * 2
    profile.end(1, x)
    folder = tmp_path / 'profile' / f'process_{i}'
    assert f'--logdir={folder}' in profile.describe()
    assert 'those of the other processes beside it' in profile.describe()
    traces |= set(folder.rglob('*.xplane.pb'))
  assert len(traces) == 2


def test_steps_that_are_done_are_not_traced(tmp_path, capsys):
  profile = profiling.Profile((2, 3), tmp_path, start=2, total=9)
  for step in range(3, 5):
    with profile.step(step, None):
      pass
    profile.end(step, None)
  assert profile.describe() == '' and not (tmp_path / 'profile').exists()
  assert 'step 2 of --profile_steps is done' in capsys.readouterr().out
  with pytest.raises(ValueError, match='=2:10: the run has 9 steps'):
    profiling.Profile((2, 10), tmp_path, start=0, total=9)
  assert profiling.Profile(None, tmp_path, start=0, total=9).describe() == ''
