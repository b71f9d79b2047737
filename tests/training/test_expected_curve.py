import json
import types

import numpy as np
import pytest

from apnet_jax.commands import curves
from apnet_jax.errors import UserError
from apnet_jax.training import checks, expected_curve, recipe
from apnet_jax.workdir import json_files, run_files
from tests.finished_runs import write_run
from tests.tiny import tiny_config

CURVES = ({1: 0.18, 2: 0.48}, {1: 0.2, 2: 0.5}, {1: 0.22, 2: 0.52})


@pytest.fixture
def runs(tmp_path):
  """Workdirs of three finished runs."""
  return [
    write_run(tmp_path / str(seed), tiny_config(epochs=2), curve, seed)
    for seed, curve in enumerate(CURVES)
  ]


@pytest.fixture
def record(runs, tmp_path):
  """The file with the record of these runs."""
  path = tmp_path / 'record.json'
  json_files.write_json(path, expected_curve.make_record(runs))
  return path


def run_command(monkeypatch, *workdirs, **values):
  """Runs the command curves; `values` are those of its flags."""
  monkeypatch.setattr(
    curves.flags,
    'DEFINE_string',
    lambda name, *_: types.SimpleNamespace(value=values.get(name, '')),
  )
  curves.command()(['curves', *map(str, workdirs)])


def test_one_of_a_hundred_runs_of_the_recipe_is_below_the_band():
  """For the spread of any number of seeds."""
  rng = np.random.default_rng(0)
  for recorded in (3, 5):
    below = 0
    for *known, new in rng.normal(0.5, 0.05, (4000, recorded + 1)):
      curve = expected_curve.ExpectedCurve(
        {}, 6, np.array([1.0]), np.array(known)[:, None]
      )
      below += curve.judge(1.0, new).is_below
    assert 0.005 < below / 4000 < 0.016


def test_seeds_that_agree_leave_some_room(record):
  content = json.loads(record.read_text())
  for run in content['runs']:
    run['mAP'] = [0.2, 0.5]
  json_files.write_json(record, content)
  expected = expected_curve.read(record)
  mean, least = expected.band(2)
  assert mean == 0.5
  assert expected.band(1.9999999) == (mean, least)  # rounded
  assert expected.band(1.9) is None
  assert least == pytest.approx(0.5 - 6.965 * 0.01 * (4 / 3) ** 0.5, abs=1e-4)


def test_the_command_records_and_compares(runs, tmp_path, monkeypatch, capsys):
  record = tmp_path / 'made.json'
  run_command(monkeypatch, *runs, record=str(record))
  assert 'epoch 2: mean mAP 50.0, lower limit 33.9' in capsys.readouterr().out
  low = write_run(
    tmp_path / 'low', tiny_config(epochs=2), {1: 0.2, 1.5: 0, 2: 0.33}, 7
  )
  good = write_run(
    tmp_path / 'good', tiny_config(epochs=2), {1: 0.01, 2: 0.35}, 8
  )
  run_command(monkeypatch, good, expected=str(record))
  out = capsys.readouterr().out
  assert 'warning: epoch 1: mAP 1.0 is below the lower limit' in out
  assert (
    'epoch 2: mAP 35.0 is as expected (3 recorded runs: mean 50.0, lower limit'
    ' 33.9)'
  ) in out
  with pytest.raises(SystemExit) as ended:
    run_command(monkeypatch, good, low, expected=str(record))
  assert ended.value.code == 1
  out = capsys.readouterr().out
  assert f'{low}, epoch 1: mAP 20.0 is as expected' in out
  assert 'epoch 1.5' not in out
  assert (
    'warning: epoch 2: mAP 33.0 is below the lower limit 33.9, which 99% of'
    ' such runs reach (mean of the 3 recorded runs: 50.0). Check whether'
  ) in out


def test_only_runs_of_one_recipe_stand_in_a_record(runs, tmp_path):
  with pytest.raises(UserError, match='at least 3 runs with different seeds'):
    expected_curve.make_record(runs[:2])
  again = write_run(tmp_path / 'again', tiny_config(epochs=2), CURVES[0], 2)
  with pytest.raises(UserError, match=r'seeds \[0, 1, 2, 2\] .* not all'):
    expected_curve.make_record([*runs, again])
  other = write_run(tmp_path / 'other', tiny_config(epochs=3), CURVES[0], 3)
  with pytest.raises(UserError, match="configurations differ: {'train.epochs'"):
    expected_curve.make_record([*runs, other])
  short = write_run(tmp_path / 'short', tiny_config(epochs=2), {1: 0.2}, 4)
  with pytest.raises(UserError, match='epochs of evaluation differ'):
    expected_curve.make_record([*runs, short])
  for field, value, words in (
    ('fingerprint', 'x', 'images differ: x and noise'),
    ('num_classes', 7, 'numbers of identities differ: 7 and 6'),
  ):
    write_run(tmp_path / field, tiny_config(epochs=2), CURVES[0], 5)
    facts = run_files.load_run(tmp_path / field) | {field: value}
    json_files.write_json(tmp_path / field / 'run.json', facts)
    with pytest.raises(UserError, match=words):
      expected_curve.make_record([*runs, tmp_path / field])
  card = {'checkpoint': {'step': 3}}
  for result in (card, {'market1501': card}):
    json_files.write_json(short / 'result.json', result)
    (short / 'checkpoints' / '6').mkdir(parents=True, exist_ok=True)
    with pytest.raises(UserError, match='of step 3, and the run has done 6'):
      expected_curve.make_record([*runs, short])
  json_files.write_json(runs[0] / 'result.json', {'checkpoint': {'step': 6}})
  (runs[0] / 'checkpoints' / '6').mkdir(parents=True)
  assert expected_curve.make_record(runs)['num_classes'] == 6
  (short / 'result.json').unlink()
  with pytest.raises(UserError, match='short has no result.json'):
    expected_curve.make_record([*runs, short])


def test_a_run_of_another_recipe_is_not_compared(record, tmp_path, monkeypatch):
  expected = expected_curve.read(record)
  config = tiny_config(epochs=2)
  # Neither the seed nor a folder makes another recipe.
  config.seed, config.data.dir, config.eval.expected_curve = 9, 'x', str(record)
  assert expected.differences(config, 6) == []
  assert expected.differences(config, 7) == ['7 identities, not 6']
  found, note = expected_curve.of_run(config, 6)
  assert found.judge(1, 0.2) and note == (
    f'Each evaluation compares its mAP with the 3 runs recorded in {record}.'
  )
  config.train.epochs, config.train.margin = 5, 0.5
  found, note = expected_curve.of_run(config, 6)
  assert found is None and note == (
    f'The mAP is not compared with {record}, because the runs recorded there'
    ' have another recipe: train.epochs 5, not 2; train.margin 0.5, not 0.3.'
  )
  other = write_run(tmp_path / 'other', config, CURVES[0])
  with pytest.raises(UserError, match='recipe: train.epochs 5, not 2; train.m'):
    run_command(monkeypatch, other, expected=str(record))
  late = write_run(tmp_path / 'late', tiny_config(epochs=2), {3: 0.5})
  with pytest.raises(UserError, match='has no evaluation at an epoch of'):
    run_command(monkeypatch, late, expected=str(record))
  with pytest.raises(UserError, match='one of --output, --record and --exp'):
    run_command(monkeypatch, late, expected='a', record='b')


def test_fields_without_effect_make_no_other_recipe(record):
  """Neither here nor in a record, which an earlier version may have made."""
  config = tiny_config(epochs=2)
  config.profile, config.train.circle_scale = 'other', 64.0
  config.eval.update(max_rank=20, rerank_k1=10)
  assert expected_curve.read(record).differences(config, 6) == []
  content = json.loads(record.read_text())
  content['recipe'] |= {
    'profile': 'official', 'eval.rerank_k2': 3, 'train.circle_margin': 0.4,
  }  # fmt: skip
  json_files.write_json(record, content)
  expected = expected_curve.read(record)
  assert expected.differences(config, 6) == []
  config.train.circle_weight = 1.0
  assert expected.differences(config, 6) == [
    'train.circle_margin 0.25, not 0.4',
    'train.circle_scale 64.0, not 128.0',
    'train.circle_weight 1.0, not 0.0',
  ]


def test_networks_without_attention_are_of_one_recipe():
  without, no_levels = tiny_config(), tiny_config()
  without.model.update(attention='none', levels=2)
  no_levels.model.levels = 0
  known = recipe.relevant_fields(without)
  assert known == recipe.relevant_fields(no_levels)
  assert known != recipe.relevant_fields(tiny_config())


def tuned_run(folder, source, curve, seed=0, **facts):
  """Writes the files of a finished run that started from another one."""
  config = tiny_config(epochs=2)
  config.model.pretrained = str(source)
  write_run(folder, config, curve, seed)
  run = run_files.load_run(folder) | facts
  json_files.write_json(folder / 'run.json', run)
  return config, run


def test_a_fine_tuned_run_needs_its_source_no_more(tmp_path, monkeypatch):
  source, record = tmp_path / 'source', tmp_path / 'record.json'
  write_run(source, tiny_config(epochs=9), CURVES[0])
  facts = {recipe.SOURCE_RECIPE: recipe.of_source(str(source))}
  folders = [tmp_path / str(seed) for seed in range(4)]
  for seed, folder in enumerate(folders):
    curve = CURVES[seed % 3]
    config, run = tuned_run(folder, source, curve, seed, **facts)
  json_files.write_json(record, expected_curve.make_record(folders[:3]))
  config.eval.expected_curve = str(record)
  assert expected_curve.of_run(config, 6)[0]  # before it begins

  source.rename(tmp_path / 'moved')
  assert expected_curve.of_run(config, 6, run)[0]
  run_command(monkeypatch, folders[3], expected=str(record))
  again = expected_curve.make_record(folders[:3])
  assert again == json.loads(record.read_text())
  # The weights of another recipe are other weights.
  other = run | {recipe.SOURCE_RECIPE: 'other'}
  assert not expected_curve.of_run(config, 6, other)[0]


def test_a_run_of_an_earlier_version_may_not_know_its_source(record, tmp_path):
  source = tmp_path / 'source'
  write_run(source, tiny_config(epochs=9), CURVES[0])
  config, run = tuned_run(
    tmp_path / 'tuned', source, CURVES[0], started_from={'workdir': str(source)}
  )
  known = recipe.relevant_fields(config)
  assert recipe.relevant_fields(config, run) == known
  reordered = dict(reversed(known.items()))
  assert recipe.digest(reordered) == recipe.digest(known)
  config.eval.expected_curve = str(record)
  for gone in (tmp_path / 'gone', tmp_path / 'gone.apnet'):
    config.model.pretrained = str(gone)
    found, note = expected_curve.of_run(config, 6, run)
    assert found is None
    assert f"model.pretrained '{gone}, whose recipe is not known', not" in note
  del run['started_from']  # the name tells that this is no file of weights
  assert 'whose recipe is not known' in expected_curve.of_run(config, 6, run)[1]
  with pytest.raises(UserError, match='gone.apnet is not a file'):
    recipe.relevant_fields(config)  # of a run that has yet to begin


def test_a_record_may_lie_in_the_home_folder(record, monkeypatch):
  monkeypatch.setenv('HOME', str(record.parent))
  found = expected_curve.read(f'~/{record.name}')
  assert found.epochs.tolist() == [1, 2]


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (None, 'cannot be read'),
    ({}, 'is damaged'),
    ({'runs': [{'mAP': [0.5]}] * 3}, 'not have a mAP at each epoch'),
    ({'runs': [{'mAP': [0.1, 0.5]}] * 2}, 'no mAP of at least 3 runs'),
  ],
)
def test_a_damaged_record_is_named_with_its_field(
  record, content, message, tmp_path
):
  if content is None:
    record.unlink()
  elif content:
    content = json.loads(record.read_text()) | content
  if content is not None:
    json_files.write_json(record, content)
  config = tiny_config(epochs=2)
  config.eval.expected_curve = str(record)
  with pytest.raises(UserError, match=message) as raised:
    checks.check(config, tmp_path / 'run')
  assert str(raised.value).startswith('config.eval.expected_curve=')
