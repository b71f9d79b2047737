"""Training on MSMT17, as in the paper or in the released code.

  python train.py --config=configs/msmt17.py --config.data.dir=DIR

DIR holds `train` and `test` (or `mask_train_v2` and `mask_test_v2`) and four
lists (data/msmt17/README.md). Variants, as in
`--config=configs/msmt17.py:official`:

  paper     APNet-C at 384x192, trained on list_train.txt and list_val.txt, as
            in Table I. Table II, level 2: 63.5 mAP, 83.7 Rank-1, 91.7 Rank-5.
  spatial   APNet-S at 256x128. Table II, level 2: 58.9 mAP, 80.8 Rank-1, 89.7
            Rank-5.
  official  APNet-C as in the released PyTorch code: trained on
            list_train.txt alone, ranked by the logits of the classifier.

The paper used two RTX 2080 Ti and started from weights pre-trained on ImageNet
(`--config.model.pretrained`).
"""

from configs import _variants


def get_config(variant: str = 'paper'):
  config = _variants.get_config('msmt17', 'msmt17/trainval', variant)
  if variant == 'official':
    config.data.name = 'msmt17/train'
  return config
