"""The networks that the paper compares, as values of `config.model`."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import ml_collections

from apnet_jax.config import get_config
from apnet_jax.models.network_fields import (
  NETWORK_FIELDS,
  NO_ATTENTION,
  effective_fields,
)
from apnet_jax.paper.fields import released

# The paper's main network, APNet-C_2, is the default configuration.
APNET_C2 = {name: get_config().model[name] for name in NETWORK_FIELDS}
# The network of the released code.
OFFICIAL = released('model', get_config())
CHANNEL_SIZE, SPATIAL_SIZE = (384, 192), (256, 128)  # Section IV.B


@dataclasses.dataclass(frozen=True)
class Variant:
  """A network of the paper, as values of `config.model`.

  Attributes:
    title: name of the network in the paper.
    where: place of the network in the paper.
    model: values of fields of `config.model`, by name.
    image_size: height and width of training images in pixels.
    gflops: GFLOPs for one 224x224 image in Table III; None if it does not list
      the network.
  """

  title: str
  where: str
  model: Mapping[str, Any]
  image_size: tuple[int, int] = CHANNEL_SIZE
  gflops: float | None = None


def _variant(title, where, size=CHANNEL_SIZE, gflops=None, **fields) -> Variant:
  """Returns the network APNet-C_2 with some fields changed.

  Args:
    title: name of the network in the paper.
    where: place of the network in the paper.
    size: height and width of training images in pixels.
    gflops: GFLOPs in Table III; None if the table does not list the network.
    **fields: changed values of fields of `config.model`.
  """
  return Variant(title, where, APNET_C2 | fields, size, gflops)


def _spatial(title, **fields) -> Variant:
  """Returns a network with spatial attention (Table II).

  Args:
    title: name of the network in the paper.
    **fields: values of `config.model` that differ from APNet-C_2.
  """
  return _variant(
    title, 'Table II', SPATIAL_SIZE, attention='spatial', **fields
  )


def _backbone(title, name) -> dict[str, Variant]:
  """Returns two networks: a backbone without and with attention (Table V).

  Args:
    title: name of the backbone in the paper.
    name: value of `config.model.backbone`.

  Returns:
    The networks by their names in `VARIANTS`.
  """
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
  'multi_part_s': _variant(
    'APNet-S_2, multi-part',
    'Section IV.D',
    SPATIAL_SIZE,
    attention='spatial',
    multi_part=True,
  ),  # fmt: skip
  **{
    f'official{level}': _variant(
      f'APNet-C level {level}',
      'Released code',
      **OFFICIAL | {'levels': level},
    )
    for level in (1, 2, 3)
  },
}


def apply(
  variant: Variant, config: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
  """Returns a copy of `config.model` with the fields of a variant.

  Args:
    variant: one of `VARIANTS`.
    config: the `model` part of a configuration; fields that the variant does
      not set keep their values.
  """
  model = config.copy_and_resolve_references()
  model.update(variant.model)
  return model


def released_network(levels: int) -> dict[str, Any]:
  """Returns the effective fields of the released code's network.

  Args:
    levels: number of pyramid levels, 0 to 2; the released code cannot build
      level 3.
  """
  config = get_config().model
  config.update(OFFICIAL | {'levels': levels})
  return effective_fields(config)


def name_of(config: ml_collections.ConfigDict) -> str | None:
  """Returns the name of the variant that a configuration builds.

  Args:
    config: the `model` part of a configuration. Fields that have no effect on
      the network do not matter.

  Returns:
    A key of `VARIANTS`, the first that matches; None if there is none.
  """
  network = effective_fields(config)
  for name, variant in VARIANTS.items():
    if network == effective_fields(apply(variant, config)):
      return name
  return None


def is_released(model: ml_collections.ConfigDict) -> bool:
  """Returns whether the released APNet code can build a network.

  Args:
    model: `config.model` of the network.
  """
  network = effective_fields(model)
  return any(network == released_network(levels) for levels in (0, 1, 2))
