"""Tests of a training on several data sets at once."""

import pathlib

import numpy as np
import pytest

from apnet_jax.images import read_image
from apnet_jax.training import trainer
from data import datasets, listing, pipeline, targets
from data.synthetic import draw


@pytest.fixture(scope='module')
def config(drawn, make_config, tmp_path_factory):
  """Two data sets whose identities have the same numbers."""
  root = tmp_path_factory.mktemp('several')
  draw.draw_dataset(
    root / 'duke', train_identities=4, test_identities=2, distractors=1, junk=1,
    seed=7, progress=False,
  )  # fmt: skip
  config = make_config(f'{drawn},{root / "duke"}', root / 'prepared')
  config.data.name = 'market1501,dukemtmc_reid'
  config.train.P = 6  # more than either has
  config.train.K = 2
  return config


@pytest.fixture(scope='module')
def feed(config):
  return pipeline.load(config)


def test_identities_are_kept_apart_by_set(feed):
  assert feed.num_classes == 5 + 4
  label_of = {}
  for step in range(feed.steps_per_epoch):
    labels = next(feed.batches(step))['label']
    for name, label in zip(feed.batch_names(step), labels.tolist()):
      dataset, _, file = name.split('/')
      person = (dataset, file.split('_')[0])
      assert label_of.setdefault(person, label) == label
  assert {dataset for dataset, _ in label_of} == {
    'market1501', 'dukemtmc_reid',
  }  # fmt: skip
  assert len({*label_of.values()}) == len(label_of)


def test_the_size_is_known_before_the_images_are_prepared(feed, config):
  alone = config.copy_and_resolve_references()
  alone.data.prepared_dir += '_later'
  size = listing.training_size(listing.read_to_train(alone), alone.train)
  assert size == (feed.num_classes, feed.steps_per_epoch)
  assert not pathlib.Path(alone.data.prepared_dir).exists()


def test_a_batch_has_people_of_both_sets(feed):
  sets = [name.split('/')[0] for name in feed.batch_names(0)]
  assert {*sets} == {'market1501', 'dukemtmc_reid'}
  assert len(sets) == 12


def test_images_of_a_batch_are_those_of_its_names(feed, config):
  folders = dict(zip(feed.benchmarks, config.data.dir.split(',')))
  batch = next(feed.batches(0))['image']
  for name, image in zip(feed.batch_names(0), batch, strict=True):
    dataset, _, path = name.partition('/')
    expected = read_image(f'{folders[dataset]}/{path}', (32, 16))
    # Pillow and TensorFlow differ by one grey level at most.
    assert np.abs(image.astype(int) - expected).max() <= 1, name


def test_each_set_is_a_benchmark(feed):
  assert list(feed.benchmarks) == ['market1501', 'dukemtmc_reid']
  market, duke = feed.benchmarks.values()
  assert feed.query is market.query
  assert len({*market.query.pids}) == 3 and len({*duke.query.pids}) == 2
  assert feed.fingerprint == f'{market.fingerprint}+{duke.fingerprint}'
  assert not feed.release and 'trained on together: ' in feed.summary
  assert '9 identities, kept apart by data set' in feed.summary


@pytest.mark.parametrize(
  ('name', 'directory', 'message'),
  [
    ('market,market1501', 'a,b', 'config.data.name=.* names a data set twice'),
    ('market,mars', 'a,b', "config.data.name='mars' is not one of"),
    ('market,duke', 'a,b,c', 'config.data.dir is given 3 times for 2 data set'),
    (
      'duke,occluded_duke',
      'a,b',
      'dukemtmc_reid and occluded_duke show the sa',
    ),
    (
      'cuhk03,cuhk03/labeled',
      'a',
      'detected and .*labeled show the same peopl',
    ),
  ],
)
def test_wrong_lists_of_sets(config, name, directory, message):
  data = config.data.copy_and_resolve_references()
  data.update(name=name, dir=directory)
  with pytest.raises(ValueError, match=message):
    datasets.single_sets(data)


def test_two_names_of_one_folder_are_refused(config):
  config = config.copy_and_resolve_references()
  config.data.dir = config.data.dir.split(',')[0]
  with pytest.raises(ValueError, match='two data sets have the same images'):
    pipeline.load(config)


@pytest.mark.parametrize(
  'flag',
  [
    {'pattern': '(?P<pid>.)'},
    {'test_fraction': 0.3},
    {'folders_are_people': True},
  ],
)
def test_flags_for_own_images_need_some(config, flag):
  (name,) = flag
  with pytest.raises(ValueError, match=f'--{name}=.* is for own images'):
    targets.choose(config, ['duke'], ['here'], **flag)
  chosen = targets.choose(config, ['duke', 'folder'], ['here'], **flag)
  assert chosen['folder'].data[name] == flag[name]
  assert chosen['duke'].data[name] != flag[name]


def test_a_run_knows_the_version_of_its_data_set(make_config, tmp_path):
  root = pathlib.Path(datasets.__file__).parent / 'msmt17' / 'dummy_data'
  config = make_config(root, tmp_path / 'prepared')
  config.data.name = 'msmt17'
  config.train.update(P=2, K=2)
  facts = trainer.run_facts(pipeline.load(config), config)
  assert facts['release'] == 'MSMT17_V1'


def test_one_folder_may_have_all_sets(config):
  data = config.data.copy_and_resolve_references()
  data.update(name='duke,folder,msmt17', dir='all', pattern='(?P<pid>.)')
  parts = datasets.single_sets(data)
  assert list(parts) == ['dukemtmc_reid', 'folder', 'msmt17/trainval']
  assert [part.dir for part in parts.values()] == ['all'] * 3
  assert [bool(part.pattern) for part in parts.values()] == [False, True, False]


def test_evaluation_knows_the_sets_of_the_training(config):
  market, duke = config.data.dir.split(',')
  chosen = targets.choose(config, [], [])
  assert {name: one.data.dir for name, one in chosen.items()} == {
    'market1501': market, 'dukemtmc_reid': duke,
  }  # fmt: skip
  other = targets.choose(config, ['duke', 'cuhk03'], ['here'])
  assert [one.data.name for one in other.values()] == [
    'dukemtmc_reid', 'cuhk03_np/detected',
  ]  # fmt: skip
  assert [one.data.allow_other_counts for one in other.values()] == [
    True,
    False,
  ]


def test_what_was_said_of_the_training_is_not_said_of_other_sets(config):
  own = config.copy_and_resolve_references()
  said = {
    'test_fraction': 0.3, 'pattern': '(?P<pid>.)', 'ignore_cameras': True,
    'allow_other_counts': True,
  }  # fmt: skip
  own.data.update(name='folder', **said)
  for name, expected in (
    ('folder', said),
    ('duke', dict(zip(said, (1.0, '', False, False)))),
  ):
    data = targets.choose(own, [name], ['here'], pattern=None)[name].data
    assert {field: data[field] for field in said} == expected
  targets.choose(own, ['duke'], ['here'], pattern='')  # none is given


def test_own_folders_are_people_in_evaluation_too(config):
  here = ['here', 'there']

  def chosen(trained, value):
    made = targets.choose(
      trained, ['folder', 'msmt17'], here, folders_are_people=value
    )
    return [one.data.folders_are_people for one in made.values()]

  assert chosen(config, None) == [False, False]
  assert chosen(config, True) == [True, False]
  own = config.copy_and_resolve_references()
  own.data.update(name='folder', folders_are_people=True)
  assert chosen(own, None) == [True, False]
  assert chosen(own, False) == [False, False]


def test_flags_of_evaluation_set_what_they_name(config):
  source = (pathlib.Path(__file__).parents[2] / 'eval.py').read_text()
  for field, flag in targets.FLAGS.items():
    section, name = field.split('.')
    assert name in config[section]
    assert f"'{flag.removeprefix('--')}'" in source
    if name not in ('dir', 'name'):
      assert flag == f'--{name}'
  assert targets.FLAGS['data.folders_are_people'] == '--folders_are_people'


def test_a_larger_test_fraction_tests_people_who_were_trained_on(
  config, capsys
):
  own = config.copy_and_resolve_references()
  own.data.update(name='folder', dir='here')
  for fraction in (None, 0.5, 0.2):
    targets.choose(own, [], [], test_fraction=fraction)
  targets.choose(config, ['folder'], ['here'], test_fraction=1.0)
  assert not capsys.readouterr().err
  targets.choose(own, [], [], test_fraction=1.0)
  assert capsys.readouterr().err == (
    "warning: --test_fraction=1 is more than the training's 0.5: if the images"
    ' of the training are split by it, some of the same people were trained'
    ' on.\n'
  )


def test_missing_images_of_multi_query_are_said_before_any_evaluation(config):
  chosen = targets.choose(
    config, ['duke', 'market'], config.data.dir.split(',')[::-1]
  )
  for one in chosen.values():
    one.eval.multi_query = True
  with pytest.raises(ValueError, match='multi_query=True .*gt_bbox, which hol'):
    targets.prepare_all(chosen)
  nowhere = targets.choose(
    config, ['duke'], [config.data.dir.split(',')[1]], ignore_cameras=True
  )
  nowhere['duke'].eval.multi_query = True
  with pytest.raises(ValueError, match='duke the cameras are unknown'):
    targets.prepare_all(nowhere)
