"""Measures the released recipe's input pipeline in plain PyTorch.

It consists of a data set that opens files with Pillow, torchvision's transforms
one by one, and a DataLoader.
"""

import argparse
import functools
import itertools
import pathlib
import time
import warnings

import numpy as np
import PIL
from PIL import Image
import torch
import torchvision
from torchvision import transforms

from benchmarks import measuring
from configs import common
from data import pk_sampler

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BILINEAR = transforms.InterpolationMode.BILINEAR


class Images(torch.utils.data.Dataset):
  """Labelled image files."""

  def __init__(self, paths, labels, transform):
    self.paths = paths
    self.labels = labels
    self.transform = transform

  def __len__(self):
    return len(self.paths)

  def __getitem__(self, row):
    image = Image.open(self.paths[row]).convert('RGB')
    return self.transform(image), int(self.labels[row])


class Sampler:
  """Endless batches of P identities with K images each, as indices."""

  def __init__(self, labels, train, seed):
    self.arguments = labels, train.P, train.K, seed

  def __iter__(self):
    for epoch in itertools.count():
      yield from pk_sampler.epoch_batches(*self.arguments, epoch).tolist()


class OneBuffer:
  """Collates each batch into the same memory; works without workers only."""

  def __init__(self):
    self.images = None

  def __call__(self, samples):
    images, labels = zip(*samples)
    if self.images is None:
      self.images = torch.empty((len(images), *images[0].shape))
    return torch.stack(images, out=self.images), torch.tensor(labels)


def make_transform(task: str, image_size: tuple[int, int], config):
  """Returns the torchvision transforms that resize and augment an image.

  Args:
    task: 'decode, resize' gives uint8 images; any other, augmented floats.
    image_size: height and width.
    config: the `augment` part of a configuration.
  """
  resize = transforms.Resize(image_size, interpolation=BILINEAR)
  if task == 'decode, resize':
    return transforms.Compose([resize, transforms.PILToTensor()])
  return transforms.Compose(
    [
      resize,
      transforms.RandomHorizontalFlip(config.flip),
      transforms.Pad(config.pad),
      transforms.RandomCrop(image_size),
      transforms.ToTensor(),
      transforms.Normalize(MEAN, STD),
      transforms.RandomErasing(config.erase, scale=(0.02, 0.4)),
    ]
  )


def measure(
  paths: list[pathlib.Path],
  image_size: tuple[int, int],
  task: str,
  seconds: float = 0,
  workers: int = 0,
):
  """Measures one task of the input pipeline in PyTorch.

  Args:
    paths: image files.
    image_size: height and width of the images in batches.
    task: a task of `input_pipeline.py`, or 'versions'.
    seconds: how long to measure.
    workers: number of workers of the DataLoader.

  Returns:
    The measured rate and memory, or the versions of packages.
  """
  if task == 'versions':
    modules = {'torch': torch, 'torchvision': torchvision, 'pillow': PIL}
    return {name: module.__version__ for name, module in modules.items()}
  if task == 'decode':
    return _decode_one_by_one(paths)
  config = common.get_config()
  labels = measuring.label(paths, config.train.K)
  transform = make_transform(task, image_size, config.augment)
  loader = torch.utils.data.DataLoader(
    Images(paths, labels, transform),
    batch_sampler=Sampler(labels, config.train, config.seed),
    num_workers=workers,
    collate_fn=OneBuffer() if task == 'all, one buffer' else None,
  )
  return measuring.time_batches(loader, seconds, lambda batch: len(batch[0]))


def _decode_one_by_one(paths):
  start = time.perf_counter()
  for path in paths:
    np.asarray(Image.open(path).convert('RGB'))
  return {'rate': len(paths) / (time.perf_counter() - start), 'memory': None}


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--images', type=pathlib.Path)
  parser.add_argument('--image-size', nargs=2, type=int)
  args = parser.parse_args()
  # As in workers of a DataLoader. No operation here gains from more threads.
  torch.set_num_threads(1)
  # The benchmark tries more workers than cores on purpose.
  warnings.filterwarnings('ignore', 'This DataLoader will create')
  paths = measuring.list_images(args.images)
  function = functools.partial(measure, paths, tuple(args.image_size))
  measuring.serve(function)


if __name__ == '__main__':
  main()
