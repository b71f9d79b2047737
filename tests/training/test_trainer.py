import dataclasses
import functools
import itertools
import json
import re

import chex
import jax
import numpy as np
import optax
import pytest

from apnet_jax.errors import UserError
from apnet_jax.models.apnet import create_model
from apnet_jax.models.torch_weights import Imported, to_state_dict
from apnet_jax.models.weight_files import write_weights
from apnet_jax.parallel import devices
from apnet_jax.retrieval import collapse, evaluation
from apnet_jax.retrieval.embed import make_embed
from apnet_jax.training import (
  checks,
  collapse_watch,
  expected_curve,
  programs,
  run,
  trainer,
)
from apnet_jax.training.train_step import state_shapes
from apnet_jax.visualize import page
from apnet_jax.workdir import json_files, restore, run_files
from apnet_jax.workdir.checkpoints import Checkpoints, open_for_reading
from apnet_jax.workdir.restore import restore_model
from tests.fakes import draw_state, make_feed, make_split, small_config
from tests.finished_runs import write_run
from tests.tiny import tiny_config, tiny_model


class Stopped(Exception):
  """Ends a run, in place of a crash."""


def stopping_after(feed, step):
  """Returns a feed that raises `Stopped` at batch `step` (from 0)."""

  def batches(first):
    for k, batch in enumerate(feed.batches(first), first):
      if k == step:
        raise Stopped
      yield batch

  return dataclasses.replace(feed, batches=batches)


STEPS = 12


@pytest.fixture(scope='module', autouse=True)
def small_network():
  """Runs train a network of two layers, whatever the configuration says."""
  with pytest.MonkeyPatch.context() as patch:
    for module in (programs, restore):
      patch.setattr(module, 'create_model', tiny_model)
    yield


@pytest.fixture(scope='module')
def whole_run(tmp_path_factory):
  """A run of twelve steps without a stop, evaluated every three.

  Its mAP is expected to be 0 after one epoch, and 1 after the second.
  """
  workdir = tmp_path_factory.mktemp('whole')
  config = tiny_config(epochs=4, eval_every_epochs=1)
  config.model.batch_norm_group = 4  # on two of four devices
  others = [
    write_run(tmp_path_factory.mktemp('other'), config, {1: 0.0, 2: 1.0}, seed)
    for seed in (1, 2, 3)
  ]
  record = expected_curve.make_record(others)
  json_files.write_json(workdir / 'record.json', record)
  config.eval.expected_curve = str(workdir / 'record.json')
  return config, workdir, trainer.train(config, make_feed(config), workdir)


def records(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def without_speed(records):
  measured = re.compile('train/(images_per_|data_wait|seconds_|.*_memory)')
  return [
    {k: v for k, v in record.items() if not measured.match(k)}
    for record in records
  ]


def test_a_run_leaves_what_it_promises(whole_run):
  config, workdir, summary = whole_run
  assert int(summary.state.step) == STEPS
  assert np.isfinite(summary.metrics['loss'])
  assert 0 < summary.metrics['data_wait'] < 1
  assert summary.metrics['process_memory'] > 1e8
  assert all(
    r['train/seconds_evaluation'] > 0 and r['train/seconds_save'] > 0
    for r in records(workdir)
    if r['step'] in (4, 7, 10) and 'train/loss' in r
  )
  steps = [*range(1, STEPS + 1), *range(3, STEPS + 1, 3)]
  assert [r['step'] for r in records(workdir)] == sorted(steps)
  card = json.loads((workdir / 'result.json').read_text())
  assert card == summary.card
  assert (card['queries']['valid'], card['queries']['skipped']) == (5, 0)
  assert card['gallery'] == {
    'of_query_identities': 10, 'distractors': 2, 'junk_left_out': 1,
  }  # fmt: skip
  evaluated = [r['eval/mAP'] for r in records(workdir) if 'eval/mAP' in r]
  assert card['figures']['mAP'] == evaluated[-1]
  expected = [
    (r['step'], r['eval/mAP_expected'])
    for r in records(workdir)
    if 'eval/mAP_expected' in r
  ]
  assert expected == [(3, 0.0), (6, 1.0)]
  charts = page.read_data(workdir / 'report.html')['charts']
  (curve,) = [c['lines'] for c in charts if c['title'] == 'mAP and Rank-1']
  shown = [value for _, value in curve[0]['points']]
  np.testing.assert_allclose(shown, evaluated, rtol=1e-5)
  assert run_files.load_config(workdir).to_dict() == json.loads(
    json.dumps(config.to_dict())
  )
  assert list((workdir / 'tensorboard').iterdir())


def test_a_start_is_not_drawn_as_a_speed_of_nothing(whole_run):
  """Each step is logged, but the first is not timed."""
  _, workdir, _ = whole_run
  speeds = [
    (r['step'], r['train/images_per_second'])
    for r in records(workdir)
    if 'train/images_per_second' in r
  ]
  assert [step for step, _ in speeds] == list(range(2, STEPS + 1))
  assert min(speed for _, speed in speeds) > 0


def test_a_run_learns_in_parts(tmp_path, capsys, monkeypatch):
  """The batch is always the same, without augmentation."""
  config = tiny_config(
    epochs=4, accumulate=2, rematerialize=True, learning_rate=1e-2,
    milestones=(3,),
  )  # fmt: skip
  config.augment.update(flip=0.0, pad=0, erase=0.0)
  feed = make_feed(config)
  batch = next(feed.batches(0))
  feed = dataclasses.replace(feed, batches=lambda _: itertools.repeat(batch))
  monkeypatch.setattr(collapse_watch, 'TOLERANCE', np.inf)
  monkeypatch.setattr(collapse_watch, 'STEPS', 5)
  trainer.train(config, feed, tmp_path)
  losses = [r['train/loss'] for r in records(tmp_path) if 'train/loss' in r]
  assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
  rates = [
    r['train/learning_rate'] for r in records(tmp_path) if 'train/loss' in r
  ]
  np.testing.assert_allclose(rates, [1e-2] * 9 + [1e-3] * 3, rtol=1e-5)
  out = capsys.readouterr().out
  assert out.count('Warning: only 5 queries have a true match.') == 2
  assert (
    'each batch in 2 micro-batches of 4 images, each with batch statistics of'
    ' its own: the losses are those of config.model.batch_norm_group=4, not'
    ' of 0'
  ) in out
  assert out.count('warning: step 6: the triplet loss has stayed') == 1


def test_parts_of_whole_groups_are_said_to_change_nothing():
  config = tiny_config(accumulate=2)
  config.model.batch_norm_group = 4
  assert run.describe_micro_batches(config).endswith(
    '2 micro-batches of 4 images, with the losses of the whole batch at once'
  )


def test_a_stopped_run_goes_on_to_the_same_end(
  whole_run, tmp_path, monkeypatch, capsys
):
  config, whole, summary = whole_run
  feed = make_feed(config)
  traces, train_step = [], programs.train_step

  @functools.wraps(train_step)
  def traced(*args, **kwargs):
    traces.append(None)
    return train_step(*args, **kwargs)

  monkeypatch.setattr(programs, 'train_step', traced)
  with pytest.raises(Stopped):
    trainer.train(config, stopping_after(feed, 8), tmp_path)
  resumed = trainer.train(config, feed, tmp_path)
  assert len(traces) == 2  # a run compiles its step once
  out = capsys.readouterr().out
  assert out.count('compares its mAP with the 3 runs recorded in') == 2
  assert re.search(r'step 3: mAP .*\nepoch 1: mAP .* is as expected', out)
  assert re.search(r'step 6: mAP .*\nwarning: epoch 2: mAP .* is below', out)
  assert out.count('3 recorded runs: ') == 2
  chex.assert_trees_all_equal(resumed.state, summary.state)
  assert resumed.card == summary.card
  assert without_speed(records(tmp_path)) == without_speed(records(whole))


def test_a_finished_run_is_only_evaluated(whole_run, capsys, monkeypatch):
  config, workdir, summary = whole_run
  monkeypatch.setattr(collapse, 'COLLAPSED', -2)
  before = records(workdir)
  again = trainer.train(config, make_feed(config), workdir)
  assert again.card == summary.card and again.metrics == {}
  assert records(workdir) == before
  out = capsys.readouterr().out
  assert 'Rank-1' in out
  assert 'warning: step 12: the network embeds all images alike' in out


def test_a_run_is_not_cut_to_fewer_steps_than_it_has_done(whole_run):
  """The result of twelve steps would count as that of nine."""
  config, workdir, _ = whole_run
  names = ('config.json', 'run.json', 'result.json', 'metrics.jsonl')
  before = [(workdir / name).read_bytes() for name in names]
  shorter = config.copy_and_resolve_references()
  shorter.train.epochs = 3
  with pytest.raises(UserError) as error:
    trainer.train(shorter, make_feed(shorter), workdir)
  assert str(error.value) == (
    'config.train.epochs=3 asks for 9 steps, but the run in'
    f' --workdir={workdir} has done 12. Give at least config.train.epochs=4,'
    ' or another --workdir.'
  )
  assert [(workdir / name).read_bytes() for name in names] == before


def test_the_least_number_of_steps_is_that_done(tmp_path):
  """Seven steps are more than two epochs of three steps."""
  (tmp_path / 'checkpoints' / '7').mkdir(parents=True)
  for train, least in (
    ({'steps': 6, 'epochs': 9}, 'steps=7'),
    ({'epochs': 2}, 'epochs=3'),
  ):
    config = tiny_config(**train)
    with pytest.raises(UserError, match=f'at least config.train.{least}, or'):
      checks.check_steps(config, 3, tmp_path)
  checks.check_steps(tiny_config(steps=7), 3, tmp_path)
  checks.check_steps(tiny_config(steps=1), 3, tmp_path / 'new')


@pytest.mark.parametrize('number', [4, 1])
def test_a_checkpoint_evaluates_as_the_run_did(number, whole_run, monkeypatch):
  """The run had four devices."""
  config, workdir, summary = whole_run
  some = jax.local_devices()[:number]
  monkeypatch.setattr(jax, 'local_devices', lambda **_: some)
  for name in ('device_count', 'local_device_count'):
    monkeypatch.setattr(jax, name, lambda: number)
  feed = make_feed(config)
  with open_for_reading(workdir) as checkpoints:
    assert checkpoints.latest_step == STEPS
    maps = {
      r['step']: r['eval/mAP'] for r in records(workdir) if 'eval/mAP' in r
    }
    assert maps[checkpoints.step('best')] == max(maps.values())
    step, model, variables = restore_model(
      checkpoints, 'last', run_files.load_config(workdir), feed.num_classes
    )
  assert all(leaf.devices() == {*some} for leaf in jax.tree.leaves(variables))
  embed = make_embed(model, config.eval)
  evaluated = evaluation.evaluate(embed, variables, feed, config.eval)
  assert evaluated.result.mAP == summary.card['figures']['mAP']


def test_a_damaged_checkpoint_is_named(whole_run, tmp_path):
  config, _, _ = whole_run
  config = config.copy_and_resolve_references()
  config.train.steps = 1
  feed = make_feed(config)
  trainer.train(config, feed, tmp_path)
  for file in (tmp_path / 'checkpoints' / '1').rglob('*'):
    if file.is_file() and '/d/' in str(file):
      file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  with open_for_reading(tmp_path) as checkpoints:
    with pytest.raises(ValueError, match='checkpoints/1 cannot be read; it is'):
      restore_model(checkpoints, 'last', config, feed.num_classes)


def test_a_run_goes_on_from_before_a_damaged_checkpoint(tmp_path, capsys):
  config = tiny_config(epochs=3)
  feed = make_feed(config)
  whole = trainer.train(config, feed, tmp_path / 'whole')
  workdir = tmp_path / 'run'
  with pytest.raises(Stopped):
    trainer.train(config, stopping_after(feed, 8), workdir)
  (workdir / 'checkpoints' / '6' / 'default' / 'manifest.ocdbt').unlink()
  capsys.readouterr()
  resumed = trainer.train(config, feed, workdir)
  out = capsys.readouterr().out
  assert 'after step 6 is damaged' in out and 'Resuming after step 3' in out
  chex.assert_trees_all_equal(resumed.state, whole.state)
  assert without_speed(records(workdir)) == without_speed(
    records(tmp_path / 'whole')
  )
  names = {path.name for path in (workdir / 'checkpoints').iterdir()}
  assert names == {'6', '9', '6.damaged'}


def test_a_workdir_of_another_run_is_refused(whole_run):
  config, workdir, _ = whole_run
  other = config.copy_and_resolve_references()
  other.train.margin = 0.5
  other.model.levels = 2
  with pytest.raises(ValueError) as error:
    trainer.train(other, make_feed(other), workdir)
  assert 'config.train.margin: 0.3 there, 0.5 here' in str(error.value)
  assert 'config.model.levels: 1 there, 2 here' in str(error.value)

  feed = dataclasses.replace(make_feed(config), fingerprint='other')
  with pytest.raises(ValueError, match="fingerprint: 'noise' there, 'other'"):
    trainer.train(config, feed, workdir)


@pytest.mark.parametrize('shared', [True, False])
def test_a_shared_disk_may_show_new_files_late(shared, tmp_path, monkeypatch):
  now = itertools.count(step=60)  # seconds
  monkeypatch.setattr(trainer.time, 'monotonic', lambda: next(now))

  def sleep(_):
    if shared:
      (tmp_path / 'config.json').touch()

  monkeypatch.setattr(trainer.time, 'sleep', sleep)
  monkeypatch.setattr(trainer.processes, 'is_first', lambda: False)
  config = tiny_config()
  arguments = tmp_path, config, make_feed(config), None
  if shared:
    trainer.claim(*arguments)
  else:
    with pytest.raises(UserError, match='does not see .* file system that all'):
      trainer.claim(*arguments)


def test_a_benchmark_without_a_valid_query_is_refused(tmp_path):
  """The error comes before the first step, as for data with one camera."""
  config = tiny_config()
  one_camera = make_split(np.arange(100, 105), np.zeros(5, int))
  feed = dataclasses.replace(make_feed(config), gallery=one_camera)
  with pytest.raises(ValueError, match='none of the 5 queries can be'):
    trainer.train(config, feed, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_workdir_without_a_checkpoint_may_be_claimed_anew(tmp_path):
  config = tiny_config()
  with pytest.raises(Stopped):
    trainer.train(config, stopping_after(make_feed(config), 0), tmp_path)
  config.train.margin = 0.5
  with pytest.raises(Stopped):
    trainer.train(config, stopping_after(make_feed(config), 0), tmp_path)
  assert run_files.load_config(tmp_path).train.margin == 0.5


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('train.P', 1, 'config.train.P=1 must be at least 2'),
    ('train.K', 1, 'config.train.K=1 must be at least 2'),
    ('model.radix', 3, r'att1: 256 channels.*radix=3'),
    ('model.backbone', 'vgg', 'config.model.backbone'),
    ('model.batch_norm_group', 3, 'batch_norm_group=3 does not fit 8 images'),
    (
      'model.batch_norm_group',
      1,
      'batch_norm_group=1 .* each image by its own',
    ),
    ('train.accumulate', 0, 'config.train.accumulate=0 must be at least 1'),
    (
      'train.accumulate',
      4,
      '8 images .*accumulate=4 micro-batches, .* 4 devices',
    ),
    ('train.P', 3, r'P=3 times config.train.K=2 = 6 images .* 4 devices'),
    ('train.epochs', 0, 'config.train.epochs=0 must be at least 1'),
    ('train.log_every_steps', 0, 'config.train.log_every_steps=0'),
    ('eval.batch_size', 0, 'config.eval.batch_size=0'),
    ('augment.pad', -1, 'config.augment.pad=-1'),
    ('augment.erase', 1.5, 'config.augment.erase=1.5 must be from 0 to 1'),
    ('data.image_size', (32, 16, 3), r'image_size=\(32, 16, 3\) is not a'),
    ('data.image_size', (32, 0), r'image_size=\(32, 0\) is not a height'),
  ],
)
def test_bad_fields_are_named(field, value, message, tmp_path):
  config = small_config()
  config.model.levels = 2
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=message):
    trainer.train(config, make_feed(config), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('P', 'K', 'devices', 'accumulate', 'suggested'),
  [(20, 4, 6, 1, 21), (3, 2, 4, 1, 4), (20, 4, 8, 3, 18), (2, 3, 16, 1, 16)],
)
def test_devices_that_do_not_divide_a_batch(
  P, K, devices, accumulate, suggested, tmp_path, monkeypatch
):
  """The number suggested passes the check."""
  config = small_config(P=P, K=K, accumulate=accumulate)
  monkeypatch.setattr(checks.jax, 'device_count', lambda: devices)
  with pytest.raises(ValueError, match=f'{devices} devices.*P={suggested},'):
    checks.check(config, tmp_path)
  config.train.P = suggested
  checks.check(config, tmp_path)


def test_micro_batches_of_one_image_are_refused():
  """The BN neck would make each embedding 0."""
  config = small_config(P=4, K=2, accumulate=8)
  for group in (0, 2):
    config.model.batch_norm_group = group
    with pytest.raises(ValueError, match='accumulate=8 .* by its own stat'):
      checks.check_batch(config, devices=1)
  config.train.accumulate = 4
  checks.check_batch(config, devices=1)


def test_weights_to_start_from_are_checked_before_a_run_begins(tmp_path):
  """A resumed run does not need them any more."""
  config = small_config()
  config.model.pretrained = str(tmp_path / 'weights.npz')
  with pytest.raises(ValueError, match='config.model.pretrained=.*not a file'):
    checks.check(config, tmp_path)
  np.savez(config.model.pretrained, **{'conv1.weight': np.zeros(3)})
  with pytest.raises(
    ValueError, match=r'(?s)pretrained=.*missing.*1 with a wrong shape'
  ):
    checks.check(config, tmp_path)
  (tmp_path / 'checkpoints' / '1').mkdir(parents=True)
  checks.check(config, tmp_path)


def test_a_state_starts_from_weights(tmp_path):
  config = small_config()
  model = create_model(config.model, 6)
  shapes = state_shapes(model, optax.sgd(0.1), (32, 16), config.train)
  state, other = (draw_state(shapes, seed) for seed in (0, 1))
  state_dict = to_state_dict(
    {'params': other.params, 'batch_stats': other.batch_stats}
  )
  state_dict['classifier.weight'] = np.zeros((9, 2048), np.float32)
  config.model.pretrained = str(tmp_path / 'weights.npz')
  write_weights(config.model.pretrained, state_dict)
  started, notes = run.start_from(config.model, state)
  chex.assert_trees_all_equal(started.params['base'], other.params['base'])
  chex.assert_trees_all_equal(started.batch_stats, other.batch_stats)
  chex.assert_trees_all_equal(
    started.params['classifier'], state.params['classifier']
  )
  leaf = started.params['base']['conv1']['kernel']
  assert leaf.sharding.is_fully_replicated and len(leaf.devices()) == 4
  assert '9 identities in the weights, 6 here' in '\n'.join(notes)


def test_an_average_of_weights_starts_from_imported_weights_too():
  config = tiny_config(ema_decay=0.9)
  model = tiny_model(config.model, 6)
  shapes = state_shapes(model, optax.sgd(0.1), (32, 16), config.train)
  state, other = (draw_state(shapes, seed) for seed in (0, 1))
  variables = {'params': other.params, 'batch_stats': other.batch_stats}
  imported = Imported(variables, ())
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(run.pretrained, 'import_pretrained', lambda *_: imported)
    started, _ = run.start_from(config.model, state, weights={})
  chex.assert_trees_all_equal(started.average, variables)
  pointers = [
    {leaf.addressable_data(0).unsafe_buffer_pointer() for leaf in leaves}
    for leaves in map(jax.tree.leaves, (started.average, started.params))
  ]
  assert not pointers[0] & pointers[1]  # a step donates each array


def test_a_recipe_with_a_state_of_its_own_resumes_and_evaluates_its_average(
  tmp_path, monkeypatch
):
  """Centres and averages lie in checkpoints; the average is the network."""
  config = tiny_config(
    schedule='cosine', clip_norm=1.0, circle_weight=0.5, center_weight=5e-4,
    ema_decay=0.9,
  )  # fmt: skip
  config.model.attention = 'none'
  feed = make_feed(config)
  made = programs.Programs(config, feed.num_classes, feed.steps_per_epoch)

  def steps(state, first, last):
    for _, batch in zip(range(first, last), feed.batches(first)):
      state, metrics = made.step(state, devices.shard_batch(batch))
    assert metrics['circle'] > 0 and metrics['center'] > 0
    return state

  half = steps(made.random_state(), 0, 2)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(2, half)
    checkpoints.wait()
    whole = steps(half, 2, 4)
    restored, _ = checkpoints.restore_latest(made.state_shapes())
    resumed = steps(restored, 2, 4)
    chex.assert_trees_all_equal(resumed, whole)
    checkpoints.save(4, whole)
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    _, _, variables = restore_model(
      checkpoints, 'last', config, feed.num_classes
    )
  chex.assert_trees_all_equal(variables, dict(whole.average))
  for moved in (
    whole.centers[0],
    whole.average['params']['classifier']['kernel']
    - whole.params['classifier']['kernel'],
  ):
    assert np.asarray(moved).any()

  def evaluate(_, variables, *__):
    assert variables is whole.average
    raise Stopped

  monkeypatch.setattr(evaluation, 'evaluate', evaluate)
  with pytest.raises(Stopped):
    run.Run(config, feed, made).evaluate(whole)


def test_several_data_sets_are_evaluated_one_by_one(tmp_path, capsys):
  config = tiny_config(steps=1)
  config.data.name = 'one,two'
  config.model.attention = 'none'
  feed = make_feed(config)
  size = tuple(config.data.image_size)
  pids = np.arange(100, 104)
  other = dataclasses.replace(
    feed,
    query=make_split(pids, np.zeros(4, int), seed=7, size=size),
    gallery=make_split(np.tile(pids, 2), np.ones(8, int), seed=8, size=size),
  )
  feed = dataclasses.replace(feed, benchmarks={'one': feed, 'two': other})
  summary = trainer.train(config, feed, tmp_path)
  cards = json.loads((tmp_path / 'result.json').read_text())
  assert cards == json.loads(json.dumps(summary.card))
  assert {name: card['dataset'] for name, card in cards.items()} == {
    'one': 'one', 'two': 'two',
  }  # fmt: skip
  assert [cards[n]['queries']['valid'] for n in ('one', 'two')] == [5, 4]
  maps = {name: card['figures']['mAP'] for name, card in cards.items()}
  (logged,) = (r for r in records(tmp_path) if 'eval/mAP' in r)
  for name, mAP in maps.items():
    assert logged[f'eval/{name}/mAP'] == pytest.approx(mAP)
  assert logged['eval/mAP'] == pytest.approx(sum(maps.values()) / 2)
  assert maps['one'] != maps['two']
  with open_for_reading(tmp_path) as checkpoints:
    assert checkpoints.figures(1)['mAP'] == pytest.approx(logged['eval/mAP'])
  out = capsys.readouterr().out
  assert 'one, trained network' in out and 'two, trained network' in out
  assert 'step 1, two: mAP' in out
