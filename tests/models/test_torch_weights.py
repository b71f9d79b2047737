import json
import logging
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import apnet_jax
from apnet_jax.models import torch_weights
from apnet_jax.models.apnet import initialize, variable_shapes
from apnet_jax.models.torch_weights import (
  load_torch_weights,
  released_copies,
  to_state_dict,
  torch_names,
  torch_shape,
)
from apnet_jax.models.weight_files import write_weights
from apnet_jax.paper.variants import is_released
from configs import common, market
from tests.compilation import counting
from tests.golden import recipe

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
OFFICIAL = {
  key: tuple(shape)
  for key, shape in json.loads(
    (GOLDEN / 'official_keys.json').read_text()
  ).items()
}
# The lowest number of levels with which the released network has a module.
LEVEL_OF = {'att_s': 2, 'BN': 2, 'att': 1}


def official_shapes(level):
  """Names and shapes of the released network's state_dict for 11 classes."""

  def needed(key):
    prefixes = (p for p in LEVEL_OF if key.startswith(p))
    return (
      LEVEL_OF[next(prefixes)] <= level if key[:2] in ('at', 'BN') else True
    )

  return {k: v for k, v in OFFICIAL.items() if needed(k)}


def official(level, **fields):
  config = market.get_config('official').model
  config.levels = level
  config.update(fields)
  return config


def small(**fields):
  """Returns the `config.model` of a small network."""
  config = common.get_config().model
  config.update({'backbone': 'resnet14', **fields})
  return config


SHAPES = {}  # of networks, which take seconds to trace


def shapes_of(config, num_classes, image_size):
  """Returns `variable_shapes` of a network, traced once for all tests."""
  key = config.to_json(), num_classes, image_size
  if key not in SHAPES:
    model = apnet_jax.create_model(config, num_classes)
    SHAPES[key] = variable_shapes(model, image_size)
  return SHAPES[key]


def random_state_dict(config, num_classes=11, image_size=(32, 16)):
  """Returns a state dict that fits a network, with the recipe's values."""
  shapes = shapes_of(config, num_classes, image_size)
  leaves = {
    path: leaf
    for path, leaf in torch_weights.traverse_util.flatten_dict(shapes).items()
  }
  return {
    name: recipe.state_dict_value(name, torch_shape(name, leaves[path].shape))
    for name, path in torch_names(leaves).items()
  }


def assert_same(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize('level', [0, 1, 2])
def test_released_weights_make_the_round_trip(level):
  """Import and export keep every name and shape of the released network."""
  given = {
    key: recipe.state_dict_value(key, shape)
    for key, shape in official_shapes(level).items()
  }
  copies = {'base_1.0.weight': given['base.conv1.weight']}
  wrapped = {'model': {f'module.{k}': v for k, v in (given | copies).items()}}
  variables = load_torch_weights(wrapped, official(level), 11)
  back = to_state_dict(variables)
  assert_same(back, given)
  assert is_released(official(level))
  # The backbone's stages also have the names base_1 to base_5.
  second = released_copies(back)
  assert len(second) == sum(k.startswith('base.') for k in given)
  assert second['base_1.1.running_var'] is back['base.bn1.running_var']
  name = 'layer4.2.conv3.weight'
  assert second[f'base_5.0.{name[7:]}'] is back[f'base.{name}']


def load_wide(weights, config):
  """Imports weights; returns the variables in float64."""
  variables = load_torch_weights(weights, config, 11)
  return jax.tree.map(lambda x: x.astype('float64'), variables)


@pytest.mark.parametrize('level', [0, 1])
def test_the_official_profile_agrees_with_the_released_code(level, x64):
  """The profile agrees with the released code up to rounding.

  Golden arrays are float32, and their rounding uses up a large part of the
  bounds. This code therefore computes in float64: on some processors, rounding
  of its own would exceed the rest.
  """
  golden = np.load(GOLDEN / f'official_level{level}.npz')
  config = official(level, dtype='float64')
  model = apnet_jax.create_model(config, 11)
  weights = {
    key: recipe.state_dict_value(key, shape)
    for key, shape in official_shapes(level).items()
  }
  images = recipe.images(int(golden['train_seed']), 8, 128, 64)
  out, _ = jax.jit(
    lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats'])
  )(load_wide(weights, config), jnp.float64(images))
  close = {'rtol': 1e-3, 'atol': 1e-4}
  np.testing.assert_allclose(
    out.feature, golden['train_global_feature'], **close
  )
  np.testing.assert_allclose(out.logits, golden['train_logits'], **close)

  weights |= {k[5:]: golden[k] for k in golden if k.startswith('stat:')}
  images = recipe.images(int(golden['eval_seed']), 4, 128, 64)
  variables = load_wide(weights, config)
  out = jax.jit(model.apply)(variables, jnp.float64(images))
  # The BN neck divides by standard deviations of 8 images, down to 0.05. The
  # released code's float32 embeddings differ from its float64 ones by up to
  # 8e-4.
  close['atol'] = 2e-3
  np.testing.assert_allclose(out.embedding, golden['eval_features'], **close)
  np.testing.assert_allclose(out.logits, golden['eval_logits'], **close)


def test_level_2_agrees_with_the_released_code_in_float64(x64):
  """Level 2 agrees much closer in float64.

  In float32, its normalisations amplify rounding to 3e-3 in both codes.
  """
  golden = np.load(GOLDEN / 'official_level2.npz')
  config = official(2, dtype='float64')
  model = apnet_jax.create_model(config, 11)
  weights = {
    key: recipe.state_dict_value(key, shape)
    for key, shape in official_shapes(2).items()
  }
  variables = load_wide(weights, config)
  images = recipe.images(int(golden['train_seed']), 8, 128, 64)
  out, changed = jax.jit(
    lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats'])
  )(variables, jnp.float64(images))
  close = {'rtol': 1e-5, 'atol': 1e-6}
  np.testing.assert_allclose(
    out.feature, golden['train_global_feature'], **close
  )
  np.testing.assert_allclose(out.logits, golden['train_logits'], **close)

  # The statistics of this batch only, as with weight 0 for the old ones.
  def of_the_batch(path, new, old):
    frozen = path[-1].key == 'bias'
    return old if frozen else (new - 0.9 * old) / 0.1

  stats = jax.tree_util.tree_map_with_path(
    of_the_batch, changed['batch_stats'], variables['batch_stats']
  )
  images = recipe.images(int(golden['eval_seed']), 4, 128, 64)
  out = jax.jit(model.apply)(
    {'params': variables['params'], 'batch_stats': stats}, jnp.float64(images)
  )
  np.testing.assert_allclose(out.embedding, golden['eval_features'], **close)
  np.testing.assert_allclose(out.logits, golden['eval_logits'], **close)


@pytest.mark.parametrize(
  'fields',
  [
    {'levels': 3},
    {'levels': 3, 'stacked': True},
    {'levels': 3, 'attention': 'spatial'},
    {'se_blocks': True, 'attention': 'none'},
    {'multi_part': True},
    {'backbone': 'densenet169'},
    {'backbone': 'inception_v3'},
  ],
  ids=str,
)
def test_every_network_makes_the_round_trip(fields):
  """Import and export keep names and shapes of networks never released."""
  config, size = small(**fields), (96, 96)
  if config.attention == 'spatial':
    size = (64, 32)
  given = random_state_dict(config, image_size=size)
  shapes = shapes_of(config, 11, size)
  with counting() as compiled:
    variables = import_weights(given, shapes, config).variables
  assert not compiled  # a program for each shape would take seconds
  back = to_state_dict(variables)
  counters = {k for k in back if k.endswith('num_batches_tracked')}
  assert len(counters) == sum(k.endswith('running_mean') for k in back) > 10
  assert_same({k: v for k, v in back.items() if k not in counters}, given)
  assert not is_released(config)


def imagenet_weights(config, head):
  """Returns a state dict of the backbone alone, with torchvision's names.

  Args:
    config: the `model` part of a configuration.
    head: names of weights of the ImageNet classifier to add.
  """
  whole = random_state_dict(config, image_size=(96, 96))
  weights = {
    k.removeprefix('base.'): v for k, v in whole.items() if k[:5] == 'base.'
  }
  return weights | {name: np.zeros(1000) for name in head}


@pytest.mark.parametrize(
  ('backbone', 'head'),
  [
    ('resnet14', ['fc.weight', 'fc.bias']),
    ('densenet169', ['classifier.weight', 'classifier.bias']),
    ('inception_v3', ['fc.weight', 'AuxLogits.conv0.conv.weight']),
  ],
)
def test_imagenet_weights_go_into_the_backbone(backbone, head):
  config = small(backbone=backbone)
  weights = imagenet_weights(config, head)
  given = dict(weights)
  if backbone == 'densenet169':  # torchvision's file has older names
    weights = {
      k.replace('.norm1.', '.norm.1.').replace('.conv2.', '.conv.2.'): v
      for k, v in weights.items()
    }
  variables = shapes_of(config, 11, (96, 96))
  imported = import_weights(weights, variables, config)
  back = to_state_dict(
    {kind: {'base': v['base']} for kind, v in imported.variables.items()}
  )
  for name in given.keys() - set(head):
    np.testing.assert_array_equal(back[f'base.{name}'], given[name])
  for name in ('att1', 'att4', 'classifier'):
    old, new = (v['params'][name] for v in (variables, imported.variables))
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, old, new))
  (note,) = imported.notes
  assert 'att1, att2, att3, att4, bottleneck, classifier' in note


def test_a_classifier_of_fewer_identities_is_not_imported_either():
  for given, expected in (
    (5, '5 identities in the weights, 11 here'),
    (11, ''),
  ):
    weights = np.zeros((given, 16))
    assert torch_weights._classifier_mismatch(weights, (11, 16)) == expected


def test_weights_of_bfloat16_are_numbers():
  weights = {'conv1.weight': np.zeros(3, jnp.bfloat16)}
  assert torch_weights.normalize_names(weights).keys() == {'base.conv1.weight'}


MOCO_REST = {
  'encoder_q.fc.0.weight': (8, 8),
  'encoder_q.fc.2.bias': (4,),
  'encoder_k.conv1.weight': (64, 3, 7, 7),
  'encoder_k.layer1.0.conv1.weight': (64, 64, 1, 1),
  'encoder_k.fc.0.weight': (8, 8),
  'queue': (4, 16),
  'queue_ptr': (1,),
}
LUPERSON_NL_REST = {
  'encoder_q.fc1.weight': (8, 8),
  'encoder_q.fc2.bias': (4,),
  'encoder_q.embed_fc.weight': (4, 8),
  'encoder_q.classifier.weight': (30, 8),
  'encoder_k.bn1.weight': (64,),
  'queue': (4, 16),
  'queue_id': (16, 1),
  'prototypes': (30, 4),
}


@pytest.fixture(scope='module')
def people():
  """A backbone's weights by torchvision's names, and shapes of a network."""
  model = apnet_jax.create_model(small(), 11)
  return imagenet_weights(small(), []), variable_shapes(model, (32, 16))


def names_of_query_encoder(weights, prefix=''):
  return {f'{prefix}encoder_q.{name}': v for name, v in weights.items()}


@pytest.mark.parametrize(
  ('rest', 'prefix'), [(MOCO_REST, 'module.'), (LUPERSON_NL_REST, '')]
)
def test_the_query_encoder_of_moco_goes_into_the_backbone(
  rest, prefix, people, tmp_path
):
  """Training files of MoCo and of LUPerson-NL also have other parts."""
  given, shapes = people
  weights = names_of_query_encoder(given, prefix)
  weights |= {f'{prefix}{name}': np.ones(s) for name, s in rest.items()}
  source = {'epoch': 200, 'state_dict': weights}
  if prefix:
    source = tmp_path / 'moco.npz'
    write_weights(source, weights)
  imported = import_weights(source, shapes, small())
  base = {kind: {'base': v['base']} for kind, v in imported.variables.items()}
  back = to_state_dict(base)
  for name, value in given.items():
    np.testing.assert_array_equal(back[f'base.{name}'], value)
  (note,) = imported.notes
  assert 'these weights are of a backbone alone' in note


def test_a_backbone_pre_trained_on_people_may_keep_its_heads(people):
  """The published files of LUPerson have the names of torchvision."""
  given, shapes = people
  heads = ['fc1.weight', 'fc2.bias', 'embed_fc.weight', 'classifier.bias']
  given = given | dict.fromkeys(heads, np.zeros(8))
  imported = import_weights(given, shapes, small())
  np.testing.assert_array_equal(
    imported.variables['params']['base']['bn1']['scale'], given['bn1.weight']
  )


def test_the_backbone_of_fast_reid_is_taken_with_a_note(people):
  """Its names are `backbone.`, as those of RGA, and `heads.` and `pixel_`."""
  given, shapes = people
  weights = {f'backbone.{name}': value for name, value in given.items()}
  weights |= {
    name: np.ones(shape)
    for name, shape in {
      'heads.bottleneck.0.weight': (2048,),
      'heads.bottleneck.0.running_mean': (2048,),
      'heads.weight': (11, 2048),
      'pixel_mean': (1, 3, 1, 1),
      'pixel_std': (1, 3, 1, 1),
    }.items()
  }
  source = {'model': weights, 'iteration': 5}
  imported = import_weights(source, shapes, small())
  base = {kind: {'base': v['base']} for kind, v in imported.variables.items()}
  back = to_state_dict(base)
  for name, value in given.items():
    np.testing.assert_array_equal(back[f'base.{name}'], value)
  fast_reid, alone = imported.notes
  assert 'from fast-reid' in fast_reid and 'one pixel' in fast_reid
  assert 'att4, bottleneck, classifier' in alone
  with pytest.raises(ValueError, match='pass image_size='):
    load_torch_weights(weights, small(attention='spatial'), 11)


def test_weights_of_bot_are_a_whole_network(caplog):
  """Those of reid-strong-baseline, the names of its modeling/baseline.py."""
  config = small(attention='none', levels=0, stem_relu=False)
  named = random_state_dict(config)
  assert {name.split('.')[0] for name in named} == {
    'base', 'bottleneck', 'classifier'
  }  # fmt: skip
  back = to_state_dict(load_torch_weights(named, config, 11))
  assert_same({k: v for k, v in back.items() if k in named}, named)
  assert not caplog.records


def test_a_query_encoder_of_another_backbone_is_refused(people):
  given, shapes = people
  with pytest.raises(ValueError, match=r'unexpected:\n    base.layer9.weight'):
    import_weights(
      names_of_query_encoder(given | {'layer9.weight': np.zeros(3)}),
      shapes,
      small(),
    )


def test_what_is_left_out_starts_at_random(caplog):
  config = small()
  weights = imagenet_weights(config, ['fc.weight'])
  with caplog.at_level(logging.WARNING):
    variables = load_torch_weights(weights, config, 11, seed=3)
  assert 'left as initialised: att1' in caplog.text
  model = apnet_jax.create_model(config, 11)
  expected = initialize(model, (96, 96), seed=3)
  chosen = (variables['params']['att2'], expected['params']['att2'])
  assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), *chosen))


def import_weights(weights, variables, config):
  """Reads weights and imports them, as a run does that starts from them."""
  state_dict = torch_weights.read_state_dict(weights, variables)
  return torch_weights.import_state_dict(state_dict, variables, config)


def import_into_shapes(weights, config, num_classes):
  """Imports weights without initialisation: other variables stay shapes."""
  model = apnet_jax.create_model(config, num_classes)
  return import_weights(weights, variable_shapes(model, (32, 16)), config)


def test_the_local_branch_starts_as_a_copy_of_the_last_stage():
  config = small(multi_part=True)
  weights = imagenet_weights(config, [])
  params = import_into_shapes(weights, config, 11).variables['params']
  same = jax.tree.map(
    lambda a, b: (a == b).all(),
    params['base']['layer4'],
    params['local']['layer4'],
  )
  assert jax.tree.all(same)


def test_a_classifier_of_another_width_is_left_out():
  config = small(multi_part=True)
  weights = random_state_dict(config, num_classes=11)
  imported = import_into_shapes(weights, config, 7)
  assert sorted(imported.notes) == [
    f'{name} left as initialised: 11 identities in the weights, 7 here'
    for name in ('classifier.weight', 'local.classifier.weight')
  ]
  left = [
    path
    for path, leaf in jax.tree_util.tree_leaves_with_path(imported.variables)
    if isinstance(leaf, jax.ShapeDtypeStruct)
  ]
  assert len(left) == 2


def test_weights_of_rga_have_names_of_their_own():
  """RGA's names are known, and the positions determine the image size."""
  config = small(attention='spatial', levels=1)
  given = random_state_dict(config, image_size=(64, 32))
  renames = {'base.': 'backbone.', 'rga_att': 'backbone.rga_att',
             'bottleneck.': 'feat_bn.', 'classifier.': 'cls.'}  # fmt: skip
  weights = {
    next(
      new + k[len(old) :] for old, new in renames.items() if k.startswith(old)
    ): v
    for k, v in given.items()
  }
  assert 'backbone.rga_att1.theta_spatial.0.weight' in weights
  assert weights['backbone.rga_att1.gg_spatial.0.weight'].shape == (
    16,
    256,
    1,
    1,
  )
  variables = load_torch_weights({'state_dict': weights}, config, 11)
  back = to_state_dict(variables)
  assert_same({k: v for k, v in back.items() if k in given}, given)
  model = apnet_jax.create_model(config, 11)
  jax.eval_shape(model.apply, variables, jnp.zeros((1, 64, 32, 3)))
  with pytest.raises(ValueError, match='att1/level1.*made for 128 positions'):
    jax.eval_shape(model.apply, variables, jnp.zeros((1, 96, 32, 3)))


def test_spatial_attention_needs_an_image_size_if_weights_have_none():
  config = small(attention='spatial')
  with pytest.raises(ValueError, match='image_size'):
    load_torch_weights(imagenet_weights(small(), []), config, 11)


def test_all_names_that_do_not_fit_come_in_one_error():
  config = small()
  weights = random_state_dict(config)
  del weights['base.layer1.0.conv1.weight'], weights['bottleneck.bias']
  weights['base.layer9.weight'] = np.zeros(3)
  weights['att2.fc.0.weight'] = np.zeros((3, 256))
  with pytest.raises(ValueError) as caught:
    load_torch_weights(weights, config, 11)
  message = str(caught.value)
  for text in (
    "backbone='resnet14', ", "attention='channel', levels=2, ",
    '2 missing:', 'base.layer1.0.conv1.weight', 'bottleneck.bias',
    '1 unexpected:', 'base.layer9.weight',
    '1 with a wrong shape:',
    'att2.fc.0.weight: (3, 256) given, (16, 256) expected',
  ):  # fmt: skip
    assert text in message


@pytest.mark.parametrize(
  ('of', 'into'),
  [
    ({'levels': 1}, {'levels': 2}),
    ({}, {'attention': 'spatial'}),
    ({}, {'se_blocks': True}),
    ({'levels': 2}, {'levels': 2, 'split_attention': 'shared'}),
    ({}, {'backbone': 'resnet50'}),
    ({}, {'backbone': 'densenet169'}),
  ],
)
def test_weights_of_another_architecture_are_refused(of, into):
  weights = random_state_dict(small(**of))
  with pytest.raises(ValueError, match='not of this network'):
    load_torch_weights(weights, small(**into), 11)


def test_spatial_weights_of_another_image_size_are_refused():
  config = small(attention='spatial')
  weights = random_state_dict(config, image_size=(64, 32))
  tied = r'(?s)gg_spatial.0.weight: .* given.*twice the number of positions'
  with pytest.raises(ValueError, match=tied):
    load_torch_weights(weights, config, 11, image_size=(96, 32))
  sides = random_state_dict(config, image_size=(64, 24))  # 16 divides no 24
  with pytest.raises(ValueError, match=tied):
    load_torch_weights(sides, config, 11)
  load_torch_weights(sides, config, 11, image_size=(64, 24))


def test_the_given_arrays_are_copied():
  """Copies are made even of aligned arrays, which JAX could share."""
  config = small()
  weights = random_state_dict(config)
  memory = np.empty(64 * 4 + 64, np.uint8)
  start = -memory.ctypes.data % 64
  aligned = memory[start : start + 256].view(np.float32)
  aligned[:] = weights['base.bn1.weight']
  weights['base.bn1.weight'] = aligned
  before = aligned.copy()
  variables = load_torch_weights(weights, config, 11)
  aligned[:] = 7
  scale = variables['params']['base']['bn1']['scale']
  np.testing.assert_array_equal(scale, before)


def test_weights_lie_under_any_wrapping():
  config = small()
  weights = random_state_dict(config)
  for wrapped in (
    {'state_dict': {'model': weights}},
    {'model': {'state_dict': weights, 'epoch': 3}},
  ):
    load_torch_weights(wrapped, config, 11)
  for broken, message in (
    ({0: np.zeros(3)}, 'the name 0 in the weights is not a string'),
    ({'w': np.array(['a'])}, "'w' are not an array of numbers"),
    ({}, 'not of this network'),
  ):
    with pytest.raises(ValueError, match=message):
      load_torch_weights(broken, config, 11)


def test_a_file_may_take_what_the_network_does_and_some(monkeypatch):
  asked = []

  def read_weights(source, max_bytes):
    asked.append(max_bytes)
    return {}

  monkeypatch.setattr(torch_weights, 'read_weights', read_weights)
  config = small()
  shapes = variable_shapes(apnet_jax.create_model(config, 2), (32, 16))
  numbers = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  with pytest.raises(ValueError, match='missing'):
    import_weights('a.npz', shapes, config)
  assert 8 < asked[0] / (4 * numbers) < 11
