import jax
import jax.numpy as jnp
import numpy as np
import pytest

import apnet_jax
from apnet_jax.config import CHOICES
from apnet_jax.models.apnet import create_model, initialize, variable_shapes
from apnet_jax.paper import variants
from apnet_jax.paper.variants import VARIANTS
from apnet_jax.training.train_step import reid_loss
from configs import common
from tests.tiny import tiny_model

# Parameters of the backbones: torchvision's numbers less its classifiers.
TRUNK = {
  'resnet50': 25_557_032 - 2_049_000,
  'resnet101': 44_549_160 - 2_049_000,
  'densenet169': 14_149_480 - 1_665_000,
  'inception_v3': 27_161_264 - 2_049_000 - 3_326_696,  # also less AuxLogits
}
# Channels at the sites of the pyramids; the last ones are the features.
CHANNELS = {
  'resnet50': (256, 512, 1024, 2048),
  'resnet101': (256, 512, 1024, 2048),
  'densenet169': (256, 512, 1280, 1664),
  'inception_v3': (192, 288, 768, 2048),
}
OFFICIAL_CHANNELS = (64, 256, 512, 1024, 2048)
# Parameters of the ResNet-14 backbone. A block of width w has 1x1, 3x3 and 1x1
# convolutions, a projection, and normalisations of w, w, 4w and 4w channels.
RESNET14 = (
  7 * 7 * 3 * 64
  + 2 * 64
  + sum(
    (c * w + 9 * w * w + 4 * w * w + c * 4 * w) + 2 * (w + w + 4 * w + 4 * w)
    for c, w in ((64, 64), (256, 128), (512, 256), (1024, 512))
  )
)


def base(backbone):
  """Parameters of a backbone, the BN neck and a classifier for 751 classes."""
  features = CHANNELS[backbone][-1]
  return TRUNK[backbone] + features + features * 751


def channel_level(parts=1, backbone='resnet50'):
  """Parameters of a level of channel attention at all sites.

  A part has two layers and one hidden unit for 16 channels, at least one.
  """
  return sum(
    parts * 2 * (c // parts) * max(c // parts // 16, 1)
    for c in CHANNELS[backbone]
  )


def spatial_level(parts=1):
  """Parameters of a level of RGA-S at 256x128, counted layer by layer."""
  total = 0
  for channels, positions in zip(CHANNELS['resnet50'], (2048, 512, 128, 128)):
    k, s = channels // 8, positions // parts
    hidden = max((1 + s // 8) // 8, 1)
    embeddings = 3 * (channels * k + 2 * k)
    relations = 2 * s * (s // 8) + 2 * (s // 8)
    scores = (1 + s // 8) * hidden + 2 * hidden + hidden + 2
    total += parts * (embeddings + relations + scores)
  return total


def shared_level(parts):
  """Parameters of a level of the released code's split attention.

  They are two layers with biases, the normalisation between them, and the scale
  of the normalisation after the level.
  """
  total = 0
  for c in OFFICIAL_CHANNELS:
    hidden = max(c * parts // 4, 32)
    layers = c // parts * hidden + hidden + hidden * c + c
    total += layers + 2 * hidden + c
  return total


R50 = base('resnet50')
OFFICIAL_1 = R50 + sum(2 * 8 * c for c in OFFICIAL_CHANNELS)
# torchvision's layer4, and two stripes of 256 features with classifiers.
MULTI_PART = 14_964_736 + 2 * (2048 * 256 + 256 + 256 * 751)
NUM_PARAMETERS = {
  'apnet_c0': R50,
  'apnet_c1': R50 + channel_level(),
  'apnet_c2': R50 + channel_level() + channel_level(2),
  'apnet_c3': R50 + channel_level() + channel_level(2) + channel_level(4),
  'stacked_c': R50 + 3 * channel_level(),
  # timm's SE-ResNet-50 has 28,088,024, torchvision's ResNet-50 25,557,032.
  'se_resnet50': R50 + 28_088_024 - 25_557_032,
  'apnet_s1': R50 + spatial_level(),
  'apnet_s2': R50 + spatial_level() + spatial_level(2),
  'apnet_s3': R50 + spatial_level() + spatial_level(2) + spatial_level(4),
  'stacked_s': R50 + 3 * spatial_level(),
  **{
    f'radix{radix}': R50 + channel_level() + channel_level(radix)
    for radix in (1, 2, 4, 8, 16, 32)
  },
  'multi_part': R50 + channel_level() + channel_level(2) + MULTI_PART,
  'multi_part_s': R50 + spatial_level() + spatial_level(2) + MULTI_PART,
  'official1': OFFICIAL_1,
  'official2': OFFICIAL_1 + shared_level(2),
  'official3': OFFICIAL_1 + shared_level(2) + shared_level(4),
}
for name in ('resnet101', 'densenet169', 'inception_v3'):
  NUM_PARAMETERS[name] = base(name)
  NUM_PARAMETERS[f'{name}_apnet_c'] = (
    base(name) + channel_level(1, name) + channel_level(2, name)
  )


def model_config(**fields):
  config = common.get_config().model
  config.backbone = 'resnet14'
  config.update(fields)
  return config


def variant_config(name, small=False):
  """Returns the `config.model` of a variant.

  Args:
    name: key of `VARIANTS`.
    small: True replaces ResNet-50 by ResNet-14.
  """
  config = variants.apply(VARIANTS[name], common.get_config().model)
  if small and config.backbone == 'resnet50':
    config.backbone = 'resnet14'
  return config


def shapes(config, num_classes=751, image_size=(128, 64)):
  model = apnet_jax.create_model(config, num_classes)
  return variable_shapes(model, image_size)


def num_parameters(*args, **kwargs):
  params = shapes(*args, **kwargs)['params']
  return sum(p.size for p in jax.tree.leaves(params))


@pytest.mark.parametrize('name', NUM_PARAMETERS)
def test_number_of_parameters(name):
  variant = VARIANTS[name]
  count = num_parameters(variant_config(name), image_size=variant.image_size)
  assert count == NUM_PARAMETERS[name]


# Kinds of attention that no paper compares with the others.
IN_NO_VARIANT = set()


def test_no_variant_is_left_out():
  assert NUM_PARAMETERS.keys() == VARIANTS.keys()
  used = [variant.model for variant in VARIANTS.values()]
  assert {m['backbone'] for m in used} == set(CHOICES['model.backbone']) - {
    'resnet14'
  }
  assert {m['attention'] for m in used} | IN_NO_VARIANT == set(
    CHOICES['model.attention']
  )
  assert {m['split_attention'] for m in used} == set(
    CHOICES['model.split_attention']
  )
  assert {m['order'] for m in used} == set(CHOICES['model.order'])


def test_number_of_parameters_of_the_small_network():
  assert num_parameters(model_config(levels=0)) == (
    RESNET14 + 2048 + 2048 * 751
  )


LABELS = np.array([0, 0, 1, 1])
RECIPE = common.get_config().train


def depends_on_inputs(jaxpr, inputs):
  """Returns which outputs of a jaxpr depend on any of the marked inputs.

  An equation with a nested jaxpr counts as one operation, all of whose outputs
  depend on all of its inputs.
  """
  tainted = {id(v) for v, marked in zip(jaxpr.invars, inputs) if marked}
  for equation in jaxpr.eqns:
    if any(id(v) in tainted for v in equation.invars):
      tainted.update(map(id, equation.outvars))
  return [id(v) in tainted for v in jaxpr.outvars]


def kinds_of_networks():
  """Returns the variant with the most parts of each kind of network.

  Variants of a kind differ in numbers alone, and tracing one takes seconds.
  """
  kinds = {}
  for name, variant in VARIANTS.items():
    model = variant.model
    kind = tuple(
      model[field]
      for field in ('backbone', 'se_blocks', 'multi_part', 'split_attention')
    )
    # A backbone without attention is part of the one with attention.
    attention = model['attention']
    if attention == 'none' and not model['se_blocks']:
      attention = 'channel'
    kind += (attention, model['stacked'])
    parts = 1 if model['stacked'] else model['radix'] ** model['levels']
    kinds[kind] = max(kinds.get(kind, (0, '')), (parts, name))
  return [name for _, name in kinds.values()]


@pytest.mark.parametrize('attention', ['channel', 'spatial'])
def test_radix_1_is_stacked_attention(attention):
  """The parameters of both have the same shapes, with two levels."""

  def shapes(**fields):
    config = common.get_config().model
    config.update(attention=attention, levels=2, reduction=1, **fields)
    return variable_shapes(tiny_model(config, 6), (32, 16))

  assert shapes(radix=1) == shapes(stacked=True, radix=2)
  assert shapes(radix=1) != shapes(radix=2)


def test_kinds_of_networks_cover_all_fields():
  names = kinds_of_networks()
  assert len(names) == 11 and 'radix32' in names and 'apnet_s3' in names
  for field in ('backbone', 'attention', 'split_attention', 'stacked', 'order'):
    chosen = {VARIANTS[name].model[field] for name in names}
    assert chosen == {variant.model[field] for variant in VARIANTS.values()}


@pytest.mark.parametrize('name', kinds_of_networks())
def test_gradients_reach_every_parameter(name):
  """The gradient of every parameter depends on the images.

  A parameter without an influence on the loss has a constant gradient. (Only
  `tests/models/test_attention.py` computes numbers.) The loss of a bfloat16
  network is float32.
  """
  config = variant_config(name, small=True)
  config.dtype = 'bfloat16'
  model = apnet_jax.create_model(config, 6)
  size = (96, 96) if config.backbone == 'inception_v3' else (64, 32)
  variables = variable_shapes(model, size)
  images = jax.ShapeDtypeStruct((4, *size, 3), 'float32')

  def loss_fn(params, batch_stats, images):
    output, _ = model.apply(
      {'params': params, 'batch_stats': batch_stats},
      images,
      train=True,
      mutable=['batch_stats'],
    )
    one_device = jax.tree.map(lambda x: x[None], output)
    return jax.vmap(
      lambda output: reid_loss(output, LABELS, RECIPE, 'batch')[0],
      axis_name='batch',
    )(one_device).mean()

  arguments = (variables['params'], variables['batch_stats'], images)
  jaxpr = jax.make_jaxpr(jax.value_and_grad(loss_fn))(*arguments).jaxpr
  loss = jaxpr.outvars[0].aval
  assert (loss.shape, loss.dtype) == ((), jnp.float32)
  of_images = [False] * (len(jaxpr.invars) - 1) + [True]
  paths = jax.tree_util.tree_leaves_with_path(variables['params'])
  _, *reached = depends_on_inputs(jaxpr, of_images)
  assert len(reached) == len(paths)
  assert [p for (p, _), r in zip(paths, reached) if not r] == []


def test_a_parameter_out_of_reach_is_found():
  def loss_fn(params, x):
    return (params[0] * x).sum() + jax.lax.stop_gradient(params[1]).sum()

  params = (jnp.ones(3), jnp.ones(3))
  jaxpr = jax.make_jaxpr(jax.grad(loss_fn))(params, jnp.ones(3)).jaxpr
  assert depends_on_inputs(jaxpr, [False, False, True]) == [True, False]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_outputs_are_float32(dtype):
  model = apnet_jax.create_model(model_config(dtype=dtype), 10)
  images = jax.random.normal(jax.random.key(0), (2, 64, 32, 3))
  variables = initialize(model, (64, 32), seed=1)
  assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype('float32')}
  out = jax.jit(model.apply)(variables, images)
  for value, width in (
    (out.feature, 2048), (out.embedding, 2048), (out.logits, 10),
  ):  # fmt: skip
    assert value.dtype == jnp.float32 and value.shape == (2, width)
  if dtype == 'bfloat16':
    wide = apnet_jax.create_model(model_config(), 10)
    expected = jax.jit(wide.apply)(variables, images)
    assert 0 < abs(out.feature - expected.feature).max()
    np.testing.assert_allclose(out.feature, expected.feature, atol=0.1)


def test_stages_have_the_strides_of_the_paper():
  """With last stride 1, the last map has 1/16 of the image's height."""
  for last_stride, expected in ((1, 16), (2, 32)):
    config = model_config(last_stride=last_stride)
    model = apnet_jax.create_model(config, 10)
    images = jax.ShapeDtypeStruct((1, 128, 64, 3), 'float32')
    _, state = jax.eval_shape(
      lambda k, x, model=model: model.init_with_output(
        k, x, capture_intermediates=True, mutable=True
      ),
      jax.random.key(0),
      images,
    )
    last = state['intermediates']['att4']['__call__'][0]
    assert last.shape == (1, 128 // expected, 64 // expected, 2048)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('backbone', 'vgg', r"config.model.backbone='vgg' is not one of"),
    ('order', 'random', r"order='random' is not one of \('coarse_to_fine'"),
    ('split_attention', 'all', r"split_attention='all' is not one of"),
    ('sites', (1, 5), r'sites=\(1, 5\) must be some of \(0, 1, 2, 3, 4\)'),
    ('sites', (2, 1), r'sites=\(2, 1\) must be some of .* in this order'),
    ('hidden', -1, 'hidden=-1 must be at least 0'),
    ('attention', 'softmax', r"attention='softmax' is not one of"),
    ('levels', 4, r'levels=4 is not one of \(0, 1, 2, 3\)'),
    ('radix', 0, 'radix=0 must be at least 1'),
    ('reduction', 0, 'reduction=0 must be'),
    ('dtype', 'int8', "dtype='int8'"),
    ('dtype', 'float64', 'needs JAX_ENABLE_X64'),
    ('last_stride', 3, 'last_stride=3'),
    ('batch_norm_group', -1, 'batch_norm_group=-1'),
  ],
)
def test_bad_fields_are_named(field, value, message):
  with pytest.raises(ValueError, match=message):
    apnet_jax.create_model(model_config(**{field: value}), 10)


def test_another_part_of_the_configuration_is_refused():
  with pytest.raises(
    ValueError, match='lacks attention, backbone.*`model` part'
  ):
    apnet_jax.create_model(common.get_config(), 10)
  old = model_config()
  del old.split_attention
  with pytest.raises(ValueError, match='lacks split_attention.*older version'):
    apnet_jax.create_model(old, 10)


def test_no_classes_is_an_error():
  with pytest.raises(ValueError, match='num_classes=0'):
    apnet_jax.create_model(model_config(), 0)


def test_a_radix_that_does_not_divide_names_the_stage():
  with pytest.raises(ValueError, match=r'att1: 256 channels.*radix=3'):
    shapes(model_config(radix=3))


@pytest.mark.parametrize(
  ('field', 'value'),
  [('multi_part', True), ('se_blocks', True), ('stem_relu', False)],
)
@pytest.mark.parametrize('backbone', ['densenet169', 'inception_v3'])
def test_what_only_a_resnet_has_is_refused_elsewhere(backbone, field, value):
  config = model_config(**{'backbone': backbone, field: value})
  with pytest.raises(
    ValueError,
    match=rf"config.model.{field}={value} needs .*'resnet50'.*{backbone}",
  ):
    apnet_jax.create_model(config, 10)


def test_shared_attention_is_for_channels():
  config = model_config(attention='spatial', split_attention='shared')
  with pytest.raises(ValueError, match="split_attention='shared' is for chan"):
    apnet_jax.create_model(config, 10)


def test_rows_that_do_not_split_name_the_stage():
  config = model_config(attention='spatial', levels=3)
  with pytest.raises(ValueError, match=r'att3: 14 rows .* 4 parts at level 3'):
    shapes(config, image_size=(224, 224))


def test_local_parts_that_do_not_split_are_an_error():
  with pytest.raises(ValueError, match='multi_part=True: 7 rows .* 2 stripes'):
    shapes(model_config(multi_part=True), image_size=(112, 64))


def test_the_multi_part_head_concatenates_its_branches():
  model = apnet_jax.create_model(model_config(multi_part=True), 10)
  images = jax.ShapeDtypeStruct((2, 64, 32, 3), 'float32')
  out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
  assert out.embedding.shape == out.feature.shape == (2, 2048 + 2 * 256)
  assert out.logits.shape == (2, 10)
  whole, local = out.branches
  assert (whole.feature.shape, whole.logits.shape) == ((2, 2048), (2, 1, 10))
  assert (local.feature.shape, local.logits.shape) == ((2, 512), (2, 2, 10))


def test_the_local_branch_of_the_multi_part_head_keeps_its_stride():
  config = model_config(multi_part=True, last_stride=2)
  model = create_model(config, 10)
  _, variables = jax.eval_shape(
    lambda key, x: model.init_with_output(
      key, x, capture_intermediates=True, mutable=True
    ),
    jax.random.key(0),
    jnp.zeros((1, 128, 64, 3)),
  )
  local = variables['intermediates']['local']['layer4']['__call__'][0]
  assert local.shape == (1, 8, 4, 2048)


def test_the_reduction_of_attention_is_not_that_of_se_blocks():
  counts = {
    num_parameters(model_config(se_blocks=True, attention='none', reduction=r))
    for r in (16, 4)
  }
  assert len(counts) == 1
