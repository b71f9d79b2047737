import json
import resource
import struct
import time

from tensorboardX.proto import event_pb2

from apnet_jax.workdir import metric_reader
from apnet_jax.workdir.metric_writer import MetricWriter


def test_writes_json_lines_and_events(tmp_path):
  with MetricWriter(tmp_path, 0) as writer:
    writer.write(1, {'train/loss': 2.5})
    # Lines are written without a delay.
    line = (tmp_path / 'metrics.jsonl').read_text()
  assert json.loads(line) == {'step': 1, 'train/loss': 2.5}
  (events,) = (tmp_path / 'tensorboard').iterdir()
  assert b'train/loss' in events.read_bytes()


def test_what_was_written_after_the_checkpoint_is_dropped(tmp_path):
  with MetricWriter(tmp_path, 0) as writer:
    for step in range(1, 6):
      writer.write(step, {'loss': step})
  path = tmp_path / 'metrics.jsonl'
  damaged = b'[3]\n{"step": "x"}\n{"st\xff": 3}\n'  # and cut by a crash:
  path.write_bytes(path.read_bytes() + damaged + b'{"step": 3, "lo')
  with MetricWriter(tmp_path, 3) as writer:
    writer.write(4, {'loss': 40})
  steps = [json.loads(line) for line in path.read_text().splitlines()]
  assert [(r['step'], r['loss']) for r in steps] == [
    (1, 1), (2, 2), (3, 3), (4, 40),
  ]  # fmt: skip


def test_a_record_without_its_line_break_is_dropped(tmp_path):
  """The next record would otherwise stand on the same line."""
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1, "loss": 1}\n{"step": 2, "loss": 2}')
  assert [r['step'] for r in metric_reader.read_metrics(tmp_path)] == [1]
  with MetricWriter(tmp_path, 2) as writer:
    writer.write(3, {'loss': 3})
  assert metric_reader.read_metrics(tmp_path) == [
    {'step': 1, 'loss': 1},
    {'step': 3, 'loss': 3},
  ]


def test_the_record_of_an_evaluation_to_repeat_is_dropped(tmp_path):
  records = [(2, 'eval/mAP'), (3, 'train/loss'), (3, 'eval/mAP')]
  with MetricWriter(tmp_path, 0) as writer:
    for step, name in records:
      writer.write(step, {name: 1})
  for evaluated, kept in ((True, records), (False, records[:2])):
    MetricWriter(tmp_path, 3, evaluated).close()
    lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
      {'step': step, name: 1} for step, name in kept
    ]


def events_of(workdir):
  """Returns the events of each file, in TensorBoard's order."""
  found = []
  for path in sorted((workdir / 'tensorboard').iterdir()):
    data, events = path.read_bytes(), []
    while data:
      (length,) = struct.unpack('Q', data[:8])
      events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
      data = data[16 + length :]
    found.append(events)
  return found


def files_of_events(workdir):
  """Returns steps and values of each file, in TensorBoard's order."""
  return [
    [
      (event.step, v.simple_value)
      for event in events
      for v in event.summary.value
    ]
    for events in events_of(workdir)
  ]


def test_the_clock_may_be_moved_back(tmp_path, monkeypatch):
  """TensorBoard reads files in the order of names; later files count."""
  for hours, steps in ((10, (1, 2, 3)), (2, (3, 4))):
    monkeypatch.setattr(time, 'time', lambda hours=hours: 1e9 + 3600 * hours)
    with MetricWriter(tmp_path, steps[0] - 1) as writer:
      for step in steps:
        writer.write(step, {'loss': step * hours})
  first, second = files_of_events(tmp_path)
  assert first == [(1, 10), (2, 20), (3, 30)]
  assert second == [(3, 6), (4, 8)]
  # From this step on, TensorBoard drops what older files hold.
  starts = [
    [event.step for event in events if event.session_log.status]
    for events in events_of(tmp_path)
  ]
  assert starts == [[1], [3]]
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['loss'] for line in lines] == [10, 20, 6, 8]


def test_a_full_disk_delays_metrics(tmp_path, capsys):
  """A limit of the system on file sizes stands for a full disk."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  long = {'a_long_name' * 20: 1}
  with MetricWriter(tmp_path, 0) as writer:
    writer.write(1, {'loss': 1})
    size = (tmp_path / 'metrics.jsonl').stat().st_size
    try:
      resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
      writer.write(2, long)  # there is room for a part of it
      writer.write(3, long)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / 'metrics.jsonl').stat().st_size == size
    writer.write(4, {'loss': 4})
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [1, 2, 3, 4]
  steps = [step for events in files_of_events(tmp_path) for step, _ in events]
  assert steps == [1, 2, 3, 4]
  assert 'metrics cannot be written' in capsys.readouterr().out
