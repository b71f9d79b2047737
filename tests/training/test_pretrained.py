"""Fine-tuning: a run that starts from other weights."""

import dataclasses
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apnet_jax.models.torch_weights import to_state_dict
from apnet_jax.models.weight_files import write_weights
from apnet_jax.retrieval import card
from apnet_jax.training import checks, pretrained, recipe, run, trainer
from apnet_jax.workdir import json_files, run_files
from apnet_jax.workdir.checkpoints import Checkpoints
from tests.fakes import CLASSES, draw_state, make_feed, small_config


def other_people(config):
  """Returns a feed with the same images and more identities."""
  return dataclasses.replace(
    make_feed(config), num_classes=CLASSES + 3, fingerprint='others'
  )


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """The workdir of a run with one checkpoint, and its variables."""
  workdir = tmp_path_factory.mktemp('source')
  config = small_config()
  config.seed = 1
  feed = make_feed(config)
  state = draw_state(run.Run(config, feed).programs.state_shapes(), seed=1)
  run_files.claim_workdir(workdir, config, trainer.run_facts(feed, config))
  with Checkpoints(workdir) as checkpoints:
    checkpoints.save(1, state)
  return workdir, {'params': state.params, 'batch_stats': state.batch_stats}


@pytest.fixture(scope='module')
def initial():
  """The random initial state of a run on more people."""
  config = small_config()
  shapes = run.Run(config, other_people(config)).programs.state_shapes()
  return draw_state(shapes, seed=0)


def test_all_processes_start_from_the_weights_of_the_first(
  initial, monkeypatch
):
  config = small_config()
  made = run.Run(config, other_people(config))
  other = draw_state(made.programs.state_shapes(), seed=1)
  monkeypatch.setattr(made.programs, 'random_state', lambda: other)
  monkeypatch.setattr(run.processes, 'from_first', lambda own: initial)
  state, _ = made.initial_state()
  chex.assert_trees_all_equal(state.params, initial.params)


def test_a_run_starts_from_another_ones_weights(source, initial):
  workdir, theirs = source
  config = small_config()
  config.model.pretrained = str(workdir)
  state, notes = run.start_from(config.model, initial)
  chex.assert_trees_all_equal(state.params['base'], theirs['params']['base'])
  chex.assert_trees_all_equal(state.batch_stats, theirs['batch_stats'])
  chex.assert_trees_all_equal(
    state.params['classifier'], initial.params['classifier']
  )
  assert int(state.step) == 0
  out = '\n'.join(notes)
  assert f'Starting from the weights {workdir}' in out
  assert 'of noise, after step 1' in out
  assert 'classifier.weight left as initialised: 6 identities in the' in out


def test_a_file_of_the_run_is_the_same(source, tmp_path):
  workdir, theirs = source
  config = small_config()
  file = tmp_path / 'weights.npz'
  write_weights(file, to_state_dict(theirs))
  blank = jax.tree.map(jnp.zeros_like, theirs)
  for name in (workdir, file):
    config.model.pretrained = str(name)
    weights = pretrained.read(config.model.pretrained, blank)
    imported = pretrained.import_pretrained(weights, blank, config.model)
    imported = imported.variables
    chex.assert_trees_all_equal(imported, theirs)


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
    checks.check(config, tmp_path)
  assert 'config.model.pretrained=' in str(error.value)
  assert 'config.model.dtype' not in str(error.value)


def test_what_weights_do_not_tell_is_said(source, tmp_path):
  config = small_config()
  config.model.update(pretrained=str(source[0]), last_stride=2)
  weights = pretrained.read_workdir(source[0])
  imported = pretrained.import_pretrained(weights, source[1], config.model)
  assert 'config.model.last_stride: 1 there, 2 here' in imported.notes


def test_weights_that_were_checked_are_not_read_again(
  source, tmp_path, monkeypatch
):
  config = small_config()
  config.model.pretrained = str(source[0])
  checked, claimed = checks.check(config, tmp_path), []

  def claim(*arguments):
    claimed.append(arguments[-1])
    raise InterruptedError

  monkeypatch.setattr(trainer, 'claim', claim)
  monkeypatch.setattr(pretrained, 'read', None)
  with pytest.raises(InterruptedError):
    trainer.train(config, other_people(config), tmp_path, weights=checked)
  assert claimed == [checked]


def test_a_folder_that_is_no_workdir(tmp_path):
  config = small_config()
  config.model.pretrained = str(tmp_path)
  with pytest.raises(ValueError, match='pretrained=.*has no config.json'):
    checks.check(config, tmp_path / 'run')


def test_a_begun_run_needs_its_source_no_more(source, tmp_path):
  """run.json, which result cards read, still names the source."""
  gone, workdir = tmp_path / 'gone', tmp_path / 'run'
  shutil.copytree(source[0], gone)
  config = small_config()
  config.model.pretrained = str(gone)
  feed = other_people(config)

  def start():
    trainer.claim(workdir, config, feed, checks.check(config, workdir))
    return run_files.load_run(workdir)

  started = {
    'workdir': str(gone),
    'step': 1,
    'trained_on': {'dataset': 'noise', 'fingerprint': 'noise'},
  }
  begun = start()
  assert begun['started_from'] == started
  assert begun[recipe.SOURCE_RECIPE] == recipe.of_source(str(source[0]))
  (workdir / 'checkpoints' / '1').mkdir(parents=True)
  shutil.rmtree(gone)
  assert start() == begun
  config.eval.expected_curve = str(tmp_path / 'record.json')
  fields = recipe.relevant_fields(config, begun)
  json_files.write_json(config.eval.expected_curve, {
    'recipe': fields, 'num_classes': feed.num_classes, 'epochs': [1],
    'runs': [{'mAP': [0.5]}] * 3,
  })  # fmt: skip
  resumed = run.Run(config, feed, facts=start())
  assert resumed.judge(feed.steps_per_epoch, {'mAP': 0.5})
  chosen = card.checkpoint_entry(1, 'last', config, start())
  assert chosen['started_from'] == started
  assert chosen['trained_on']['fingerprint'] == 'others'


def test_runs_that_start_anew_and_from_files_say_so(source, tmp_path):
  run = run_files.load_run(source[0])
  assert run['started_from'] is None
  assert run[recipe.SOURCE_RECIPE] is None
  assert recipe.of_source('a.npz') is None
  assert pretrained.started_from('a.npz', {}) == {'weights': 'a.npz'}
  np.testing.assert_equal(pretrained.is_workdir('hf://timm/resnet50'), False)
