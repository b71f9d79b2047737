"""Where a configuration differs from the paper, and its fields of training."""

from collections.abc import Iterator
import itertools
from typing import Any

import ml_collections

from apnet_jax.paper.fields import DEPARTURES, FIELDS


def differences(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields a sentence for each difference of a configuration from the paper."""
  for field in itertools.chain(*FIELDS.values()):
    if field.differs(config):
      yield (
        f'{field.field}: paper: {show(field.paper_value(config))}'
        f' ({field.place(config)}); here: {show(field.value(config))},'
        f' {field.source(config)}.'
      )
  for departure in DEPARTURES:
    if departure.when(config):
      yield (
        f'Paper: {departure.paper}; here: {departure.here}, because'
        f' {departure.because}.'
      )


def training_fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the fields of training that its result depends on, with values.

  Fields without an effect in this configuration are left out.

  Returns:
    Values of fields of `config.augment` and `config.train`, by dotted name.
  """
  return {
    field.field: field.value(config)
    for field in (*FIELDS['augment'], *FIELDS['train'])
    if field.matters and field.used(config)
  }


def show(value: Any) -> str:
  """Formats a value as on a command line, with long tuples shortened."""
  if isinstance(value, tuple):
    items = [show(item) for item in value]
    if len(items) > 5:
      items[2:-1] = ['...']
    return f'({",".join(items)}{"," * (len(items) == 1)})'
  return f'{value:g}' if isinstance(value, float) else str(value) or "''"
