import contextlib
import datetime
import json
import pathlib
import resource
import shutil
import time

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from apnet_jax.errors import UserError
from apnet_jax.parallel import processes
from apnet_jax.workdir import json_files, restore, run_files
from apnet_jax.workdir.checkpoints import Checkpoints, open_for_reading
from configs import common

RUN = {'fingerprint': 'x', 'num_classes': 2, 'devices': '1', 'versions': {}}


def state(value):
  return {'w': jnp.full(3, float(value)), 'step': jnp.int32(value)}


def test_keeps_the_last_two_and_the_best(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.step('last') is None and checkpoints.step('best') is None
    for step, mAP in ((1, 0.2), (2, 0.9), (3, None), (4, 0.4), (5, None)):
      checkpoints.save(step, state(step))
      if mAP is not None:
        checkpoints.add_figures(step, {'mAP': mAP})
  kept = {int(path.name) for path in (tmp_path / 'checkpoints').iterdir()}
  assert kept == {2, 4, 5}
  (tmp_path / 'config.json').write_text('{}')
  with open_for_reading(tmp_path) as checkpoints:
    assert (checkpoints.step('best'), checkpoints.latest_step) == (2, 5)
    restored = checkpoints.restore(5, state(0))
  np.testing.assert_array_equal(restored['w'], [5, 5, 5])
  assert int(restored['step']) == 5


def test_without_an_evaluation_the_last_is_the_best(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(7, state(7))
    assert checkpoints.step('best') == 7


def test_figures_are_added_to_a_checkpoint(tmp_path, capsys):
  """Damaged figures cost no checkpoint; it may be evaluated again."""
  figures = {'mAP': 0.7, 'Rank-1': 0.9}
  with Checkpoints(tmp_path) as checkpoints:
    for step in (1, 2):
      checkpoints.save(step, state(step))
    assert checkpoints.figures(1) is None
    checkpoints.add_figures(1, figures)
    checkpoints.add_figures(7, figures)  # it was not saved
    assert checkpoints.figures(1) == figures
  assert names(tmp_path) == {'1', '2'}
  (file,) = (tmp_path / 'checkpoints').rglob('metrics/metrics')
  truncate(file)
  for _ in range(2):
    with Checkpoints(tmp_path) as checkpoints:
      assert checkpoints.candidates('best') == [2, 1]
      assert checkpoints.figures(1) is None
  assert capsys.readouterr().out.count('is damaged: its mAP is unknown') == 1
  with Checkpoints(tmp_path) as checkpoints:
    with full_disk():
      checkpoints.add_figures(1, {'mAP': 0.8, 'x' * 100_000: 0})
    assert checkpoints.figures(1) is None
    assert (
      'after step 1 could not be saved: File too' in capsys.readouterr().out
    )
    checkpoints.add_figures(1, figures)
    assert checkpoints.step('best') == 1


def test_a_workdir_of_orbax_metrics_goes_on(tmp_path):
  """Before figures were added afterwards, Orbax saved them with the state."""
  with ocp.CheckpointManager(
    tmp_path / 'checkpoints',
    options=ocp.CheckpointManagerOptions(best_fn=lambda x: x['mAP']),
  ) as manager:
    for step, mAP in ((1, 0.6), (2, 0.5)):
      args, metrics = ocp.args.StandardSave(state(step)), {'mAP': mAP}
      manager.save(step, args=args, metrics=metrics)
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.step('best') == 1
    assert checkpoints.figures(2) == {'mAP': 0.5}
    checkpoints.save(3, state(3))
    checkpoints.add_figures(3, {'mAP': 0.4})
    checkpoints.save(4, state(4))
  assert names(tmp_path) == {'1', '3', '4'}


def test_a_surpassed_checkpoint_is_deleted_at_the_end(tmp_path):
  """The next save would delete it, but the last checkpoint has none."""
  with Checkpoints(tmp_path) as checkpoints:
    for step, mAP in ((1, 0.5), (2, 0.2), (3, 0.3), (4, 0.6)):
      checkpoints.save(step, state(step))
      checkpoints.add_figures(step, {'mAP': mAP})
    assert names(tmp_path) == {'1', '3', '4'}
    (tmp_path / 'config.json').write_text('{}')
    open_for_reading(tmp_path).__exit__(None)  # by another process
    assert names(tmp_path) == {'1', '3', '4'}
  assert names(tmp_path) == {'3', '4'}
  with Checkpoints(tmp_path) as checkpoints:
    restored, _ = checkpoints.restore_latest(state(0))
  assert int(restored['step']) == 4


def test_missing_checkpoints_are_named(tmp_path):
  with pytest.raises(ValueError, match=r'--ckpt=.*: it does not exist\.'):
    open_for_reading(tmp_path / 'nowhere')
  with pytest.raises(ValueError, match=r'--ckpt=.*no config.json'):
    open_for_reading(tmp_path)
  (tmp_path / 'a.jpg').touch()
  with pytest.raises(ValueError, match=r'a\.jpg .*not one of the command pack'):
    open_for_reading(tmp_path / 'a.jpg')
  (tmp_path / 'config.json').write_text('{}')
  with pytest.raises(ValueError, match='holds no whole checkpoint'):
    open_for_reading(tmp_path)


def test_a_checkpoint_of_another_shape_is_an_error(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state(1))
  with Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(ValueError, match='1 cannot be read'):
      checkpoints.restore(1, {'w': jnp.zeros(4), 'step': jnp.int32(0)})


@pytest.mark.parametrize('name', ['config.json', 'run.json'])
def test_a_damaged_file_of_a_workdir_is_named(tmp_path, name):
  (tmp_path / name).write_text('{"seed": ')
  load = run_files.load_config if name[0] == 'c' else run_files.load_run
  with pytest.raises(ValueError, match=f'{name} cannot be read'):
    load(tmp_path)


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('config.json', [1], 'holds no fields'),
    ('config.json', {'a.b': 1}, 'config.json.*dots'),
    (
      'run.json',
      {'num_classes': 2},
      'run.json is damaged: fingerprint is None',
    ),
    (
      'run.json',
      {'num_classes': True, 'fingerprint': 'x'},
      'num_classes is Tr',
    ),
  ],
)
def test_what_is_no_file_of_a_workdir_is_named(
  tmp_path, name, content, message
):
  (tmp_path / name).write_text(json.dumps(content))
  load = run_files.load_config if name[0] == 'c' else run_files.load_run
  with pytest.raises(ValueError, match=message):
    load(tmp_path)


def test_json_that_is_too_deep_or_too_large(tmp_path, monkeypatch):
  path = tmp_path / 'x.json'
  path.write_text('[' * 21 + ']' * 21)
  with pytest.raises(ValueError, match='x.json cannot be read.*too deep'):
    json_files.read_json(path)
  path.write_text('[' * 20 + ']' * 20)
  json_files.read_json(path)
  monkeypatch.setattr(json_files, 'MAX_BYTES', 39)
  with pytest.raises(ValueError, match='x.json cannot be read.*than 39 bytes'):
    json_files.read_json(path)


def test_a_configuration_is_data(tmp_path):
  """Text in a configuration is never executed."""
  text = '__import__("pathlib").Path("harm").touch()'
  content = {'name': text, 'model': {'levels': text, 'py/object': text}}
  json_files.write_json(tmp_path / 'config.json', content)
  config = run_files.load_config(tmp_path)
  assert config.to_dict() == content


def test_what_may_change_in_a_workdir(tmp_path, capsys):
  config = common.get_config()
  run_files.claim_workdir(tmp_path, config, RUN)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state(1))
  config.train.epochs = 200
  config.eval.batch_size = 7
  config.data.dir = 'elsewhere'
  run_files.claim_workdir(tmp_path, config, RUN)
  assert not capsys.readouterr().out
  config.eval.flip = False
  run_files.claim_workdir(tmp_path, config, RUN)
  told = capsys.readouterr().out
  assert 'best one, does not compare' in told
  assert told.endswith(':\n  config.eval.flip: True there, False here\n')
  assert run_files.load_config(tmp_path).train.epochs == 200
  assert run_files.load_run(tmp_path) == RUN
  config.seed = 1
  with pytest.raises(ValueError, match='config.seed: 0 there, 1 here'):
    run_files.claim_workdir(tmp_path, config, RUN)
  saved = json.loads((tmp_path / 'config.json').read_text())
  assert saved['seed'] == 0  # a refusal changes nothing


def test_epochs_of_a_cosine_may_not_change(tmp_path):
  """The learning rate of all later steps would be another one."""
  config = common.get_config()
  config.train.schedule = 'cosine'
  run_files.claim_workdir(tmp_path, config, RUN)
  (tmp_path / 'checkpoints' / '1').mkdir(parents=True)
  config.train.steps = 5
  run_files.claim_workdir(tmp_path, config, RUN)
  config.train.epochs = 200
  with pytest.raises(ValueError, match='train.epochs: 160 there, 200 here'):
    run_files.claim_workdir(tmp_path, config, RUN)


def test_a_run_of_an_older_version_resumes(tmp_path):
  """A field that did not exist when the run began had today's default."""
  config = common.get_config()
  run_files.claim_workdir(tmp_path, config, RUN)
  (tmp_path / 'checkpoints' / '1').mkdir(parents=True)
  older = config.to_dict()
  del older['train']['triplet_weight']
  json_files.write_json(tmp_path / 'config.json', older)
  config.train.triplet_weight = 0.5
  with pytest.raises(ValueError, match='triplet_weight: 1.0 there, 0.5 here'):
    run_files.claim_workdir(tmp_path, config, RUN)
  config.train.triplet_weight = 1.0
  run_files.claim_workdir(tmp_path, config, RUN)
  assert run_files.load_config(tmp_path).train.triplet_weight == 1.0


def test_nothing_is_resumed_from_what_is_not_a_whole_checkpoint(tmp_path):
  for name in ('1.damaged', '2.orbax-checkpoint-tmp'):
    (tmp_path / 'checkpoints' / name).mkdir(parents=True)
  assert not run_files.can_resume(tmp_path)
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step is None
    checkpoints.save(1, state(1))
  assert run_files.can_resume(tmp_path)
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step == 1
  assert names(tmp_path) == {'1', '1.damaged'}


def test_a_new_run_in_an_old_workdir_has_no_threshold_and_result(tmp_path):
  files = run_files.THRESHOLD_FILE, run_files.RESULT_FILE
  for begun in (False, True):
    for name in files:
      json_files.write_json(tmp_path / name, {'threshold': 0.5})
    run_files.claim_workdir(tmp_path, common.get_config(), RUN)
    for name in files:
      assert (tmp_path / name).exists() == begun
    (tmp_path / 'checkpoints' / '1').mkdir(parents=True, exist_ok=True)


def test_another_environment_is_no_damage(tmp_path):
  config = common.get_config()
  config.model.dtype = 'float64'
  with Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(UserError, match='^config.model.dtype=.*ENABLE_X64=1.$'):
      restore.restore_model(checkpoints, 'last', config, num_classes=2)


def test_lists_of_numbers_stand_on_a_line(tmp_path):
  content = {
    'numbers': [1, -2.5e-7, None],
    'pairs': [[1, 2], [3]],
    'name': 'a [1  2].jpg',
    'empty': [],
    'names': ['a', 'b'],
  }
  json_files.write_json(tmp_path / 'x.json', content)
  text = (tmp_path / 'x.json').read_text()
  assert '"numbers": [ 1, -2.5e-07, null ]' in text
  assert json.loads(text) == content


def test_a_checkpoint_of_a_signal_takes_no_regular_ones_place(tmp_path):
  """The last scheduled checkpoint stays, since a run may roll back to it."""
  with Checkpoints(
    tmp_path, is_scheduled=lambda step: step % 3 == 0
  ) as checkpoints:
    for step in (3, 6, 7, 8):
      checkpoints.save(step, state(step))
    assert checkpoints.wait() == 8
    assert checkpoints.latest_scheduled_step == 6
  assert names(tmp_path) == {'6', '7', '8'}


def test_a_checkpoint_stays_scheduled_in_another_schedule(tmp_path):
  """Otherwise a run that resumes with it would roll back to its start."""
  with Checkpoints(tmp_path, is_scheduled=lambda step: step == 3) as before:
    for step in (3, 4):
      before.save(step, state(step))
  with Checkpoints(tmp_path, is_scheduled=lambda step: step == 8) as after:
    assert after.latest_scheduled_step == 3
    for step in (5, 6):
      after.save(step, state(step))
    after.wait()
    assert names(tmp_path) == {'3', '5', '6'}
    after.save(8, state(8))
    after.wait()
    assert after.latest_scheduled_step == 8
  assert names(tmp_path) == {'6', '8'}


@pytest.mark.parametrize('content', ['{}', '{"custom_metadata": {}}', ''])
def test_without_a_record_the_schedule_of_today_decides(content, tmp_path):
  """So it is with checkpoints of an earlier version."""
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(3, state(3))
  file = tmp_path / 'checkpoints' / '3' / '_CHECKPOINT_METADATA'
  file.write_text(content)
  for today, expected in ((3, 3), (4, None)):
    with Checkpoints(tmp_path, is_scheduled=today.__eq__) as checkpoints:
      assert checkpoints.latest_scheduled_step == expected


def names(workdir):
  return {path.name for path in (workdir / 'checkpoints').iterdir()}


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """A workdir with two evaluated checkpoints."""
  workdir = tmp_path_factory.mktemp('two')
  with Checkpoints(workdir) as checkpoints:
    for step, mAP in ((1, 0.5), (2, 0.6)):
      checkpoints.save(step, state(step), not_finite=step)
      checkpoints.add_figures(step, {'mAP': mAP})
  (workdir / 'config.json').write_text('{}')
  return workdir


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize('damage', [pathlib.Path.unlink, truncate])
def test_whatever_is_damaged_the_older_checkpoint_is_used(
  damage, two, tmp_path, capsys
):
  """Damages each file in turn: it is unused, or the damage is reported."""
  root = two / 'checkpoints' / '2'
  files = [path.relative_to(root) for path in root.rglob('*') if path.is_file()]
  noticed = set()
  for i, file in enumerate(files):
    workdir = tmp_path / str(i)
    shutil.copytree(two, workdir)
    damage(workdir / 'checkpoints' / '2' / file)
    with open_for_reading(workdir) as checkpoints:
      step, read = checkpoints.restore_variables('last', {'w': state(0)['w']})
      assert read['w'].tolist() == [step] * 3
      assert checkpoints.step('last') == 2  # reading changes nothing
    said = capsys.readouterr().out
    assert ('the one after step 1 is used' in said) == (step == 1)
    with Checkpoints(workdir) as checkpoints:
      restored, not_finite = checkpoints.restore_latest(state(0))
      step = int(restored['step'])
      assert restored['w'].tolist() == [step] * 3
      assert not_finite == step
      if step == 1:
        noticed.add(file.name)
        assert '2.damaged' in capsys.readouterr().out
        assert names(workdir) == {'1', '2.damaged'}
        checkpoints.save(2, state(2))
    assert names(workdir) >= {'1', '2'}
  assert 'manifest.ocdbt' in noticed and len(noticed) > 1


def test_a_best_checkpoint_that_is_damaged_gives_way_to_the_next(
  two, tmp_path, capsys
):
  shutil.copytree(two, tmp_path / 'run')
  with Checkpoints(tmp_path / 'run') as checkpoints:
    checkpoints.save(3, state(3))
  root = tmp_path / 'run' / 'checkpoints'
  (root / '2' / 'default' / 'manifest.ocdbt').unlink()
  with open_for_reading(tmp_path / 'run') as checkpoints:
    assert checkpoints.candidates('best') == [2, 3]  # 3 has no mAP
    step, _ = checkpoints.restore_variables('best', {'w': state(0)['w']})
  assert step == 3 and 'after step 2 is damaged' in capsys.readouterr().out


def test_if_all_are_damaged_none_is_touched(two, tmp_path):
  shutil.copytree(two, tmp_path / 'run')
  for step in '12':
    root = tmp_path / 'run' / 'checkpoints' / step
    truncate(root / 'default' / 'manifest.ocdbt')
  with Checkpoints(tmp_path / 'run') as checkpoints:
    with pytest.raises(ValueError, match='(?s)no checkpoint.*/2 cannot.*/1 ca'):
      checkpoints.restore_latest(state(0))
  for step in '12':
    root = tmp_path / 'run' / 'checkpoints' / step
    truncate(root / 'metrics' / 'metrics')
  with Checkpoints(tmp_path / 'run') as checkpoints:
    with pytest.raises(ValueError, match='(?s)no checkpoint in .* can be read'):
      checkpoints.restore_latest(state(0))
  assert names(tmp_path / 'run') == {'1', '2'}


@contextlib.contextmanager
def full_disk(free=100_000):
  """Limits files to a number of bytes, in place of a full disk."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def large(step):
  noise = np.random.default_rng(step).standard_normal(200_000)
  return {'w': jnp.asarray(noise, jnp.float32)}


@pytest.mark.parametrize(
  ('free', 'reason'),
  [
    (100_000, 'File too large'),
    (10, '[Errno 27] File too large'),  # neither arrays nor metadata fit
  ],
)
def test_a_full_disk_costs_a_checkpoint_and_no_older_one(
  free, reason, tmp_path, capsys
):
  with Checkpoints(tmp_path) as checkpoints:
    for step in (1, 2):
      checkpoints.save(step, large(step))
    checkpoints.wait()
    with full_disk(free):
      checkpoints.save(3, large(3))
      assert checkpoints.wait() == 2
    assert f'step 3 could not be saved: {reason};' in capsys.readouterr().out
    assert names(tmp_path) == {'1', '2'}
    checkpoints.save(4, large(4))
    assert checkpoints.wait() == 4 and checkpoints.failure is None
  assert names(tmp_path) == {'2', '4'}
  with Checkpoints(tmp_path) as checkpoints:
    restored, _ = checkpoints.restore_latest(large(0))
  np.testing.assert_array_equal(restored['w'], large(4)['w'])


def test_a_run_without_its_last_checkpoint_has_failed(tmp_path):
  with pytest.raises(
    OSError, match='step 1 could not be saved: File too.*last one'
  ):
    with Checkpoints(tmp_path) as checkpoints, full_disk():
      checkpoints.save(1, large(1))
      checkpoints.wait()
  assert names(tmp_path) == set()


@pytest.mark.parametrize(
  ('first', 'printed', 'said'),
  [
    (True, 'step 1 could not be saved: disk full; the run', ''),
    (
      False,
      '',
      'process 0 of 1: the checkpoint after step 1 could not be saved',
    ),
  ],
)
def test_the_reason_stands_behind_a_barrier_and_is_told_by_its_process(
  first, printed, said, tmp_path, capsys, monkeypatch
):
  """Other processes than the first have no standard output."""
  failing_at_a_barrier(ValueError('disk full'), monkeypatch)
  monkeypatch.setattr(processes, 'is_first', lambda: first)
  with pytest.raises(OSError, match='disk full. It was'):
    with Checkpoints(tmp_path) as checkpoints:
      checkpoints.save(1, state(1))
  output = capsys.readouterr()
  assert printed in output.out and said in output.err
  assert bool(output.out) == first


@pytest.mark.parametrize('first', [True, False])
def test_a_process_that_has_waited_for_others_says_where_to_look(
  first, tmp_path, capsys, monkeypatch
):
  reason = TimeoutError('Timed out while waiting for async_commit_complete')
  failing_at_a_barrier(reason, monkeypatch)
  monkeypatch.setattr(processes, 'is_first', lambda: first)
  with pytest.raises(OSError, match='300 s. Another process may have failed'):
    with Checkpoints(tmp_path) as checkpoints:
      checkpoints.save(1, state(1))
  output = capsys.readouterr()
  assert ('its own output says why; the run' in output.out) == first
  assert not output.err  # process 0 has said it


def failing_at_a_barrier(reason, monkeypatch):
  """Lets saves of one of two processes fail and then wait for the other."""

  def save(*_, **__):
    try:
      raise reason
    except Exception:
      raise RuntimeError('DEADLINE_EXCEEDED: Barrier timed out.')  # noqa: B904

  monkeypatch.setattr(ocp.CheckpointManager, 'save', save)
  monkeypatch.setattr(processes, 'is_distributed', lambda: True)


def test_a_save_takes_no_longer_than_its_limit(tmp_path, monkeypatch):
  options = []
  make = ocp.CheckpointManagerOptions
  monkeypatch.setattr(
    ocp,
    'CheckpointManagerOptions',
    lambda **given: options.append(given) or make(**given),
  )
  with Checkpoints(tmp_path):
    assert options[0]['async_options'].timeout_secs == 300


def test_what_late_writers_make_again_is_removed(tmp_path, monkeypatch):
  removed = []
  rmtree = shutil.rmtree

  def remove(path, **kwargs):
    rmtree(path, **kwargs)
    removed.append(path)
    if len(removed) < 3:
      (path / 'late').mkdir(parents=True)

  monkeypatch.setattr(shutil, 'rmtree', remove)
  with pytest.raises(OSError, match='step 1 could not be saved'):
    with Checkpoints(tmp_path) as checkpoints, full_disk():
      checkpoints.save(1, large(1))
      checkpoints.wait()
  assert len(removed) == 3
  assert names(tmp_path) == set()


def test_the_clock_may_be_moved_back(tmp_path, monkeypatch):
  """An hour before each save, and a day between two runs."""
  now = [2e9]

  class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
      return datetime.datetime.fromtimestamp(now[0], tz)

  monkeypatch.setattr(ocp.checkpoint_manager.datetime, 'datetime', Clock)
  monkeypatch.setattr(time, 'time', lambda: now[0])
  monkeypatch.setattr(time, 'time_ns', lambda: int(now[0] * 1e9))
  maps = {1: 0.2, 2: 0.9, 3: None, 4: 0.4, 5: None}
  for steps in ((1, 2, 3), (4, 5)):
    now[0] -= 86400
    with Checkpoints(tmp_path) as checkpoints:
      for step in steps:
        now[0] -= 3600
        checkpoints.save(step, state(step))
        if maps[step]:
          checkpoints.add_figures(step, {'mAP': maps[step]})
      assert checkpoints.wait() == steps[-1]
      assert checkpoints.step('best') == 2
  assert names(tmp_path) == {'2', '4', '5'}


def test_a_json_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
  path = tmp_path / 'x.json'
  json_files.write_json(path, {'a': 1})
  with pytest.raises(ValueError, match='not JSON compliant'):
    json_files.write_json(path, {'a': float('nan')})
  write_text = pathlib.Path.write_text

  def fail(path, text):
    write_text(path, text[:5])
    raise OSError('the disk is full')

  monkeypatch.setattr(pathlib.Path, 'write_text', fail)
  with pytest.raises(OSError, match='full'):
    json_files.write_json(path, {'a': 2})
  assert json_files.read_json(path) == {'a': 1}


def test_a_step_that_is_damaged_twice_is_put_aside_twice(tmp_path):
  for _ in range(2):
    with Checkpoints(tmp_path) as checkpoints:
      for step in {1, 2} - {*checkpoints.candidates('last')}:
        checkpoints.save(step, state(step))
    (tmp_path / 'checkpoints/2/default/manifest.ocdbt').unlink()
    with Checkpoints(tmp_path) as checkpoints:
      restored, _ = checkpoints.restore_latest(state(0))
    assert int(restored['step']) == 1
    assert names(tmp_path) == {'1', '2.damaged'}


def test_of_equally_good_checkpoints_the_latest_is_kept(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    for step in range(1, 6):
      checkpoints.save(step, state(step))
      if step < 4:
        checkpoints.add_figures(step, {'mAP': 0.5})
    assert checkpoints.step('best') == 3
  assert names(tmp_path) == {'3', '4', '5'}
