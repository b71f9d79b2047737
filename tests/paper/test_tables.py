"""The paper's tables name networks and data sets that exist."""

import pathlib
import re
import unicodedata

import pytest

from apnet_jax.paper import variants
from apnet_jax.paper.tables import TABLES, first_name
from data import datasets

PAPER = pathlib.Path(__file__).parents[3] / 'shared' / 'paper.txt'


@pytest.mark.parametrize('table', TABLES.values(), ids=list(TABLES))
def test_a_table_names_what_exists(table):
  names = [row.name for row in table.rows]
  assert len(set(names)) == len(names)
  for row in table.rows:
    assert row.against in ('', *names)
    assert not row.against or row.against != row.name
    for key, figures in row.published.items():
      parts = key.split(' > ')
      assert datasets.full_names(parts) == parts
      assert len(parts) == (2 if table.across else 1)
      assert all(0 < value < 100 for value in figures)
      assert list(figures) == sorted(figures)  # mAP, Rank-1, Rank-5


@pytest.mark.parametrize(
  ('number', 'table'), [('VI', 'table6'), ('VII', 'table7')]
)
def test_figures_are_those_of_the_paper(number, table):
  """They are printed as mAP, Rank-1, Rank-5 and Rank-10 for each data set."""
  if not PAPER.exists():
    pytest.skip(f'the text of the paper is not there: {PAPER}')
  text = unicodedata.normalize('NFKC', PAPER.read_text())  # of subscripts
  text = re.split(rf'\nTABLE {number}\b', text)[1]
  for row in TABLES[table].rows[number == 'VII' :]:
    level = row.variant[-1]
    (line, *_) = re.findall(rf'^APNet-C {level}\t(.*)$', text, re.MULTILINE)
    printed = [float(word) for word in line.split('\t')]
    ours = [value for figures in row.published.values() for value in figures]
    assert ours == [v for i, v in enumerate(printed) if i % 4 < 3]


def test_the_gains_across_domains_are_those_of_the_paper():
  """Section IV.F has the gains of level 2 over the baseline."""
  rows = {row.variant: row.published for row in TABLES['table7'].rows}
  gains = [
    round(ours - baseline, 1)
    for key, figures in rows['apnet_c0'].items()
    for baseline, ours in zip(figures, rows['apnet_c2'][key])
  ]
  assert gains == [5.7, 6.8, 4.6, 6.4]


def test_equal_networks_have_one_name():
  assert first_name('radix2') == 'apnet_c2'
  others = {name for name in variants.VARIANTS if first_name(name) != name}
  assert others == {'radix2'}


def test_changes_make_the_variant_of_the_default_network():
  for table in TABLES.values():
    for row in table.rows:
      model = variants.APNET_C2 | row.changes
      assert model == variants.VARIANTS[row.variant].model
