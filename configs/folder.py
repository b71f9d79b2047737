"""Training on your own images: a CSV file, or a folder for each identity.

  python train.py --config=configs/folder.py --config.data.dir=DIR

DIR is a CSV file with the columns path,pid,camid,split,role, the folder that
holds it, a folder with a folder of images for each identity, a folder in
Market-1501's layout, or any folder with a pattern that finds the labels in the
paths (`--config.data.pattern`; data/folder/README.md). Cameras and splits are
optional:

- without cameras, each query is compared with all images except itself;
- without splits, a test half is made of half of the identities
  (`--config.data.test_fraction`), chosen by `--config.data.split_seed`.

The variants are those of configs/market.py, as in
`--config=configs/folder.py:spatial`. The settings are the paper's, for 384x192
pixels and a GPU. On a CPU, add

  --config.model.backbone=resnet14 --config.data.image_size='(128,64)'

Start from weights of ImageNet (`--config.model.pretrained`) unless there are
tens of thousands of images. The accuracy depends on the images.
"""

from configs import _variants


def get_config(variant: str = 'paper'):
  return _variants.get_config('folder', 'folder', variant)
