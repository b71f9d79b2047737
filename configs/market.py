"""Training on Market-1501, as in the paper (IV.B) or in the released code.

  python train.py --config=configs/market.py --config.data.dir=DIR

DIR holds `bounding_box_train`, `query` and `bounding_box_test`. Variants, as in
`--config=configs/market.py:official`:

  paper     APNet-C, channel attention at 384x192. Table II, level 2: 90.5 mAP,
            96.2 Rank-1, 98.8 Rank-5. On DukeMTMC-reID (Table VII), by
            `eval.py --ckpt=runs/market --dataset=duke --data_dir=DIR`: 21.3
            mAP, 35.9 Rank-1, 50.1 Rank-5, 56.9 Rank-10.
  spatial   APNet-S, spatial attention at 256x128. Table II, level 2: 89.0 mAP,
            96.1 Rank-1, 98.7 Rank-5.
  official  APNet-C as in the released PyTorch code, which differs from the
            paper in architecture and recipe. The published figures of
            APNet-C level 2 probably come from this code.

The paper used two RTX 2080 Ti and started from weights pre-trained on ImageNet
(`--config.model.pretrained`). Its gallery probably lacked the 2,798
distractors; see docs/reproducing.md. `python -m apnet_jax explain` describes a
variant and its differences from the paper.
"""

from configs import _variants


def get_config(variant: str = 'paper'):
  return _variants.get_config('market', 'market1501', variant)
