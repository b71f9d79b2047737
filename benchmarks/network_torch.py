"""Measures the network of train_step.py and inference.py in plain PyTorch.

ResNet-50 with last stride 1, APNet-C, BN neck; label-smoothed cross-entropy,
batch-hard triplet loss, Adam. Parameters have the names that
`python -m apnet_jax export-weights` writes.
"""

import argparse
import contextlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import measuring

CLASSES = 751  # identities of Market-1501
WIDTHS, STRIDES = (64, 128, 256, 512), (1, 2, 2, 1)
BLOCKS = {'resnet50': (3, 4, 6, 3), 'resnet14': (1, 1, 1, 1)}


class Bottleneck(nn.Module):
  """A residual block of three convolutions."""

  def __init__(self, size, width, stride, project):
    super().__init__()
    features = 4 * width
    self.conv1 = nn.Conv2d(size, width, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
    self.bn2 = nn.BatchNorm2d(width)
    self.conv3 = nn.Conv2d(width, features, 1, bias=False)
    self.bn3 = nn.BatchNorm2d(features)
    self.relu = nn.ReLU(inplace=True)
    self.downsample = None
    if project:
      self.downsample = nn.Sequential(
        nn.Conv2d(size, features, 1, stride, bias=False),
        nn.BatchNorm2d(features),
      )

  def forward(self, x):
    shortcut = x if self.downsample is None else self.downsample(x)
    x = self.relu(self.bn1(self.conv1(x)))
    x = self.relu(self.bn2(self.conv2(x)))
    return self.relu(self.bn3(self.conv3(x)) + shortcut)


class Backbone(nn.Module):
  """A ResNet with last stride 1, without its head."""

  def __init__(self, blocks):
    super().__init__()
    self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    self.bn1 = nn.BatchNorm2d(64)
    size = 64
    for stage, (number, width, stride) in enumerate(
      zip(blocks, WIDTHS, STRIDES), start=1
    ):
      layer = []
      for block in range(number):
        layer.append(
          Bottleneck(size, width, stride if block == 0 else 1, block == 0)
        )
        size = 4 * width
      setattr(self, f'layer{stage}', nn.Sequential(*layer))


class PartLinear(nn.Module):
  """A separate linear layer for each attention part.

  The layer maps [batch, parts, size] to [batch, parts, features].
  """

  def __init__(self, parts, size, features):
    super().__init__()
    self.weight = nn.Parameter(
      torch.empty(parts, features, size).uniform_(-1, 1) / size**0.5
    )

  def forward(self, x):
    return torch.einsum('bpi,poi->bpo', x, self.weight)


def excitation(layer, size, *parts):
  """Returns the two layers that score channels, as in an SE block.

  Args:
    layer: class or function that makes a linear layer.
    size: number of channels.
    *parts: first arguments of `layer`, before its input and output sizes.
  """
  hidden = max(size // 16, 1)
  return nn.Sequential(
    layer(*parts, size, hidden),
    nn.ReLU(inplace=True),
    layer(*parts, hidden, size),
    nn.Sigmoid(),
  )


class SplitLevel(nn.Module):
  """A pyramid level that splits the channels into parts."""

  def __init__(self, channels, parts):
    super().__init__()
    self.parts = parts
    self.fc = excitation(PartLinear, channels // parts, parts)

  def forward(self, x):
    pooled = x.mean((2, 3)).unflatten(1, (self.parts, -1))
    return x * self.fc(pooled).flatten(1)[:, :, None, None]


class Pyramid(nn.Module):
  """A channel attention pyramid of two levels (APNet-C_2)."""

  def __init__(self, channels):
    super().__init__()
    linear = lambda *sizes: nn.Linear(*sizes, bias=False)  # noqa: E731
    self.fc = excitation(linear, channels)
    self.level2 = SplitLevel(channels, 2)

  def forward(self, x):
    return self.level2(x * self.fc(x.mean((2, 3)))[:, :, None, None])


class APNet(nn.Module):
  """A ResNet with a pyramid after each stage, BN neck and classifier."""

  def __init__(self, backbone, num_classes, levels):
    super().__init__()
    self.base = Backbone(BLOCKS[backbone])
    for stage, width in enumerate(WIDTHS, start=2):
      pyramid = Pyramid(4 * width) if levels == 2 else nn.Identity()
      setattr(self, f'att{stage}', pyramid)
    self.bottleneck = nn.BatchNorm1d(2048)
    self.bottleneck.bias.requires_grad_(False)
    self.classifier = nn.Linear(2048, num_classes, bias=False)

  def forward(self, x):
    base = self.base
    x = F.max_pool2d(F.relu(base.bn1(base.conv1(x))), 3, 2, 1)
    for stage in range(1, 5):
      x = getattr(base, f'layer{stage}')(x)
      x = getattr(self, f'att{stage + 1}')(x)
    feature = x.mean((2, 3)).float()
    embedding = self.bottleneck(feature)
    return feature, embedding, self.classifier(embedding)


def reid_loss(feature, logits, labels):
  """Cross-entropy with label smoothing 0.1 plus batch-hard triplet loss."""
  cross_entropy = F.cross_entropy(logits, labels, label_smoothing=0.1)
  squares = feature.square().sum(1)
  distance = squares[:, None] + squares - 2 * feature @ feature.T
  distance = distance.clamp(min=1e-12).sqrt()
  same = labels[:, None] == labels
  positive = distance.masked_fill(~same, -torch.inf).amax(1)
  negative = distance.masked_fill(same, torch.inf).amin(1)
  return cross_entropy + F.relu(positive - negative + 0.3).mean()


class Network:
  """The network on a GPU or CPU, with settings that PyTorch users choose."""

  def __init__(self, args: argparse.Namespace):
    self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    self.image_size = args.image_size
    self.dtype = getattr(torch, args.dtype)
    torch.manual_seed(0)
    self.model = APNet(args.backbone, CLASSES, args.levels)
    self.model.to(self.device, memory_format=torch.channels_last)
    self.autocast = contextlib.nullcontext()
    if args.dtype == 'bfloat16':
      self.autocast = torch.autocast(self.device, torch.bfloat16)
    self.optimizer = torch.optim.Adam(
      [p for p in self.model.parameters() if p.requires_grad],
      4e-6,
      weight_decay=5e-4,
    )
    self.compiled = torch.compile(self.model) if args.compile else self.model

  def images(self, batch: int) -> torch.Tensor:
    """Returns random normalised images, [batch, 3, height, width]."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, *self.image_size, 3), np.float32)
    return torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)

  def wait(self, _) -> None:
    """Blocks until the device has computed everything."""
    if self.device == 'cuda':
      torch.cuda.synchronize()

  def peak(self) -> int | None:
    """Returns the peak memory of the GPU in bytes; None on a CPU."""
    if self.device == 'cuda':
      return torch.cuda.max_memory_allocated()
    return None

  def train_step(self, images, labels) -> torch.Tensor:
    """Updates the weights once and returns the loss."""
    self.model.train()
    with self.autocast:
      feature, _, logits = self.compiled(images)
    loss = reid_loss(feature, logits.float(), labels)
    self.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    self.optimizer.step()
    return loss

  @torch.inference_mode()
  def embed(self, images):
    """Returns unit embeddings, averaged over images and mirror images."""
    self.model.eval()
    with self.autocast:
      embedding = self.compiled(images)[1] + self.compiled(images.flip(3))[1]
    return F.normalize(embedding)

  @torch.inference_mode()
  def product_rate(self) -> dict:
    """Times a large matrix product."""
    size = 2048 if self.device == 'cpu' else 8192
    x = torch.ones((size, size), dtype=self.dtype, device=self.device)
    return measuring.time_product(lambda: x @ x, self.wait, size)


def serve(args: argparse.Namespace) -> None:
  """Answers requests to measure, with the task names of network_ours.py."""
  network = Network(args)

  def measure(task: str, **request) -> dict:
    match task:
      case 'versions':
        return {'torch': torch.__version__}
      case 'product rate':
        return network.product_rate()
    batch = request['batch']
    images = network.images(batch)
    labels = torch.arange(batch, device=network.device) // 4
    step = {
      'train': lambda: network.train_step(images, labels),
      'embed': lambda: network.embed(images),
    }[task]
    if network.device == 'cuda':  # other processes need its memory, too
      torch.cuda.empty_cache()
      torch.cuda.reset_peak_memory_stats()
    return measuring.time_steps(
      step, network.wait, request['seconds'], network.peak
    )

  measuring.serve(measure)


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  measuring.add_network(parser)
  parser.add_argument('--compile', action='store_true')
  serve(parser.parse_args())
