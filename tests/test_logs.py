import json

from apnet_jax.logs import MetricWriter


def test_writes_json_lines_and_events(tmp_path):
  with MetricWriter(tmp_path, 0) as writer:
    writer.write(1, {'train/loss': 2.5})
    # A line is there as soon as it is written.
    line = (tmp_path / 'metrics.jsonl').read_text()
  assert json.loads(line) == {'step': 1, 'train/loss': 2.5}
  (events,) = (tmp_path / 'tensorboard').iterdir()
  assert b'train/loss' in events.read_bytes()


def test_what_was_written_after_the_checkpoint_is_dropped(tmp_path):
  with MetricWriter(tmp_path, 0) as writer:
    for step in range(1, 6):
      writer.write(step, {'loss': step})
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text() + '{"step": 3, "lo')  # cut by a crash
  with MetricWriter(tmp_path, 3) as writer:
    writer.write(4, {'loss': 40})
  steps = [json.loads(line) for line in path.read_text().splitlines()]
  assert [(r['step'], r['loss']) for r in steps] == [
    (1, 1), (2, 2), (3, 3), (4, 40),
  ]  # fmt: skip
