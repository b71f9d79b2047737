"""The paper's tables name networks and data sets that exist."""

import pytest

from apnet_jax.paper import variants
from apnet_jax.paper.tables import TABLES, first_name
from data import datasets


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


def test_equal_networks_have_one_name():
  assert first_name('radix2') == 'apnet_c2'
  others = {name for name in variants.VARIANTS if first_name(name) != name}
  assert others == {'radix2'}


def test_changes_make_the_variant_of_the_default_network():
  for table in TABLES.values():
    for row in table.rows:
      model = variants.APNET_C2 | row.changes
      assert model == variants.VARIANTS[row.variant].model
