"""All fields of a configuration, with their defaults and allowed values.

The defaults are the values of the paper's APNet-C (Section IV.B) where the
paper states them, except that no pre-trained weights are named and the whole
batch shares batch statistics (`model.pretrained`, `batch_norm_group`). Comments
give the choices made where the paper is silent. The files in `configs/` change
a few fields for each benchmark. Any field can be changed on the command line:
`--config.train.epochs=60`.
"""

from collections.abc import Mapping
import math
from typing import Any

import ml_collections

from apnet_jax.errors import FieldError


def get_config() -> ml_collections.ConfigDict:
  """Returns a configuration with the default of every field."""
  config = ml_collections.ConfigDict()
  config.name = ''  # name of the benchmark; names the default workdir
  config.profile = 'paper'  # variant, for result cards: paper or official
  config.seed = 0  # of initial weights, batches and augmentation
  # Folder that keeps compiled programs between runs; '' keeps none.
  config.compilation_cache_dir = '~/.cache/apnet_jax'
  config.model = _model()
  config.data = _data()
  config.augment = _augment()
  config.train = _train()
  config.eval = _eval()
  return config


def _model() -> ml_collections.ConfigDict:
  model = ml_collections.ConfigDict()
  # resnet50, or resnet101, densenet169, inception_v3 (Table V); or resnet14,
  # which has one block in each stage and is meant for CPUs.
  model.backbone = 'resnet50'
  # Initial weights: a file (.pth, .safetensors, .npz) of ImageNet or of people
  # (LUPerson), hf://timm/resnet50.tv_in1k; or another run's workdir or packed
  # network, to fine-tune it; '' is random. The paper starts from ImageNet.
  model.pretrained = ''
  # Stride of the last stage; 1 keeps its map as large as the one before.
  model.last_stride = 1
  # ReLU after the first convolution, which the released code lacks by mistake.
  model.stem_relu = True
  model.se_blocks = False  # SE-ResNet: attention in every block (Table II)
  model.multi_part = False  # a second, local branch; for CUHK03 (Section IV.D)
  # Attention of the pyramids: channel, Eq. (5); spatial, Eq. (4); or none.
  model.attention = 'channel'
  model.levels = 2  # pyramid levels, 0 to 3; Table II is best at 2
  # Growth of the number of attention parts from a level to the next; Fig. 5 is
  # best at 2.
  model.radix = 2
  model.stacked = False  # repeats level 1 without splitting (Table II)
  # Stages that are followed by a pyramid; 0 is the stem. The paper has one
  # after each of the four stages. Released code: also after the stem.
  model.sites = (1, 2, 3, 4)
  # Order of the levels, Eq. (1). Released code: fine_to_coarse.
  model.order = 'coarse_to_fine'
  # Eq. (2): each part has its own attention. Released code: shared, one
  # attention for all parts, with a softmax over parts instead of the sigmoid.
  model.split_attention = 'per_part'
  # A batch normalisation after each split level, as in the released code.
  model.norm_after_split = False
  # Input width over hidden width of an attention. Paper: "the settings in [6]",
  # whose code is not public; here: the ratio of Squeeze-and-Excitation.
  model.reduction = 16
  # Hidden width for any input width; 0 uses `reduction`. Released code: 8, but
  # its shared split attention has a width of its own.
  model.hidden = 0
  # Images that share batch statistics; 0 is the whole batch. Paper: 40, on each
  # of two GPUs; here: a number that does not depend on the machine.
  model.batch_norm_group = 0
  # Type that convolutions compute in; bfloat16 suits accelerators.
  model.dtype = 'float32'
  return model


def _data() -> ml_collections.ConfigDict:
  data = ml_collections.ConfigDict()
  # Folder of the data set in data/, and a variant of it, as msmt17/train. Names
  # separated by commas train on several data sets at once.
  data.name = ''
  # Folder of the raw images; for several data sets a folder that has them all,
  # or one for each, separated by commas.
  data.dir = ''
  # Accepts raw images whose counts differ from the published ones.
  data.allow_other_counts = False
  # For own images: a regular expression that finds identity, camera and split
  # in the paths of images, by groups named pid, camid and split.
  data.pattern = ''
  # For own images: accepts a folder for each identity although the folders
  # look like cameras.
  data.folders_are_people = False
  # Compares each query with all images except itself, whatever their cameras.
  data.ignore_cameras = False
  # Folder of the prepared data set; '' is the default of TFDS, $TFDS_DATA_DIR
  # or ~/tensorflow_datasets.
  data.prepared_dir = ''
  # How images are held in memory: encoded, as in their files; or decoded, which
  # takes more memory and less time.
  data.cache = 'encoded'
  # Images that training may replace by others, if they become unreadable after
  # the set was prepared. 0 stops at the first.
  data.bad_images = 0
  data.image_size = (384, 192)  # height and width in pixels
  # For own images without splits: the share of identities in the test half.
  data.test_fraction = 0.5
  data.split_seed = 0  # of the choice of these identities
  return data


def _augment() -> ml_collections.ConfigDict:
  """Returns the default values of the fields of data augmentation.

  The paper states "random cropping, horizontal flipping, and erasing" without
  numbers. The numbers here are those of the released recipe.
  """
  augment = ml_collections.ConfigDict()
  augment.flip = 0.5  # probability of a mirrored image
  augment.pad = 10  # pixels on each side before the crop
  augment.erase = 0.5  # probability of an erased rectangle
  # Colour of the erased rectangle in normalised units. Paper: silent; here:
  # the mean, as RGA does. (The released code fills with 0.485, 0.456, 0.406.)
  augment.erase_fill = (0.0, 0.0, 0.0)
  # Probability of a colour jitter before erasing, for cameras and places that
  # training does not have; 0 as in the paper. The numbers below are those of
  # fast-reid.
  augment.jitter = 0.0
  # b: the jitter multiplies brightness by a factor from 1 - b to 1 + b.
  augment.brightness = 0.15
  augment.contrast = 0.15  # the same for contrast
  augment.saturation = 0.1  # the same for saturation
  augment.hue = 0.1  # largest turn of the hue, as a part of the colour circle
  # Severity of AugMix (Hendrycks et al., arXiv:1912.02781), which mixes each
  # image with changes of its colours and place: 3 and 1 in that paper. 0 leaves
  # it out, as the paper here does.
  augment.augmix = 0.0
  return augment


def _train() -> ml_collections.ConfigDict:
  train = ml_collections.ConfigDict()
  train.P = 20  # identities in a batch
  train.K = 4  # images of each identity
  # Number of micro-batches that a batch is computed in, to save memory. This is
  # gradient caching (GradCache, Gao et al., arXiv:2101.06983), not gradient
  # accumulation: the losses see the whole batch, at the cost of a second
  # forward pass. Batch statistics see at most a micro-batch.
  train.accumulate = 1
  # Computes maps within a stage again instead of storing them, to save memory.
  train.rematerialize = False
  # An epoch takes each image at most once, except of identities with fewer than
  # K images.
  train.epochs = 160
  # Ends the run after this many steps, which may be more than `epochs` have; 0
  # for all epochs.
  train.steps = 0
  train.learning_rate = 4e-4  # of Adam, after the warm-up
  # Decay of the learning rate: step, at the milestones (Section IV.B); or
  # cosine, from the warm-up to 0 at the end of all epochs (Loshchilov and
  # Hutter, arXiv:1608.03983).
  train.schedule = 'step'
  train.milestones = (40, 80, 120)  # epochs at which the learning rate falls
  train.decay_factor = 0.1  # factor of the learning rate at each milestone
  # Epochs of linear warm-up. Paper: silent; here: as in the released recipe.
  train.warmup_epochs = 10
  train.warmup_factor = 0.01  # first learning rate over the full one
  # L2 penalty added to the gradient. Paper: silent; here: as in the recipe it
  # follows (Luo et al., 2019). The released code uses 1e-3.
  train.weight_decay = 5e-4
  # Largest norm of the gradient of all parameters; a longer one is scaled down
  # (Pascanu et al., arXiv:1211.5063). 0 does not limit it, as in the paper.
  train.clip_norm = 0.0
  train.margin = 0.3  # of the triplet loss, m of Eq. (6)
  # Soft margin of the triplet loss in place of margin, which is then unused:
  # softplus for the hinge (Hermans et al., 2017). fast-reid has it at margin 0,
  # which here is a hinge at 0. The paper has a margin.
  train.soft_margin = False
  train.label_smoothing = 0.1  # epsilon of Eq. (8)
  # K of Eq. (8); 0 is the number of identities. Released code: always 751.
  train.smooth_k = 0
  # Weight of the triplet loss, lambda of Eq. (9); the paper gives no value.
  train.triplet_weight = 1.0
  # Weight of the circle loss (Sun et al., CVPR 2020), beside the triplet loss
  # or in its place (triplet_weight=0). 0 leaves it out, as the paper does.
  train.circle_weight = 0.0
  # Margin m of the circle loss; 0.25 for persons in that paper.
  train.circle_margin = 0.25
  # Scale gamma of the circle loss; 128 for persons in that paper.
  train.circle_scale = 128.0
  # Weight of the centre loss (Wen et al., ECCV 2016). 0 leaves it out, as the
  # paper does. Luo et al. (2019) have 5e-4, without the factor 1/2 of Wen et
  # al.: as 1e-3 here (docs/recipes.md).
  train.center_weight = 0.0
  # alpha, the rate at which centres move. That of Luo et al. is another 0.5: as
  # 0.0625 here with P=20 and K=4.
  train.center_rate = 0.5
  # Decay of an exponential moving average of weights and batch statistics,
  # which is evaluated in their place (0.999 in Mean Teacher, Tarvainen and
  # Valpola, 2017); 1 averages all steps alike. 0 keeps none, as in the paper.
  train.ema_decay = 0.0
  # When a loss or a gradient is not finite: stop the run; skip the update; or
  # roll_back to the weights of the last scheduled checkpoint (not one of a
  # signal), or else of the start, and use other batches.
  train.not_finite = 'stop'
  train.not_finite_limit = 10  # steps that may be skipped or rolled back
  train.log_every_steps = 20  # steps between two lines of metrics
  # Epochs between evaluations; the last epoch always ends with one, and 0 is
  # for no other.
  train.eval_every_epochs = 40
  # Epochs between checkpoints; each evaluation makes one, too.
  train.checkpoint_every_epochs = 1
  return train


def _eval() -> ml_collections.ConfigDict:
  rules = ml_collections.ConfigDict()
  rules.batch_size = 128  # images embedded at once
  rules.flip = True  # averages with the mirrored image (Section IV.B)
  # What is ranked: embedding, after the BN neck (Section IV.B); feature, before
  # it; or logits, as the released code ranks on MSMT17.
  rules.feature = 'embedding'
  rules.distance = 'cosine'  # between embeddings; or euclidean
  # The area under the precision-recall curve: step, as in most code of the
  # field; or trapezoid, as in the code of Market-1501 and RGA. Cards have both.
  rules.ap = 'step'
  # Removes gallery images of identities that no query has. It is meant for
  # Market-1501, where the released loader removed 2,798 images until 2022; it
  # removed none of other data sets.
  rules.drop_distractors = False
  # CMC as on the old split of CUHK03: one gallery image of each identity.
  rules.single_gallery_shot = False
  # Averages the embeddings of all images of one identity and camera into one
  # query. Section IV.A names this method of Market-1501, and does not use it.
  rules.multi_query = False
  rules.max_rank = 50  # length of the CMC curve
  # File with the mAP by epoch of finished runs of the same recipe, written by
  # `python -m apnet_jax curves RUN RUN RUN --record=FILE`. Each evaluation in
  # training is compared with them, and warns of a mAP below their lower
  # limit (docs/training.md). '' compares with nothing.
  rules.expected_curve = ''
  rules.pixel_baseline = False  # also ranks raw pixels, on small sets
  # k1 of re-ranking (eval.py --rerank; Zhong et al., CVPR 2017): nearest
  # neighbours of an image. Published figures have 7 on CUHK03, 20 elsewhere;
  # configs/cuhk03.py has their values of these three fields.
  rules.rerank_k1 = 20
  # k2 of re-ranking: neighbours whose encodings are averaged. Published figures
  # have 3 on CUHK03, 6 elsewhere.
  rules.rerank_k2 = 6
  # lambda of re-ranking: weight of the original distance. Published figures
  # have 0.85 on CUHK03, 0.3 elsewhere.
  rules.rerank_lambda = 0.3
  return rules


def plain(value):
  """Returns the value that JSON would read back: tuples become lists."""
  return list(value) if isinstance(value, tuple) else value


def flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns all fields of a configuration by dotted name; see `plain`."""
  fields: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      fields |= {f'{name}.{inner}': x for inner, x in flat(value).items()}
    else:
      fields[name] = plain(value)
  return fields


# Fields that may differ between the machines of a run. data.cache may not: for
# decoded images, all processes exchange where they run.
OF_A_MACHINE = (
  'compilation_cache_dir',
  'data.bad_images',
  'data.dir',
  'data.prepared_dir',
)
# Fields, or beginnings of their names, without an effect on a run's result.
NO_EFFECT_ON_RESULT = (
  *OF_A_MACHINE,
  'data.allow_other_counts',
  'data.cache',
  'train.rematerialize',
  'train.not_finite',  # and not_finite_limit
  'train.log_every_steps',
  'train.eval_every_epochs',
  'train.checkpoint_every_epochs',
)
# Fields of `eval`, or beginnings of their names, without an effect on the
# figures of an evaluation in training.
NO_EFFECT_ON_FIGURES = (
  'eval.batch_size',
  'eval.expected_curve',
  'eval.max_rank',  # the length of the CMC curve; no rank in it changes
  'eval.pixel_baseline',
  'eval.rerank_',  # for eval.py alone
)
# Values that a field may have.
CHOICES = {
  'model.backbone': (
    'resnet14', 'resnet50', 'resnet101', 'densenet169', 'inception_v3',
  ),
  'model.attention': ('channel', 'spatial', 'none'),
  'model.split_attention': ('per_part', 'shared'),
  'model.order': ('coarse_to_fine', 'fine_to_coarse'),
  'model.levels': (0, 1, 2, 3),
  'model.last_stride': (1, 2),
  'model.dtype': ('float32', 'bfloat16', 'float64'),
  'data.cache': ('encoded', 'decoded'),
  'train.schedule': ('step', 'cosine'),
  'train.not_finite': ('stop', 'skip', 'roll_back'),
  'eval.feature': ('embedding', 'feature', 'logits'),
  'eval.distance': ('cosine', 'euclidean'),
  'eval.ap': ('step', 'trapezoid'),
}  # fmt: skip
# Least values of numbers.
AT_LEAST = {
  'model.radix': 1,
  'model.reduction': 1,
  'model.hidden': 0,
  'model.batch_norm_group': 0,
  'data.bad_images': 0,
  'augment.pad': 0,
  'train.P': 2,  # a triplet needs two identities
  'train.K': 2,  # and two images of one of them
  'train.accumulate': 1,
  'train.epochs': 1,
  'train.steps': 0,
  'train.learning_rate': 0,
  'train.decay_factor': 0,
  'train.warmup_factor': 0,
  'train.weight_decay': 0,
  'train.margin': 0,
  'train.triplet_weight': 0,
  'train.warmup_epochs': 0,
  'train.clip_norm': 0,
  'train.circle_weight': 0,
  'train.circle_scale': 0,
  'train.center_weight': 0,
  'train.smooth_k': 0,
  'train.not_finite_limit': 0,
  'train.log_every_steps': 1,
  'train.eval_every_epochs': 0,
  'train.checkpoint_every_epochs': 0,
  'eval.batch_size': 1,
  'eval.max_rank': 10,  # the last rank of the tables
  'eval.rerank_k1': 1,
  'eval.rerank_k2': 1,
}
# Least and largest values of other numbers.
RANGES = {
  'augment.flip': (0, 1),
  'augment.erase': (0, 1),
  'augment.jitter': (0, 1),
  'augment.brightness': (0, 1),
  'augment.contrast': (0, 1),
  'augment.saturation': (0, 1),
  'augment.hue': (0, 0.5),
  'augment.augmix': (0, 10),
  'train.label_smoothing': (0, 1),
  'train.circle_margin': (0, 1),
  'train.center_rate': (0, 1),
  'train.ema_decay': (0, 1),
  'eval.rerank_lambda': (0, 1),
}


def check_section(section: str, values: Mapping) -> None:
  """Checks each field of a section on its own.

  Args:
    section: 'model', 'data', 'augment', 'train' or 'eval'.
    values: the fields of the section, by name. Other fields may be missing.

  Raises:
    FieldError: names the field, its value and what is allowed.
  """
  for name in values:
    field, value = f'{section}.{name}', values[name]
    if field in CHOICES and value not in CHOICES[field]:
      raise FieldError(field, f'={value!r} is not one of {CHOICES[field]}.')
    if field in AT_LEAST and not value < math.inf:  # NaN is not below, either
      raise FieldError(field, f'={value} is not a finite number.')
    if field in AT_LEAST and value < AT_LEAST[field]:
      raise FieldError(field, f'={value} must be at least {AT_LEAST[field]}.')
    if field in RANGES:
      low, high = RANGES[field]
      if not low <= value <= high:
        raise FieldError(field, f'={value} must be from {low} to {high}.')
    if field == 'data.test_fraction' and not 0 < value <= 1:
      raise FieldError(field, f'={value} must be above 0 and at most 1.')
    if field == 'augment.erase_fill' and len(value) != 3:
      raise FieldError(field, f'={tuple(value)} is not a value of each colour.')
    if field == 'train.milestones' and not all(
      isinstance(epoch, int) and epoch >= 0 for epoch in value
    ):
      raise FieldError(field, f'={tuple(value)} are not all whole epochs.')
    if field == 'data.image_size' and not _is_size(tuple(value)):
      raise FieldError(
        field, f'={tuple(value)} is not a height and a width in pixels.'
      )


def _is_size(size: tuple) -> bool:
  return len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)


def check(config: ml_collections.ConfigDict) -> None:
  """Checks each field of a whole configuration on its own.

  Raises:
    FieldError: names the field, its value and what is allowed.
  """
  if not 0 <= config.seed < 2**32:  # JAX would drop the higher bits
    raise FieldError('seed', f'={config.seed} must be from 0 to 2^32 - 1.')
  for section in ('model', 'data', 'augment', 'train', 'eval'):
    check_section(section, config[section])
