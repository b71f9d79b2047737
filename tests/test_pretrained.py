"""Fine-tuning: what a run starts from."""

import dataclasses
import json
import shutil

import chex
import numpy as np
import pytest

from apnet_jax import checkpoint, pretrained, trainer
from apnet_jax.models.torch_weights import to_state_dict
from apnet_jax.models.weight_files import write_weights
from tests.fakes import CLASSES, make_feed, small_config


def other_people(config):
  """The same images, said to be of more identities."""
  return dataclasses.replace(
    make_feed(config), num_classes=CLASSES + 3, fingerprint='others'
  )


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """A run of one step, and its variables."""
  workdir = tmp_path_factory.mktemp('source')
  config = small_config(steps=1)
  state = trainer.train(config, make_feed(config), workdir).state
  return workdir, {'params': state.params, 'batch_stats': state.batch_stats}


def starting(config, variables_of=other_people):
  """The state of a run's beginning."""
  run = trainer.Run(config, variables_of(config))
  return run.initial_state, trainer.start_from(config.model, run.initial_state)


def test_a_run_starts_from_another_ones_weights(source, capsys):
  workdir, theirs = source
  config = small_config()
  config.model.pretrained = str(workdir)
  initial, state = starting(config)
  chex.assert_trees_all_equal(state.params['base'], theirs['params']['base'])
  chex.assert_trees_all_equal(state.batch_stats, theirs['batch_stats'])
  chex.assert_trees_all_equal(
    state.params['classifier'], initial.params['classifier']
  )
  assert int(state.step) == 0
  out = capsys.readouterr().out
  assert f'Starting from the weights {workdir}' in out
  assert 'of noise, after step 1' in out
  assert 'classifier.weight left as initialised: 6 identities in the' in out


def test_a_file_of_the_run_is_the_same(source, tmp_path):
  workdir, theirs = source
  config = small_config()
  file = tmp_path / 'weights.npz'
  write_weights(file, to_state_dict(theirs))
  states = []
  for name in (workdir, file):
    config.model.pretrained = str(name)
    states.append(starting(config, make_feed)[1].params)
  chex.assert_trees_all_equal(*states, theirs['params'])


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'backbone': 'resnet50'}, "backbone: 'resnet14' there, 'resnet50' here"),
    ({'attention': 'none'}, "attention: 'channel' there, 'none' here"),
    ({'levels': 2}, 'levels: 1 there, 2 here'),
  ],
)
def test_another_network_is_named_by_its_fields(
  source, fields, message, tmp_path
):
  config = small_config()
  config.model.update(pretrained=str(source[0]), **fields)
  with pytest.raises(ValueError, match=f'config.model.{message}') as error:
    trainer.check(config, tmp_path)
  assert 'config.model.pretrained=' in str(error.value)
  assert 'config.model.dtype' not in str(error.value)


def test_what_weights_do_not_tell_is_said(source, tmp_path):
  config = small_config()
  config.model.update(pretrained=str(source[0]), last_stride=2)
  imported = pretrained.import_pretrained(source[1], config.model)
  assert 'config.model.last_stride: 1 there, 2 here' in imported.notes


def test_a_folder_that_is_no_workdir(tmp_path):
  config = small_config()
  config.model.pretrained = str(tmp_path)
  with pytest.raises(ValueError, match='pretrained=.*has no config.json'):
    trainer.check(config, tmp_path / 'run')


class Stopped(Exception):
  pass


def test_a_begun_run_needs_its_source_no_more(source, tmp_path):
  """And what it started from stays on its card."""
  gone, workdir = tmp_path / 'gone', tmp_path / 'run'
  shutil.copytree(source[0], gone)
  config = small_config(steps=1)
  config.model.pretrained = str(gone)
  card = trainer.train(config, make_feed(config), workdir).card
  started = {
    'workdir': str(gone),
    'step': 1,
    'trained_on': {'dataset': 'noise', 'fingerprint': 'noise'},
  }
  assert card['checkpoint']['started_from'] == started
  shutil.rmtree(gone)
  again = trainer.train(config, make_feed(config), workdir).card
  assert again == card == json.loads((workdir / 'result.json').read_text())
  assert checkpoint.load_run(workdir)['started_from'] == started


def test_runs_that_start_anew_and_from_files_say_so(source, tmp_path):
  run = checkpoint.load_run(source[0])
  assert run['started_from'] is None
  assert pretrained.started_from('a.npz') == {'weights': 'a.npz'}
  np.testing.assert_equal(pretrained.is_workdir('hf://timm/resnet50'), False)
