"""The networks that the paper compares, as settings of `config.model`."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import ml_collections

from apnet_jax.models.apnet import has_pyramids

# Every field of `config.model` that makes the network, as in APNet-C_2. The
# others say how it is trained, or are left open by the paper (`reduction`).
APNET_C2 = {
  'backbone': 'resnet50',
  'last_stride': 1,
  'stem_relu': True,
  'se_blocks': False,
  'multi_part': False,
  'attention': 'channel',
  'levels': 2,
  'radix': 2,
  'stacked': False,
  'sites': (1, 2, 3, 4),
  'order': 'coarse_to_fine',
  'split_attention': 'per_part',
  'norm_after_split': False,
  'hidden': 0,
}
# What `configs/market.py:official` changes.
OFFICIAL = {
  'stem_relu': False,
  'sites': (0, 1, 2, 3, 4),
  'order': 'fine_to_coarse',
  'split_attention': 'shared',
  'norm_after_split': True,
  'hidden': 8,
  'batch_norm_group': 40,
}
NO_ATTENTION = {'attention': 'none', 'levels': 0}
CHANNEL_SIZE, SPATIAL_SIZE = (384, 192), (256, 128)  # Section IV.B


@dataclasses.dataclass(frozen=True)
class Variant:
  """A network of the paper.

  Attributes:
    title: the paper's name for it.
    where: its place in the paper.
    model: values of fields of `config.model`.
    image_size: height and width that it is trained at.
    gflops: its figure in Table III, of one 224x224 image, if it has one.
  """

  title: str
  where: str
  model: Mapping[str, Any]
  image_size: tuple[int, int] = CHANNEL_SIZE
  gflops: float | None = None


def _variant(title, where, size=CHANNEL_SIZE, gflops=None, **fields) -> Variant:
  return Variant(title, where, APNET_C2 | fields, size, gflops)


def _spatial(title, **fields) -> Variant:
  return _variant(
    title, 'Table II', SPATIAL_SIZE, attention='spatial', **fields
  )


def _backbone(title, name) -> dict[str, Variant]:
  return {
    name: _variant(title, 'Table V', backbone=name, **NO_ATTENTION),
    f'{name}_apnet_c': _variant(f'{title} + APNet-C', 'Table V', backbone=name),
  }


_BOTH = 'Tables II and III'

VARIANTS: dict[str, Variant] = {
  'apnet_c0': _variant('APNet-C_0', _BOTH, gflops=6.23, **NO_ATTENTION),
  'apnet_c1': _variant('APNet-C_1', _BOTH, gflops=6.23, levels=1),
  'apnet_c2': _variant('APNet-C_2', _BOTH, gflops=6.24, levels=2),
  'apnet_c3': _variant('APNet-C_3', _BOTH, gflops=6.25, levels=3),
  'se_resnet50': _variant(
    'SE-ResNet', _BOTH, gflops=6.24, se_blocks=True, **NO_ATTENTION
  ),
  'stacked_c': _variant(
    'Stacked Attention (C)', 'Table II', levels=3, stacked=True
  ),
  'apnet_s1': _spatial('APNet-S_1 (RGA-S)', levels=1),
  'apnet_s2': _spatial('APNet-S_2', levels=2),
  'apnet_s3': _spatial('APNet-S_3', levels=3),
  'stacked_s': _spatial('Stacked Attention (S)', levels=3, stacked=True),
  **_backbone('ResNet101', 'resnet101'),
  **_backbone('Inception-V3', 'inception_v3'),
  **_backbone('DenseNet169', 'densenet169'),
  **{
    f'radix{radix}': _variant(f'radix {radix}, level 2', 'Fig. 5', radix=radix)
    for radix in (1, 2, 4, 8, 16, 32)
  },
  'multi_part': _variant(
    'APNet-C_2, multi-part', 'Section IV.D', multi_part=True
  ),
  **{
    f'official{level}': _variant(
      f'APNet-C level {level}', 'Released code', levels=level, **OFFICIAL
    )
    for level in (1, 2, 3)
  },
}


def apply(
  variant: Variant, config: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
  """Returns a copy of `config.model` that is the variant.

  Args:
    variant: one of `VARIANTS`.
    config: the `model` part of a configuration; fields that do not make the
      network keep their values.
  """
  model = config.copy_and_resolve_references()
  model.update(variant.model)
  return model


def effective(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The fields of a `config.model` that make its network, and their values.

  A field that has no effect there is left out, as `order` of a single level is.
  """
  network = {field: config[field] for field in APNET_C2}
  network['sites'] = tuple(config.sites)
  unused = set() if config.attention == 'channel' else {'hidden'}
  split = {'order', 'split_attention', 'norm_after_split'}
  if not has_pyramids(config):
    network |= NO_ATTENTION
    unused = {'radix', 'stacked', 'sites', 'hidden'} | split
  elif config.levels == 1:
    unused |= {'radix', 'stacked'} | split
  elif config.stacked:
    unused |= {'radix'} | split
  elif config.radix == 1:
    unused |= split
  return {k: v for k, v in network.items() if k not in unused}


def name_of(config: ml_collections.ConfigDict) -> str | None:
  """The variant that a `config.model` is, None if it is no network of them."""
  network = effective(config)
  for name, variant in VARIANTS.items():
    if network == effective(apply(variant, config)):
      return name
  return None
