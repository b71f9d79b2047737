"""Training on DukeMTMC-reID, as in the paper or in the released code.

  python train.py --config=configs/duke.py --config.data.dir=DIR

DIR holds `bounding_box_train`, `query` and `bounding_box_test`. The set was
withdrawn and cannot be downloaded (data/dukemtmc_reid/README.md). Variants, as
in `--config=configs/duke.py:official`:

  paper     APNet-C at 384x192. Table II, level 2: 81.5 mAP, 90.4 Rank-1, 95.6
            Rank-5. On Market-1501 (Table VII), by
            `eval.py --ckpt=runs/duke --dataset=market --data_dir=DIR`: 24.0
            mAP, 51.0 Rank-1, 66.4 Rank-5, 72.3 Rank-10.
  spatial   APNet-S at 256x128. Table II, level 2: 78.8 mAP, 89.3 Rank-1, 95.0
            Rank-5.
  official  APNet-C as in the released PyTorch code, including label smoothing
            over 751 classes.

The paper used two RTX 2080 Ti and started from weights pre-trained on ImageNet
(`--config.model.pretrained`).
"""

from configs import _variants


def get_config(variant: str = 'paper'):
  return _variants.get_config('duke', 'dukemtmc_reid', variant)
