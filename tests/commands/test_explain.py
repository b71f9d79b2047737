import itertools
import re

import pytest

from apnet_jax import create_model
from apnet_jax.commands import explain
from apnet_jax.models.counting import count
from apnet_jax.paper.differences import training_fields
from apnet_jax.paper.fields import DEPARTURES, FIELDS, SILENT
from apnet_jax.paper.recipes import RECIPES
from configs import common, market, msmt17, synthetic
from tests.commands.running import run_command

FIELD = {s.field: s for s in itertools.chain(*FIELDS.values())}


def small(**fields):
  config = market.get_config()
  config.data.image_size = (128, 64)
  config.model.backbone = 'resnet14'
  config.model.update(fields)
  return config


def rows_of(config):
  model = create_model(config.model, num_classes=1)
  return explain.layers(model, config.data.image_size)


def leaves(config, prefix=''):
  for name, value in config.items():
    if hasattr(value, 'items'):
      yield from leaves(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}'


def test_every_field_is_explained():
  fields = set(leaves(common.get_config()))
  assert len(FIELD) == sum(map(len, FIELDS.values()))
  assert FIELD.keys() <= fields
  sections = ('model.', 'augment.', 'train.')
  assert {f for f in fields if f.startswith(sections)} <= FIELD.keys()
  assert {'data.image_size', 'eval.flip'} <= FIELD.keys()


def differing(config):
  return {field for field, switch in FIELD.items() if switch.differs(config)}


@pytest.mark.parametrize(
  ('profile', 'expected'),
  [
    ('paper', {'batch_norm_group'}),
    ('spatial', {'batch_norm_group'}),
    (
      'official',
      {'stem_relu', 'sites', 'order', 'split_attention', 'norm_after_split'},
    ),
  ],
)
def test_the_profiles_differ_only_where_they_say(profile, expected):
  config = market.get_config(profile)
  expected = {f'model.{name}' for name in expected | {'pretrained'}}
  if profile == 'official':
    expected.add('train.smooth_k')
  assert differing(config) == expected
  config.model.pretrained = 'weights.pth'
  assert differing(config) == expected - {'model.pretrained'}


@pytest.mark.parametrize(
  ('source', 'reason'),
  [
    ('', 'random weights'),
    ('weights/lup_moco_r50.pth', 'weights of people (LUPerson)'),
    ('~/LUPws_r50.pth', 'weights of people (LUPerson)'),
    ('moco_v2_800ep_pretrain.pth.tar', 'weights that were trained without'),
    ('.', 'the network of another run'),
    ('packed/market.apnet', 'the network of another run'),
    ('runs/gone', 'of unknown origin: no such file or folder is here'),
    ('/dev/null', ''),
    ('hf://timm/resnet50.tv_in1k', ''),
    ('moco/tulip-resnet50.pth', ''),
  ],
)
def test_only_weights_of_imagenet_are_those_of_the_paper(source, reason):
  config = market.get_config()
  config.model.pretrained = source
  assert ('model.pretrained' in differing(config)) == bool(reason)
  texts = [t for t in explain.differences(config) if 'pretrained' in t]
  assert len(texts) == bool(reason)
  assert all(f'here: {explain.show(source)}, {reason}' in t for t in texts)


def test_the_distractors_are_a_difference_only_where_they_are_ranked():
  config = market.get_config()
  assert 'all 15,913 gallery images' in ' '.join(explain.differences(config))
  config.eval.drop_distractors = True
  assert 'gallery' not in ' '.join(explain.differences(config))


def test_multi_query_is_a_difference():
  config = market.get_config()
  usual = differing(config)
  config.eval.multi_query = True
  assert differing(config) - usual == {'eval.multi_query'}


@pytest.mark.parametrize('profile', ['paper', 'spatial', 'official'])
def test_each_value_of_the_paper_has_its_place(profile):
  config = market.get_config(profile)
  for name, field in FIELD.items():
    stated = field.paper_value(config) is not SILENT
    assert bool(field.place(config)) == stated, name
  config.train.update(warmup_epochs=7, warmup_factor=0.5, weight_decay=0.1)
  assert not any(' ()' in text for text in explain.differences(config))


def test_recipes_of_other_work_are_differences():
  usual = differing(market.get_config())
  for fields in RECIPES.values():
    config = market.get_config()
    for field, value in fields.items():
      section, name = field.split('.')
      config[section][name] = value
    # The paper gives no weight of the triplet loss.
    assert differing(config) - usual == fields.keys() - {'train.triplet_weight'}


def test_the_recipe_has_the_fields_that_have_an_effect():
  config = market.get_config()
  fields = training_fields(config)
  assert fields['train.ema_decay'] == 0 and fields['augment.augmix'] == 0
  assert 'train.center_rate' not in fields
  assert not any('every' in name or 'finite' in name for name in fields)
  config.train.update(center_weight=5e-4, schedule='cosine')
  changed = training_fields(config)
  assert changed.keys() ^ fields.keys() == {
    'train.center_rate', 'train.milestones', 'train.decay_factor',
  }  # fmt: skip


def test_a_soft_margin_is_a_difference_and_leaves_the_margin_unused():
  usual = market.get_config()
  config = market.get_config()
  config.train.update(soft_margin=True, margin=0.5)
  assert differing(config) - differing(usual) == {'train.soft_margin'}
  assert training_fields(config)['train.soft_margin'] is True
  assert training_fields(usual).keys() - training_fields(config) == {
    'train.margin'
  }


def test_the_official_profile_is_the_released_code():
  config = market.get_config('official')
  for switch in FIELD.values():
    released = switch.released_value(config)
    if released is not None and switch.field != 'model.pretrained':
      assert switch.value(config) == released, switch.field


@pytest.mark.parametrize(
  ('module', 'feature'), [(market, 'embedding'), (msmt17, 'logits')]
)
def test_the_released_code_ranks_logits_on_msmt17(module, feature):
  config = module.get_config('official')
  assert config.eval.feature == feature
  shown = '\n'.join(explain._fields(config))
  (row,) = re.findall('^[* -] feature .*$', shown, re.MULTILINE)
  assert row.split()[-1] == feature


def test_a_euclidean_distance_is_not_that_of_section_iv_a():
  config = market.get_config()
  config.eval.distance = 'euclidean'
  source = FIELD['eval.distance'].source(config)
  assert 'Section IV.A is between normalised ones' in source


def test_what_the_paper_studies_is_no_difference():
  config = market.get_config()
  usual = differing(config)
  for field, switch in FIELD.items():
    for value in switch.also:
      config = market.get_config()
      config.model[field.split('.')[1]] = value
      assert differing(config) - usual <= {'data.image_size'} | {
        f for f in FIELD if f.startswith('train.')
      }  # attention='spatial' has another recipe
      assert switch.place(config).startswith(('Table', 'Fig.'))


def test_what_has_no_effect_is_no_difference():
  config = market.get_config('official')
  config.model.levels = 1
  config.train.label_smoothing = 0.0
  assert differing(config) == {
    'model.pretrained', 'model.stem_relu', 'model.sites',
    'train.label_smoothing',
  }  # fmt: skip
  assert not FIELD['model.reduction'].used(config)
  assert FIELD['model.hidden'].is_choice(config)


def test_differences_are_sentences():
  config = small(hidden=8, order='fine_to_coarse', multi_part=True)
  config.train.P = 8
  found = list(explain.differences(config))
  assert all(text.endswith('.') and 'here: ' in text for text in found)
  assert (
    'train.P: paper: 20 (IV.B); here: 8, chosen in this configuration.' in found
  )
  assert (
    'model.backbone: paper: resnet50 (IV.B); here: resnet14, one block a stage,'
    ' for CPUs.' in found
  )
  assert any('radix^(i - 1)' in text for text in found)
  assert any('this is our reading' in text for text in found)
  choices = list(explain.choices(config))
  assert 'model.hidden: 8, as in the released code.' in choices
  assert not any('model.reduction' in text for text in choices)


def official(levels):
  config = market.get_config('official')
  config.model.levels = levels
  return config


def with_model(**fields):
  config = market.get_config()
  config.model.update(fields)
  return config


@pytest.mark.parametrize(
  'config',
  [
    market.get_config('spatial'),
    with_model(attention='spatial', levels=3),
    with_model(multi_part=True),
    with_model(backbone='densenet169'),
    official(3),
    synthetic.get_config(),
  ],
)
def test_departures_concern_some_configurations(config):
  found = [d for d in DEPARTURES if d.when(config)]
  usual = [d for d in DEPARTURES if d.when(market.get_config())]
  assert set(found) != set(usual)


def test_every_departure_concerns_some_configuration():
  configs = (
    with_model(attention='spatial', levels=3),
    with_model(multi_part=True, backbone='inception_v3'),
    official(3),
    msmt17.get_config('official'),
  )
  for departure in DEPARTURES:
    assert any(departure.when(config) for config in configs), departure


@pytest.mark.parametrize(
  'fields',
  [
    {'levels': 0},
    {'attention': 'spatial'},
    {'split_attention': 'shared', 'sites': (0, 3), 'norm_after_split': True},
    {'se_blocks': True, 'multi_part': True},
  ],
  ids=str,
)
def test_rows_add_up(fields):
  config = small(**fields)
  rows = rows_of(config)
  parameters = sum(p.size for row in rows for p in row.params.values())
  expected = count(
    create_model(config.model, num_classes=9), config.data.image_size
  )
  assert parameters == expected.parameters
  assert sum(r.multiply_adds for r in rows) == expected.multiply_adds


def text_of_layers(config):
  """Returns the lines of `explain` about layers, with the total last."""
  lines = '\n'.join(explain.explain(config)).split('\n\n')[1].splitlines()
  assert max(map(len, lines)) <= 100
  return lines


@pytest.mark.parametrize(
  ('config', 'expected'),
  [
    (
      small(levels=3, sites=(4,)),
      [
        'att4       attention pyramid',
        '  level1   1 part of 2048, 128 hidden, sigmoid',
        '  level2   2 parts of 1024, 64 hidden, sigmoid',
        '  level3   4 parts of 512, 32 hidden, sigmoid',
      ],
    ),
    (
      small(
        order='fine_to_coarse', split_attention='shared', sites=(4,), hidden=8,
        norm_after_split=True, levels=3,
      ),
      [
        'att4       attention pyramid',
        '  level3   4 parts of 512 summed, 2048 hidden, softmax over parts',
        '  norm3    batch norm without shift',
        '  level2   2 parts of 1024 summed, 1024 hidden, softmax over parts',
        '  norm2    batch norm without shift',
        '  level1   1 part of 2048, 8 hidden, sigmoid',
      ],
    ),
    (
      small(attention='spatial', sites=(1,), levels=1),
      [
        'att1       attention pyramid',
        '  level1   1 part of 512 positions, sigmoid',
        '           embedding 256 -> 32; relations 1024 -> 64; scores 65 -> 8'
        ' -> 1',
      ],
    ),
  ],
  ids=['paper', 'official', 'spatial'],
)  # fmt: skip
def test_a_pyramid_in_the_order_it_is_applied(config, expected):
  lines = text_of_layers(config)
  start = next(i for i, line in enumerate(lines) if line.startswith('att'))
  for line, beginning in zip(lines[start:], expected):
    assert line.startswith(beginning)
  assert lines[start + len(expected)].startswith(('stage', 'bottleneck'))


def test_numbers_stand_whole_at_the_end_of_a_line():
  config = small(
    split_attention='shared', norm_after_split=True, levels=3, hidden=8
  )
  *lines, total = text_of_layers(config)[1:]
  rows = rows_of(config)
  assert len(lines) == len(rows)
  for line, row in zip(lines, rows):
    parameters = sum(p.size for p in row.params.values())
    assert not parameters or f' {parameters:,}' in line
  assert total.split()[-2:] == [
    f'{sum(p.size for row in rows for p in row.params.values()):,}',
    f'{sum(row.multiply_adds for row in rows) / 1e6:,.2f}',
  ]


@pytest.mark.parametrize(
  ('backbone', 'stage2'),
  [
    ('resnet14', 'stage 2    layer2: 1 block'),
    ('densenet169', 'stage 2    transition1, denseblock2: 12 blocks'),
    ('inception_v3', 'stage 2    Mixed_5b, Mixed_5c, Mixed_5d'),
  ],
)
def test_stages_of_every_backbone(backbone, stage2):
  config = small(backbone=backbone, levels=0)
  config.data.image_size = (96, 80)
  rows = rows_of(config)
  assert [row.stage for row in rows] == [0, 1, 2, 3, 4, None, None]
  assert explain.describe(rows[2]) == [stage2]
  assert explain.describe(rows[0])[0].startswith('stem ')


def test_values_are_shown_as_they_are_typed():
  shown = {
    (): '()', (3,): '(3,)', (0.5, 1.0): '(0.5,1)', 4e-4: '0.0004',
    '': "''", 'channel': 'channel', True: 'True',
    tuple(range(20, 91, 10)): '(20,30,...,90)',
  }  # fmt: skip
  assert {value: explain.show(value) for value in shown} == shown


def test_long_values_stand_apart():
  config = market.get_config()
  weights = 'hf://timm/resnet50.tv_in1k'
  config.model.pretrained = weights
  (row,) = (x for x in explain._fields(config) if 'pretrained' in x)
  assert re.split('  +', row.strip())[:4] == [
    'pretrained', weights, weights, 'IV.B',
  ]  # fmt: skip


def test_silence_of_the_paper():
  config = market.get_config()
  silent = {f for f, s in FIELD.items() if s.paper_value(config) is SILENT}
  assert {'model.reduction', 'train.warmup_epochs', 'augment.flip'} <= silent
  config = market.get_config('spatial')
  assert FIELD['train.warmup_epochs'].paper_value(config) == 5  # that of RGA


def test_command():
  result = run_command(
    'explain', '--config=configs/synthetic.py', '--config.model.stacked'
  )
  assert not result.stderr
  lines = result.stdout.splitlines()
  assert max(map(len, lines)) <= 100
  assert 'Where this differs from the paper' in lines
  assert (
    '* backbone                resnet14            resnet50' in result.stdout
  )
