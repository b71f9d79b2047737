"""The fields of `config.model` that determine which network is built."""

from typing import Any

import ml_collections

# The other fields determine how the network is initialised and computed
# (`pretrained`, `dtype`, `batch_norm_group`), or are not stated in the paper
# (`reduction`).
NETWORK_FIELDS = (
  'backbone', 'last_stride', 'stem_relu', 'se_blocks', 'multi_part',
  'attention', 'levels', 'radix', 'stacked', 'sites', 'order',
  'split_attention', 'norm_after_split', 'hidden',
)  # fmt: skip
NO_ATTENTION = {'attention': 'none', 'levels': 0}
# Fields without an effect on a pyramid that never splits.
_SPLIT_FIELDS = {'order', 'split_attention', 'norm_after_split'}


def has_pyramids(config: ml_collections.ConfigDict) -> bool:
  """Returns whether a network has attention pyramids.

  Args:
    config: the `model` part of a configuration.
  """
  return config.attention != 'none' and config.levels > 0


def effective_fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the fields that have an effect on a network, and their values.

  Two configurations with equal effective fields build the same network. For
  example, `order` has no effect on a pyramid of one level.

  Args:
    config: the `model` part of a configuration.

  Returns:
    A dict from names of `NETWORK_FIELDS` to values; `sites` is a tuple.
  """
  network = {field: config[field] for field in NETWORK_FIELDS}
  network['sites'] = tuple(config.sites)
  unused = set() if config.attention == 'channel' else {'hidden'}
  if not has_pyramids(config):
    network |= NO_ATTENTION
    unused = {'radix', 'stacked', 'sites', 'hidden'} | _SPLIT_FIELDS
  elif config.levels == 1:
    unused |= {'radix', 'stacked'} | _SPLIT_FIELDS
  elif config.stacked:
    unused |= {'radix'} | _SPLIT_FIELDS
  elif config.radix == 1:
    unused |= _SPLIT_FIELDS
  return {k: v for k, v in network.items() if k not in unused}
