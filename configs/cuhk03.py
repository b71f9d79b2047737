"""Training on CUHK03-NP, as in the paper or similar to the released code.

  python train.py --config=configs/cuhk03.py --config.data.dir=DIR

This command uses the detected boxes of the 767/700 split. For boxes drawn by
hand, add `--config.data.name=cuhk03_np/labeled`. DIR holds the release's .mat
files or folders made from them (data/cuhk03_np/README.md). Variants, as in
`--config=configs/cuhk03.py:official`:

  paper     APNet-C at 384x192 with the multi-part head (Section IV.D). Table
            IV, detected and labeled: 81.5 and 85.3 mAP, 83.0 and 87.4 Rank-1.
  spatial   APNet-S at 256x128 with the multi-part head. 78.1 and 81.1 mAP,
            80.9 and 83.5 Rank-1.
  official  The network and recipe of the released PyTorch code, with the
            multi-part head. The release has neither this data set nor this
            head, so that there is no published figure.

The paper used two RTX 2080 Ti and started from weights pre-trained on ImageNet
(`--config.model.pretrained`). The multi-part head is our interpretation of
the paper (apnet_jax/models/heads.py).
"""

from configs import _variants


def get_config(variant: str = 'paper'):
  config = _variants.get_config('cuhk03', 'cuhk03_np/detected', variant)
  config.model.multi_part = True
  # Re-ranking (eval.py --rerank) as figures on CUHK03 are published.
  config.eval.update(rerank_k1=7, rerank_k2=3, rerank_lambda=0.85)
  return config
