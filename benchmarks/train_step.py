"""Images/s of a train step and of the same step in plain PyTorch.

The network (a ResNet with last stride 1, APNet-C), losses and Adam are the same
on both sides; batches are random, and lie in memory. PyTorch has what its users
turn on: channels_last, torch.compile in a side of its own, and bfloat16
autocast. Each side is a process of its own, with huge pages on the CPU. The
sides take turns, so that what else the machine does hits all; a rate is that of
the median step.

The limit is the rate at which the multiply-adds of the step would run at the
speed of a large matrix product, the faster of both sides'.

  python benchmarks/train_step.py --peer torch
  python benchmarks/train_step.py --peer torch --batch 80 256 --dtype bfloat16
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import versus


def main(arguments: list[str] | None = None) -> int:
  return versus.main(__file__, __doc__, 'train', [8, 16], arguments)


if __name__ == '__main__':
  sys.exit(main())
