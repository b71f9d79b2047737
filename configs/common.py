"""Every field of a configuration, once, with its place in the paper.

The values are those of the paper's APNet-C (Section IV.B) where it states them;
a comment says what was chosen where it does not. The configurations beside this
file change a few fields. Any field can be changed on the command line:
`--config.train.epochs=60`.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.name = ''  # of the benchmark; names the default workdir
  config.profile = 'paper'  # whose recipe this is; goes on result cards
  config.seed = 0
  # Compiled programs are kept here between runs; '' turns that off.
  config.compilation_cache_dir = '~/.cache/apnet_jax'

  config.model = model = ml_collections.ConfigDict()
  # Or resnet101, densenet169, inception_v3 (Table V); or resnet14, one block a
  # stage, for CPUs.
  model.backbone = 'resnet50'
  # Weights to start from: a file (.pth, .safetensors, .npz),
  # hf://timm/resnet50.tv_in1k, or the workdir of another run, to fine-tune it;
  # '' is random. The paper starts from ImageNet.
  model.pretrained = ''
  model.last_stride = 1  # Section IV.B
  model.stem_relu = True  # the released code forgot it
  model.se_blocks = False  # SE-ResNet: attention in every block (Table II)
  model.multi_part = False  # a second, local branch; for CUHK03 (Section IV.D)
  model.attention = 'channel'  # Eq. (5); or spatial, Eq. (4); or none
  model.levels = 2  # 0 to 3; Table II is best at 2
  model.radix = 2  # Fig. 5 is best at 2
  model.stacked = False  # repeats level 1 without splitting (Table II)
  # Stages that a pyramid follows: "the bottom of each residual block". The
  # released code has one after the stem too, which is 0.
  model.sites = (1, 2, 3, 4)
  model.order = 'coarse_to_fine'  # Eq. (1); released code: fine_to_coarse
  # Eq. (2): each part has an attention of its own. Released code: shared, one
  # for all, with a softmax over the parts instead of the sigmoid.
  model.split_attention = 'per_part'
  # A normalisation after each level that is split, as in the released code.
  model.norm_after_split = False
  # Input over hidden width of a part's two layers. Paper: "the settings in
  # [6]", whose code is not public; here: that of Squeeze-and-Excitation.
  model.reduction = 16
  # Hidden width, whatever the input; 0 for `reduction`. Released code: 8.
  model.hidden = 0
  # Images that share batch statistics, 0 for the whole batch. Paper: 40, by
  # two GPUs without synchronisation; here: independent of the machine.
  model.batch_norm_group = 0
  model.dtype = 'float32'  # of the convolutions; bfloat16 on accelerators

  config.data = data = ml_collections.ConfigDict()
  # The data set's folder in data/, and a variant of it: msmt17/train.
  data.name = ''
  data.dir = ''  # the raw images
  # Whether the raw images may be others, in number, than the published ones.
  data.allow_other_counts = False
  # Where the prepared data set goes; '' is TFDS's default, $TFDS_DATA_DIR or
  # ~/tensorflow_datasets.
  data.prepared_dir = ''
  # Images held in memory: encoded, as in their files; or decoded, which takes
  # more memory and less time.
  data.cache = 'encoded'
  # Images that training bears to find unreadable after the set was prepared:
  # others stand in. 0 stops at the first.
  data.bad_images = 0
  data.image_size = (384, 192)  # height, width; Section IV.B
  # Of data/folder: splits that are made of own images have this share of the
  # identities in the test half, chosen by this seed.
  data.test_fraction = 0.5
  data.split_seed = 0

  # "Random cropping, horizontal flipping, and erasing" (Section IV.B), with
  # the numbers of the released recipe.
  config.augment = augment = ml_collections.ConfigDict()
  augment.flip = 0.5  # probability
  augment.pad = 10  # pixels on each side before the crop
  augment.erase = 0.5  # probability
  # Colour of the erased rectangle in normalised units. Paper: silent; here:
  # the mean, as RGA does. (The released code fills with 0.485, 0.456, 0.406.)
  augment.erase_fill = (0.0, 0.0, 0.0)

  config.train = train = ml_collections.ConfigDict()
  train.P = 20  # identities in a batch
  train.K = 4  # images of each identity
  # Parts that a batch is computed in: less memory, one more forward pass.
  # Losses are of the whole batch, batch statistics of at most a part.
  train.accumulate = 1
  # Computes maps within a stage again instead of keeping them: likewise.
  train.rematerialize = False
  train.epochs = 160
  train.steps = 0  # ends the run after so many steps; 0 for all epochs
  train.learning_rate = 4e-4
  train.milestones = (40, 80, 120)  # epochs
  train.decay_factor = 0.1
  # Paper: silent; here: the warm-up of the released recipe.
  train.warmup_epochs = 10
  train.warmup_factor = 0.01
  # Paper: silent; here: that of the recipe it follows (Luo et al., 2019). The
  # released code uses 1e-3.
  train.weight_decay = 5e-4
  train.margin = 0.3  # m of Eq. (6)
  train.label_smoothing = 0.1  # epsilon of Eq. (8)
  # K of Eq. (8); 0 is the number of identities. Released code: 751 everywhere.
  train.smooth_k = 0
  train.triplet_weight = 1.0  # lambda of Eq. (9); the paper gives no value
  # Where a loss or a gradient is not finite: stop the run; skip the update; or
  # roll_back to the last checkpoint's weights and go on with other batches.
  train.not_finite = 'stop'
  train.not_finite_limit = 10  # more such steps stop a run in any case
  train.log_every_steps = 20
  train.eval_every_epochs = 40  # and at the end; 0 for the end only
  train.checkpoint_every_epochs = 1

  config.eval = evaluation = ml_collections.ConfigDict()
  evaluation.batch_size = 128
  evaluation.flip = True  # average with the mirrored image (Section IV.B)
  # What is ranked: embedding, after the BN neck (Section IV.B); feature, before
  # it; or logits, as the released code ranks on MSMT17.
  evaluation.feature = 'embedding'
  evaluation.distance = 'cosine'  # Section IV.B; or euclidean
  # Which area under precision over recall is an AP: step, as most code of the
  # field; or trapezoid, as Market-1501's own and RGA's. Cards have both.
  evaluation.ap = 'step'
  # Ranks no gallery image of an identity that no query has. The released loader
  # left out these 2,798 of Market-1501 until 2022.
  evaluation.drop_distractors = False
  # CMC as on the old split of CUHK03: one image of each identity is drawn.
  evaluation.single_gallery_shot = False
  evaluation.max_rank = 50  # length of the CMC curve
  evaluation.pixel_baseline = False  # also ranks raw pixels, on small sets
  return config
