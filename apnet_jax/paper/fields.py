"""Values of configuration fields in the paper and in the released code.

The released code is CHENGY12/APNet, which contains only APNet-C. RGA is the
code of Zhang et al. [5], whose settings the paper uses for APNet-S.

The texts in this file are parts of the lines that `python -m apnet_jax explain`
prints. Numbers in brackets are references of the paper.
"""

from collections.abc import Callable, Mapping
import dataclasses
import pathlib
import re
from typing import Any

import ml_collections

from apnet_jax import hub
from apnet_jax.config import NO_EFFECT_ON_RESULT
from apnet_jax.models import weight_files
from apnet_jax.models.network_fields import NETWORK_FIELDS, effective_fields

SILENT = None  # the paper states no value

Predicate = Callable[[ml_collections.ConfigDict], bool]


@dataclasses.dataclass(frozen=True)
class Field:
  """A configuration field with its values in the paper and the released code.

  Attributes:
    field: path of the field in a configuration, such as `model.radix`.
    paper: the paper's value, a function that returns this value for a
      configuration, or `SILENT`.
    released: the value of the released code, or a function that returns this
      value for a configuration; None if it has no such setting.
    where: place in the paper; '' if the paper is always silent.
    also: other values that the paper studies.
    also_in: place of these values in the paper.
    because: reasons for values used here, by value; or a function that returns
      the reason for the value of a configuration, or ''.
    when: returns whether the field has an effect in a configuration. For fields
      of `NETWORK_FIELDS`, `effective_fields` is used instead.
  """

  field: str
  paper: Any
  released: Any
  where: str = ''
  also: tuple = ()
  also_in: str = ''
  because: Mapping[Any, str] | Callable = dataclasses.field(
    default_factory=dict
  )
  when: Predicate = lambda config: True

  @property
  def name(self) -> str:
    """The last component of the field's path."""
    return self.field.split('.')[-1]

  @property
  def matters(self) -> bool:
    """True if other values of the field may change the result of a run."""
    return not self.field.startswith(NO_EFFECT_ON_RESULT)

  def value(self, config: ml_collections.ConfigDict) -> Any:
    """Returns the field's value in a configuration; lists become tuples."""
    value = config
    for name in self.field.split('.'):
      value = value[name]
    return tuple(value) if isinstance(value, list) else value

  def paper_value(self, config: ml_collections.ConfigDict) -> Any:
    """Returns the paper's value for this configuration, or `SILENT`."""
    if self.value(config) in self.also:
      return self.value(config)
    return self.paper(config) if callable(self.paper) else self.paper

  def released_value(self, config: ml_collections.ConfigDict) -> Any:
    """Returns the released code's value for this configuration, or None."""
    return self.released(config) if callable(self.released) else self.released

  def place(self, config: ml_collections.ConfigDict) -> str:
    """Returns where the paper states `paper_value`, such as 'Table II'.

    The result is '' if the paper states no value for this configuration.
    """
    if self.paper_value(config) is SILENT:
      return ''
    return self.also_in if self.value(config) in self.also else self.where

  def used(self, config: ml_collections.ConfigDict) -> bool:
    """Returns whether the field has an effect in a configuration."""
    section, name = self.field.split('.')
    if section == 'model' and name in NETWORK_FIELDS:
      return _has(name)(config)
    return self.when(config)

  def differs(self, config: ml_collections.ConfigDict) -> bool:
    """Returns whether a configuration's value departs from the paper's.

    The result is False if the paper states no value or the field has no effect.
    """
    paper = self.paper_value(config)
    stated = paper is not SILENT
    return stated and self.used(config) and paper != self.value(config)

  def is_choice(self, config: ml_collections.ConfigDict) -> bool:
    """Returns whether a value had to be chosen because the paper is silent."""
    silent = self.paper_value(config) is SILENT
    return silent and self.used(config) and self.matters

  def source(self, config: ml_collections.ConfigDict) -> str:
    """Returns a text with the reason or source of a configuration's value."""
    value = self.value(config)
    if callable(self.because):
      reason = self.because(config)
    else:
      reason = self.because.get(value, '')
    if reason:
      return reason
    if value == self.released_value(config):
      return 'as in the released code'
    return 'chosen in this configuration'


@dataclasses.dataclass(frozen=True)
class Departure:
  """A difference from the paper that no configuration field expresses.

  The texts fill the gaps of "Paper: ...; here: ..., because ...".

  Attributes:
    paper: the paper's method.
    here: the method of this project.
    because: the reason for the difference.
    when: returns whether the difference concerns a configuration.
  """

  paper: str
  here: str
  because: str
  when: Predicate = lambda config: True


def _is_spatial(config) -> bool:
  return config.model.attention == 'spatial'


def _released_feature(config) -> str:
  """Returns what the released code ranks by: on MSMT17, the logits."""
  on_msmt17 = config.data.name.startswith('msmt17')
  return 'logits' if on_msmt17 else 'embedding'


def _by_attention(channel, spatial) -> Callable:
  """Returns a function that chooses a value by a configuration's attention.

  Args:
    channel: the paper's value for APNet-C.
    spatial: the value of RGA, for APNet-S.
  """
  return lambda config: spatial if _is_spatial(config) else channel


def _origin(config) -> str:
  """Says where the initial weights come from, if that is not ImageNet.

  LUPerson and MoCo are recognised by the file name; other weights count as
  ImageNet's, with the result ''. A path that does not exist may be the workdir
  of a deleted run: its origin is unknown.
  """
  source = config.model.pretrained
  if not source:
    return 'random weights, because no file was given'
  path = pathlib.Path(source).expanduser()
  if path.is_dir() or path.suffix == weight_files.PACK_SUFFIX:
    return 'the network of another run'
  name = source.lower().split('/')[-1]
  if re.search('(^|[^a-z])lup', name):
    return 'weights of people (LUPerson), by their name'
  if 'moco' in name:
    return 'weights that were trained without labels (MoCo), by their name'
  is_weights = weight_files.suffix_of(path) in weight_files.FORMATS
  if not (is_weights or hub.is_source(source) or path.exists()):
    return 'of unknown origin: no such file or folder is here'
  return ''


def _imagenet(config) -> str:
  """Returns the name of initial weights of ImageNet, or 'ImageNet'."""
  return 'ImageNet' if _origin(config) else config.model.pretrained


def _decays_by_steps(config) -> bool:
  return config.train.schedule == 'step'


def _has_circle_loss(config) -> bool:
  return config.train.circle_weight > 0


def _is_cuhk03(config) -> bool:
  return config.data.name.startswith('cuhk03')


def _has(field: str) -> Predicate:
  """Returns a predicate, true if a configuration's network uses a field.

  Args:
    field: name of a field of `config.model`.
  """
  return lambda config: field in effective_fields(config.model)


MODEL = (
  Field(
    'model.backbone', 'resnet50', 'resnet50', 'IV.B',
    also=('resnet101', 'densenet169', 'inception_v3'), also_in='Table V',
    because={'resnet14': 'one block a stage, for CPUs'},
  ),
  Field(
    'model.pretrained', _imagenet, 'ImageNet', 'IV.B', because=_origin,
  ),
  Field('model.last_stride', 1, 1, 'IV.B'),
  Field(
    'model.stem_relu', True, False, 'IV.B',
    because={
      False: 'as in the released code; it is taken from the code of Luo et al.'
      ' [31], who call it a mistake without effect'
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
      'fine_to_coarse': 'as in the released code, which its author says'
      ' produced the published figures'
    },
  ),
  Field(
    'model.split_attention', 'per_part', 'shared', 'Eq. (2)',
    because={
      'shared': 'as in the released code: one attention for the sum of all'
      ' parts, and a softmax over parts instead of the sigmoid'
    },
  ),
  Field(
    'model.norm_after_split', False, True, 'Eq. (3)',
    because={
      True: 'as in the released code, where it compensates for the factor 1/n'
      ' of the softmax over n parts'
    },
  ),
  Field(
    'model.reduction', SILENT, None,
    because={
      16: 'the ratio of Squeeze-and-Excitation; the paper uses "the settings in'
      ' [6]", whose code is not public'
    },
    when=lambda config: _has('hidden')(config) and not config.model.hidden,
  ),
  Field(
    'model.hidden', SILENT, 8, because={0: 'model.reduction sets the width'},
  ),
  Field(
    'model.batch_norm_group', 40, 40, 'IV.B',
    because={
      0: 'the whole batch (or micro-batch, see train.accumulate), which does'
      ' not depend on the machine; 40 is the number of images on each of the'
      " paper's two GPUs"
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
      (0.0, 0.0, 0.0): 'the mean colour, as in RGA',
      (0.485, 0.456, 0.406): 'as in the released code, which erases after'
      ' normalising, so that this is not the mean colour',
    },
    when=lambda config: config.augment.erase > 0,
  ),
  Field('augment.jitter', 0.0, 0.0, 'IV.B'),
  *(
    Field(
      f'augment.{name}', SILENT, None, because={value: 'as in fast-reid'},
      when=lambda config: config.augment.jitter > 0,
    )
    for name, value in (
      ('brightness', 0.15), ('contrast', 0.15), ('saturation', 0.1),
      ('hue', 0.1),
    )
  ),
  Field('augment.augmix', 0.0, 0.0, 'IV.B'),
)  # fmt: skip

TRAIN = (
  Field('train.P', 20, 20, 'IV.B'),
  Field('train.K', 4, 4, 'IV.B'),
  Field(
    'train.accumulate', SILENT, 1,
    when=lambda config: config.train.accumulate > 1,
  ),
  Field('train.rematerialize', SILENT, False),
  Field('train.epochs', _by_attention(160, 150), 160, 'IV.B'),
  Field('train.steps', 0, 0, 'IV.B'),
  Field('train.learning_rate', _by_attention(4e-4, 8e-4), 4e-4, 'IV.B'),
  Field('train.schedule', 'step', 'step', 'IV.B'),
  Field(
    'train.milestones',
    _by_attention((40, 80, 120), tuple(range(20, 91, 10))),
    (40, 80, 120), 'IV.B',
    when=_decays_by_steps,
  ),
  Field(
    'train.decay_factor', _by_attention(0.1, 0.5), 0.1, 'IV.B',
    when=_decays_by_steps,
  ),
  Field('train.warmup_epochs', _by_attention(SILENT, 5), 10, 'IV.B'),
  Field(
    'train.warmup_factor', _by_attention(SILENT, 0.01), 0.01, 'IV.B',
    when=lambda config: config.train.warmup_epochs > 0,
  ),
  Field(
    'train.weight_decay', _by_attention(SILENT, 5e-4), 1e-3, 'IV.B',
    because={
      5e-4: 'the value of Luo et al. [31], whose settings the paper follows;'
      ' it is added to the gradient of every parameter'
    },
  ),
  Field('train.clip_norm', 0.0, 0.0, 'IV.B'),
  Field(
    'train.margin', 0.3, 0.3, 'IV.B',
    when=lambda config: not config.train.soft_margin,
  ),
  Field('train.soft_margin', False, False, 'Eq. (6)'),
  Field('train.label_smoothing', 0.1, 0.1, 'IV.B'),
  Field(
    'train.smooth_k', 0, 751, 'Eq. (8)',
    because={
      751: 'as in the released code, for every data set; 0 uses the number of'
      ' identities, which is 751 on Market-1501'
    },
    when=lambda config: config.train.label_smoothing > 0,
  ),
  Field('train.triplet_weight', SILENT, 1.0),
  Field('train.circle_weight', 0.0, 0.0, 'Eq. (9)'),
  Field(
    'train.circle_margin', SILENT, None, when=_has_circle_loss,
    because={0.25: 'the value of Sun et al. for persons'},
  ),
  Field(
    'train.circle_scale', SILENT, None, when=_has_circle_loss,
    because={128.0: 'the value of Sun et al. for persons'},
  ),
  Field('train.center_weight', 0.0, 0.0, 'Eq. (9)'),
  Field(
    'train.center_rate', SILENT, None,
    when=lambda config: config.train.center_weight > 0,
    because={0.5: 'the value of Wen et al.'},
  ),
  Field('train.ema_decay', 0.0, 0.0, 'IV.B'),
  Field('train.not_finite', SILENT, None),
  Field('train.not_finite_limit', SILENT, None),
  Field('train.log_every_steps', SILENT, None),
  Field('train.eval_every_epochs', SILENT, None),
  Field('train.checkpoint_every_epochs', SILENT, None),
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
      'eval.feature', 'embedding', _released_feature, 'IV.B',
      because={'logits': 'as in the released recipe for MSMT17'},
    ),
    Field(
      'eval.distance', 'cosine', 'cosine', 'IV.B',
      because={
        'euclidean': 'between features that are not normalised; the Euclidean'
        ' distance of Section IV.A is between normalised ones, which rank as by'
        ' the cosine'
      },
    ),
    Field('eval.ap', SILENT, 'step'),
    Field('eval.drop_distractors', SILENT, False),
    Field('eval.single_gallery_shot', SILENT, False),
    Field('eval.multi_query', False, None, 'IV.A'),
  ),
}  # fmt: skip


def released(section: str, config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the released code's values of the fields of a section.

  Args:
    section: 'model', 'augment', 'train', 'data' or 'eval'.
    config: a configuration of the data set.

  Returns:
    A dict from names of fields to values, without the fields that the released
    code has no setting for and without the initial weights, which are a file.
  """
  return {
    field.name: field.released_value(config)
    for field in FIELDS[section]
    if field.released is not None and field.name != 'pretrained'
  }


DEPARTURES = (
  Departure(
    'the text splits level i into radix^i parts',
    'radix^(i - 1) parts',
    'APNet-C_1 has one global part in the paper, and the authors confirm it',
    lambda config: _has('sites')(config) and not config.model.stacked,
  ),
  Departure(
    'each of two GPUs has running statistics, and PyTorch stores those of the'
    ' first',
    'one set of statistics for all images of a batch',
    'a network should not depend on the devices that it was trained on',
  ),
  Departure(
    'does not state the number of batches of an epoch',
    'the number of complete groups of K images of one identity, divided by P',
    'the released code does so',
  ),
  Departure(
    'does not state which checkpoint it evaluates',
    'the last checkpoint',
    'the best checkpoint would be chosen on the test set',
  ),
  Departure(
    'probably evaluated without the 2,798 distractors of the gallery, which the'
    ' released code skipped until January 2022',
    'all 15,913 gallery images',
    'the authors of the benchmark define it so',
    lambda config: (
      config.data.name == 'market1501' and not config.eval.drop_distractors
    ),
  ),
  Departure(
    'trains on the 32,621 images of list_train.txt and list_val.txt (Table I)',
    'trains on the images of list_train.txt only',
    'the released code does so',
    lambda config: config.data.name == 'msmt17/train',
  ),
  Departure(
    'uses the settings of [5], whose 600 epochs draw K images of each identity',
    'an epoch draws all images, and all numbers of epochs are divided by 4',
    'on Market-1501 this gives the same number of training images (on CUHK03-NP'
    ' 0.6 times, on DukeMTMC-reID 1.5 times, on MSMT17 twice that number)',
    _is_spatial,
  ),
  Departure(
    'uses the settings of [5], which trains on 16 x 4 images and does not flip'
    ' images at test time',
    'train.P and eval.flip are the same as in all other experiments',
    'Section IV.B states 20 persons "for all experiments", and the average with'
    ' the flipped image without an exception',
    _is_spatial,
  ),
  Departure(
    'Eq. (4) has 1x1 convolutions without normalisation',
    'a normalisation follows each convolution, and a ReLU all but the last',
    'the code of [5], to which the paper refers, does so',
    _is_spatial,
  ),
  Departure(
    'uses the settings of [5], whose random crop enlarges every second image'
    ' by an eighth',
    'images are padded by augment.pad pixels before the crop',
    'the paper states "random cropping" for all its experiments',
    _is_spatial,
  ),
  Departure(
    'the ratios of [5] would give the last layers of level 3 no hidden unit,'
    ' which the paper does not mention',
    'the layers have at least one hidden unit',
    'there would be no attention otherwise',
    lambda config: _is_spatial(config) and config.model.levels == 3,
  ),
  Departure(
    'does not specify the layers of the multi-part head',
    'a fourth stage of its own and two stripes with 256 features each',
    'this is our reading, which follows Wang et al. [33]',
    lambda config: config.model.multi_part,
  ),
  Departure(
    'states neither the places of the pyramids in this backbone nor its last'
    ' stride',
    'a pyramid after each of its four stages, and config.model.last_stride as'
    ' the stride of the last reduction',
    'Section IV.B states this for the ResNet',
    lambda config: config.model.backbone in ('densenet169', 'inception_v3'),
  ),
  Departure(
    'its released code cannot build level 3: it splits twice into 3 parts,'
    ' which does not divide the channels',
    'levels 2 and 3 have radix and radix^2 parts',
    'the paper states these numbers',
    lambda config: (
      effective_fields(config.model).get('split_attention') == 'shared'
      and config.model.levels == 3
    ),
  ),
)  # fmt: skip
