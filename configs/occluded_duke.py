"""Training on Occluded-DukeMTMC, as in the paper or in the released code.

  python train.py --config=configs/occluded_duke.py --config.data.dir=DIR

DIR holds `bounding_box_train`, `query` and `bounding_box_test`. The set is made
from DukeMTMC-reID, which was withdrawn (data/occluded_duke/README.md).
Variants, as in `--config=configs/occluded_duke.py:official`:

  paper     APNet-C at 384x192. Table VI, level 2: 54.1 mAP, 62.2 Rank-1, 76.3
            Rank-5, 81.5 Rank-10; level 1: 46.6 mAP, 53.9 Rank-1.
  spatial   APNet-S at 256x128. The paper has no figure.
  official  APNet-C as in the released PyTorch code, whose authors stored this
            data set in place of DukeMTMC-reID.

The paper used two RTX 2080 Ti and started from weights pre-trained on ImageNet
(`--config.model.pretrained`).
"""

from configs import _variants


def get_config(variant: str = 'paper'):
  return _variants.get_config('occluded_duke', 'occluded_duke', variant)
