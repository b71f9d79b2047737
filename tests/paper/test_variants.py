import pathlib
import re
import unicodedata

import pytest

from apnet_jax import create_model
from apnet_jax.commands.complexity import FIGURES_OF_THE_PAPER
from apnet_jax.paper import variants
from apnet_jax.paper.variants import APNET_C2, VARIANTS
from configs import common, cuhk03, duke, market, msmt17

PAPER = pathlib.Path(__file__).parents[3] / 'shared' / 'paper.txt'
# Fields of `config.model` that no variant sets.
OTHERS = {'pretrained', 'reduction', 'batch_norm_group', 'dtype'}


def test_a_variant_sets_every_field_that_makes_a_network():
  fields = set(common.get_config().model)
  assert not APNET_C2.keys() & OTHERS
  assert APNET_C2.keys() | OTHERS == fields
  for variant in VARIANTS.values():
    assert APNET_C2.keys() <= variant.model.keys() <= fields


@pytest.mark.parametrize(
  ('name', 'profile', 'levels'),
  [
    ('apnet_c2', 'paper', 2),
    ('apnet_s2', 'spatial', 2),
    *((f'official{level}', 'official', level) for level in (1, 2, 3)),
  ],
)
def test_agrees_with_the_configuration(name, profile, levels):
  config = market.get_config(profile)
  config.model.levels = levels
  model = variants.apply(VARIANTS[name], common.get_config().model)
  assert model == config.model
  assert VARIANTS[name].image_size == config.data.image_size
  assert variants.name_of(config.model) == name


@pytest.mark.parametrize('profile', ['paper', 'spatial'])
@pytest.mark.parametrize('module', [market, duke, msmt17, cuhk03])
def test_the_benchmarks_configurations_are_networks_of_the_paper(
  module, profile
):
  config = module.get_config(profile)
  name = variants.name_of(config.model)
  assert VARIANTS[name].image_size == config.data.image_size
  assert VARIANTS[name].where != 'Released code'


def test_apply_changes_a_copy_and_keeps_what_is_open():
  config = common.get_config().model
  config.update({'reduction': 4, 'radix': 8, 'dtype': 'bfloat16'})
  model = variants.apply(VARIANTS['apnet_c3'], config)
  assert (model.levels, model.radix) == (3, 2)
  assert (model.reduction, model.dtype) == (4, 'bfloat16')
  assert (config.levels, config.radix) == (2, 8)


@pytest.mark.parametrize('name', VARIANTS)
def test_can_be_built_and_is_recognised(name):
  model = variants.apply(VARIANTS[name], common.get_config().model)
  create_model(model, num_classes=1)
  same = {'radix2': 'apnet_c2'}  # Fig. 5 repeats a network of Table II
  assert variants.name_of(model) == same.get(name, name)


@pytest.mark.parametrize(
  ('fields', 'name'),
  [
    ({'levels': 0}, 'apnet_c0'),  # the command in docs/reproducing.md
    ({'attention': 'none'}, 'apnet_c0'),
    ({'levels': 0, 'sites': (0, 1), 'hidden': 8}, 'apnet_c0'),
    ({'levels': 1, 'radix': 4, 'order': 'fine_to_coarse'}, 'apnet_c1'),
    ({'levels': 3, 'stacked': True, 'radix': 4}, 'stacked_c'),
    ({'radix': 1, 'norm_after_split': True}, 'radix1'),
    ({'attention': 'spatial', 'hidden': 8}, 'apnet_s2'),
    ({'sites': [1, 2, 3, 4]}, 'apnet_c2'),
    ({'order': 'fine_to_coarse'}, None),
    ({'backbone': 'resnet14'}, None),
    ({'hidden': 8}, None),
  ],
  ids=str,
)
def test_fields_without_effect_do_not_matter(fields, name):
  config = common.get_config().model
  with config.ignore_type():
    config.update(fields)
  assert variants.name_of(config) == name


def test_figures_of_table_iii():
  """Reads them from the paper; `test_complexity` compares them with counts."""
  if not PAPER.exists():
    pytest.skip(f'the text of the paper is not there: {PAPER}')
  text = PAPER.read_text().split('TABLE III\n')[1]
  text = unicodedata.normalize('NFKC', text)  # of subscripts
  rows = re.findall(r'^(.+)\t(\d+\.\d+)$', text, re.M)[:7]
  figures = {
    re.sub(r'\[\d+\]|[$_ ]', '', title): float(figure) for title, figure in rows
  }
  ours = {v.title: v.gflops for v in VARIANTS.values() if v.gflops}
  ours |= FIGURES_OF_THE_PAPER
  assert len(figures) == 7
  assert figures == {re.sub('[_ ]', '', k): v for k, v in ours.items()}


def test_places_in_the_paper():
  places = {}
  for name, variant in VARIANTS.items():
    places.setdefault(variant.where, []).append(name)
  assert {where: len(names) for where, names in places.items()} == {
    'Tables II and III': 5,
    'Table II': 5,
    'Table V': 6,  # its ResNet-50 rows are APNet-C_0 and APNet-C_2
    'Fig. 5': 6,
    'Section IV.D': 2,
    'Released code': 3,
  }
