"""The values of the paper and of its released code for each field.

The released code is CHENGY12/APNet, which has APNet-C only. RGA is the code of
Zhang et al. [5], whose settings the paper takes over for APNet-S.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import ml_collections

from apnet_jax.models.network_fields import NETWORK_FIELDS, effective_fields

SILENT = None  # the paper does not say

Predicate = Callable[[ml_collections.ConfigDict], bool]


@dataclasses.dataclass(frozen=True)
class Field:
  """A configuration field that the paper or its released code determines.

  Attributes:
    field: path of the field in a configuration, as `model.radix`.
    paper: the paper's value, a function that returns it for a configuration,
      or `SILENT`.
    released: the value of the released code; None if it has no such setting.
    where: place in the paper, '' if it is silent.
    also: other values that the paper studies.
    also_in: their place in the paper.
    because: reasons for values chosen here, by value.
    when: tells whether the field has an effect in a configuration. (For most
      fields of `config.model`, `effective_fields` tells.)
    matters: False if no figure depends on the field.
  """

  field: str
  paper: Any
  released: Any
  where: str = ''
  also: tuple = ()
  also_in: str = ''
  because: Mapping[Any, str] = dataclasses.field(default_factory=dict)
  when: Predicate = lambda config: True
  matters: bool = True

  @property
  def name(self) -> str:
    return self.field.split('.')[-1]

  def value(self, config: ml_collections.ConfigDict) -> Any:
    value = config
    for name in self.field.split('.'):
      value = value[name]
    return tuple(value) if isinstance(value, list) else value

  def paper_value(self, config: ml_collections.ConfigDict) -> Any:
    """Returns the paper's value for this configuration, or `SILENT`."""
    if self.value(config) in self.also:
      return self.value(config)
    return self.paper(config) if callable(self.paper) else self.paper

  def place(self, config: ml_collections.ConfigDict) -> str:
    """Returns the place in the paper of `paper_value`."""
    return self.also_in if self.value(config) in self.also else self.where

  def used(self, config: ml_collections.ConfigDict) -> bool:
    """Returns whether the field has an effect in a configuration."""
    section, name = self.field.split('.')
    if section == 'model' and name in NETWORK_FIELDS:
      return _has(name)(config)
    return self.when(config)

  def differs(self, config: ml_collections.ConfigDict) -> bool:
    """Returns whether the field makes the recipe differ from the paper's."""
    paper = self.paper_value(config)
    said = paper is not SILENT
    return said and self.used(config) and paper != self.value(config)

  def is_choice(self, config: ml_collections.ConfigDict) -> bool:
    """Returns whether a value had to be chosen because the paper is silent."""
    silent = self.paper_value(config) is SILENT
    return silent and self.used(config) and self.matters

  def source(self, config: ml_collections.ConfigDict) -> str:
    """Returns where the value of a configuration comes from, as text."""
    value = self.value(config)
    if value in self.because:
      return self.because[value]
    if value == self.released:
      return 'as in the released code'
    return 'chosen in this configuration'


@dataclasses.dataclass(frozen=True)
class Departure:
  """A difference from the paper that no field expresses.

  Attributes:
    paper: what the paper says or does.
    here: what this project does.
    because: the reason.
    when: tells whether it concerns a configuration.
  """

  paper: str
  here: str
  because: str
  when: Predicate = lambda config: True


def _is_spatial(config) -> bool:
  return config.model.attention == 'spatial'


def _by_attention(channel, spatial) -> Callable:
  """Returns the setting of APNet-C, or the one of RGA for APNet-S."""
  return lambda config: spatial if _is_spatial(config) else channel


def _imagenet(config) -> str:
  """Takes any initial weights for those of ImageNet."""
  return config.model.pretrained or 'ImageNet'


def _is_cuhk03(config) -> bool:
  return config.data.name.startswith('cuhk03')


def _has(field: str) -> Predicate:
  """Returns a predicate: does a field of `config.model` have an effect?"""
  return lambda config: field in effective_fields(config.model)


MODEL = (
  Field(
    'model.backbone', 'resnet50', 'resnet50', 'IV.B',
    also=('resnet101', 'densenet169', 'inception_v3'), also_in='Table V',
    because={'resnet14': 'one block a stage, for CPUs'},
  ),
  Field(
    'model.pretrained', _imagenet, 'ImageNet', 'IV.B',
    because={'': 'random weights unless a file is given'},
  ),
  Field('model.last_stride', 1, 1, 'IV.B'),
  Field(
    'model.stem_relu', True, False, 'IV.B',
    because={
      False: 'as in the released code; Luo et al. [31], from whose code it'
      ' comes, call it a slip without effect'
    },
  ),
  Field(
    'model.se_blocks', False, None, 'IV.B', also=(True,), also_in='Table II'
  ),
  Field('model.multi_part', _is_cuhk03, None, 'IV.D'),
  Field(
    'model.attention', 'channel', 'channel', 'III.B',
    also=('spatial', 'none'), also_in='Table II',
  ),
  Field(
    'model.levels', 2, 2, 'IV.C', also=(0, 1, 3), also_in='Table II'
  ),
  Field(
    'model.radix', 2, 2, 'IV.C', also=(1, 4, 8, 16, 32), also_in='Fig. 5'
  ),
  Field(
    'model.stacked', False, None, 'III.A', also=(True,), also_in='Table II'
  ),
  Field(
    'model.sites', (1, 2, 3, 4), (0, 1, 2, 3, 4), 'III.A'
  ),
  Field(
    'model.order', 'coarse_to_fine', 'fine_to_coarse', 'Eq. (1)',
    because={
      'fine_to_coarse': 'as in the released code, from which, its author says,'
      ' the published figures come'
    },
  ),
  Field(
    'model.split_attention', 'per_part', 'shared', 'Eq. (2)',
    because={
      'shared': 'as in the released code: one attention of the summed parts,'
      ' and a softmax over them in place of the sigmoid'
    },
  ),
  Field(
    'model.norm_after_split', False, True, 'Eq. (3)',
    because={
      True: 'as in the released code, where it undoes the factor 1/n of the'
      ' softmax over n parts'
    },
  ),
  Field(
    'model.reduction', SILENT, None,
    because={
      16: 'that of Squeeze-and-Excitation; the paper takes "the settings in'
      ' [6]", whose code is not public'
    },
    when=lambda config: _has('hidden')(config) and not config.model.hidden,
  ),
  Field(
    'model.hidden', SILENT, 8, because={0: 'left to model.reduction'},
  ),
  Field(
    'model.batch_norm_group', 40, 40, 'IV.B',
    because={
      0: 'the whole batch (or each part, see train.accumulate), which does not'
      " depend on the machine; the 40 are those of each of the paper's two"
      ' GPUs'
    },
  ),
  Field('model.dtype', SILENT, 'float32'),
)  # fmt: skip

AUGMENT = (
  Field('augment.flip', SILENT, 0.5),
  Field('augment.pad', SILENT, 10),
  Field('augment.erase', SILENT, 0.5),
  Field(
    'augment.erase_fill', SILENT, (0.485, 0.456, 0.406),
    because={
      (0.0, 0.0, 0.0): 'the mean, as RGA fills',
      (0.485, 0.456, 0.406): 'as in the released code, which fills after it'
      ' has normalised, so that this is not the mean',
    },
    when=lambda config: config.augment.erase > 0,
  ),
)  # fmt: skip

TRAIN = (
  Field('train.P', 20, 20, 'IV.B'),
  Field('train.K', 4, 4, 'IV.B'),
  Field(
    'train.accumulate', SILENT, 1,
    when=lambda config: config.train.accumulate > 1,
  ),
  Field('train.rematerialize', SILENT, False, matters=False),
  Field('train.epochs', _by_attention(160, 150), 160, 'IV.B'),
  Field('train.steps', 0, 0, 'IV.B'),
  Field('train.learning_rate', _by_attention(4e-4, 8e-4), 4e-4, 'IV.B'),
  Field(
    'train.milestones',
    _by_attention((40, 80, 120), tuple(range(20, 91, 10))),
    (40, 80, 120), 'IV.B',
  ),
  Field('train.decay_factor', _by_attention(0.1, 0.5), 0.1, 'IV.B'),
  Field('train.warmup_epochs', _by_attention(SILENT, 5), 10),
  Field(
    'train.warmup_factor', _by_attention(SILENT, 0.01), 0.01,
    when=lambda config: config.train.warmup_epochs > 0,
  ),
  Field(
    'train.weight_decay', _by_attention(SILENT, 5e-4), 1e-3,
    because={
      5e-4: 'that of Luo et al. [31], whose settings the paper follows; on'
      ' every parameter, as part of the gradient'
    },
  ),
  Field('train.margin', 0.3, 0.3, 'IV.B'),
  Field('train.label_smoothing', 0.1, 0.1, 'IV.B'),
  Field(
    'train.smooth_k', 0, 751, 'Eq. (8)',
    because={
      751: 'as in the released code, on every data set; 0 is the number of'
      ' identities, which on Market-1501 is 751'
    },
    when=lambda config: config.train.label_smoothing > 0,
  ),
  Field('train.triplet_weight', SILENT, 1.0),
  Field('train.not_finite', SILENT, None, matters=False),
  Field('train.not_finite_limit', SILENT, None, matters=False),
  Field('train.log_every_steps', SILENT, None, matters=False),
  Field('train.eval_every_epochs', SILENT, None, matters=False),
  Field('train.checkpoint_every_epochs', SILENT, None, matters=False),
)  # fmt: skip

FIELDS = {
  'model': MODEL,
  'augment': AUGMENT,
  'train': TRAIN,
  'data': (
    Field(
      'data.image_size', _by_attention((384, 192), (256, 128)), (384, 192),
      'IV.B',
    ),
  ),
  'eval': (
    Field('eval.flip', True, True, 'IV.B'),
    Field(
      'eval.feature', 'embedding', 'embedding', 'IV.B',
      because={'logits': 'as in the released recipe for MSMT17'},
    ),
    Field('eval.distance', 'cosine', 'cosine', 'IV.B'),
    Field('eval.ap', SILENT, 'step'),
    Field('eval.drop_distractors', SILENT, False),
    Field('eval.single_gallery_shot', SILENT, False),
  ),
}  # fmt: skip


def released(section: str) -> dict[str, Any]:
  """Returns the released code's values of the fields of a section.

  Left out are fields for which it has nothing, and the weights to start from,
  which are a file.
  """
  return {
    field.name: field.released
    for field in FIELDS[section]
    if field.released is not None and field.name != 'pretrained'
  }


DEPARTURES = (
  Departure(
    'the text splits level i into radix^i parts',
    'radix^(i - 1)',
    'its APNet-C_1 has one global part, and the authors confirm that',
    lambda config: _has('sites')(config) and not config.model.stacked,
  ),
  Departure(
    'two GPUs each keep running statistics, of which PyTorch stores those of'
    ' the first',
    'one set, of all images of a batch',
    'a network should not depend on the devices that it was trained on',
  ),
  Departure(
    'does not say how many batches an epoch has',
    'the number of full groups of K images of an identity, over P',
    'the released code does so',
  ),
  Departure(
    'does not say which checkpoint it reports',
    'the last one',
    'the best one would be chosen on the test set',
  ),
  Departure(
    'its figures are probably without the 2,798 distractors of the gallery,'
    ' which the released code skipped until January 2022',
    'all 15,913 images',
    'this is the benchmark as its authors define it',
    lambda config: config.data.name == 'market1501',
  ),
  Departure(
    'trains on 32,621 images, those of list_train.txt and list_val.txt (Table'
    ' I)',
    'those of list_train.txt alone',
    'the released code does so',
    lambda config: config.data.name == 'msmt17/train',
  ),
  Departure(
    'takes the settings of [5], whose 600 epochs draw K images of each'
    ' identity',
    'an epoch draws all images, and the numbers of epochs are a quarter of'
    ' those',
    'on Market-1501 that is as many images (on CUHK03-NP it is 0.6, on MSMT17'
    ' twice as many)',
    _is_spatial,
  ),
  Departure(
    'takes the settings of [5], which trains on 16 x 4 images and does not flip'
    ' at test',
    'train.P and eval.flip are those of all experiments',
    'Section IV.B says 20 persons and the average with the flipped image "for'
    ' all experiments"',
    _is_spatial,
  ),
  Departure(
    'its formulas have bare 1x1 convolutions',
    'each is normalised, and has a ReLU but for the last',
    'so has the code of [5], to which the paper refers',
    _is_spatial,
  ),
  Departure(
    'takes the settings of [5], whose random crop enlarges every second'
    ' image by an eighth',
    'the images are padded by augment.pad pixels',
    'the paper says "random cropping" of all its experiments',
    _is_spatial,
  ),
  Departure(
    "the ratios of [5] leave level 3's last layers without a hidden unit, which"
    ' it does not mention',
    'they have at least one',
    'there would be no attention otherwise',
    lambda config: _is_spatial(config) and config.model.levels == 3,
  ),
  Departure(
    'its one sentence on the multi-part head leaves the branch open',
    'a fourth stage of its own, two halves of the height, 256 features each',
    'this is our reading, after Wang et al. [33]',
    lambda config: config.model.multi_part,
  ),
  Departure(
    'does not say where the pyramids of this backbone are, nor what its last'
    ' stride is',
    'after each of its four stages; the last reduction has config.model.'
    'last_stride',
    'this is what Section IV.B says of the ResNet',
    lambda config: config.model.backbone in ('densenet169', 'inception_v3'),
  ),
  Departure(
    'its released code cannot build level 3, as it splits twice into 3 parts,'
    ' which does not divide the channels',
    'radix and radix^2 parts',
    'the paper gives these',
    lambda config: (
      effective_fields(config.model).get('split_attention') == 'shared'
      and config.model.levels == 3
    ),
  ),
)  # fmt: skip
