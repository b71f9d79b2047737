import json

import jax.numpy as jnp
import numpy as np
import pytest

from apnet_jax import checkpoint
from configs import common


def state(value):
  return {'w': jnp.full(3, float(value)), 'step': jnp.int32(value)}


def test_keeps_the_last_two_and_the_best(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.step('last') is None and checkpoints.step('best') is None
    for step, mAP in ((1, 0.2), (2, 0.9), (3, None), (4, 0.4), (5, None)):
      metrics = None if mAP is None else {'mAP': mAP}
      checkpoints.save(step, state(step), metrics)
  kept = {int(path.name) for path in (tmp_path / 'checkpoints').iterdir()}
  assert kept == {2, 4, 5}
  (tmp_path / 'config.json').write_text('{}')
  with checkpoint.open_for_reading(tmp_path) as checkpoints:
    assert (checkpoints.step('best'), checkpoints.latest_step) == (2, 5)
    restored = checkpoints.restore(5, state(0))
  np.testing.assert_array_equal(restored['w'], [5, 5, 5])
  assert int(restored['step']) == 5


def test_without_an_evaluation_the_last_is_the_best(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(7, state(7), None)
    assert checkpoints.step('best') == 7


def test_missing_checkpoints_are_named(tmp_path):
  with pytest.raises(ValueError, match=r'--ckpt=.*no config.json'):
    checkpoint.open_for_reading(tmp_path / 'nowhere')
  (tmp_path / 'config.json').write_text('{}')
  with pytest.raises(ValueError, match='holds no whole checkpoint'):
    checkpoint.open_for_reading(tmp_path)


def test_a_checkpoint_of_another_shape_is_an_error(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state(1), None)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(ValueError, match='1 cannot be read'):
      checkpoints.restore(1, {'w': jnp.zeros(4), 'step': jnp.int32(0)})


@pytest.mark.parametrize('name', ['config.json', 'run.json'])
def test_a_damaged_file_of_a_workdir_is_named(tmp_path, name):
  (tmp_path / name).write_text('{"seed": ')
  load = checkpoint.load_config if name[0] == 'c' else checkpoint.load_run
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
  load = checkpoint.load_config if name[0] == 'c' else checkpoint.load_run
  with pytest.raises(ValueError, match=message):
    load(tmp_path)


def test_json_that_is_too_deep_or_too_large(tmp_path, monkeypatch):
  path = tmp_path / 'x.json'
  path.write_text('[' * 21 + ']' * 21)
  with pytest.raises(ValueError, match='x.json cannot be read.*too deep'):
    checkpoint.parse_json(path)
  path.write_text('[' * 20 + ']' * 20)
  checkpoint.parse_json(path)
  monkeypatch.setattr(checkpoint, 'MOST_JSON', 39)
  with pytest.raises(ValueError, match='x.json cannot be read.*than 39 bytes'):
    checkpoint.parse_json(path)


def test_a_configuration_is_data(tmp_path):
  """Text in it stays text, whatever it looks like."""
  text = '__import__("pathlib").Path("harm").touch()'
  content = {'name': text, 'model': {'levels': text, 'py/object': text}}
  checkpoint.write_json(tmp_path, 'config.json', content)
  config = checkpoint.load_config(tmp_path)
  assert config.to_dict() == content


def test_damaged_metrics_of_a_checkpoint_are_named(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state(1), {'mAP': 0.5})
  (tmp_path / 'checkpoints' / '1' / 'metrics' / 'metrics').write_text('{"mA')
  with pytest.raises(ValueError, match='checkpoints cannot be opened'):
    checkpoint.Checkpoints(tmp_path)


def test_what_may_change_in_a_workdir(tmp_path):
  run = {
    'fingerprint': 'a', 'num_classes': 3, 'devices': '1 x cpu', 'versions': {},
  }  # fmt: skip
  config = common.get_config()
  checkpoint.claim_workdir(tmp_path, config, run)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state(1), None)
  config.train.epochs = 200
  config.eval.flip = False
  config.data.dir = 'elsewhere'
  checkpoint.claim_workdir(tmp_path, config, run)
  assert checkpoint.load_config(tmp_path).train.epochs == 200
  assert checkpoint.load_run(tmp_path) == run
  config.seed = 1
  with pytest.raises(ValueError, match='config.seed: 0 there, 1 here'):
    checkpoint.claim_workdir(tmp_path, config, run)
  saved = json.loads((tmp_path / 'config.json').read_text())
  assert saved['seed'] == 0  # a refusal changes nothing


def test_a_new_run_in_an_old_workdir_has_no_threshold(tmp_path):
  run = {'fingerprint': 'x', 'num_classes': 2, 'devices': '1', 'versions': {}}
  for begun in (False, True):
    checkpoint.write_json(tmp_path, checkpoint.THRESHOLD, {'threshold': 0.5})
    checkpoint.claim_workdir(tmp_path, common.get_config(), run)
    assert (tmp_path / checkpoint.THRESHOLD).exists() == begun
    (tmp_path / 'checkpoints' / '1').mkdir(parents=True, exist_ok=True)


def test_lists_of_numbers_stand_on_a_line(tmp_path):
  content = {
    'numbers': [1, -2.5e-7, None],
    'pairs': [[1, 2], [3]],
    'name': 'a [1  2].jpg',
    'empty': [],
    'names': ['a', 'b'],
  }
  checkpoint.write_json(tmp_path, 'x.json', content)
  text = (tmp_path / 'x.json').read_text()
  assert '"numbers": [ 1, -2.5e-07, null ]' in text
  assert json.loads(text) == content
