import json

import jax
import numpy as np
import pytest

from apnet_jax import checkpoint, evaluator, trainer
from tests.fakes import make_feed, small_config


class Stopped(Exception):
  """Stands for whatever ends a run."""


def stopping_after(feed, step):
  """A feed that breaks when batch `step` (from 0) is asked for."""

  def batches(first):
    for k, batch in enumerate(feed.batches(first), first):
      if k == step:
        raise Stopped
      yield batch

  return trainer.dataclasses.replace(feed, batches=batches)


@pytest.fixture(scope='module')
def whole_run(tmp_path_factory):
  """Six steps in one go, evaluated after three and six."""
  workdir = tmp_path_factory.mktemp('whole')
  config = small_config(eval_every_epochs=1)
  return config, workdir, trainer.train(config, make_feed(config), workdir)


def records(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def without_speed(records):
  return [
    {k: v for k, v in record.items() if 'per_second' not in k}
    for record in records
  ]


def test_a_run_leaves_what_it_promises(whole_run):
  config, workdir, summary = whole_run
  assert int(summary.state.step) == 6
  assert np.isfinite(summary.metrics['loss'])
  assert [r['step'] for r in records(workdir)] == [1, 2, 3, 3, 4, 5, 6, 6]
  card = json.loads((workdir / 'result.json').read_text())
  assert card == summary.card
  assert card['queries'] == {'valid': 5, 'skipped': 0}
  assert card['gallery'] == {
    'of_query_identities': 10, 'distractors': 2, 'junk_left_out': 1,
  }  # fmt: skip
  evaluated = [r['eval/mAP'] for r in records(workdir) if 'eval/mAP' in r]
  assert card['figures']['mAP'] == evaluated[-1]
  assert checkpoint.load_config(workdir).to_dict() == json.loads(
    json.dumps(config.to_dict())
  )
  assert list((workdir / 'tensorboard').iterdir())


def test_a_stopped_run_goes_on_to_the_same_end(whole_run, tmp_path):
  config, whole, summary = whole_run
  feed = make_feed(config)
  with pytest.raises(Stopped):
    trainer.train(config, stopping_after(feed, 4), tmp_path)
  resumed = trainer.train(config, feed, tmp_path)
  jax.tree.map(np.testing.assert_array_equal, resumed.state, summary.state)
  assert resumed.card == summary.card
  assert without_speed(records(tmp_path)) == without_speed(records(whole))


def test_a_finished_run_is_only_evaluated(whole_run, capsys):
  config, workdir, summary = whole_run
  before = records(workdir)
  again = trainer.train(config, make_feed(config), workdir)
  assert again.card == summary.card and again.metrics == {}
  assert records(workdir) == before
  assert 'Rank-1' in capsys.readouterr().out


def test_a_checkpoint_evaluates_as_the_run_did(whole_run):
  config, workdir, summary = whole_run
  feed = make_feed(config)
  with checkpoint.open_for_reading(workdir) as checkpoints:
    assert checkpoints.latest_step == 6
    maps = {
      r['step']: r['eval/mAP'] for r in records(workdir) if 'eval/mAP' in r
    }
    assert maps[checkpoints.best_step] == max(maps.values())
    evaluated = evaluator.evaluate_checkpoint(
      checkpoints, 6, checkpoint.load_config(workdir), feed.num_classes, feed
    )
  assert 100 * evaluated.result.mAP == summary.card['figures']['mAP']


def test_a_damaged_checkpoint_is_named(whole_run, tmp_path):
  config, _, _ = whole_run
  config = config.copy_and_resolve_references()
  config.train.steps = 1
  feed = make_feed(config)
  trainer.train(config, feed, tmp_path)
  for file in (tmp_path / 'checkpoints' / '1').rglob('*'):
    if file.is_file() and '/d/' in str(file):
      file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  with checkpoint.open_for_reading(tmp_path) as checkpoints:
    with pytest.raises(ValueError, match='checkpoints/1 cannot be read'):
      evaluator.evaluate_checkpoint(
        checkpoints, 1, config, feed.num_classes, feed
      )


def test_a_workdir_of_another_run_is_refused(whole_run):
  config, workdir, _ = whole_run
  other = config.copy_and_resolve_references()
  other.train.margin = 0.5
  other.model.levels = 2
  with pytest.raises(ValueError) as error:
    trainer.train(other, make_feed(other), workdir)
  assert 'config.train.margin: 0.3 there, 0.5 here' in str(error.value)
  assert 'config.model.levels: 1 there, 2 here' in str(error.value)

  feed = trainer.dataclasses.replace(make_feed(config), fingerprint='other')
  with pytest.raises(ValueError, match="fingerprint: 'noise' there, 'other'"):
    trainer.train(config, feed, workdir)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
  config = small_config(learning_rate=1e30, checkpoint_every_epochs=0)
  with pytest.raises(FloatingPointError, match=r'the loss is \S+ at step \d'):
    trainer.train(config, make_feed(config), tmp_path)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'P': 3, 'K': 3}, r'P=3 times config.train.K=3 = 9 .* 4 devices'),
    ({'epochs': 0}, 'config.train.epochs=0'),
    ({'log_every_steps': 0}, 'config.train.log_every_steps=0'),
  ],
)
def test_bad_fields_are_named(fields, message, tmp_path):
  config = small_config(**fields)
  with pytest.raises(ValueError, match=message):
    trainer.train(config, make_feed(config), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
